"""Each example runs alone, in a process of its own: it exits with 0, saves its picture and prints what it should."""

import importlib
import os
import re
import shutil
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
    "compiled_c": r"\d+ of 500 starts end as the icosahedron\n"
    r"((Lowest energy|Icosahedron) [a-zC ]+: +-44\.326801\n){4}Picture: \S+\n"
    r"Found, closed form and known: \S+e-\d\d apart, at most 1e-06 allowed\n",
    "digits": r"Predictions of the model loaded from its file are equal: yes\n"
    r"Logistic regression reads 9\d\.\d% of 540 digits held out\nPicture: \S+\n"
    r"The model reads 9\d\.\d%, at least 9\d\.\d% needed\n",
    "deblur": r"<A x, y> and <x, A' y>: \S+e-\d\d apart, at most 1e-12 allowed\n"
    r"Blurred photograph: \d\d\.\d dB from the scene, sharpened: \d\d\.\d dB\n"
    r"Gain: \d+\.\d dB, at least 8\.0 dB wanted\nPicture: \S+\n",
    "implicit_optimum": r"Implicit derivative and central difference: \S+e-\d\d apart, at most 1e-06 allowed\n"
    r"segment  true k  found k, N/m  standard deviations apart\n( +\d +\d+\.0 +\d+\.\d ± +\d+\.\d +\d\.\d\n){8}"
    r"Largest: \d\.\d standard deviations, at most 4 allowed\nPicture: \S+\n",
    "invasion": r"Hessian and difference of gradients: \S+e-\d\d apart, at most 1e-06 allowed\n"
    r"\d+ Newton steps with \d+ Hessian products leave \d\.\de-\d\d of the gradient\n"
    r"(Brought in at x = \d+ km, y = \d+ km: \d\.\d km from the true place\n){2}Picture: \S+\n"
    r"At most 1e-03 of the gradient and 4 km allowed\n",
    "modulo": rf"TF 1 graph and Session{REMAINDERS}eagerly{REMAINDERS}tf\.function{REMAINDERS}"
    r"Picture: \S+\nAll three agree with the expected numbers\.\n",
    "lynx_hare": r"per year  fitted  published       inside\n"
    + "".join(map(RATE.format, ["alpha", "beta", "gamma", "delta"]))
    + r"In 1900: \d+\.\d thousand hares and \d+\.\d thousand lynxes\n"
    r"Typical errors of the counts: \d+% and \d+%\nPicture: \S+\n",
    "sparse_poisson": r"Adjoint derivative and central difference: \S+e-\d\d apart, at most 1e-06 allowed\n"
    r" +true +start +found\n((smallest|largest) k, W/\(m K\)( +\d\.\d\d){3}\n){2}"
    r"relative error of k +0\.0% +\d\d\.\d% +\d\.\d%\nmisfit of T over its error( +\d\.\d\d){3}\n"
    r"Picture: \S+\n",
    "transport": r"Op and all assignments one by one: \S+ apart, at most 1e-12 allowed\n"
    r" +true +closed form +found\n((turn|zoom|centre), [a-z ]+( +\d+\.\d+){3}\n){4}Picture: \S+\n"
    r"Stars found and by closed form: \S+e-\d\d pixels apart, at most 1e-02 allowed\n",
    "waves": r"Soliton and its exact solution: \S+e-\d\d apart, at most 1e-04 allowed\n"
    r"Rule and central difference: \S+e-\d\d apart, at most 1e-06 allowed\n"
    r"Power: changed by \S+, at most 1e-12 allowed\n"
    r"Fidelity of the star: 0\.\d{3} by a lens, 0\.99\d by the plate\nAt least 0\.99 wanted\nPicture: \S+\n",
}


NEEDS_COMPILER = pytest.mark.skipif(not any(map(shutil.which, ["cc", "gcc", "clang"])), reason="there is no C compiler")
MARKS = {"compiled_c": [NEEDS_COMPILER]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options"),
    [
        *(pytest.param(script, [], id=script.stem, marks=MARKS.get(script.stem, [])) for script in EXAMPLES),
        pytest.param(DIRECTORY / "lynx_hare.py", ["--jit-compile"], id="lynx_hare, XLA"),
    ],
)
def test_an_example_runs_alone(script, options, tmp_path):
    picture = tmp_path / "picture.png"
    process = subprocess.run(
        [sys.executable, "-X", "utf8", script, "--output", picture, *options],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert re.fullmatch(PRINTED[script.stem], process.stdout), process.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [picture]
    if script.stem == "lynx_hare":  # the first example of the README: TensorFlow's messages would come first
        first, *_ = process.stderr.lstrip().splitlines()
        assert first.startswith("Fitting:")


@pytest.mark.parametrize("output", [Path("missing") / "picture.png", Path()], ids=["missing", "directory"])
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_a_picture_that_cannot_be_written_is_refused_at_the_start(script, output, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(DIRECTORY)
    monkeypatch.setattr(sys, "argv", [script.name, "--output", str(tmp_path / output)])
    module = importlib.import_module(script.stem)
    monkeypatch.delitem(sys.modules, script.stem)
    monkeypatch.setattr(module, "draw", lambda *_: pytest.fail("it was computed"))
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--output cannot be written: [Errno " in err


@pytest.fixture
def compiled_c(monkeypatch):
    monkeypatch.syspath_prepend(DIRECTORY)
    yield importlib.import_module("compiled_c")
    del sys.modules["compiled_c"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no-such-compiler -O3", r"No C compiler found \(no-such-compiler\): install one, or name it .* CC\.\n"),
        ("false", r"false cannot compile the C functions:\n\n"),
    ],
)
def test_without_a_compiler_that_works_the_status_is_two(compiled_c, command, message, monkeypatch, capsys):
    monkeypatch.setenv("CC", command)
    monkeypatch.setattr(sys, "argv", ["compiled_c.py"])
    assert compiled_c.main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(message, err), err


def test_there_is_a_text_for_each_example():
    assert {script.stem for script in EXAMPLES} == set(PRINTED)
