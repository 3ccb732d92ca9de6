"""Runs the tests on each TensorFlow that is supported: `python -m tests.matrix`.

Makes a fresh environment for each in a temporary directory, with the numpy and Keras that come with it, and prints one
line a version, followed by what failed. `--tests` names some of the test files.
"""

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
TENSORFLOWS = ("2.18", "2.19", "2.20", "2.21")
VERSIONS = """
import importlib.metadata, ctypes
from tfpyop.lowering.xla import ffi
api = ffi._load_api()
names = ("tensorflow", "numpy", "keras", "ml_dtypes")
packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
print(f"{packages}, XLA FFI {api.version.major}.{api.version.minor} ({api.struct_size} bytes)")
"""


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the root of the project."""
    return subprocess.run([python, *arguments], cwd=ROOT, capture_output=True, text=True)


def line_of(version: str, directory: Path, tests: list[str]) -> tuple[str, bool]:
    """Make an environment, run the tests in it, and say what came of it."""
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    installed = run(
        python, "-m", "pip", "install", "--quiet", f"tensorflow=={version}.*", "-e", f"{ROOT}[test,examples]"
    )
    if installed.returncode:
        return f"tensorflow {version}: not installed\n{installed.stderr}", False
    packages = run(python, "-c", VERSIONS).stdout.strip()
    files = [f"tests/{name}.py" for name in tests]
    tested = run(python, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", *files)
    summary = tested.stdout.strip().splitlines()
    failed = [line for line in summary if line.startswith(("FAILED", "ERROR"))]
    return "\n".join([f"{packages}: {summary[-1]}", *failed]), tested.returncode == 0


def main() -> int:
    """Print a line a version; the status is 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tensorflow", nargs="+", default=TENSORFLOWS)
    parser.add_argument("--tests", nargs="+", default=[])
    options = parser.parse_args()
    is_good = True
    for version in options.tensorflow:
        with tempfile.TemporaryDirectory() as directory:
            line, passed = line_of(version, Path(directory), options.tests)
        print(line, flush=True)
        is_good &= passed
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
