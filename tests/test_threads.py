"""Ops may be called from many threads at once, and nothing of one call is seen by another."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from tests import ops


def differentiate(function, *arguments):
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        result = function(*arguments)
    return result, tape.gradient(result, arguments)


_square = tf.function(lambda x: differentiate(ops.power, x), autograph=False)
_mod = tf.function(lambda x, y: differentiate(ops.numpy_mod, x, y), autograph=False)


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
