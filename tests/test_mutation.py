"""The checkers against the zoo: every wrong op is found out, with the default settings, and no right one accused."""

import re

import pytest

from tests import processes
from tests.right_ops import RIGHT
from tests.wrong_ops import WRONG
from tfpyop.testing import CHECKS, CheckError, check_op
from tfpyop.testing._check_runner import thoroughly


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    processes.fork_for_exports(monkeypatch)


def test_the_zoo_is_large():
    assert len(WRONG) >= 40
    assert len(RIGHT) >= 40


@pytest.mark.parametrize("listed", [WRONG, RIGHT], ids=["wrong", "right"])
def test_the_names_are_unique(listed):
    names = list(map(str, listed))
    assert {name for name in names if names.count(name) > 1} == set()


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_op_is_found_out(wrong):
    with pytest.raises(CheckError, match=re.escape(wrong.says)) as caught, thoroughly(wrong.is_thorough):
        CHECKS[wrong.check](wrong.op, arguments=wrong.arguments)
    assert "Shown by:" in str(caught.value) or "in any example" in wrong.says
    assert f"Found by: {wrong.check}" in str(caught.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::tfpyop.testing.UntestedWarning")
@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize("right", RIGHT, ids=str)
def test_a_right_op_passes(right, seed):
    check_op(right.op, arguments=right.arguments, seed=seed, max_examples=20)
