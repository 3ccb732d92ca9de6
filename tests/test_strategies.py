"""Strategies: what they draw, and how misuse is told."""

import functools
from typing import Literal

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from tests import ops
from tfpyop import RegistrationError, SignatureError, TfpyopError, UnsupportedError, differentiable_op
from tfpyop._spec.domain import Interval
from tfpyop.testing import Arguments, arguments, cotangents, tangents

EXAMPLES = settings(max_examples=50, deadline=None)
UNSHRUNK = settings(phases=[Phase.generate], deadline=None)
"""For what is true of any example."""


@EXAMPLES
@given(arguments(ops.matmul))
def test_arguments_fit_the_signature(drawn):
    assert ops.matmul(*drawn.args).shape == np.matmul(*drawn.args).shape


@pytest.mark.slow
@pytest.mark.parametrize(
    "is_wanted",
    [
        lambda drawn: drawn.args[0].size == 0,
        lambda drawn: drawn.args[0].ndim == 0,
        lambda drawn: 1 in drawn.args[0].shape and drawn.args[1].size > drawn.args[0].size,
        lambda drawn: drawn.args[0].ndim == 2 and not drawn.args[0].flags.c_contiguous,
        lambda drawn: drawn.args[0].dtype == np.float64,
        lambda drawn: np.any(np.abs(drawn.args[0]) > 1e5),
        lambda drawn: np.any((drawn.args[0] != 0) & (np.abs(drawn.args[0]) < 1e-4)),
    ],
    ids=["empty", "0-d", "broadcast", "order", "float64", "large", "tiny"],
)
def test_arguments_of_every_kind_are_drawn(is_wanted):
    assert find(arguments(ops.mod), is_wanted, settings=settings(max_examples=3000, deadline=None))


@EXAMPLES
@given(arguments(ops.mod, domain={"x": "(0, 1]", "y": "integers [3, 5]"}))
def test_values_lie_in_the_domain(drawn):
    x, y = drawn.args
    assert np.all((x > 0) & (x <= 1))
    assert y.dtype == np.int32
    assert np.all((y >= 3) & (y <= 5))


@pytest.mark.parametrize(
    ("domain", "dtypes", "drawn_dtype"),
    [
        ("integers [3e9, 4e9]", "float32", "int64"),
        ("[1e5, 1e6]", tf.bfloat16, "bfloat16"),
        ("(0, 1)", tf.bfloat16, "bfloat16"),
        ("[60000, 1e6]", "float16", "float16"),
        ("(1, 1.000001)", "float32", "float32"),
        ("[1e300, inf)", "float64", "float64"),
        ("[250, 300]", "uint8", "uint8"),
        ("[2, 3]", "complex64", "complex64"),
    ],
)
@EXAMPLES
@given(data=st.data())
def test_numbers_of_the_dtype_that_lie_in_the_domain_are_drawn(domain, dtypes, drawn_dtype, data):
    x = data.draw(arguments(ops.exp, domain=domain, dtypes=dtypes)).args[0]
    assert x.dtype.name == drawn_dtype
    parts = [x.real, x.imag] if x.dtype.kind == "c" else [x]
    assert all(Interval.parse(domain).contains(part.astype(np.float64)).all() for part in parts)


@pytest.mark.parametrize(
    ("domain", "dtypes", "got"),
    [
        ("[-5, -1]", "uint8", "no uint8 .*\n.*from -5.0 to -1.0"),
        ("(0.2, 0.8)", "int64", "no int64"),
        ("[1e5, 1e6]", "float16", "no float16"),
        ("(1, 1.0000001)", "float32", "no float32 .*\n.*from 1.0 to 1.0000001"),
        ("integers [1e30, 2e30]", "float32", "no int64"),
    ],
)
def test_a_domain_without_a_number_of_the_dtype_is_refused(domain, dtypes, got):
    with pytest.raises(RegistrationError, match=got):
        arguments(ops.exp, domain=domain, dtypes=dtypes)
    arguments(ops.exp, domain=domain, dtypes=dtypes, x=st.just(np.float32(1)))


def test_nan_and_infinities_are_drawn_on_request_only():
    assert find(arguments(ops.exp, allow_nan=True), lambda drawn: np.isnan(drawn.args[0]).any())
    assert find(arguments(ops.exp, allow_infinity=True), lambda drawn: np.isinf(drawn.args[0]).any())


@EXAMPLES
@given(arguments(ops.exp))
def test_by_default_numbers_are_finite(drawn):
    assert np.isfinite(drawn.args[0]).all()


@EXAMPLES
@given(arguments(ops.power, exponent=st.just(3), x=st.just(np.float32(2))))
def test_parts_can_be_overridden(drawn):
    assert drawn == Arguments((np.float32(2),), {"exponent": 3})


def test_static_parameters_follow_annotations():
    def function(x, *, flip: bool):
        return -x if flip else x

    op = differentiable_op(function, signature="()->()")
    assert find(arguments(op), lambda drawn: drawn.static["flip"]).static == {"flip": True}


def _annotated(x: "OnlyForTypeCheckers", *, flip: "bool", kind: Literal["a", "b"], more: "x +" = 1) -> "Missing":  # noqa: F821, F722
    return -x if flip else x


def test_an_annotation_that_cannot_be_evaluated_does_not_hide_the_others():
    op = differentiable_op(_annotated, signature="()->()")
    assert find(arguments(op), lambda drawn: drawn.static["flip"]).static == {"flip": True, "kind": "a"}


def test_annotations_of_a_wrapped_function_are_evaluated_where_it_was_defined():
    @functools.wraps(_annotated)
    def wrapper(*inputs, **static):
        return _annotated(*inputs, **static)

    op = differentiable_op(wrapper, signature="()->()")
    assert find(arguments(op), lambda drawn: drawn.static["kind"] == "b").static["kind"] == "b"


def test_a_static_parameter_without_a_known_strategy_is_an_error():
    op = differentiable_op(lambda x, *, axis: x, signature="()->()")
    with pytest.raises(UnsupportedError, match="cannot infer a strategy for static parameter 'axis'"):
        arguments(op)


NESTED = differentiable_op(lambda pair, x: pair["a"] * pair["b"] + x, signature="(),(),()->()")


@EXAMPLES
@given(arguments(NESTED, pair=st.just({"a": np.float32(2), "b": np.float32(3)})))
def test_nested_inputs_are_drawn_by_overrides_beside_others(drawn):
    x = drawn.args[1]
    np.testing.assert_array_equal(NESTED(*drawn.args), np.float32(6) + x.astype(np.float32))


MISUSES = {
    "unknown parameter": (ops.power, {"exponnt": st.just(2)}, r"no parameter 'exponnt'\.\n  Did you mean 'exponent'"),
    "no strategy": (ops.mod, {"x": 2.0}, r"x= is not a Hypothesis strategy\.\n  Got:      2\.0\n.*x=st\.just\(2\.0\)"),
    "a list": (ops.mod, {"x": [1, 2]}, r"Write x=st\.sampled_from\(\[1, 2\]\)"),
    "unknown option": (ops.exp, {"max_sides": 3}, r"no parameter 'max_sides'\.\n  Did you mean 'max_side'"),
    "no strategy of shapes": (ops.mod, {"shapes": [(2,)]}, r"shapes= is not a Hypothesis strategy"),
    "no dtype": (ops.exp, {"dtypes": "flot32"}, r"'flot32' is not a valid tensor dtype"),
    "no dtypes": (ops.exp, {"dtypes": []}, r"dtypes= is empty"),
    "no size": (ops.exp, {"max_side": 0}, r"max_side=0 allows no sizes"),
    "a strategy for an option": (ops.exp, {"largest": st.just(True)}, r"largest= is not a number"),
    "half a size": (ops.exp, {"max_side": 1.5}, r"max_side= is not an integer"),
    "no magnitude": (ops.exp, {"smallest": 3, "largest": 2}, r"smallest= is not less than largest=\.(?s:.*)smallest=3"),
    "unknown nesting": (NESTED, {}, r"how the 3 inputs are nested in 'pair', 'x'\.\n  Pass strategies for"),
}


@pytest.mark.parametrize(("op", "options", "problem"), MISUSES.values(), ids=MISUSES)
def test_misuse_is_refused(op, options, problem):
    with pytest.raises(TfpyopError, match=problem):
        arguments(op, **options)


@pytest.mark.parametrize("shapes", [(2,), None, ((-1,),), [2]])
def test_invalid_shapes_are_refused(shapes):
    with pytest.raises(RegistrationError, match=r"not a tuple of shapes\.\n  Expected: one shape for each input, for"):
        find(arguments(ops.exp, shapes=st.just(shapes)), lambda drawn: True)


@pytest.mark.parametrize("shapes", [((2,),), ((2,), (3,))])
def test_shapes_that_do_not_match_the_signature_are_refused(shapes):
    with pytest.raises(SignatureError):
        find(arguments(ops.mod, shapes=st.just(shapes)), lambda drawn: True)


def test_overrides_that_do_not_match_the_signature_are_refused():
    with pytest.raises(RegistrationError, match=r"differs from the signature\.\n  Expected: 3 inputs\n  Got:      2"):
        find(arguments(NESTED, pair=st.just({"a": 1.0})), lambda drawn: True)


@EXAMPLES
@given(st.data())
def test_tangents_of_nested_inputs_are_flat(data):
    drawn = Arguments(((np.float32(1), np.ones(3, np.float32)),))
    op = differentiable_op(lambda p: p[0] * p[1], signature="(),(n)->(n)")
    assert [vector.shape for vector in data.draw(tangents(op, drawn))] == [(), (3,)]


@pytest.mark.parametrize("use", [cotangents, tangents])
def test_vectors_of_invalid_arguments_are_refused(use):
    with pytest.raises(RegistrationError, match=r"not an instance of Arguments\.\n  Got:      \(1, 2\)"):
        use(ops.mod, (1, 2))


@pytest.mark.parametrize("dtype", ["float16", tf.bfloat16, np.float32, "complex64", "uint8"])
def test_one_dtype_is_enough(dtype):
    drawn = find(arguments(ops.exp, dtypes=dtype, allow_empty=False), lambda drawn: True, settings=UNSHRUNK)
    assert drawn.args[0].dtype == tf.as_dtype(dtype).as_numpy_dtype


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@EXAMPLES
@given(data=st.data())
def test_open_ends_are_never_drawn(dtype, data):
    (x,) = data.draw(arguments(ops.exp, dtypes=dtype, domain="(0, inf)")).args
    assert (x > 0).all()


@EXAMPLES
@given(st.data())
def test_cotangents_and_tangents_are_like_outputs_and_inputs(data):
    drawn = data.draw(arguments(ops.maximum_and_place, allow_empty=False))
    cotangent, nothing = data.draw(cotangents(ops.maximum_and_place, drawn))
    (tangent,) = data.draw(tangents(ops.maximum_and_place, drawn))
    assert nothing is None
    assert cotangent.shape == drawn.args[0].shape[:-1]
    assert tangent.shape == drawn.args[0].shape
    assert tangent.dtype == drawn.args[0].dtype


def test_given_shapes_determine_the_number_of_inputs_of_a_variadic_op():
    for count in (1, 5):
        drawn = find(arguments(ops.add_all, shapes=st.just(((2,),) * count)), lambda drawn: True, settings=UNSHRUNK)
        assert [value.shape for value in drawn.args] == [(2,)] * count


def test_text_is_drawn_by_overrides_only():
    with pytest.raises(RegistrationError, match=r"dtypes= contains text, which has no default strategy"):
        arguments(ops.exp, dtypes=["U2"])
