"""The distributions: they hold what they should and nothing else, install, and what is in them runs."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import tfpyop
from tests.environments import fresh_environment

ROOT = Path(__file__).parent.parent
DIRECTORIES = ["tfpyop", "tests", "docs", "examples", "benchmarks", ".ci"]
FILES = ["CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.cfg"]
LEFT_BEHIND = ["tests/__pycache__/a.cpython-311.pyc", "tfpyop/__pycache__/a.cpython-311.pyc", "docs/.cache/a.md~"]
LEFT_BEHIND += [".hypothesis/a", ".pytest_cache/README", "examples/a.png", "build/lib/tfpyop/a.pyc", ".venv/a.cfg"]
"""What is in a directory where somebody works, and in no release."""
TESTED = ["tests/test_signature.py", "tests/test_layering.py", "tests/test_public_api.py"]
TESTED += ["tests/test_documents.py::test_the_blocks_of_a_page_run[README.md]"]
"""Tests that read the package, pages and pyproject.toml, and need a few seconds."""
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sources():
    """The files of the project, by git where this is a checkout, else as they lie here."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        files = {ROOT / name for name in listed.split("\0") if name} - {ROOT / ".gitignore"}
    else:
        files = {path for directory in DIRECTORIES for path in (ROOT / directory).rglob("*")}
        files = {path for path in files if "__pycache__" not in path.parts} | {ROOT / name for name in FILES}
    return {str(path.relative_to(ROOT)) for path in files if path.is_file()}


def run(*command, cwd, environment=()):
    """What a program prints; it has to end well."""
    process = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **dict(environment)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The source distribution and the wheel made from it, of a copy in which somebody has worked."""
    directory = tmp_path_factory.mktemp("release")
    for name in sources():
        target = directory / "project" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    for name in LEFT_BEHIND:
        (directory / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "project" / name).write_text("")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, "project", cwd=directory)
    (source,), (wheel,) = directory.glob("*.tar.gz"), directory.glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def unpacked(distributions, tmp_path_factory):
    """The directory that comes out of the source distribution."""
    directory = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(distributions[0]) as archive:
        archive.extractall(directory, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (project,) = directory.iterdir()
    return project


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory):
    """A fresh environment with the wheel, which finds what it requires where this program does."""
    return fresh_environment(tmp_path_factory.mktemp("environment"), distributions[1]).parent


def test_the_version_is_that_of_the_package(distributions):
    source, wheel = distributions
    assert source.name == f"tfpyop-{tfpyop.__version__}.tar.gz"
    assert wheel.name == f"tfpyop-{tfpyop.__version__}-py3-none-any.whl"
    found = {path for path in sources() if path.startswith("tfpyop/") or "/" not in path}
    holding = [path for path in found if f'"{tfpyop.__version__}"' in (ROOT / path).read_text(errors="replace")]
    assert holding == ["tfpyop/_version.py"]  # nothing else has to be changed with it


def test_the_metadata_is_what_indexes_accept(distributions):
    run(sys.executable, "-m", "twine", "check", "--strict", *distributions, cwd=ROOT)
    with zipfile.ZipFile(distributions[1]) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text().strip()


def test_the_source_distribution_holds_the_project_and_nothing_else(unpacked):
    held = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    made = {name for name in held if name == "PKG-INFO" or name.startswith("tfpyop.egg-info/")}
    assert sources() - held == set(), "MANIFEST.in says what is in it"
    assert held - made - sources() == set()


def test_the_wheel_holds_the_package_and_nothing_else(distributions):
    with zipfile.ZipFile(distributions[1]) as archive:
        held = set(archive.namelist())
    about = f"tfpyop-{tfpyop.__version__}.dist-info"
    described = {f"{about}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt")}
    package = {name for name in sources() if name.startswith("tfpyop/")}
    assert "tfpyop/py.typed" in package
    assert held == package | described | {f"{about}/licenses/LICENSE"}


@pytest.mark.slow
def test_the_first_example_runs_where_the_wheel_is_installed(installed, tmp_path):
    example = BLOCK.search((ROOT / "README.md").read_text())[1]
    program = tmp_path / "program.py"
    program.write_text(f"{example}\nimport tfpyop\nprint(tfpyop.__file__)\n")
    gradient, file = run(installed / "python", program, cwd=tmp_path).splitlines()
    assert gradient == re.search(r"# (.*)$", example)[1]
    assert Path(file).is_relative_to(installed.parent)


def test_the_citation_names_this_version():
    assert f"\nversion: {tfpyop.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.slow
def test_the_command_runs_where_the_wheel_is_installed(installed, tmp_path):
    assert run(installed / "tfpyop", "--help", cwd=tmp_path).startswith("usage: tfpyop")
    assert run(installed / "tfpyop", "--version", cwd=tmp_path) == f"tfpyop {tfpyop.__version__}\n"


@pytest.mark.slow
def test_tests_run_from_the_source_distribution(installed, unpacked):
    printed = run(installed / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTED, cwd=unpacked)
    assert re.search(r"^\d+ passed in", printed, re.MULTILINE), printed
