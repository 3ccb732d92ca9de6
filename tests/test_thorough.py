"""Thorough checks: they find what usual checks miss, and draw more examples."""

import json
import os
from pathlib import Path

import pytest

from tests.processes import run_python
from tests.wrong_ops import WRONG
from tfpyop import differentiable_op
from tfpyop.cli import main
from tfpyop.testing import CheckError, ChecksError, check_gradient, check_op, make_test_class
from tfpyop.testing._check_runner import thoroughly

(PEAK,) = [wrong for wrong in WRONG if wrong.is_thorough]
SETTINGS = {"checks": ["check_gradient"], "modes": ["eager"]}
SMALL = differentiable_op(lambda x: 2 * x, signature="()->()", grad=lambda op, g: 2 * g)


@pytest.mark.parametrize("seed", [0, 1])
def test_only_a_thorough_check_finds_an_error_with_a_narrow_peak(seed):
    check_op(PEAK.op, seed=seed, **SETTINGS)
    with pytest.raises(ChecksError, match="the cotangent of input 0"):
        check_op(PEAK.op, seed=seed, thorough=True, **SETTINGS)


def test_a_thorough_check_draws_ten_times_as_many_examples():
    settings = {"checks": ["check_linearity"], "seed": 1}
    usual, more = (check_op(SMALL, thorough=thorough, **settings).outcomes[0] for thorough in (False, True))
    assert (usual.n_examples, more.n_examples) == (20, 200)


def test_the_number_of_examples_can_be_chosen():
    (outcome,) = check_op(SMALL, thorough=True, max_examples=7, seed=1, **SETTINGS).outcomes
    assert outcome.n_examples == 7


def test_thorough_ends_with_the_block():
    with thoroughly(), pytest.raises(CheckError):
        check_gradient(PEAK.op, seed=0, modes=["eager"])
    assert check_gradient(SMALL, seed=0, modes=["eager"]).n_examples <= 100


def test_test_classes_are_thorough():
    tests = vars(make_test_class(PEAK.op, seed=0, thorough=True, **SETTINGS))
    (test,) = [test for name, test in tests.items() if name.startswith("test_")]
    with pytest.raises(pytest.fail.Exception, match="the cotangent of input 0"):
        test(None)


def test_the_command_line_is_thorough(capsys):
    assert main(["check", "tests.ops:exp", "--thorough", "--checks", "check_linearity", "--seed", "1", "--json"]) == 0
    (op,) = json.loads(capsys.readouterr().out)["ops"]
    assert op["checks"][0]["examples"] == 200


MODULE = """
from tfpyop import differentiable_op

@differentiable_op(signature="()->()")
def square(x):
    return x * x

@square.numpy_gradient
def rule(op, g):
    x = op.inputs[0]
    return 2 * g * x * (1 + 1e-3 / (1 + (x - 741.5) ** 2) ** 2)
"""


@pytest.mark.slow
def test_the_plugin_is_thorough(tmp_path):
    (tmp_path / "peaks.py").write_text(MODULE)
    options = ["-p", "tfpyop.cli.pytest_plugin", "--tfpyop", "peaks", "--tfpyop-thorough", "-k", "check_gradient"]
    variables = {"PYTHONPATH": f"{Path(__file__).parents[1]}{os.pathsep}{tmp_path}"}
    environment = {**os.environ, **variables, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    process = run_python("-m", "pytest", *options, cwd=tmp_path, env=environment, timeout=200)
    assert process.returncode == 1
    assert "the cotangent of input 0 (x) is wrong" in process.stdout
