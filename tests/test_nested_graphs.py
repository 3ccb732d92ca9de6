"""Graphs that host functions call, where host calls block all threads in which TensorFlow runs graphs."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from tests.processes import run_python
from tfpyop import differentiable_op
from tfpyop._lowering.watchdog import WATCHDOG, n_inter_op_threads

NESTED = """
import sys, threading
import numpy as np
import tensorflow as tf
tf.config.threading.set_inter_op_parallelism_threads(int(sys.argv[1]))
from tfpyop import differentiable_op

weight = tf.Variable(2.0)
count = tf.Variable(0)


def nested(inner):
    @differentiable_op(signature="()->()")
    def op(x):
        return inner(tf.constant(x)).numpy() + 1

    @op.numpy_gradient
    def gradient(op, cotangent):
        with tf.GradientTape() as tape:
            x = tf.constant(op.inputs[0])
            tape.watch(x)
            y = inner(x)
        return cotangent * tape.gradient(y, x).numpy()

    return tf.function(lambda x: op(x), autograph=False)


def in_threads(function, n_threads):
    results = []
    threads = [threading.Thread(target=lambda: results.append(function()), daemon=True) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


@tf.function
def innermost(x):
    count.assign_add(1)
    for _ in tf.range(2):
        x = tf.cond(x > -100, lambda: x + weight, lambda: x)
    return x * x


function = innermost
for _ in range(4):
    function = nested(function)
x = tf.constant(1.0)
print([float(y) for y in in_threads(lambda: function(x), 5)], count.numpy())


def gradient():
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return float(tape.gradient(y, x))


print(in_threads(gradient, 1))


@tf.function
def failing(x):
    tf.debugging.assert_less(x, 0.0, "too large")
    return x


def error():
    try:
        nested(nested(failing))(x)
    except tf.errors.OpError as error:
        return "too large" in str(error)


print(in_threads(error, 1))
"""


@pytest.mark.parametrize("n_threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_nested_graphs_run_however_few_threads_there_are(n_threads, tmp_path):
    program = tmp_path / "nested.py"  # AutoGraph reads the source
    program.write_text(NESTED)
    result = run_python(program, n_threads, check=True)
    assert result.stdout.splitlines() == ["[29.0, 29.0, 29.0, 29.0, 29.0] 5", "[10.0]", "[True]"]
    assert "host call" not in result.stderr


RANDOM = """
import logging, os, sys, threading, time
import tensorflow as tf
tf.config.threading.set_inter_op_parallelism_threads(1)
from tfpyop import differentiable_op
from tfpyop._lowering.watchdog import WATCHDOG

WATCHDOG._patience = 1.0
tf.random.set_seed(1)
inner = tf.function(lambda x: x + tf.random.normal([]))


@differentiable_op(signature="()->()", non_differentiable=True, name="tests:noisy")
def noisy(x):
    return inner(tf.constant(x)).numpy()


threading.Thread(target=lambda: tf.function(noisy)(tf.constant(1.0)), daemon=True).start()


class Stop(logging.Handler):
    def emit(self, record):
        print(record.levelname, record.getMessage(), flush=True)
        os._exit(0)


logging.getLogger("tfpyop").addHandler(Stop())
time.sleep(60)
"""


def test_a_graph_that_would_repeat_its_random_numbers_waits_and_the_watchdog_says_so():
    result = run_python("-c", RANDOM, check=True)
    assert result.stdout.startswith("WARNING 1 host call has been running for 1 seconds and block")
    assert "op 'tests:noisy' (" in result.stdout
    assert "(calls TensorFlow)" in result.stdout
    assert "tf.config.threading.set_inter_op_parallelism_threads(64)" in result.stdout


# -- the watchdog


@pytest.fixture
def watchdog(monkeypatch):
    """The watchdog, which is less patient than in use, and has not warned yet."""
    n_threads = n_inter_op_threads()
    for name, value in {"_interval": 0.02, "_patience": 0.8, "_idle_looks": 10, "_limit": n_threads}.items():
        monkeypatch.setattr(WATCHDOG, name, value)
    monkeypatch.setattr(WATCHDOG, "_n_threads", n_threads)
    yield WATCHDOG
    assert is_asleep()


def is_asleep():
    """Whether the thread of the watchdog has ended, or does so within some seconds."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if not any(thread.name == "tfpyop watchdog" for thread in threading.enumerate()):
            return True
        time.sleep(0.02)
    return False


class Blocked:
    """An op whose function waits until it is let go."""

    def __init__(self, name):
        self.goes_on = threading.Event()

        def wait(x):
            assert self.goes_on.wait(30)
            return x

        self.op = differentiable_op(wait, signature="()->()", non_differentiable=True, name=name)
        self.function = tf.function(lambda x: self.op(x), autograph=False)
        self.function.get_concrete_function(tf.TensorSpec([]))

    def call(self, function, n_calls, seconds, *, is_enough=lambda: False):
        """Run so many calls at once, and let them go after some seconds, or when it is enough."""
        with ThreadPoolExecutor(n_calls) as pool:
            calls = [pool.submit(function, tf.constant(1.0)) for _ in range(n_calls)]
            end = time.monotonic() + seconds
            while time.monotonic() < end and not is_enough():
                time.sleep(0.02)
            self.goes_on.set()
            assert [call.result(30).numpy() for call in calls] == [1.0] * n_calls


def test_calls_that_block_all_threads_are_reported_once(watchdog, caplog):
    with caplog.at_level(logging.WARNING, "tfpyop"):
        blocked = Blocked("tests.test_nested_graphs:blocked_0")
        blocked.call(blocked.function, n_inter_op_threads(), 20, is_enough=lambda: bool(caplog.records))
        blocked = Blocked("tests.test_nested_graphs:blocked_1")
        blocked.call(blocked.function, n_inter_op_threads(), 1.2)
    [record] = caplog.records
    assert record.name == "tfpyop"
    assert "op 'tests.test_nested_graphs:blocked_0' (" in record.getMessage()
    assert "set_inter_op_parallelism_threads" in record.getMessage()
    assert "(calls TensorFlow)" not in record.getMessage()


@pytest.mark.parametrize("n_free", [1, None], ids=["a thread is free", "calls end"])
def test_other_calls_are_not_reported(watchdog, caplog, n_free):
    slow = differentiable_op(lambda x: time.sleep(0.05) or x, signature="()->()", non_differentiable=True)
    function = tf.function(lambda x: slow(x), autograph=False)
    function(tf.constant(1.0))
    with caplog.at_level(logging.WARNING, "tfpyop"):
        if n_free is None:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda _: function(tf.constant(1.0)), range(30 * n_inter_op_threads())))
        elif n_inter_op_threads() > n_free:
            blocked = Blocked("tests.test_nested_graphs:free")
            blocked.call(blocked.function, n_inter_op_threads() - n_free, 1.2)
    assert caplog.records == []


@pytest.mark.parametrize("mode", ["eager", "XLA"])
def test_calls_in_threads_of_python_block_no_thread_of_tensorflow(watchdog, caplog, mode):
    blocked = Blocked(f"tests.test_nested_graphs:in_python_{mode}")
    compiled = tf.function(lambda x: blocked.op(x), autograph=False, jit_compile=True)
    if mode == "XLA" and tf.version.VERSION < "2.20":
        pytest.skip("XLA makes its host calls in threads of its own there")
    with caplog.at_level(logging.WARNING, "tfpyop"):
        blocked.call(blocked.op if mode == "eager" else compiled, n_inter_op_threads() + 1, 1.2)
    assert caplog.records == []


def test_the_thread_of_the_watchdog_ends(watchdog):
    blocked = Blocked("tests.test_nested_graphs:ends")
    blocked.call(blocked.function, n_inter_op_threads(), 0.1)
    assert is_asleep()


def test_nothing_is_left_of_calls_that_raise(watchdog):
    def fail(x):
        raise ValueError("no")

    op = differentiable_op(fail, signature="()->()", non_differentiable=True)
    for options in ({}, {"jit_compile": True}):
        with pytest.raises(tf.errors.InvalidArgumentError, match="no"):
            tf.function(lambda x: op(x), autograph=False, **options)(tf.constant(1.0))
    assert watchdog._running == {}
    assert not watchdog.is_calling()


# -- functions that a host function of a compiled function traces


def test_what_a_host_function_traces_is_not_compiled():
    """TensorFlow is still in the context of the compiled function."""
    plain = differentiable_op(lambda x: x + 1, non_differentiable=True)  # without a signature, XLA refuses it
    functions = {"plain": tf.function(lambda x: plain(x), autograph=False)}

    @differentiable_op(signature="()->()", non_differentiable=True)
    def outer(x):
        return functions["plain"](tf.constant(x)).numpy()

    function = tf.function(lambda x: outer(x), autograph=False, jit_compile=True)
    assert function(tf.constant(1.0)).numpy() == 2
    [trace] = functions["plain"]._list_all_concrete_functions()
    assert "XlaCallModule" not in {node.type for node in trace.graph.get_operations()}


def test_what_a_host_function_compiles_is_compiled():
    inner = differentiable_op(np.sin, signature="()->()", grad=lambda op, g: g * tf.cos(op.inputs[0]))
    compiled = tf.function(lambda x: inner(x), autograph=False, jit_compile=True)

    @differentiable_op(signature="()->()", non_differentiable=True)
    def outer(x):
        with tf.GradientTape() as tape:
            x = tf.constant(x)
            tape.watch(x)
            y = compiled(x)
        return tape.gradient(y, x).numpy()

    function = tf.function(lambda x: outer(x), autograph=False, jit_compile=True)
    for _ in range(3):
        np.testing.assert_allclose(function(tf.constant(1.0)), np.cos(1.0), rtol=1e-6)
