"""The checks of derivatives without differences: right ops pass. `test_mutation.py` runs the wrong ops."""

import pytest

from tests.right_ops import RIGHT
from tfpyop.testing import check_linearity, check_second_order

NAMED = {str(right): right for right in RIGHT}


SURROGATES = ["a surrogate that reads the output", "a surrogate in one direction only"]


@pytest.mark.parametrize("name", ["optional dimensions", "two conventions at a kink", *SURROGATES])
def test_right_ops_pass(name):
    right = NAMED[name]
    assert check_linearity(right.op, arguments=right.arguments, seed=1).status == "passed"


@pytest.mark.parametrize("name", SURROGATES)
def test_surrogates_have_no_second_derivative_to_compare(name):
    op = NAMED[name].op
    outcome = check_second_order(op, seed=1)
    assert outcome.status == "skipped"
    assert outcome.reason.startswith("surrogate=True: the rules are not compared with derivatives")
