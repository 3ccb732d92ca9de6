"""The ops of the examples, checked as their authors would."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from tests.test_examples import NEEDS_COMPILER
from tfpyop.testing import arguments, check_op

EXAMPLES = Path(__file__).parent.parent / "examples"
LYNX_HARE = {
    "domain": {"rates": "[0.05, 1]", "initial": "[1, 50]"},
    "times": st.just(np.linspace(0, 3, 3)),
    "allow_empty": False,
}


def cluster(seed, loop, n):
    """Atoms near the points of a lattice: no two of them meet."""
    lattice = 1.1 * np.array(list(np.ndindex(3, 3, 3)))[:n]
    return lattice + np.random.default_rng(seed).uniform(-0.2, 0.2, (*loop, n, 3))


def cost_matrices(seed, shape):
    """Costs without ties, in matrices large enough that the best assignment is seldom its own inverse."""
    return np.random.default_rng(seed).normal(size=shape)


COSTS = st.builds(cost_matrices, st.integers(0, 99), st.sampled_from([(3, 6, 6), (5, 5), (5, 3)]))
CLUSTERS = st.builds(cluster, st.integers(0, 99), st.sampled_from([(), (2,), (3, 1)]), st.integers(0, 5))
CASES = {
    "modulo:mod": {},
    "bessel:jv": {"domain": {"x1": "integers [0, 5]", "x2": "[0.5, 20]"}},
    "bessel:kv": {"domain": {"x1": "integers [0, 5]", "x2": "[0.5, 20]"}},
    "lynx_hare:solve": LYNX_HARE,
    "sparse_poisson:temperature": {
        "domain": {"conductivity": "[0.1, 10]", "sources": "[-1, 1]"},
        "allow_empty": False,
    },
    "transport:transport_cost": {"costs": COSTS},
    "compiled_c:energy": {"positions": CLUSTERS},
    "digits:strokes": {"domain": {"pictures": "[0, 1]", "angles": "[-4, 4]"}},
    "deblur:shake": {"allow_empty": False, "max_side": 5, "poses": st.just(12)},
    "invasion:spread": {"domain": {"diffusivity": "integers [1, 9]"}, "allow_empty": False},
    "implicit_optimum:hang": {"shapes": st.sampled_from([((2,), (2,)), ((3, 4), (4,)), ((5,), (2, 5))])},
    "waves:propagate": {"dtypes": ["complex128"], "allow_empty": False, "largest": 2},
}

MARKS = {"compiled_c:energy": [NEEDS_COMPILER]}


@pytest.fixture
def op(request, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    module, _, name = request.param.partition(":")
    yield getattr(importlib.import_module(module), name)
    del sys.modules[module]


@pytest.mark.slow
@pytest.mark.timeout(900)  # solvers, in all checks
@pytest.mark.filterwarnings("ignore::tfpyop.testing.UntestedWarning")
@pytest.mark.parametrize(
    ("op", "drawn"),
    [pytest.param(name, drawn, id=name, marks=MARKS.get(name, [])) for name, drawn in CASES.items()],
    indirect=["op"],
)
def test_the_op_of_an_example_is_right(op, drawn):
    report = check_op(op, arguments=arguments(op, **{"dtypes": ["float64"], **drawn}), max_examples=4, seed=1)
    assert report.outcomes[-1].status == "passed", report  # of export too
