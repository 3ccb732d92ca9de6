"""Type checkers see the decorated function: its parameters, and what an op offers.

Both read two programs: typical code, which also runs, and wrong uses, one a line.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import typed_right
from tests.environments import RUNNING_ENVIRONMENT, fresh_environment, site_packages
from tfpyop._decorator import OpOptions

ROOT = Path(__file__).parent.parent
RIGHT, WRONG = ROOT / "tests" / "typed_right.py", ROOT / "tests" / "typed_wrong.py"
PYRIGHT = {
    "include": [str(RIGHT), str(WRONG)],
    "extraPaths": [str(ROOT)],
    "typeCheckingMode": "strict",
    "pythonVersion": "3.10",
    # TensorFlow and Keras have no types, and lambdas none of their own.
    "reportMissingTypeStubs": False,
    "reportUnknownArgumentType": False,
    "reportUnknownLambdaType": False,
    "reportUnknownMemberType": False,
    "reportUnknownVariableType": False,
}


USER_FILE = """
from tfpyop import differentiable_op


@differentiable_op(signature="(),()->()")
def scaled(x: float, *, factor: int = 2) -> float:
    return factor * x


scaled(1.0, factor="two")
reveal_type(scaled.name)
"""


def run(module, *arguments):
    """What a module prints that is run as a program, at the top of the project."""
    process = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == 1, process.stdout + process.stderr  # it ran, and had something to say
    return process.stdout


def mypy(directory):
    """The complaints of mypy, strict: file, line and text."""
    options = ["--strict", "--python-version=3.10", "--follow-imports=silent", "--no-error-summary", "--config-file="]
    for line in run("mypy", *options, f"--cache-dir={directory}", str(RIGHT), str(WRONG)).splitlines():
        file, number, kind, text = re.fullmatch(r"(.+?):(\d+): (error|note): (.*)", line).groups()
        if kind == "error":
            yield ROOT / file, int(number), text


def pyright(directory):
    """The complaints of pyright, strict, in the build that brings its own Node.js."""
    (directory / "pyrightconfig.json").write_text(json.dumps(PYRIGHT))
    output = run("basedpyright", "-p", str(directory), "--pythonpath", sys.executable, "--outputjson")
    for told in json.loads(output)["generalDiagnostics"]:
        if told["severity"] == "error":
            yield Path(told["file"]), told["range"]["start"]["line"] + 1, told["message"]


@pytest.fixture(scope="module", params=[mypy, pyright])
def complaints(request, tmp_path_factory):
    """Where a type checker complains, as `line: what`, by file."""
    found = {RIGHT: {}, WRONG: {}}
    for file, line, text in request.param(tmp_path_factory.mktemp("checker")):
        found[file].setdefault(line, text)
    return found


def test_typical_code_is_accepted(complaints):
    assert complaints[RIGHT] == {}


def test_every_wrong_use_is_rejected(complaints):
    lines = WRONG.read_text().splitlines()
    missed = [
        line.strip() for number, line in enumerate(lines, 1) if "# wrong" in line and number not in complaints[WRONG]
    ]
    assert missed == []


def test_nothing_else_is_rejected(complaints):
    lines = WRONG.read_text().splitlines()
    assert {number: text for number, text in complaints[WRONG].items() if "# wrong" not in lines[number - 1]} == {}


@pytest.mark.parametrize("option", OpOptions.__annotations__)
def test_typical_and_wrong_code_have_every_option(option):
    assert f"{option}=" in RIGHT.read_text()
    if option not in ("dtype", "compute_dtype"):  # which take whatever NumPy and TensorFlow read as dtypes
        assert re.search(rf"\b{option}=.*# wrong", WRONG.read_text())


@pytest.mark.parametrize(
    "use", [typed_right.calls, typed_right.attributes, typed_right.layers, typed_right.pools, typed_right.refusals]
)
def test_typical_code_runs(use):
    assert use()


def test_typical_checks_pass():
    assert [outcome.status for outcome in typed_right.checks().outcomes] == ["passed"]


def test_typical_code_saves_and_loads_a_model(tmp_path):
    assert typed_right.models(tmp_path) == [typed_right.__name__]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The Python of an environment where tfpyop, and nothing else, is installed as the README says."""
    directory = tmp_path_factory.mktemp("installed") / "venv"
    python = fresh_environment(directory, "-e", ROOT)
    (site_packages(directory) / RUNNING_ENVIRONMENT).unlink()  # tfpyop may be installed in place there too
    return python


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checker", "options"),
    [
        ("mypy", ["--python-executable={python}", "--config-file=", "--cache-dir={directory}"]),
        ("basedpyright", ["--pythonpath", "{python}"]),
    ],
)
def test_types_are_known_in_a_project_that_installed_tfpyop_in_place(checker, options, installed, tmp_path):
    file = tmp_path / "user_file.py"
    file.write_text(USER_FILE)
    arguments = [option.format(python=installed, directory=tmp_path / "cache") for option in options]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    process = subprocess.run(
        [sys.executable, "-m", checker, *arguments, str(file)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == 1, process.stdout + process.stderr
    assert re.search(r':10(:\d+)?\W+error: Argument .* "int"', process.stdout), process.stdout
    assert re.search(r'Revealed type is "(builtins\.)?str"|Type of "scaled\.name" is "str"', process.stdout), (
        process.stdout
    )
