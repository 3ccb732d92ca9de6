"""Runs the tests on each TensorFlow that is supported: `python -m tests.matrix`.

Makes a fresh environment for each in a temporary directory, with the numpy and Keras that come with it, and prints one
line a version, followed by what failed. `--tests` names some of the test files. The Python is the one it is run by.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
TENSORFLOWS = ("2.18", "2.19", "2.20", "2.21")
VERSIONS = """
import importlib.metadata
names = ("tensorflow", "numpy", "keras", "ml_dtypes")
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))
"""
LONGEST = 3 * 3600
"""Seconds that the tests of one version may take."""


def run(*command: str | Path) -> tuple[list[str], bool]:
    """Run a command in the root of the project; returns the lines that it prints, and whether it succeeded."""
    output = subprocess.STDOUT
    process = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=output, text=True, timeout=LONGEST)
    return process.stdout.splitlines(), process.returncode == 0


def line_of(version: str, directory: Path, tests: list[str]) -> tuple[str, bool]:
    """Make an environment, run the tests in it, and say what came of it."""
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    wanted = [f"tensorflow=={version}.*", "-e", f"{ROOT}[test,examples]"]
    lines, succeeded = run(python, "-m", "pip", "install", "--quiet", *wanted)
    if succeeded:
        lines, succeeded = run(python, "-c", VERSIONS)
    if not succeeded:
        return "\n".join([f"tensorflow {version}: not installed", *lines]), False
    versions = lines[-1]
    files = [f"tests/{name}.py" for name in tests]
    lines, succeeded = run(python, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", *files)
    counts = [line for line in lines if re.search(r"\d+ (passed|failed|errors?)\b.* in ", line)]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR")) or not counts]
    return "\n".join([f"{versions}: {(counts or ['no tests were run'])[-1]}", *failed]), succeeded and bool(counts)


def main() -> int:
    """Print a line a version; the status is 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tensorflow", nargs="+", default=TENSORFLOWS)
    parser.add_argument("--tests", nargs="+", default=[])
    options = parser.parse_args()
    for name in options.tests:
        if not (ROOT / "tests" / f"{name}.py").exists():
            parser.error(f"there is no tests/{name}.py")
    is_good = True
    for version in options.tensorflow:
        with tempfile.TemporaryDirectory() as directory:
            line, passed = line_of(version, Path(directory), options.tests)
        print(line, flush=True)
        is_good &= passed
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
