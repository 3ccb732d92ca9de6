"""The public surface: names, what they are, and that nothing else is offered."""

import inspect

import pytest

import tfpyop
import tfpyop.export
import tfpyop.parallel
import tfpyop.testing
from tfpyop._decorator import OpOptions


def test_the_public_names_are_these():
    assert sorted(tfpyop.__all__) == [
        "CoercionError",
        "ContractError",
        "GradientError",
        "Op",
        "RegistrationError",
        "RuleContext",
        "RuleDescription",
        "SignatureError",
        "TfpyopError",
        "UNDEFINED",
        "UnsupportedError",
        "__version__",
        "complex_step",
        "differentiable_op",
        "errors",
        "get_op",
        "numerical",
        "prefer_native",
        "registered_ops",
    ]


def test_the_public_names_of_the_testing_package_are_these():
    assert sorted(tfpyop.testing.__all__) == [
        "Arguments",
        "CHECKS",
        "CheckError",
        "ChecksError",
        "Drawn",
        "Mutant",
        "MutationReport",
        "NotTested",
        "Outcome",
        "Report",
        "UntestedWarning",
        "arguments",
        "check_adjoint",
        "check_batching",
        "check_contract",
        "check_cost",
        "check_export",
        "check_gradient",
        "check_implicit",
        "check_jvp",
        "check_linearity",
        "check_needs",
        "check_op",
        "check_order",
        "check_parity",
        "check_precision",
        "check_purity",
        "check_residuals",
        "check_second_order",
        "check_sparsity",
        "check_threads",
        "cotangents",
        "make_test_class",
        "tangents",
    ]


def test_the_public_names_of_export_are_these():
    assert sorted(tfpyop.export.__all__) == ["ExportWarning", "RequiredOp", "check", "load", "required_ops", "save"]


def test_the_public_names_of_parallel_are_these():
    assert sorted(tfpyop.parallel.__all__) == ["ProcessPool", "process_pool"]


def test_the_options_of_differentiable_op_are_these():
    parameters = inspect.signature(tfpyop.differentiable_op).parameters
    assert list(parameters) == [
        "function",
        "signature",
        "sizes",
        "shape",
        "dtype",
        "compute_dtype",
        "grad",
        "numpy_grad",
        "jvp",
        "numpy_jvp",
        "residuals",
        "vectorized",
        "executor",
        "stateful",
        "prefer",
        "non_differentiable",
        "surrogate",
        "static_argnames",
        "domain",
        "name",
    ]


def test_all_options_of_differentiable_op_but_the_function_are_keywords():
    first, *others = inspect.signature(tfpyop.differentiable_op).parameters.values()
    assert first.kind is first.POSITIONAL_ONLY
    assert {parameter.kind for parameter in others} == {first.KEYWORD_ONLY}


def test_type_checkers_know_all_options():
    options = list(inspect.signature(tfpyop.differentiable_op).parameters)[1:]
    assert list(OpOptions.__annotations__) == options


@pytest.mark.parametrize(
    ("make", "signature"),
    [
        (
            tfpyop.numerical,
            "(*, step: 'float' = 0.125, order: 'int' = 8, smallest: 'float' = 0.01, sparsity: 'Any' = None) "
            "-> 'Numerical'",
        ),
        (tfpyop.complex_step, "(*, step: 'float' = 1e-30, sparsity: 'Any' = None) -> 'ComplexStep'"),
    ],
)
def test_the_ways_to_get_derivatives_from_values_take_this(make, signature):
    assert str(inspect.signature(make)) == signature


def test_what_a_rule_is_given_offers_this():
    offered = {name for name in dir(tfpyop.RuleContext) if not name.startswith("_")}
    assert offered == {"name", "inputs", "outputs", "residuals", "static", "needs"}


def test_what_an_op_offers_is_this():
    offered = {name for name in vars(tfpyop.Op) if not name.startswith("_")} - {"autograph_info__", "get_build_config"}
    assert offered == {
        "adjoint",
        "as_layer",
        "describe",
        "gradient",
        "gradient_name",
        "implicit",
        "jacobian",
        "jvp",
        "name",
        "native",
        "numpy",
        "numpy_adjoint",
        "numpy_gradient",
        "numpy_jacobian",
        "numpy_jvp",
        "output_dtypes",
        "rules",
        "signature",
        "stationary",
    }


def test_every_public_thing_says_what_it_is():
    assert all(inspect.getdoc(getattr(tfpyop, name)) for name in tfpyop.__all__ if name != "__version__")


def test_every_error_is_one_of_pythons_too():
    kinds = [
        error
        for error in vars(tfpyop.errors).values()
        if inspect.isclass(error) and issubclass(error, tfpyop.TfpyopError)
    ]
    builtin = (TypeError, ValueError, NotImplementedError, RuntimeError)
    assert all(issubclass(kind, builtin) for kind in kinds if kind is not tfpyop.TfpyopError)
    assert not any(issubclass(kind, KeyError) for kind in kinds)
