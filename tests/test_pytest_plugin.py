"""The pytest plugin and the test class, as users run them: in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import run_python

ROOT = Path(__file__).parent.parent
OPS = """
import numpy as np
from tfpyop import differentiable_op


@differentiable_op(signature="()->()")
def right(x):
    return 2 * x


@right.numpy_gradient
def right_gradient(op, grad):
    return 2 * grad


@differentiable_op(signature="()->()")
def wrong(x):
    return 2 * x


@wrong.gradient
def wrong_gradient(op, grad):
    return -2 * grad
"""
TESTS = """
import my_ops
from tfpyop.testing import arguments, make_test_class

TestOps = make_test_class(
    my_ops,
    checks=["check_gradient", "check_jvp"],
    arguments={"right": arguments(my_ops.right, domain="[1, 2]")},
    max_examples=10,
)


def test_of_the_user():
    pass
"""
CONFTEST = """
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

settings.register_profile("one", max_examples=1, database=DirectoryBasedExampleDatabase("examples"))
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("project")
    (directory / "my_ops.py").write_text(OPS)
    (directory / "test_my_ops.py").write_text(TESTS)
    (directory / "conftest.py").write_text(CONFTEST)
    return directory


def run(directory, *options):
    """Run pytest with the plugin; returns status and output."""
    arguments = ["-p", "tfpyop.cli.pytest_plugin", "-v", "-rs", "--tb=short", *options]
    variables = {"PYTHONPATH": f"{ROOT}{os.pathsep}{directory}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    process = run_python("-m", "pytest", *arguments, cwd=directory, env={**os.environ, **variables}, timeout=200)
    return process.returncode, process.stdout + process.stderr


@pytest.mark.slow
def test_ops_and_checks_are_collected_beside_other_tests(directory):
    status, output = run(directory, "--tfpyop", "my_ops", "-k", "user or (wrong and gradient) or (right and jvp)")
    assert status == 1
    assert "my_ops::wrong[check_gradient] FAILED" in output
    assert "my_ops::right[check_jvp] SKIPPED (the op has no JVP rule)" in output
    assert "test_my_ops.py::test_of_the_user PASSED" in output
    assert "Likely:   the wrong sign" in output
    assert "pytest_plugin.py" not in output.split("= FAILURES =")[1].split("short test summary")[0]  # no frames
    assert "test_my_ops.py::TestOps::test_op[wrong-check_gradient] FAILED" in output


@pytest.mark.slow
def test_in_several_processes_with_a_profile_and_an_example_database(directory):
    options = ["-p", "xdist.plugin", "-p", "hypothesis.extra.pytestplugin", "-n", "2"]
    options += ["--hypothesis-profile", "one", "-m", "tfpyop", "-k", "gradient and not TestOps"]
    status, output = run(directory, "--tfpyop", "my_ops:wrong", *options)
    assert status == 1
    assert "1 failed" in output
    assert "1 passed" not in output
    assert any((directory / "examples").iterdir())


def test_a_module_that_is_not_there_is_one_line(directory):
    status, output = run(directory, "--tfpyop", "my_opps")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: --tfpyop my_opps: there is no module 'my_opps'." in output
    assert "Did you mean 'my_ops' or" in output


def test_the_plugin_loads_nothing_without_its_option():
    program = "import sys, tfpyop.cli.pytest_plugin; assert not {'tensorflow', 'hypothesis'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
