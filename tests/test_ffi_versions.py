"""Versions of XLA's interface: the table of layouts, versions that are newer, and what works where XLA is refused."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests import ffi_layout
from tests.modes import WITHOUT_XLA, call, compiled
from tfpyop import UnsupportedError, differentiable_op, prefer_native
from tfpyop._lowering.xla import ffi, layouts, newer_version, self_test
from tfpyop._lowering.xla.layouts import LAYOUTS, ApiVersion, Layout

X = np.float32([1, 2, 3])
VERSION = ffi.version_of(ffi.load_api())
STAGES = layouts.known_layout(VERSION).stages
KEPT = []
"""Handlers that XLA calls as long as the process lives."""
EARLIER = {(0, 0): Layout((8,), STAGES)}
"""A table in which the version of this TensorFlow is a newer one, with the right structs."""


# -- the table


@pytest.mark.parametrize("package", ffi_layout.PACKAGES)
def test_the_structs_are_those_in_the_headers(package):
    if package != "tensorflow":
        pytest.importorskip(package)
    assert list(ffi_layout.differences(ffi_layout.installed(package))) == []


def header_text():
    return (Path(tf.sysconfig.get_include()) / "xla/ffi/api/c_api.h").read_text()


@pytest.mark.parametrize(
    ("pattern", "replacement", "found"),
    [
        (r"(API_MINOR) \d+", r"\1 99", "the version 0.99 is not in the table of layouts"),
        (r"(XLA_FFI_Handler\* execute;)", r"\1 XLA_FFI_Handler* another;", "XLA_FFI_Handler_Bundle: "),
        (r"(void\* data;\s*int64_t rank;)", r"int64_t more; \1", "XLA_FFI_Buffer: "),
        (r"(int64_t size;\s*XLA_FFI_ArgType)", r"int64_t more; \1", "XLA_FFI_Args: "),
        (r"(void\*\* attrs;)", r"\1 int64_t more;", "XLA_FFI_Attrs: 56 bytes, but tfpyop has 48"),
        (r"const char\* message;(\s*)(XLA_FFI_Error_Code errc;)", r"\2\1const char* message;", "XLA_FFI_Error_Create"),
        (r"(_XLA_FFI_API_STRUCT_FIELD\(XLA_FFI_Stream_Get\);)", r"\1 \1", "XLA_FFI_Api: "),
    ],
    ids=["minor version", "stage", "buffer", "arguments", "attributes", "error", "function"],
)
def test_headers_that_differ_are_found(pattern, replacement, found):
    text, count = re.subn(pattern, replacement, header_text(), count=1)
    assert count == 1
    differences = list(ffi_layout.differences(ffi_layout.Header(text)))
    assert any(line.startswith(found) for line in differences), differences


def test_what_changed_between_two_headers_is_printed(tmp_path, capsys):
    text = header_text()
    old, new = tmp_path / "old.h", tmp_path / "new.h"
    old.write_text(text)
    new.write_text(re.sub(r"(XLA_FFI_Handler_Bundle \{[^}]*)", r"\1 XLA_FFI_Handler* later; ", text))
    assert ffi_layout.main([str(old), str(new)]) == 1
    lines = capsys.readouterr().out.splitlines()
    end = 8 * len(STAGES)
    assert lines[1:5] == [
        "XLA_FFI_Handler_Bundle",
        f"  - {end:4} bytes",
        f"  + {end:4} later: XLA_FFI_Handler*",
        f"  + {end + 8:4} bytes",
    ]
    assert f"  - {end + 48:4} traits: XLA_FFI_Handler_Traits" in lines
    assert f"  + {end + 56:4} traits: XLA_FFI_Handler_Traits" in lines


@pytest.mark.parametrize(
    ("version", "n_stages"),
    [((0, 1, 88), 4), ((0, 1, 192), 4), ((0, 2, 192), 4), ((0, 3, 192), 4), ((0, 4, 200), 5), ((0, 5, 208), 5)],
)
def test_each_version_has_its_layout(version, n_stages):
    layout = layouts.known_layout(ApiVersion(*version))
    assert layout.stages == ("instantiate", "prepare", "initialize", "execute", "record")[:n_stages]


@pytest.mark.parametrize("version", [(0, 6, 208), (0, 6, 216), (0, 5, 216), (0, 40, 4000)])
def test_newer_versions_may_have_the_newest_layout(version):
    assert layouts.known_layout(ApiVersion(*version)) is None
    assert layouts.possible_layout(ApiVersion(*version)) is LAYOUTS[max(LAYOUTS)]


@pytest.mark.parametrize("version", [(0, 0, 88), (0, 2, 200), (0, 4, 192), (0, 5, 200), (0, 6, 200), (1, 6, 208)])
def test_other_versions_have_no_layout(version):
    assert layouts.known_layout(ApiVersion(*version)) is None
    assert layouts.possible_layout(ApiVersion(*version)) is None


# -- newer versions


@pytest.fixture
def connect_again(monkeypatch, tmp_path):
    """A function that makes tfpyop connect to XLA again, with another table of layouts."""

    def connect_again(table):
        KEPT.append([])
        monkeypatch.setattr(ffi, "TARGET", f"tfpyop_test_{len(KEPT)}")
        monkeypatch.setattr(ffi, "_HANDLERS", KEPT[-1])
        monkeypatch.setattr(ffi, "_WARNINGS", [])
        monkeypatch.setattr(layouts, "LAYOUTS", table)
        newer_version.problem.cache_clear()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield connect_again
    newer_version.problem.cache_clear()


def plus_one():
    return differentiable_op(lambda x: x + 1, signature="()->()", numpy_grad=lambda op, g: g)


@pytest.mark.slow
def test_a_newer_version_is_used_after_a_self_test_with_one_warning(connect_again, caplog, monkeypatch):
    connect_again(EARLIER)
    with pytest.raises(UnsupportedError, match="which has not been tested yet"):
        ffi.register(lambda *_: None, is_compiling=False)
    newer_version.problem.cache_clear()
    with caplog.at_level(logging.WARNING, "tfpyop"):
        for _ in range(2):
            assert compiled(plus_one())(X).numpy().tolist() == [2, 3, 4]
    (record,) = (record for record in caplog.records if record.name == "tfpyop")
    assert record.getMessage() == (
        f"TensorFlow {tf.__version__} has {VERSION}. This version of tfpyop was tested on XLA FFI 0.1 to 0.5. A "
        "self-test in another process passed, so ops can be compiled. Install a newer version of tfpyop if "
        "one is available."
    )
    # another process finds the result
    connect_again(EARLIER)
    monkeypatch.setattr(newer_version, "_failure", None)
    ffi.register(lambda *_: None, is_compiling=False)
    assert len(KEPT[-1]) == 1


@pytest.mark.slow
def test_a_version_with_other_structs_fails_the_self_test(connect_again):
    connect_again({(0, 0): Layout((8,), ("execute", *STAGES[1:3], "instantiate", *STAGES[4:]))})
    with pytest.raises(UnsupportedError, match="which failed a self-test: XLA refused the handler for host calls"):
        compiled(plus_one())(X)
    assert plus_one()(X).numpy().tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("import os; os.abort()", "which failed a self-test: its process ended with status -6"),
        ("raise SystemExit('structs have other sizes')", "which failed a self-test: structs have other sizes"),
        ("import time; time.sleep(60)", "timed out after 1 seconds"),
    ],
    ids=["crash", "error", "hang"],
)
def test_a_failed_self_test_is_reported_and_runs_once(connect_again, monkeypatch, program, problem):
    connect_again(EARLIER)
    monkeypatch.setattr(newer_version, "_PROGRAM", program)
    monkeypatch.setattr(newer_version, "_MOST_SECONDS", 1 if "sleep" in program else 60)
    with pytest.raises(UnsupportedError, match=problem):
        compiled(plus_one())(X)
    monkeypatch.setattr(newer_version, "_failure", None)
    with pytest.raises(UnsupportedError, match=problem):
        compiled(plus_one())(X)


def test_a_frozen_program_is_not_started_again(connect_again, monkeypatch):
    connect_again(EARLIER)
    monkeypatch.setattr("sys.frozen", True, raising=False)
    with pytest.raises(UnsupportedError, match="failed a self-test: no Python interpreter was found to run it"):
        compiled(plus_one())(X)


def test_a_passed_test_counts_for_its_own_version_only(connect_again, monkeypatch):
    connect_again(EARLIER)
    monkeypatch.setattr(newer_version, "_failure", lambda layout: "")
    assert newer_version.problem(VERSION, EARLIER[0, 0], may_test=True) == ""
    newer_version.problem.cache_clear()
    assert newer_version.problem(VERSION, EARLIER[0, 0], may_test=False) == ""
    other = VERSION._replace(minor=VERSION.minor + 1)
    assert newer_version.problem(other, EARLIER[0, 0], may_test=False) == "which has not been tested yet"
    monkeypatch.setattr(newer_version, "__version__", "0.0")
    newer_version.problem.cache_clear()
    assert newer_version.problem(VERSION, EARLIER[0, 0], may_test=False) == "which has not been tested yet"


def test_a_cache_that_cannot_be_written_does_no_harm(connect_again, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    connect_again(EARLIER)
    monkeypatch.setattr(newer_version, "_failure", lambda layout: "")
    assert compiled(plus_one())(X).numpy().tolist() == [2, 3, 4]


def test_the_self_test_finds_structs_of_other_sizes(monkeypatch):
    monkeypatch.setattr(self_test, "_TARGET", "tfpyop_test_sizes")
    monkeypatch.setattr(self_test, "_WRONG_SIZES", [])
    monkeypatch.setattr(self_test, "_size", lambda kind: kind.items.offset)
    with pytest.raises(SystemExit) as caught:
        self_test.main(STAGES)
    assert str(caught.value).startswith("structs have other sizes: arguments: expected 32 bytes, got 40")


# -- where XLA is refused


@pytest.fixture
def refused(connect_again):
    """XLA has an interface of which nothing is known."""
    connect_again({(VERSION.major + 1, 0): Layout((8,), STAGES)})


def with_native():
    op = plus_one()
    op.native(lambda x: x + 1)
    return op


def gradient_of(function):
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x)

    return gradient


@pytest.mark.parametrize(
    "function",
    [
        lambda op: op,
        gradient_of,
        lambda op: lambda x: tf.vectorized_map(op, x),
        lambda op: lambda x: tf.map_fn(op, x),
        lambda op: tf.function(op),
    ],
    ids=["call", "gradient", "vectorized_map", "map_fn", "nested"],
)
def test_compiled_calls_raise_our_error_with_the_way_out(refused, function):
    problem = r"(?s)XLA in this TensorFlow version cannot call Python.*Got: .*XLA FFI .*@op\.native.*prefer_native"
    with pytest.raises(UnsupportedError, match=problem):
        compiled(function(with_native()))(tf.constant(X))


@pytest.mark.parametrize("mode", WITHOUT_XLA)
def test_all_other_calls_work_where_xla_is_refused(refused, mode):
    op = plus_one()
    assert call(mode, op, X).tolist() == [2, 3, 4]
    assert call(mode, lambda x: tf.vectorized_map(op, x), X).tolist() == [2, 3, 4]
    gradient = call(mode, lambda x: tf.gradients(op(x), x)[0] if mode == "session" else gradient_of(op)(x), X)
    assert gradient.tolist() == [1, 1, 1]


def test_native_implementations_are_compiled_where_xla_is_refused(refused):
    op = with_native()
    with prefer_native():
        assert compiled(op)(X).numpy().tolist() == [2, 3, 4]
        assert compiled(gradient_of(op))(tf.constant(X)).numpy().tolist() == [1, 1, 1]
        unknown = compiled(op, input_signature=[tf.TensorSpec([None])])
        assert unknown(X).numpy().tolist() == [2, 3, 4]
    always = differentiable_op(lambda x: x + 1, signature="()->()", prefer="native", grad=lambda op, g: 3 * g)
    always.native(lambda x: x + 1)
    assert compiled(always)(X).numpy().tolist() == [2, 3, 4]
    assert compiled(gradient_of(always))(tf.constant(X)).numpy().tolist() == [3, 3, 3]


def test_native_calls_keep_their_numpy_rules_where_xla_is_not_refused():
    op = differentiable_op(lambda x: x + 1, signature="()->()", numpy_grad=lambda op, g: 3 * g)
    op.native(lambda x: x + 1)
    with prefer_native():
        assert compiled(gradient_of(op))(tf.constant(X)).numpy().tolist() == [3, 3, 3]


PROGRAM = """
import numpy as np
import tfpyop
import wrapt

@wrapt.when_imported("tfpyop._lowering.xla.layouts")
def change(layouts):
    layouts.LAYOUTS = {(9, 0): layouts.Layout((8,), ("execute",))}

import tensorflow as tf
op = tfpyop.differentiable_op(lambda x: x + 1, signature="()->()", numpy_grad=lambda op, g: 3 * g)
x = tf.constant([1.0, 2.0])
with tf.GradientTape() as tape:
    tape.watch(x)
    y = tf.function(op)(x)
print(y.numpy(), tape.gradient(y, x).numpy(), tf.vectorized_map(op, x).numpy())
try:
    tf.function(op, jit_compile=True)(x)
except tfpyop.UnsupportedError as error:
    print(str(error).splitlines()[0].partition(": ")[2])
"""


@pytest.mark.slow
def test_a_process_whose_xla_is_refused_from_the_start():
    process = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=200)
    assert process.stdout.splitlines() == [
        "[2. 3.] [3. 3.] [2. 3.]",
        "XLA in this TensorFlow version cannot call Python.",
    ], process.stderr
