"""Locks: finalizers, signal handlers and user code may ask for any at any moment; forked children find them free."""

import ast
import gc
import os
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tfpyop import differentiable_op
from tfpyop._lowering.autodiff.graph_gradient_names import GraphGradientNames
from tfpyop._registry.registry import Registry
from tfpyop._spec.executor_source import ExecutorSource
from tfpyop._spec.source_location import Site
from tfpyop.errors import RegistrationError, WorkerError
from tfpyop.parallel import ProcessPool

ROOT = Path(__file__).parent.parent
SITE = Site("acme/ops.py", 3, (object(), object()))


def within(seconds, function):
    """Return what a function returns, or raise what it raises; fail if it takes longer, as it would in a deadlock."""
    future = Future()

    def run():
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)


class Interrupting:
    """An object whose hash runs code, as garbage collection may do anywhere."""

    def __init__(self, code):
        self.code = code

    def __hash__(self):
        code, self.code = self.code, lambda: None
        code()
        return id(self)

    def __eq__(self, other):
        return self is other


def test_a_finalizer_may_add_a_name_while_another_is_added():
    removed = []
    names = GraphGradientNames(removed.append)
    owners = [Interrupting(lambda: None)]
    owners.append(Interrupting(lambda: names.add("inner", owners[0])))
    within(10, lambda: names.add("outer", owners[1]))
    gc.collect()
    assert removed == []
    owners.clear()
    gc.collect()
    assert sorted(removed) == ["inner", "outer"]


def test_names_that_a_finalizer_adds_for_the_same_owner_go_with_it_too():
    removed = []
    names = GraphGradientNames(removed.append)
    owners = []
    owners.append(Interrupting(lambda: names.add("first", owners[0])))
    within(10, lambda: names.add("second", owners[0]))
    owners.clear()
    gc.collect()
    assert sorted(removed) == ["first", "second"]


class Definition:
    """What the registry needs of an op."""

    is_local, module, name = True, "acme", "acme:f"


class ConcreteOp(Interrupting):
    """What the registry needs of a concrete op."""

    is_batched, payload, name, definition = False, None, "acme:f", Definition()


def test_a_finalizer_may_ask_for_a_token_while_another_is_made():
    registry = Registry()
    inner = ConcreteOp(lambda: None)
    outer = ConcreteOp(lambda: registry.token_of(inner))
    token = within(10, lambda: registry.token_of(outer))
    assert registry.find_op(token) is outer
    assert registry.find_op(registry.token_of(inner)) is inner
    assert token != registry.token_of(inner)


class Name(str):
    """A name whose hash runs code, once."""

    def __init__(self, _):
        self.code = []

    def __hash__(self):
        if self.code:
            self.code.pop()()
        return super().__hash__()


class OpDef:
    """What the registry needs of an op when another op has the same name."""

    site = SITE


def test_an_op_that_a_finalizer_registers_meanwhile_is_not_replaced_in_silence():
    registry, first, name = Registry(), OpDef(), Name("acme:f")
    name.code.append(lambda: registry.register("acme:f", first))
    with pytest.raises(RegistrationError, match=r"another op already has the name 'acme:f'"):
        within(10, lambda: registry.register(name, OpDef()))
    assert registry.find("acme:f") is first


def test_a_pool_can_be_used_by_a_finalizer_that_runs_while_it_starts(monkeypatch):
    pool = ProcessPool(1, None)
    started = []

    class Workers:
        def __init__(self, *args, **kwargs):
            started.append(self)
            if len(started) == 1:
                self.inner = pool.workers()

    monkeypatch.setattr("tfpyop.parallel._loky", lambda: type("loky", (), {"ProcessPoolExecutor": Workers}))
    workers = within(10, pool.workers)
    assert workers is pool.workers() is started[0].inner


def test_executors_are_made_once_and_not_by_the_function_that_makes_them():
    made = []

    def make():
        made.append(1)
        return source.executor() if len(made) == 1 else ThreadPoolExecutor(1)

    source = ExecutorSource(make)
    with pytest.raises(WorkerError, match=r"factory raised an exception(?s:.*)needs the executor that it is creating"):
        source.executor()
    with source.executor() as executor:
        assert source.executor() is executor
    assert len(made) == 2


def takes_tasks(executor):
    try:
        executor.submit(int)
    except RuntimeError:
        return False
    return True


def test_a_thread_that_makes_an_executor_may_call_the_op_meanwhile():
    made = []

    def executor():
        own = ThreadPoolExecutor(1)
        made.append(own)
        if own is made[0]:  # the thread needs an executor before there is one
            thread = threading.Thread(target=lambda: results.append(op([1.0, 2.0]).numpy().tolist()))
            thread.start()
            thread.join(60)
            assert not thread.is_alive()
        return own

    results = []
    op = differentiable_op(lambda x: x + 1, signature="()->()", vectorized=False, executor=executor)
    assert within(60, lambda: op([1.0, 2.0]).numpy().tolist()) == [2.0, 3.0]
    assert results == [[2.0, 3.0]]
    assert sum(takes_tasks(executor) for executor in made) == 1 < len(made)


def test_every_lock_of_the_package_is_safe():
    names = {"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Barrier"}
    used = {
        path.name
        for path in (ROOT / "tfpyop").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.ImportFrom) and names & {alias.name for alias in node.names})
    }
    # the watchdog never waits for its lock, and a barrier of a check stops only the threads that the check starts
    assert used == {"_locks.py", "watchdog.py", "_threads_check.py"}


FORK = """
import os, signal, sys, threading
from tfpyop._locks import SafeLock

mine, taken = SafeLock(), SafeLock()
begun = threading.Event()

def hold():
    with taken:
        begun.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
begun.wait()
with mine:
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        with taken, mine:  # one was held by a thread that is not here, one is held by this one
            pass
if child == 0:
    with mine:
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(0 if not print(end="", flush=True) else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_a_forked_child_finds_locks_free_that_threads_of_its_parent_held():
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert (process.stdout, process.stderr) == ("7\n", "")
