"""The ops of the examples, checked as their authors would."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from tfpyop.testing import arguments, check_op

EXAMPLES = Path(__file__).parent.parent / "examples"
LYNX_HARE = {
    "domain": {"rates": "[0.05, 1]", "initial": "[1, 50]"},
    "times": st.just(np.linspace(0, 3, 3)),
    "allow_empty": False,
}
CASES = {
    "modulo:mod": {},
    "bessel:jv": {"domain": {"x1": "integers [0, 5]", "x2": "[0.5, 20]"}},
    "bessel:kv": {"domain": {"x1": "integers [0, 5]", "x2": "[0.5, 20]"}},
    "lynx_hare:solve": LYNX_HARE,
    "sparse_poisson:temperature": {
        "domain": {"conductivity": "[0.1, 10]", "sources": "[-1, 1]"},
        "allow_empty": False,
    },
}


@pytest.fixture
def op(request, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    module, _, name = request.param.partition(":")
    yield getattr(importlib.import_module(module), name)
    del sys.modules[module]


@pytest.mark.parametrize(("op", "drawn"), CASES.items(), ids=CASES, indirect=["op"])
def test_the_op_of_an_example_is_right(op, drawn):
    report = check_op(op, arguments=arguments(op, dtypes=["float64"], **drawn), max_examples=4, seed=1)
    assert report.outcomes[-1].status == "passed", report  # of export too
