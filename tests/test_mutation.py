"""The checkers against the zoo: every wrong op is found out, with the default settings, and no right one accused."""

import time

import pytest
from hypothesis import strategies as st

from tests.right_ops import RIGHT
from tests.wrong_ops import WRONG
from tfpyop.testing import CHECKS, CheckError, arguments, check_op

LONGEST = 10
"""Seconds that it may take to find a wrong op out; the slowest takes two."""


def test_the_zoo_is_large():
    assert len(WRONG) >= 40
    assert len(RIGHT) >= 40


def drawn(wrong):
    if "static" in wrong.options:
        return arguments(wrong.op, dtypes=["float64"], static={"twice": st.booleans()})
    return arguments(wrong.op, largest=10, **wrong.options) if wrong.options else None


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_op_is_found_out(wrong):
    start = time.perf_counter()
    with pytest.raises(CheckError, match=wrong.check):
        CHECKS[wrong.check](wrong.op, arguments=drawn(wrong))
    assert time.perf_counter() - start < 6 * LONGEST  # of which slow machines may need a part


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("right", RIGHT, ids=str)
def test_a_right_op_passes(right, seed):
    check_op(right.op, arguments=right.arguments, seed=seed, max_examples=20)
