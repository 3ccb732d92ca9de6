"""The check of order: right ops with caches and notes pass, and reports show both calls."""

import numpy as np
import pytest

from tests import ops
from tfpyop import differentiable_op
from tfpyop.testing import CheckError, check_order


@pytest.mark.parametrize("op", [ops.exp, ops.solve, ops.sine_and_cosine, ops.maximum_and_place, ops.add_all], ids=str)
def test_right_ops_pass(op):
    assert check_order(op, seed=1, max_examples=4).status == "passed"


def test_the_script_of_a_report_makes_both_calls(capsys):
    last = {}

    def function(x):
        last["x"] = np.array(x)
        return x * x

    op = differentiable_op(function, signature="()->()", numpy_grad=lambda op, g: 2 * g * last["x"])
    with pytest.raises(CheckError, match="the gradient of a call changes if another call follows it") as caught:
        check_order(op, seed=1)
    assert caught.value.code.count("    Arguments((np.") == 2
    exec(caught.value.code, {"op": op, "function": op})
    assert "the gradient of a call changes if another call follows it" in capsys.readouterr().out
    assert "residuals=" in caught.value.cause


def test_a_stateful_op_is_skipped():
    op = differentiable_op(lambda x: x, signature="()->()", stateful=True, grad=lambda op, g: g)
    assert check_order(op).reason == "the op is declared stateful"


def test_modes_without_eager_and_graph_do_not_apply():
    assert check_order(ops.exp, modes="XLA").status == "skipped"


def test_a_function_that_returns_the_wrong_shape_for_some_sizes_is_not_a_cache():
    op = differentiable_op(lambda x: x if x.shape[-1] < 4 else x[..., :3], signature="(n)->(n)", grad=lambda op, g: g)
    assert check_order(op, seed=1, max_examples=6, modes="eager").status == "passed"
