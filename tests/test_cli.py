"""The command line, as users call it: what it prints, and its exit status."""

import importlib
import json
import re
import subprocess
import sys

import pytest

from tests.processes import run_python
from tfpyop import cli

OPS = """
from typing import Any, Literal

import numpy as np
from tfpyop import differentiable_op

print("hello from a module")


@differentiable_op(signature="(),()->()", domain={"y": "[0.5, 2]"})
def mod(x, y):
    return x % y


@mod.numpy_gradient
def mod_gradient(op, grad):
    x, y = op.inputs
    return grad, -grad * (x // y)


@differentiable_op(signature="(m,k),(k,n)->(m,n)")
def product(a, b):
    return a @ b


@product.gradient
def product_gradient(op, grad):
    import tensorflow as tf

    a, b = op.inputs
    return grad @ tf.linalg.matrix_transpose(b), -tf.linalg.matrix_transpose(a) @ grad


@differentiable_op(signature="()->()", non_differentiable=True)
def scaled(x, *, factor: Any):
    return factor * x


@differentiable_op(signature="(3)->(3)", non_differentiable=True, domain="integers [-3, inf)")
def reversed_triple(x):
    return x[..., ::-1]


@differentiable_op(signature="(),()->()", static_argnames="times", non_differentiable=True, domain="(1e300, inf)")
def repeated(x, times: Literal[2, 3], y, *, flip: bool):
    return x + times * y


@differentiable_op(non_differentiable=True)
def of_dicts(values):
    return values["a"]


@differentiable_op(signature="(),()->()", non_differentiable=True)
def of_pairs(pair):
    return pair[0] + pair[1]


renamed = [differentiable_op(lambda x: x + 1, signature="()->()", non_differentiable=True, name="my-lab.plus-one")]


class Model:
    @differentiable_op(signature="()->()", non_differentiable=True)
    def shifted(self, x):
        return x + 1
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("project")
    (directory / "cli_ops.py").write_text(OPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(directory)
        importlib.import_module("cli_ops")
        yield directory
    del sys.modules["cli_ops"]


@pytest.fixture
def run(directory, monkeypatch, capsys):
    """Runs a command; returns status, output and errors."""
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments):
        status = cli.main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_list_is_a_table_of_ops(run):
    status, output, _ = run("list", "cli_ops")
    assert status == 0
    lines = [line for line in output.splitlines() if "cli_ops:" in line]
    assert [line.split()[0] for line in lines] == [
        "cli_ops:mod",
        "cli_ops:product",
        "cli_ops:scaled",
        "cli_ops:reversed_triple",
        "cli_ops:repeated",
        "cli_ops:of_dicts",
        "cli_ops:of_pairs",
        "cli_ops:my-lab.plus-one",
        "cli_ops:Model.shifted",
    ]
    assert "(m,k),(k,n)->(m,n)" in lines[1]
    assert "gradient" in lines[1]
    assert "non-differentiable" in lines[2]
    assert "cli_ops.py:" in lines[0]


@pytest.mark.parametrize("command", ["list", "ghostwrite"])
def test_what_modules_print_is_no_result(command, directory):
    process = run_python("-m", "tfpyop", command, "cli_ops", cwd=directory)
    assert "hello from a module" not in process.stdout
    assert "hello from a module" in process.stderr


def test_list_cuts_nothing_off_in_a_pipe_and_shows_names_as_they_are(directory):
    (directory / "link.py").write_text(OPS.replace("my-lab", "link").replace("def mod(", "def " + 60 * "m" + "("))
    (directory / "link.py").write_text((directory / "link.py").read_text().replace("@mod.", "@" + 60 * "m" + "."))
    process = run_python("-m", "tfpyop", "list", "link", cwd=directory)
    assert f"link:{60 * 'm'}" in process.stdout
    assert "link:product" in process.stdout


def test_list_cuts_nothing_off_on_a_narrow_terminal(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    _, output, _ = run("list", "cli_ops")
    assert "…" not in output


def test_list_loads_no_tensorflow(directory):
    program = (
        "import sys; from tfpyop.cli import main; main(['list', 'cli_ops']); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=directory, check=True, timeout=60, capture_output=True)


@pytest.mark.slow
def test_check_prints_a_table_and_the_failures(run):
    status, output, _ = run(
        "check", "cli_ops:mod", "cli_ops:product", "--max-examples", "5", "--checks", "check_gradient"
    )
    assert status == 1
    assert "cli_ops:mod       ok" in output
    assert "cli_ops:product   FAIL" in output
    assert "Likely:   the wrong sign" in output
    assert "2 ops: 1 passed, 1 failed" in output


def test_check_says_why_checks_were_skipped_and_how_far_it_is(run):
    _, output, errors = run(
        "check", "cli_ops:mod", "cli_ops:product", "--checks", "check_jvp", "--checks", "check_batching,check_jvp"
    )
    assert "- check_jvp: the op has no JVP rule (cli_ops:mod, cli_ops:product)" in output
    assert "batching" in output
    assert "1/2 cli_ops:mod: 1 passed, 1 skipped" in errors
    assert re.search(r"^cli_ops:mod check_batching +passed: 10 examples, \d+\.\d s$", errors, re.MULTILINE)
    assert "cli_ops:mod check_jvp" not in errors


def test_check_of_right_ops_exits_with_0(run):
    status, _, _ = run(
        "check", "cli_ops:mod", "--max-examples", "5", "--checks", "check_contract", "--modes", "eager,graph"
    )
    assert status == 0


def test_check_prints_json(run):
    status, output, _ = run(
        "check", "cli_ops:product", "--max-examples", "5", "--checks", "check_jvp,check_gradient", "--json"
    )
    assert status == 1
    report = json.loads(output)
    assert report["passed"] is False
    [op] = report["ops"]
    assert (op["op"], op["signature"]) == ("cli_ops:product", "(m,k),(k,n)->(m,n)")
    jvp, gradient = op["checks"]
    assert (jvp["check"], jvp["status"], jvp["reason"]) == ("check_jvp", "skipped", "the op has no JVP rule")
    assert gradient["status"] == "failed"
    assert gradient["failure"]["cause"] == "the wrong sign"
    assert "from cli_ops import product" in gradient["failure"]["code"]
    assert "product(*args)" in gradient["failure"]["code"]


def test_an_op_that_cannot_be_drawn_is_a_failure_with_the_way_out(run):
    status, output, _ = run("check", "cli_ops:scaled", "--checks", "check_contract")
    assert status == 1
    assert "cannot infer a strategy for static parameter 'factor'" in output
    assert "Annotate the parameter" in output


@pytest.mark.slow
def test_ghostwrite_writes_a_file_that_runs(run, directory):
    status, output, _ = run("ghostwrite", "cli_ops")
    assert status == 0
    assert "def test_mod():\n    check_op(cli_ops.mod)" in output
    assert "check_op(tfpyop.registered_ops()['my-lab.plus-one'])" in output
    (directory / "test_written.py").write_text(output)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "test_written.py",
        "-k",
        "mod or scaled or shifted or pairs or plus_one",
    ]
    process = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=200)
    assert "2 passed, 3 skipped, 4 deselected" in process.stdout, process.stdout + process.stderr


def test_ghostwrite_distinguishes_ops_of_the_same_name(run, directory):
    (directory / "cli_more_ops.py").write_text(OPS.replace("my-lab", "other-lab"))
    status, output, _ = run("ghostwrite", "cli_ops:mod", "cli_more_ops:mod")
    assert status == 0
    assert "def test_cli_ops_mod():\n" in output
    assert "def test_cli_more_ops_mod():\n" in output


@pytest.mark.parametrize("op", ["reversed_triple", "repeated"])
def test_bench_makes_inputs_of_the_domain_and_static_values(run, op):
    status, output, _ = run("bench", f"cli_ops:{op}", "--max-size", "100")
    assert status == 0
    assert "eager" in output


def test_bench_is_a_table_and_a_plot(run, directory):
    status, output, _ = run("bench", "cli_ops:product", "--max-size", "100", "--png", "bench.png")
    assert status == 0
    assert all(name in output for name in ("elements", "numpy", "eager", "graph", "XLA"))
    assert (directory / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "cli_opps"], "tfpyop: there is no module 'cli_opps'. Did you mean 'cli_ops'"),
        (["check", "cli_ops:prodct"], "tfpyop: module 'cli_ops' has no op 'prodct'. Did you mean 'product'?"),
        (["check", "cli_ops", "--modes", "egar"], "tfpyop: unknown mode 'egar'. Did you mean 'eager'?"),
        (
            ["check", "cli_ops", "--checks", "check_vjp"],
            "tfpyop: unknown check 'check_vjp'. Did you mean 'check_jvp'",
        ),
        (["check", "cli_ops", "--html", "no/where.html"], "tfpyop: 'no/where.html' cannot be written: No such file or"),
        (["bench", "cli_ops"], "tfpyop: 'cli_ops' defines several ops. Name one, for example cli_ops:mod."),
        (["bench", "cli_ops:scaled"], "cannot choose a value for static parameter 'factor': it has no default."),
        (["bench", "cli_ops:of_dicts"], "the op raises for the inputs of the measurement."),
        (["bench", "cli_ops:mod", "--png", "a.jpgx"], "'a.jpgx' cannot be written"),
        (["bench", "cli_ops:of_pairs"], "cannot infer how the 2 inputs are nested in 'pair'"),
        (["bench", "cli_ops:Model.shifted"], "the op is an unbound method."),
        (
            ["list", "cli_ops.py"],
            "'cli_ops.py' is a file name, not a module name. Pass the name of the module, for example cli_ops.",
        ),
        (["bench", "cli_ops:mod", "--max-size", "1", "--png", "no/where.png"], "'no/where.png' cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_status_2(run, arguments, said):
    status, _, errors = run(*arguments)
    assert status == 2
    [line] = [line for line in errors.splitlines() if line.startswith("tfpyop:")]
    assert said in line


def test_the_lines_of_an_error_are_joined_to_sentences(run, directory):
    (directory / "cli_broken.py").write_text('raise RuntimeError("boom\\n   twice")\n')
    status, _, errors = run("list", "cli_broken")
    assert status == 2
    [line] = [line for line in errors.splitlines() if line.startswith("tfpyop:")]
    assert re.search(r"RuntimeError: boom\. twice\. [A-Z]", line)
    assert "  " not in line


@pytest.mark.parametrize("command", [["check", "cli_opps", "--html"], ["bench", "cli_opps:mod", "--png"]], ids=str)
@pytest.mark.parametrize("kind", ["in a missing directory", "a directory", "not writable"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_imported(run, command, kind, tmp_path):
    path = tmp_path / "missing" / "page.png" if kind == "in a missing directory" else tmp_path / "page.png"
    if kind == "a directory":
        path.mkdir()
    if kind == "not writable":
        path = "/proc/version"  # which root cannot write either
    status, _, errors = run(*command, str(path))
    assert status == 2
    assert re.search(rf"^tfpyop: '{re.escape(str(path))}' cannot be written: ", errors, re.MULTILINE)


@pytest.mark.parametrize("command", [["check", "cli_opps", "--html"], ["bench", "cli_opps:mod", "--png"]], ids=str)
def test_a_command_that_fails_leaves_its_file_as_it_was(run, command, tmp_path):
    old, new = tmp_path / "old.png", tmp_path / "new.png"
    old.write_bytes(b"kept")
    for path in (old, new):
        status, _, errors = run(*command, str(path))
        assert status == 2
        assert "there is no module 'cli_opps'" in errors
    assert old.read_bytes() == b"kept"
    assert not new.exists()


@pytest.mark.parametrize("arguments", [[], ["lst"], ["check"], ["check", "cli_ops", "--max-examples", "x"]])
def test_what_argparse_refuses_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert "usage: tfpyop" in errors
    assert "_count" not in errors


def test_the_module_is_the_command(directory):
    process = subprocess.run(
        [sys.executable, "-m", "tfpyop", "list", "cli_ops:mod"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    assert "cli_ops:mod" in process.stdout


RULES = """
from tfpyop import differentiable_op


@differentiable_op(signature="()->()", domain="[1, 2]")
def scaled(x, *, mode="plain"):
    return 2 * x


@scaled.numpy_gradient
def scaled_gradient(op, grad):
    if op.static.mode == "never":
        return -grad
    return 2 * grad
"""


@pytest.fixture
def rules(directory):
    (directory / "cli_rules.py").write_text(RULES)
    yield "cli_rules"
    sys.modules.pop("cli_rules", None)


_MUTATE = ("--mutate", "--checks", "check_gradient", "--modes", "eager", "--max-examples", "3", "--seed", "1")


def test_check_lists_what_was_not_tested_and_the_mutants_that_survived(run, rules):
    status, output, _ = run("check", rules, *_MUTATE)
    assert status == 0
    assert "cli_rules:scaled (!)" in output
    start = output.splitlines().index("cli_rules:scaled")
    lines = output.splitlines()[start + 1 : start + 7]
    assert lines[2].startswith("  Not tested: sizes above ")
    assert [*lines[:2], *lines[3:]] == [
        "  WARNING: static parameter 'mode' was 'plain' in all examples. Annotate it (bool, int, Literal, an Enum), or "
        "pass arguments=arguments(op, mode=st.sampled_from([...])).",
        "  WARNING: line 13 of cli_rules.py never ran, in the rule scaled_gradient. Pass domain= or arguments= that "
        "reach it.",
        "  Mutants: 4 of 6 wrong variants of the rules were found, 2 survived:",
        "    cli_rules.py:13: factor: -grad  ->  2 * -grad (this line never ran)",
        "    cli_rules.py:13: sign: -grad  ->  grad (this line never ran)",
    ]
    assert output.rstrip().endswith("; 2 warnings")


def test_the_json_of_check_has_what_was_not_tested_and_the_mutants(run, rules):
    _, output, _ = run("check", rules, "--json", *_MUTATE)
    [op] = json.loads(output)["ops"]
    assert [part["option"] for part in op["not_tested"]] == ["mode", None, None]
    assert [part["is_warning"] for part in op["not_tested"]] == [True, True, False]
    assert {mutant["status"] for mutant in op["mutation"]["mutants"]} == {"found", "survived"}
    assert op["checks"][0]["not_tested"][0].startswith("static parameter 'mode' was 'plain'")
