"""The check of export: what it finds in another process, and what it skips."""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from tests import ops, processes
from tfpyop import differentiable_op
from tfpyop.testing import CheckError, _other_process, arguments, check_export, check_op

MODULE = '''
"""Ops of which some do not survive in another process."""

import os
from typing import Any

import numpy as np
from tfpyop import differentiable_op

HOME = None
scale = 1.0


@differentiable_op(signature="(n),(n)->()")
def dot(x, y, *, conjugate: bool):
    return np.sum((np.conj(x) if conjugate else x) * y, axis=-1)


@dot.gradient
def dot_gradient(op, grad):
    x, y = op.inputs
    return grad[..., None] * y, grad[..., None] * x


@differentiable_op(signature="()->()")
def scaled(x):
    return scale * x


@differentiable_op(signature="()->()")
def square(x):
    return x * x


@square.numpy_gradient
def square_gradient(op, grad):
    return scale * 2 * op.inputs[0] * grad


@differentiable_op(signature="()->()", non_differentiable=True)
def homesick(x):
    if os.getpid() != HOME:
        raise RuntimeError("far from home")
    return x


@differentiable_op(signature="()->()", non_differentiable=True)
def fatal(x):
    if os.getpid() != HOME:
        os.write(2, b"a segmentation fault, say")
        os._exit(3)
    return x
'''


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    processes.fork_for_exports(monkeypatch)


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ops")
    (directory / "ops_to_export.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(directory)
        yield importlib.import_module("ops_to_export")
    del sys.modules["ops_to_export"]


@pytest.mark.slow
def test_an_op_with_a_rule_and_static_values_is_exported(module):
    outcome = check_export(module.dot, seed=1)
    assert (outcome.status, outcome.n_examples) == ("passed", 10)


@pytest.mark.slow
def test_an_op_that_depends_on_this_process_is_found_out(module, monkeypatch):
    monkeypatch.setattr(module, "scale", 2.0)
    with pytest.raises(
        CheckError, match=r"differs from the function in output 0.*(?s:.*)set after the import of its module"
    ):
        check_export(module.scaled, seed=1)
    with pytest.raises(
        CheckError, match=r"gradient of the loaded op differs in cotangent 0.*(?s:.*)set after the import"
    ):
        check_export(module.square, seed=1)


def test_an_exception_in_the_other_process_is_reported(module, monkeypatch):
    monkeypatch.setattr(module, "HOME", os.getpid())
    with pytest.raises(CheckError, match=r"fails in another process(?s:.*)far from home"):
        check_export(module.homesick, seed=1)


def test_the_end_of_the_other_process_is_reported(module, monkeypatch):
    monkeypatch.setattr(module, "HOME", os.getpid())
    with pytest.raises(CheckError, match=r"ended with status 3(?s:.*)a segmentation fault, say"):
        check_export(module.fatal, seed=1)


def test_what_no_other_process_finds_is_skipped(module, monkeypatch):
    outcome = check_export(differentiable_op(lambda x: x, signature="()->()"))
    assert (
        outcome.reason == "the op's name is valid in this process only, because the op was created inside a function "
        "or from a lambda."
    )
    monkeypatch.setattr(module, "__file__", "elsewhere.py")
    assert check_export(module.square).reason == "the op's module 'ops_to_export' cannot be imported by name"


def test_a_module_that_was_loaded_by_path_is_not_accused(module, tmp_path):
    path = tmp_path / "loaded_by_path.py"
    path.write_text(Path(module.__file__).read_text())
    spec = importlib.util.spec_from_file_location("loaded_by_path", path)
    loaded = sys.modules["loaded_by_path"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    assert "cannot be imported by name" in check_export(loaded.square).reason


def test_static_values_that_are_no_json_are_skipped(module):
    drawn = arguments(module.dot, conjugate=st.just(np.array(1.0)))
    assert "is not JSON" in check_export(module.dot, arguments=drawn).reason


def test_the_ops_of_a_script_are_skipped(monkeypatch):
    monkeypatch.setattr(ops.mod._definition, "module", "__main__")
    assert check_export(ops.mod).reason == "the op is defined in a script, which other processes do not import."


@pytest.fixture
def started(monkeypatch):
    """The processes that checks start."""
    started = []

    class Noted(_other_process.OtherProcess):
        def __init__(self, module):
            started.append(self)
            super().__init__(module)

    monkeypatch.setattr(_other_process, "OtherProcess", Noted)
    return started


def test_checks_of_one_module_share_a_process_that_starts_with_the_first_check(module, started):
    with _other_process.sharing_processes():
        check_op(module.square, checks=["check_purity", "check_export"], max_examples=2, seed=1)
        assert len(started) == 1
        assert check_export(module.scaled, max_examples=2, seed=1).status == "passed"
        assert len(started) == 1
        assert started[0].is_running
    assert not started[0].is_running


def test_a_shared_process_that_has_ended_is_started_again(module, started):
    with _other_process.sharing_processes():
        check_export(module.square, max_examples=2, seed=1)
        started[0].end()
        assert check_export(module.square, max_examples=2, seed=1).status == "passed"
    assert len(started) == 2


def test_a_check_that_has_not_drawn_starts_no_process(module, started):
    steps = check_export.steps(module.square)
    next(steps)
    steps.close()
    check_op(module.square, checks="check_purity", max_examples=2)
    assert started == []
