"""Options of the decorator, and rules that are attached later: what they do, and which are refused."""

import inspect

import numpy as np
import pytest
import tensorflow as tf

from tests import modes
from tests.forms import Scale, X, bare, plain, with_options, with_options_gradient
from tfpyop import Op, RegistrationError, TfpyopError, differentiable_op, get_op, registered_ops


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (plain, {"signature": "(),()->()", "shape": max}, "signature= and shape= cannot be used together"),
        (plain, {"grad": max, "numpy_grad": max}, "two VJP rules were passed"),
        (plain, {"jvp": max, "numpy_jvp": max}, "two JVP rules were passed"),
        *[
            (
                plain,
                {"non_differentiable": True, option: max},
                "the op is declared non_differentiable, but a rule was attached",
            )
            for option in ("grad", "numpy_grad", "jvp", "numpy_jvp")
        ],
        (
            plain,
            {"non_differentiable": True, "grad": "numerical"},
            "the op is declared non_differentiable, but a rule was attached",
        ),
        *[(plain, {option: 3}, f": {option}=3 is not a rule") for option in ("grad", "numpy_grad", "jvp", "numpy_jvp")],
        (
            plain,
            {"grad": "numericl"},
            "grad='numericl' is neither a rule nor the name of a method.\n  Did you mean 'numerical'?",
        ),
        *[
            (
                plain,
                {"grad": "numerical", option: max},
                "grad= requests numerical derivatives, but a rule is also passed",
            )
            for option in ("numpy_grad", "jvp", "numpy_jvp")
        ],
        (plain, {"shape": (3,)}, r"shape= is not a function\.\n  Got:      \(3,\)"),
        (plain, {"signature": 3}, r"signature= is not a string\.\n  Got:      3"),
        (plain, {"signature": b"(),()->()"}, r"signature= is not a string\.\n  Got:      b'"),
        (plain, {"vectorized": False}, "vectorized=False requires a signature"),
        *[
            (plain, {option: value}, rf": {option}= is neither True nor False( nor 'rows')?\.\n  Got:      {value!r}")
            for option in ("vectorized", "stateful", "surrogate")
            for value in ("no", 0, None)
        ],
        (plain, {"residuals": {"a": ("()", float)}}, "residuals= requires a signature"),
        *[
            (
                plain,
                {"signature": "(n),()->()", "residuals": {name: ("(n)", float)}},
                f"the residual name {name!r} is not a Python identifier",
            )
            for name in ["a b", "", 3, "class"]
        ],
        *[
            (
                plain,
                {"signature": "(n),()->()", "residuals": {name: declared}},
                f"the declaration of residual {name!r} is neither a pair",
            )
            for name, declared in [
                ("a", "(n)"),
                ("a", ("(n)",)),
                ("a", (float, "(n)")),
            ]
        ],
        (plain, {"signature": "(n),()->()", "residuals": ["a"]}, r"residuals= is not a dict"),
        (
            plain,
            {"signature": "(n),()->()", "residuals": {"a": ("n", float)}},
            r"cannot parse the core dimensions of residual 'a'.*\n.*\n  Got:      'n', with signature",
        ),
        (
            plain,
            {"signature": "(n),()->()", "residuals": {"a": ("(n)", "flaot")}},
            "'flaot' is not a valid tensor dtype",
        ),
        (Scale.__dict__["static"], {}, "differentiable_op got a staticmethod object"),
        (Scale.__dict__["of_class"], {}, "differentiable_op got a classmethod object"),
        ("()->()", {}, r"the argument of differentiable_op is not a function\.\n  Got:      '\(\)->\(\)'"),
        (3, {"dtype": int}, r"the argument of differentiable_op is not a function\.\n  Got:      3"),
        (None, {"dtype": int}, r"the argument of differentiable_op is not a function\.\n  Got:      None"),
        (bare, {}, r"<tfpyop.Op 'tests.forms:bare'> is already an op"),
        (Scale().method, {}, r"<tfpyop.Op 'tests.forms:Scale.method'> is already an op"),
        *[(plain, {"name": name}, "is not a valid op name") for name in ["", "a b", "a{b", "a#b", "a'b", "a\n", "a,b"]],
        (plain, {"static_argnames": 1}, r"static_argnames= is not a sequence of names\.\n  Got:      1"),
        (plain, {"static_argnames": ["x", 1]}, r"static_argnames= is not a sequence of names"),
        (plain, {"static_argnames": "z"}, "static_argnames names 'z', which is not a parameter.\n  Known: 'x', 'y'"),
        (
            with_options.numpy,
            {"static_argnames": ["x", "facto"]},
            "'facto', which is not a .*\n  Did you mean 'factor'?",
        ),
        (np.hypot, {"static_argnames": ["out"]}, "static_argnames names 'out', which is not a parameter"),
        (plain, {"signature": "(),()->(),()", "dtype": (int,)}, "2 dtypes for signature .*\n  Got:      1"),
        (plain, {"signature": "(),()->()", "dtype": (int, None)}, "1 dtypes for signature .*\n  Got:      2"),
        (np.frexp, {"dtype": (None,)}, r"2 dtypes for signature '\(\)->\(\),\(\)'"),
        (plain, {"compute_dtype": "int32"}, "compute_dtype= is not a floating dtype"),
        (plain, {"compute_dtype": np.complex64}, "compute_dtype= is not a floating dtype"),
        (plain, {"dtype": "flaot32"}, "'flaot32' is not a valid tensor dtype"),
        (plain, {"dtype": "datetime64[s]"}, "is not a valid tensor dtype"),
        (lambda a, b, c, d: a, {"signature": "(),()->()"}, "parameters a, b, c, d\n"),
        (plain, {"name": 3}, "3 is not a valid op name"),
        (plain, {"signature": "(),()"}, r"cannot parse signature '\(\),\(\)' at position 6"),
        (plain, {"signature": "(n),(n->(n)"}, "cannot parse signature .* at position 7"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_decoration(function, options, message):
    with pytest.raises(TfpyopError, match=message):
        differentiable_op(function, **options)
    if options:
        with pytest.raises(TfpyopError, match=message):
            differentiable_op(**options)(function)


@pytest.mark.parametrize(
    ("option", "remedy"),
    [("signatur", "Did you mean 'signature'"), ("gradient", "Did you mean 'grad'"), ("Tout", "Known: ")],
)
def test_an_unknown_option_is_refused(option, remedy):
    message = rf"(?s)^differentiable_op has no option '{option}'\.\n  {remedy}"
    with pytest.raises(RegistrationError, match=message):
        differentiable_op(plain, **{option: None})
    with pytest.raises(RegistrationError, match=message):
        differentiable_op(**{option: None})


@pytest.mark.parametrize("name", ["solve/vjp", "acme:solve/jvp", "solve/vjp/vjp"])
def test_a_name_that_the_op_of_a_rule_would_have_is_refused(name):
    with pytest.raises(RegistrationError, match=rf"'{name}' is the name of a rule's op\."):
        differentiable_op(lambda x: x, name=name)


every_attachment = pytest.mark.parametrize("attach", ["gradient", "numpy_gradient", "jvp", "numpy_jvp"])


@every_attachment
def test_a_rule_for_an_op_declared_non_differentiable_is_refused(attach):
    with pytest.raises(RegistrationError, match="the op is declared non_differentiable, but a rule was attached"):
        getattr(differentiable_op(plain, non_differentiable=True), attach)(max)


@every_attachment
def test_a_decorator_of_rules_returns_the_rule_or_its_op(attach):
    def rule(op, *vectors):
        return vectors

    op = differentiable_op(plain)
    result = getattr(op, attach)(rule)
    if attach.startswith("numpy"):
        assert type(result) is Op
        assert (result.numpy, result.name) == (rule, f"{op.name}/{'vjp' if 'gradient' in attach else 'jvp'}")
    else:
        assert result is rule


@every_attachment
@pytest.mark.parametrize("rule", [None, 3, "numerical"])
def test_what_is_no_rule_is_refused(attach, rule):
    with pytest.raises(RegistrationError, match=rf"{rule!r} is not a rule\.\n  Use the decorator without parentheses"):
        getattr(differentiable_op(plain), attach)(rule)


@pytest.mark.parametrize(
    "options",
    [
        {"grad": max, "numpy_grad": max},
        {"numpy_grad": max, "jvp": max, "numpy_jvp": max},
        {"numpy_grad": 3},
        {"numpy_grad": max, "non_differentiable": True},
        {"numpy_grad": max, "dtype": "flaot32"},
        {"numpy_grad": max, "signature": "("},
        {"numpy_grad": max, "static_argnames": "z"},
    ],
)
def test_what_is_refused_registers_nothing(options):
    listed = list(registered_ops())
    with pytest.raises(TfpyopError):
        differentiable_op(plain, name="tests:refused", **options)
    assert list(registered_ops()) == listed
    for name in ("tests:refused", "tests:refused/vjp", "tests:refused/jvp"):
        with pytest.raises(RegistrationError, match=rf"^no op named '{name}' is registered"):
            get_op(name)


def test_a_refused_second_op_leaves_the_first_as_it_was():
    op = differentiable_op(plain, name="tests:first", numpy_grad=with_options_gradient.numpy)
    rule_op = get_op("tests:first/vjp")
    with pytest.raises(RegistrationError, match="another op already has the name 'tests:first'"):
        differentiable_op(plain, name="tests:first", numpy_grad=max, numpy_jvp=max)
    assert (get_op("tests:first"), get_op("tests:first/vjp")) == (op, rule_op)
    with pytest.raises(RegistrationError, match="no op named 'tests:first/jvp'"):
        get_op("tests:first/jvp")


@pytest.mark.parametrize("attach", ["numpy_gradient", "numpy_jvp"])
def test_the_op_of_a_rule_does_not_have_the_parameters_of_its_primal(attach):
    op = differentiable_op(lambda x, y, *, axis=-1: (x, y), signature="(),()->(),()", dtype=(None, int))
    rule_op = getattr(op, attach)(lambda op, *vectors: None)
    assert str(inspect.signature(rule_op)) == "(*values, **static)"
    assert (rule_op.output_dtypes, rule_op.signature) == (None, None)
    assert (str(inspect.signature(op)), op.output_dtypes) == ("(x, y, *, axis=-1)", (None, np.dtype(int)))


def test_residuals_are_kept_for_the_rule_and_not_returned():
    kept = []

    def function(x):
        return 2 * x, {"half": x / 2, "n": [len(x)]}

    def gradient(op, cotangent):
        kept.append((op.residuals.half.tolist(), op.residuals.n.tolist()))
        return 2 * cotangent

    residuals = {"half": ("(n)", np.float64), "n": ("(1)", np.int32)}
    op = differentiable_op(function, signature="(n)->(n)", residuals=residuals, numpy_grad=gradient)
    assert op(X).numpy().tolist() == [6, 12]
    assert op.output_dtypes is None
    x = tf.Variable(X)
    with tf.GradientTape() as tape:
        y = op(x)
    assert tape.gradient(y, x).numpy().tolist() == [2, 2]
    assert kept == [([1.5, 3.0], [2])]


@pytest.mark.parametrize("call", [lambda function: function, tf.function], ids=["eager", "graph"])
def test_a_function_that_is_not_vectorized_is_called_with_core_dimensions(call):
    def function(a, b):
        assert (a.shape, b.shape) == ((2, 3), (3,))
        return a @ b

    op = differentiable_op(function, signature="(m,k),(k)->(m)", vectorized=False)
    a, b = np.arange(30, dtype=np.float32).reshape(5, 2, 3), np.float32([[[1, 0, 2]], [[0, 1, 0]]])
    assert np.array_equal(call(op)(tf.constant(a), tf.constant(b)), np.einsum("lmk,jik->jlm", a, b))


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_residuals_without_a_dtype_have_the_result_type_of_the_inputs(mode, dtype):
    op = differentiable_op(
        lambda x: (np.sin(x), {"cosine": np.cos(x, dtype=np.float64)}),
        signature="()->()",
        residuals={"cosine": ("()", None)},
    )
    found = []

    @op.numpy_gradient
    def gradient(op, cotangent):
        found.append(op.residuals.cosine.dtype)
        return cotangent * op.residuals.cosine

    (got,) = modes.gradient(mode, op, np.zeros(2, dtype))
    assert got.tolist() == [1, 1]
    assert set(found) == {np.dtype(dtype)}
