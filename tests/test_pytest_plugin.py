"""The pytest plugin and the test class, as users run them: in processes of their own."""

import json
import os
import re
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
SHOWN = """
import my_ops
import numpy as np
from tfpyop import differentiable_op
from tfpyop.testing import arguments, make_test_class


@differentiable_op(signature="()->()", grad=lambda op, g: 2 * g)
def picky(x):
    if (x > 100).any():
        raise ValueError("too large")
    return 2 * x


@differentiable_op(signature="(n)->(n)", non_differentiable=True)
def broken(x):
    return np.zeros((7, 5, 3))


TestShown = make_test_class([my_ops.wrong, picky], checks="check_gradient", max_examples=60)
TestBroken = make_test_class(
    broken, checks="check_contract", arguments={"broken": arguments(broken, allow_empty=False)}, modes="eager"
)
"""
CONFTEST = """
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

settings.register_profile("blobs", print_blob=True, database=None)
settings.register_profile("one", max_examples=1, database=DirectoryBasedExampleDatabase("examples"))
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("project")
    (directory / "my_ops.py").write_text(OPS)
    (directory / "test_my_ops.py").write_text(TESTS)
    (directory / "conftest.py").write_text(CONFTEST)
    return directory


def run(directory, *options, **more):
    """Run pytest with the plugin; returns status and output."""
    arguments = ["-p", "tfpyop.cli.pytest_plugin", "-v", "-rs", "--tb=short", *options]
    variables = {"PYTHONPATH": f"{ROOT}{os.pathsep}{directory}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **more}
    process = run_python("-m", "pytest", *arguments, cwd=directory, env={**os.environ, **variables}, timeout=200)
    return process.returncode, process.stdout + process.stderr


@pytest.mark.slow
def test_ops_and_checks_are_collected_beside_other_tests(directory):
    status, output = run(directory, "--tfpyop", "my_ops", "-k", "user or (wrong and gradient) or (right and jvp)")
    assert status == 1
    assert "my_ops::wrong[check_gradient-eager] FAILED" in output
    assert "my_ops::right[check_jvp] SKIPPED (the op has no JVP rule)" in output
    assert "test_my_ops.py::test_of_the_user PASSED" in output
    assert "Likely:   the wrong sign" in output
    assert "_plugin.py" not in output.split("= FAILURES =")[1].split("short test summary")[0]  # no frames
    assert "During handling" not in output
    assert "test_my_ops.py::TestOps::test_wrong_check_gradient_eager FAILED" in output


@pytest.mark.slow
def test_in_several_processes_with_a_profile_and_an_example_database(directory):
    options = ["-p", "xdist.plugin", "-p", "hypothesis.extra.pytestplugin", "-n", "2"]
    options += ["--hypothesis-profile", "one", "-m", "tfpyop", "-k", "gradient and not TestOps"]
    status, output = run(directory, "--tfpyop", "my_ops:wrong", *options)
    assert status == 1
    assert "3 failed" in output
    assert " passed" not in output
    assert any((directory / "examples").iterdir())


@pytest.fixture(scope="module")
def shown(directory):
    """The output of tests of Hypothesis with statistics, blobs and observations."""
    (directory / "test_shown.py").write_text(SHOWN)
    options = ["-p", "hypothesis.extra.pytestplugin", "--hypothesis-show-statistics", "--hypothesis-profile", "blobs"]
    options += ["test_shown.py", "--tfpyop", "my_ops:wrong", "-k", "gradient_eager or gradient-eager or Broken"]
    status, output = run(directory, *options)
    assert status == 1
    return output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_shown.py::TestShown::test_wrong_check_gradient_eager", "my_ops:wrong::wrong"])
def test_statistics_show_what_was_drawn(shown, name):
    statistics = shown.split("Hypothesis Statistics")[1].split(f"\n{name}")[1].split("Stopped because")[0]
    assert re.search(r"%, shapes: (0-d|one element|several elements)", statistics)
    assert "%, error / tolerance: above 1" in statistics


@pytest.mark.slow
def test_statistics_show_why_examples_were_rejected(shown):
    statistics = shown.split("Hypothesis Statistics")[1].split("test_picky_check_gradient_eager")[1]
    assert "%, rejected: ValueError in the function or rule" in statistics
    assert "%, error / tolerance: below 0.001" in statistics


@pytest.mark.slow
def test_failures_are_explained_and_have_blobs_and_notes(shown):
    failure = shown.split("_ TestShown.test_wrong_check_gradient_eager _")[1].split("\n____")[0]
    assert "# or any other generated value" in shown.split("_ TestBroken.")[1].split("\n____")[0]
    assert re.search(r"error / tolerance: \d", failure)
    assert "reproduce_failure(" in failure


@pytest.mark.slow
def test_a_blob_reproduces_a_failure(directory, shown):
    failure = shown.split("_ TestShown.test_wrong_check_gradient_eager _")[1]
    decorator = re.search(r"@(reproduce_failure\(.*\)) as a decorator", failure)[1]
    (directory / "test_reproduced.py").write_text(
        f"{SHOWN}\nfrom hypothesis import reproduce_failure, settings\n"
        f"TestShown.test_wrong_check_gradient_eager = {decorator}(TestShown.test_wrong_check_gradient_eager)\n"
    )
    status, output = run(directory, "-p", "hypothesis.extra.pytestplugin", "test_reproduced.py", "-k", "wrong")
    assert status == 1
    assert "the cotangent of input 0 (x) is wrong" in output


@pytest.mark.slow
def test_hypothesis_observes_the_examples(directory):
    variables = {"HYPOTHESIS_EXPERIMENTAL_OBSERVABILITY": "1"}
    run(
        directory,
        "-p",
        "hypothesis.extra.pytestplugin",
        "--tfpyop",
        "my_ops:right",
        "-k",
        "contract-eager",
        **variables,
    )
    [path] = (directory / ".hypothesis" / "observed").glob("*_testcases.jsonl")
    examples = [json.loads(line) for line in path.read_text().splitlines()]
    own = [
        example for example in examples if example["property"].startswith("my_ops:right::right[check_contract-eager]")
    ]
    assert any("shapes: 0-d" in example["features"] for example in own)


def test_a_module_that_is_not_there_is_one_line(directory):
    status, output = run(directory, "--tfpyop", "my_opps")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: --tfpyop my_opps: there is no module 'my_opps'." in output
    assert "Did you mean 'my_ops' or" in output


def test_the_plugin_loads_nothing_without_its_option():
    program = "import sys, tfpyop.cli.pytest_plugin; assert not {'tensorflow', 'hypothesis'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
