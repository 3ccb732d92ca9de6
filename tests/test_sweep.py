"""Sweeps: batches of points at which mistakes are likely, and what is judged of them."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tfpyop import differentiable_op
from tfpyop._spec.domain import Interval
from tfpyop._spec.signature import Signature
from tfpyop.testing import CheckError, arguments, check_gradient, check_parity
from tfpyop.testing._many_points import LADDER, Where, batches

FLOAT = np.dtype(np.float64)


def drawn(text, intervals, dtypes=None, **options):
    where = Where(intervals, dtypes or [FLOAT] * len(intervals), **options)
    return list(batches(Signature.parse(text), where, np.random.default_rng(0), is_looped=False))


@pytest.mark.parametrize("domain", ["(0, inf)", "(-inf, -1]", "[-1, 1)", "[1e-26, 1e-24]", "(2, 3)", "[5, 5]"])
def test_points_lie_in_the_domain(domain):
    interval = Interval.parse(domain)
    [batch] = drawn("()->()", [interval])
    assert interval.contains(batch.arrays[0]).all()


def test_integers_lie_in_the_domain():
    interval = Interval.parse("integers [0, 5]")
    [batch] = drawn("()->()", [interval], [np.dtype(np.int32)])
    assert set(batch.arrays[0].tolist()) == set(range(6))


def test_sizes_climb_the_ladder_equal_and_different():
    shapes = {batch.arrays[0].shape[1:] for batch in drawn("(m,n)->()", [Interval()])}
    assert {(side, side) for side in LADDER} <= shapes
    assert any(m > n for m, n in shapes)
    assert any(m < n for m, n in shapes)


def test_sizes_respect_the_largest_side():
    assert max(batch.arrays[0].shape[1] for batch in drawn("(n)->()", [Interval()], largest_side=4)) == 4


def test_rows_have_equal_numbers_zeros_and_halves():
    batch = next(batch for batch in drawn("(n),(n)->()", [Interval()] * 2) if batch.arrays[0].shape[1:] == (3,))
    x, y = batch.arrays
    assert (x == y).all(-1).any()
    assert ((x == 0).sum(-1) == 2).any()
    assert ((x % 1 == 0.5).any(-1) & (x * 2 % 1 == 0).all(-1)).any()
    assert (np.abs(x) < 1e-4).all(-1).any()


def calls_of_a_check(**options):
    calls = []

    def function(x):
        calls.append(np.shape(x))
        return x * x

    op = differentiable_op(function, signature="()->()", grad=lambda op, g: 2 * g * op.inputs[0])
    check_gradient(op, max_examples=2, modes="eager", seed=1, **({"arguments": options["draw"](op)} if options else {}))
    return calls


def test_points_of_another_strategy_are_not_swept():
    assert max(np.prod(shape) for shape in calls_of_a_check()) >= 1000
    given = calls_of_a_check(draw=lambda op: arguments(op, x=st.just(np.array(2.0))))
    assert max(np.prod(shape) for shape in given) < 100


def test_a_rule_that_raises_at_some_points_is_reported():
    def rule(op, grad):
        if (op.inputs[0] == 0.5).any():
            raise ValueError("not here")
        return 2 * grad * op.inputs[0]

    op = differentiable_op(lambda x: x * x, signature="()->()", numpy_grad=rule)
    with pytest.raises(CheckError, match="not here"):
        check_gradient(op, seed=1, max_examples=1, modes="eager")


def test_a_native_implementation_that_rounds_halves_to_even_is_found():
    op = differentiable_op(lambda x: np.floor(x + 0.5), signature="()->()", non_differentiable=True)
    op.native(lambda x: tf.round(x))
    with pytest.raises(CheckError, match="the native call differs from the function"):
        check_parity(op, seed=1, max_examples=2, modes="native")
