"""What a function refuses: it is not wrong where a check cannot judge it, and a dtype without results is a failure."""

import numpy as np
import pytest

from tfpyop import differentiable_op
from tfpyop.testing import CheckError, check_contract, check_gradient, check_second_order


@pytest.mark.slow
def test_a_function_that_refuses_most_inputs_passes():
    def picky(x):
        if np.any(np.abs(x * 8 % 1 - 0.5) > 0.2):
            raise ValueError("not there")
        return x * x

    op = differentiable_op(picky, signature="(n)->(n)", vectorized=False, numpy_grad=lambda op, g: 2 * g * op.inputs[0])
    outcome = check_gradient(op, seed=1, modes="eager", max_examples=40)
    assert outcome.status == "passed"
    assert outcome.n_rejected > outcome.n_examples


def test_a_dtype_for_which_a_function_always_raises_is_a_failure():
    def double_only(x):
        if x.dtype != np.float64:
            raise TypeError("float64 only")
        return 2 * x

    op = differentiable_op(double_only, signature="()->()", grad=lambda op, g: 2 * g)
    with pytest.raises(CheckError, match=r"the function raises for all float32 inputs\.(?s:.*)float64 only") as caught:
        check_contract(op, seed=1, modes="eager")
    assert 'compute_dtype="float64"' in str(caught.value)


def test_the_second_order_check_does_not_draw_without_a_second_derivative():
    calls = []

    def function(x):
        calls.append(x)
        return x * x

    op = differentiable_op(function, signature="()->()", numpy_grad=lambda op, g: 2 * g * op.inputs[0])
    outcome = check_second_order(op, seed=1)
    assert (outcome.status, calls) == ("skipped", [])
    assert outcome.reason == "no second derivative: the numpy rule has no gradient rule"
