"""The public surface: names, what they are, and that nothing else is offered."""

import inspect

import tfpyop


def test_the_public_names_are_these():
    assert sorted(tfpyop.__all__) == [
        "CoercionError",
        "ContractError",
        "GradientError",
        "Op",
        "RegistrationError",
        "RuleContext",
        "SignatureError",
        "TfpyopError",
        "UnsupportedError",
        "__version__",
        "differentiable_op",
        "errors",
        "get_op",
        "registered_ops",
    ]


def test_the_options_of_differentiable_op_are_these():
    parameters = inspect.signature(tfpyop.differentiable_op).parameters
    assert list(parameters) == [
        "function",
        "signature",
        "shape",
        "dtype",
        "compute_dtype",
        "grad",
        "numpy_grad",
        "stateful",
        "non_differentiable",
        "static_argnames",
        "name",
    ]


def test_what_an_op_offers_is_this():
    offered = {name for name in vars(tfpyop.Op) if not name.startswith("_")} - {"autograph_info__"}
    assert offered == {
        "call_flat",
        "gradient",
        "gradient_name",
        "host_from_payload",
        "module",
        "name",
        "numpy",
        "numpy_gradient",
        "output_dtypes",
        "signature",
    }


def test_every_public_thing_says_what_it_is():
    assert all(inspect.getdoc(getattr(tfpyop, name)) for name in tfpyop.__all__ if name != "__version__")


def test_every_error_is_one_of_pythons_too():
    kinds = [
        error
        for error in vars(tfpyop.errors).values()
        if inspect.isclass(error) and error.__module__ == "tfpyop.errors"
    ]
    builtin = (TypeError, ValueError, NotImplementedError)
    assert all(issubclass(kind, builtin) for kind in kinds if kind is not tfpyop.TfpyopError)
    assert not any(issubclass(kind, KeyError) for kind in kinds)
