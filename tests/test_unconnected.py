"""Rules that decide by values: numpy behind a choice is found out, and TensorFlow there keeps its derivative."""

import numpy as np
import pytest
import tensorflow as tf

from tfpyop import GradientError, differentiable_op
from tfpyop._lowering.autodiff.unconnected import unconnected_sources

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


@pytest.mark.parametrize("token", [b"pyfunc_1", b"\xff", b"", b"tfpyop\xff"])
@pytest.mark.parametrize("is_called", [False, True])
def test_any_token_that_is_not_ours_is_foreign(token, is_called):
    def python(x):
        return tf.raw_ops.PyFuncStateless(input=[x], token=token, Tout=[tf.float32])[0]

    function = tf.function(python, autograph=False) if is_called else python
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, [2])
        assert [source is x for source in unconnected_sources(function(x), [x])] == [True]


def test_a_damaged_token_of_ours_is_not_foreign():
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, [2])
        (y,) = tf.raw_ops.PyFuncStateless(input=[x], token=b"tfpyop:\xff", Tout=[tf.float32])
        assert unconnected_sources(y, [x]) == []
