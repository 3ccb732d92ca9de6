"""Rules that decide by values: numpy behind a choice is found out, and TensorFlow there keeps its derivative."""

import numpy as np
import pytest
import tensorflow as tf

from tfpyop import GradientError, differentiable_op

X = tf.constant([1.0, 2.0])


def deciding(rule):
    """An op with a rule that TensorFlow cannot trace without AutoGraph."""

    def with_choice(op, grad):
        if tf.reduce_sum(op.inputs[0]) > 0:
            return rule(op, grad)
        return -grad

    return differentiable_op(lambda x: x**3, signature="()->()", grad=with_choice)


def with_loop(rule):
    def looped(op, grad):
        total, count = tf.zeros_like(grad), tf.constant(0)
        while count < 1:
            total, count = total + rule(op, grad), count + 1
        return total

    return differentiable_op(lambda x: x**3, signature="()->()", grad=looped)


def second(op):
    with tf.GradientTape() as outer:
        outer.watch(X)
        with tf.GradientTape() as inner:
            inner.watch(X)
            result = op(X)
        first = inner.gradient(result, X)
    return outer.gradient(first, X)


@pytest.mark.parametrize("kind", [deciding, with_loop])
@pytest.mark.parametrize(
    "square", [lambda x: np.square(x.numpy()), lambda x: np.square(np.asarray(x))], ids=["numpy()", "asarray"]
)
def test_numpy_behind_a_choice_is_found_out(kind, square):
    op = kind(lambda op, grad: grad * tf.constant(3 * square(op.inputs[0])))
    with pytest.raises(GradientError, match="cannot differentiate one of the op's rules"):
        second(op)


@pytest.mark.parametrize("kind", [deciding, with_loop])
def test_tensorflow_behind_a_choice_keeps_its_derivative(kind):
    op = kind(lambda op, grad: grad * 3 * tf.square(op.inputs[0]))
    assert second(op).numpy().tolist() == [6, 12]
