"""Runs the tests on each TensorFlow that is supported: `python -m tests.matrix`.

Makes a fresh environment for each in a temporary directory, with the numpy and Keras that come with it, and prints one
line a version, followed by what failed. `--tests` names some of the test files. The Python is the one it is run by.
`pre` is the newest TensorFlow that is not released, and `nightly` the newest nightly build.

`--watch` runs the tables of modes on these two, and lists private symbols that are missing or changed there. `--write`
writes the lines to docs/compatibility.md.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

from tests import private_symbols

ROOT = Path(__file__).parent.parent
TENSORFLOWS = ("2.18", "2.19", "2.20", "2.21")
COMING = {"pre": "tensorflow", "nightly": "tf-nightly"}
"""The packages of versions that are not released."""
TABLES = ("test_ffi_versions", "test_calls", "test_gradients")
PAGE = ROOT / "docs" / "compatibility.md"
VERSIONS = """
import importlib.metadata, platform
found = importlib.metadata.packages_distributions()
known = ("tensorflow", "tf_nightly", "tf-nightly", "numpy", "keras", "keras-nightly", "ml_dtypes")
names = [next(name for name in found[package] if name in known) for package in ("tensorflow", "numpy", "keras")]
versions = [f"{name} {importlib.metadata.version(name)}" for name in [*names, "ml_dtypes"]]
print(", ".join([*versions, f"Python {platform.python_version()}"]))
"""
LONGEST = 3 * 3600
"""Seconds that the tests of one version may take."""


def run(*command: str | Path) -> tuple[list[str], bool]:
    """Run a command in the root of the project; returns the lines that it prints, and whether it succeeded."""
    output = subprocess.STDOUT
    process = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=output, text=True, timeout=LONGEST)
    return process.stdout.splitlines(), process.returncode == 0


def install(python: Path, version: str) -> tuple[list[str], bool]:
    """Install the project with a version of TensorFlow."""
    project = ["-e", f"{ROOT}[test,examples]"]
    if version in COMING:  # without the versions that are not released of everything else
        steps = [["install", *project], ["uninstall", "--yes", "tensorflow"]]
        steps += [["install", "--pre", "--no-deps", COMING[version]]]
    else:
        steps = [["install", f"tensorflow=={version}{'' if 'rc' in version else '.*'}", *project]]
    lines: list[str] = []
    for command, *options in steps:
        lines, succeeded = run(python, "-m", "pip", command, "--quiet", *options)
        if not succeeded:
            return lines, False
    return lines, True


def line_of(version: str, directory: Path, tests: Sequence[str], *, is_watching: bool) -> tuple[str, bool]:
    """Make an environment, run the tests in it, and say what came of it."""
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    lines, succeeded = install(python, version)
    if succeeded:
        lines, succeeded = run(python, "-c", VERSIONS)
    if not succeeded:
        return "\n".join([f"tensorflow {version}: not installed", *lines]), False
    versions = lines[-1]
    symbols = list(private_symbols.changes(private_symbols.here(), private_symbols.elsewhere(python)))
    if is_watching:
        layout, _ = run(python, "-m", "tests.ffi_layout")
        symbols += [line for line in layout if "in the table" in line or "tfpyop has [" in line]
    files = [f"tests/{name}.py" for name in tests]
    lines, succeeded = run(python, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", *files)
    counts = [line for line in lines if re.search(r"\d+ (passed|failed|errors?)\b.* in ", line)]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR")) or not counts]
    what = f" ({', '.join(tests)})" if tests else ""
    count = (counts or ["no tests were run"])[-1].strip("= ")
    return "\n".join([f"{versions}: {count}{what}", *symbols, *failed]), succeeded and bool(counts)


def written(page: str, line: str) -> str:
    """A page with a line of one version in its table, in the place of the line of the same version if there is one."""
    table = re.compile(r"(<!-- matrix -->\n```text\n)(.*?)(```\n)", re.DOTALL)
    start, rows, end = table.search(page).groups()  # type: ignore[union-attr]  # the page has the table
    name = line.partition(",")[0]
    kept = [row for row in rows.splitlines() if row.partition(",")[0] != name]
    return table.sub(lambda _: start + "".join(f"{row}\n" for row in sorted([*kept, line])) + end, page, count=1)


def main() -> int:
    """Print a line a version; the status is 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tensorflow", nargs="+", default=None)
    parser.add_argument("--tests", nargs="+", default=None)
    parser.add_argument("--watch", action="store_true", help="the tables of modes on pre and nightly")
    parser.add_argument("--write", action="store_true", help="write the lines to docs/compatibility.md")
    options = parser.parse_args()
    tests = options.tests or (TABLES if options.watch else ())
    for name in tests:
        if not (ROOT / "tests" / f"{name}.py").exists():
            parser.error(f"there is no tests/{name}.py")
    is_good = True
    for version in options.tensorflow or (COMING if options.watch else TENSORFLOWS):
        with tempfile.TemporaryDirectory() as directory:
            text, passed = line_of(version, Path(directory), tests, is_watching=options.watch)
        print(text, flush=True)
        if options.write and "not installed" not in text:
            PAGE.write_text(written(PAGE.read_text(), text.splitlines()[0]))
        is_good &= passed
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
