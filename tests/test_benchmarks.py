"""The benchmarks run, and tell what they measured; what they measure is judged by nobody."""

import json

import pytest

from benchmarks.groups import GROUPS
from benchmarks.libraries import FOREIGN, scaling_cases, startup_cases, tensorflow_cases, tensorflow_rules
from tests.processes import run_python

CASES = {"tensorflow": tensorflow_cases, "scaling": scaling_cases, "startup": startup_cases}


def run(*arguments):
    return run_python("-m", "benchmarks", *arguments, timeout=200)


@pytest.mark.slow
def test_a_group_is_measured_printed_written_and_drawn(tmp_path):
    process = run("eager", "rows", "--rounds", 2, "--json", tmp_path / "all.json", "--charts", tmp_path / "charts")
    assert process.returncode == 0, process.stderr
    assert "tensorflow" in process.stdout.splitlines()[0]
    assert "tfpyop / native floormod is" in process.stdout
    written = json.loads((tmp_path / "all.json").read_text())
    assert [group["key"] for group in written["groups"]] == ["eager", "rows"]
    assert len(written["groups"][0]["rows"]["tfpyop"]["rounds"]) == 2
    assert sorted(path.name for path in (tmp_path / "charts").iterdir()) == ["eager.png", "rows.png"]


def test_an_unknown_group_is_an_error_that_lists_the_groups():
    process = run("egaer")
    assert process.returncode == 2
    assert "there is no group 'egaer'; there are eager, " in process.stderr


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.key)
def test_every_row_is_a_case_and_every_target_a_row(group):
    names = [row.key for row in group.rows]
    assert len(set(names)) == len(names)
    ours = [row.case for row in group.rows if row.library not in FOREIGN]
    ours += [f"calls {case}" for case in ours if group.counts]
    cases = {case for library in {row.library for row in group.rows} - {*FOREIGN} for case in CASES[library].cases()}
    assert set(ours) <= cases
    assert {target.row for target in group.targets} | {target.over for target in group.targets} <= {*names, None}


CALLS = {
    "VJP in numpy, gradient": (1, 1),
    "VJP in numpy, Jacobian": (1, 1),
    "VJP in numpy, HVP": (1, 2),
    "VJP in TensorFlow, JVP": (1, 0),
    "VJP in TensorFlow, HVP": (1, 0),
    "split rules, gradient": (1, 1),
    "split rules, Jacobian": (0, 1),
    "Jacobian in TensorFlow, Jacobian": (1, 0),
    "Jacobian in numpy, gradient": (1, 1),
    "Jacobian in numpy, JVP": (1, 1),
    "Jacobian in numpy, Jacobian": (1, 1),
    "Jacobian in numpy, HVP": (1, 1),
    "equation, gradient": (1, 0),
    "equation, HVP": (1, 0),
    "objective, Jacobian": (1, 0),
    "adjoint in numpy, gradient": (1, 1),
    "adjoint in numpy, JVP": (2, 0),
    "adjoint in numpy, Jacobian": (0, 1),
    "adjoint in numpy, HVP": (1, 1),
    "JVP in numpy, JVP": (1, 1),
    "from-jvp, numpy, gradient": (1, 1),
    "from-vjp, numpy, JVP": (1, 1),
    "numerical, tridiagonal, Jacobian": (1 + 22 * 3 + 2 * (3 + 3 + 2), 0),
    "complex step, Jacobian": (18, 0),
}
"""The fewest calls of the function and of its numpy rules. The JVP returns the output too.
A tridiagonal pattern has three colours, of 3, 3 and 2 columns. Each is verified by as many sets, at
two calls each."""


@pytest.mark.parametrize("derivative", CALLS)
def test_a_derivative_makes_the_fewest_calls(derivative):
    assert tensorflow_rules.cases()[f"calls rules {derivative}"]()() == CALLS[derivative]
