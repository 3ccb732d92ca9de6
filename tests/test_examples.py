"""Each example runs alone, in a process of its own: it exits with 0, saves its picture and prints what it should."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DIRECTORY = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(DIRECTORY.glob("*.py"))
REMAINDERS = r"""
  z     = \[0\.1, 0\.2, 0\.2, 1\.7\]
  dz/dx = \[1, 1, 1, 1\]
  dz/dy = \[-1, -1, -1, 0\]
"""
RATE = r"{} +\d\.\d{{4}}  0\.\d{{2,3}} +± 0\.\d{{2,3}} +yes\n"
PRINTED = {
    "bessel": r"Relative errors .*\n.*\n([JK] .*e-1\d\n){16}"
    r"Largest relative error: \S+, at most 1e-12 allowed\nPicture: \S+\n",
    "modulo": rf"TF 1 graph and Session{REMAINDERS}eagerly{REMAINDERS}tf\.function{REMAINDERS}"
    r"Picture: \S+\nAll three agree with the expected numbers\.\n",
    "lynx_hare": r"per year  fitted  published       inside\n"
    + "".join(map(RATE.format, ["alpha", "beta", "gamma", "delta"]))
    + r"In 1900: \d+\.\d thousand hares and \d+\.\d thousand lynxes\n"
    r"Typical errors of the counts: \d+% and \d+%\nPicture: \S+\n",
    "sparse_poisson": r"Adjoint derivative and central difference: \S+e-\d\d apart, at most 1e-06 allowed\n"
    r" +true +start +found\n((smallest|largest) k, W/\(m K\)( +\d\.\d\d){3}\n){2}"
    r"relative error of k +0\.0% +\d\d\.\d% +\d\.\d%\nmisfit of T over its error( +\d\.\d\d){3}\n"
    r"\d+ factorizations for \d+ solutions\nPicture: \S+\n",
}


@pytest.mark.parametrize(
    ("script", "options"),
    [
        *(pytest.param(script, [], id=script.stem) for script in EXAMPLES),
        pytest.param(DIRECTORY / "lynx_hare.py", ["--jit-compile"], id="lynx_hare, XLA"),
    ],
)
def test_an_example_runs_alone(script, options, tmp_path):
    picture = tmp_path / "picture.png"
    process = subprocess.run(
        [sys.executable, "-X", "utf8", script, "--output", picture, *options],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert re.fullmatch(PRINTED[script.stem], process.stdout), process.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [picture]


def test_there_is_a_text_for_each_example():
    assert {script.stem for script in EXAMPLES} == set(PRINTED)
