"""Ops may be called from many threads at once; nothing of one call is seen by another, and none waits for another."""

import contextlib
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from tests import modes, ops
from tfpyop import differentiable_op
from tfpyop._lowering import watchdog

MODES = ("eager", "graph", "XLA")


def differentiate(function, *arguments):
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        result = function(*arguments)
    return result, tape.gradient(result, arguments)


_square = tf.function(lambda x: differentiate(ops.power, x), autograph=False)
_mod = tf.function(lambda x, y: differentiate(ops.numpy_mod, x, y), autograph=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["eager", "graph"])
def test_8_threads_of_1000_calls_with_gradients_are_all_right(kind):
    square = _square if kind == "graph" else lambda x: differentiate(ops.power, x)
    mod = _mod if kind == "graph" else lambda x, y: differentiate(ops.numpy_mod, x, y)

    def calls(thread):
        wrong = []
        for number in range(1000):
            value = np.float32(thread * 1000 + number)
            result, (gradient,) = square(tf.constant(value))
            if (result, gradient) != (value * value, 2 * value):
                wrong.append(("square", value, result, gradient))
            result, gradients = mod(tf.constant([value, 1]), tf.constant([7.0, 2.0]))
            expected = [[value % 7, 1], [1, 1], [-(value // 7), 0]]
            if [x.numpy().tolist() for x in (result, *gradients)] != expected:
                wrong.append(("mod", value, result, gradients))
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert [wrong for thread in pool.map(calls, range(8)) for wrong in thread] == []


def test_threads_may_trace_at_the_same_time():
    def trace(thread):
        function = tf.function(lambda x: differentiate(ops.numpy_mod, x, x + thread + 1)[0], autograph=False)
        return function(tf.constant(5.0)).numpy()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(trace, range(64))) == [5.0] * 64


def meeting_op():
    """An op whose calls wait for each other: it raises BrokenBarrierError if one ends before the other begins."""
    barrier = threading.Barrier(2)

    def meet(x):
        barrier.wait(30)
        return x @ x

    return differentiable_op(meet, signature="(m,n)->(m,n)", non_differentiable=True)


def in_two_threads(function, *arguments):
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda _: function(*arguments), range(2)))


def traced(op, mode):
    """The op as a function of this mode, traced and compiled if the mode does such things."""
    if mode == "eager":
        return op
    function = tf.function(lambda x: op(x), autograph=False, jit_compile=mode == "XLA")
    function.get_concrete_function(tf.TensorSpec([800, 800]))
    return function


@pytest.mark.parametrize("mode", MODES)
def test_calls_of_two_threads_overlap(mode):
    results = in_two_threads(traced(meeting_op(), mode), tf.ones((800, 800)))
    assert [result.numpy()[0, 0] for result in results] == [800, 800]


def test_independent_ops_of_one_graph_overlap():
    op = meeting_op()
    results = tf.function(lambda x: (op(x), op(x + 1)), autograph=False)(tf.ones((800, 800)))
    assert [result.numpy()[0, 0] for result in results] == [800, 3200]


def test_elements_of_a_dataset_overlap():
    op = meeting_op()
    elements = tf.data.Dataset.from_tensors(tf.ones((800, 800))).repeat(2).map(op, num_parallel_calls=2)
    assert [element.numpy()[0, 0] for element in elements] == [800, 800]


class Paused:
    """An op whose function waits, after it was given its input, until it is told to go on."""

    def __init__(self):
        self.entered, self.goes_on = threading.Event(), threading.Event()

        def doubled(x):
            self.entered.set()
            assert self.goes_on.wait(30)
            return x * 2

        self.op = differentiable_op(doubled, signature="(m,n)->(m,n)", grad=lambda x, g: g * 2)

    @contextlib.contextmanager
    def running(self, function, *arguments):
        """The future of a call that stands in the middle of the op until the block is left."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(function, *arguments)
            assert self.entered.wait(30)
            try:
                yield future
            finally:
                self.goes_on.set()


@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_the_library_waits_while_a_function_runs(mode):
    paused = Paused()
    with paused.running(traced(paused.op, mode), tf.ones((800, 800))) as future:
        defined = differentiable_op(
            lambda x: x * 3, signature="()->()", grad=lambda x, g: g * 3, name=f"tests:in_{mode}"
        )
        for other in MODES:
            assert modes.call(other, lambda x: differentiate(defined, x), np.float32(2)) == (6, (3,))
        assert not future.done()
    assert (future.result().numpy() == 2).all()


@pytest.mark.parametrize("mode", MODES)
def test_inputs_live_and_stay_as_long_as_the_function_runs(mode):
    paused = Paused()
    function = traced(paused.op, mode)
    with paused.running(lambda: function(tf.fill((800, 800), 7.0))) as future:
        gc.collect()
        others = [tf.fill((800, 800), float(number)) + 1 for number in range(20)]  # where a freed input would be
    assert (future.result().numpy() == 14).all()
    assert len(others) == 20


@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_a_call_is_left_in_the_thread_that_made_it(mode):
    references = []

    def seen(x):
        references.append(weakref.ref(x))
        return x * 2

    op = differentiable_op(seen, signature="(m,n)->(m,n)", grad=lambda x, g: g * 2)
    function = traced(op, mode)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            pool.submit(lambda: differentiate(function, tf.ones((800, 800)))).result()
        gc.collect()
        assert [reference() for reference in references] == [None] * len(references)


def test_the_watchdog_looks_at_frames_without_garbage_collection(monkeypatch):
    seen = []
    monkeypatch.setattr(watchdog.sys, "_current_frames", lambda: seen.append(gc.isenabled()) or {})
    assert gc.isenabled()
    assert watchdog._current_frames() == {}
    assert seen == [False]
    assert gc.isenabled()
    gc.disable()
    try:
        watchdog._current_frames()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_watchdog_keeps_no_frame_of_another_thread():
    references, is_running, may_end = [], threading.Event(), threading.Event()

    def run():
        array = np.zeros(3)
        references.append(weakref.ref(array))
        is_running.set()
        assert may_end.wait(30)

    thread = threading.Thread(target=run)
    gc.disable()
    try:
        thread.start()
        assert is_running.wait(30)
        watchdog._made_by_tensorflow({None: (thread.ident, "")})
        may_end.set()
        thread.join()
        assert references[0]() is None
    finally:
        gc.enable()
