"""Ops of each kind, beside the same mathematics in TensorFlow; what all tests of calls and derivatives use."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop import Op, differentiable_op


@differentiable_op(signature="(),()->()")
def mod(x, y):
    """The remainder of a division, element by element."""
    return x % y


@mod.gradient
def mod_gradient(op, cotangent):
    x, y = op.inputs
    return cotangent, -cotangent * tf.math.floordiv(x, y)


@differentiable_op(signature="(),()->()")
def numpy_mod(x, y):
    return x % y


@numpy_mod.numpy_gradient
def numpy_mod_gradient(op, cotangent):
    x, y = op.inputs
    return cotangent, -cotangent * np.floor_divide(x, y)


@differentiable_op(signature="()->()")
def exp(x):
    return np.exp(x)


@exp.gradient
def exp_gradient(op, cotangent):
    return cotangent * op.outputs[0]


complex_exp = differentiable_op(lambda z: np.exp(z), signature="()->()")
complex_exp.gradient(lambda op, cotangent: cotangent * tf.math.conj(op.outputs[0]))

complex_numpy_exp = differentiable_op(lambda z: np.exp(z), signature="()->()")
complex_numpy_exp.numpy_gradient(lambda op, cotangent: cotangent * np.conj(op.outputs[0]))


@differentiable_op(signature="(m,k),(k,n)->(m,n)", compute_dtype="float64")
def matmul(a, b):
    return a @ b


@matmul.gradient
def matmul_gradient(op, cotangent):
    a, b = op.inputs
    return tf.matmul(cotangent, b, transpose_b=True), tf.matmul(a, cotangent, transpose_a=True)


@differentiable_op(signature="(n,n),(n)->(n)")
def solve(a, b):
    return np.linalg.solve(a, b[..., None])[..., 0]


@solve.numpy_gradient
def solve_gradient(op, cotangent):
    (a, _), (x,) = op.inputs, op.outputs
    b_cotangent = np.linalg.solve(np.swapaxes(a, -1, -2), cotangent[..., None])
    return -b_cotangent * x[..., None, :], b_cotangent[..., 0]


@differentiable_op(signature="()->(),()")
def sine_and_cosine(x):
    return np.sin(x), np.cos(x)


@sine_and_cosine.gradient
def sine_and_cosine_gradient(op, sine_cotangent, cosine_cotangent):
    sine, cosine = op.outputs
    return sine_cotangent * cosine - cosine_cotangent * sine


@differentiable_op(signature="(n)->(),()", dtype=(None, np.int64))
def maximum_and_place(x):
    return x.max(-1), x.argmax(-1)


@maximum_and_place.numpy_gradient
def maximum_and_place_gradient(op, cotangent, place_cotangent):
    assert place_cotangent is None
    place = op.outputs[1]
    return cotangent[..., None] * (np.arange(op.inputs[0].shape[-1]) == place[..., None])


@differentiable_op(signature="()->()")
def power(x, *, exponent: int = 2):
    return x**exponent


@power.gradient
def power_gradient(op, cotangent):
    exponent = op.static["exponent"]
    return cotangent * exponent * op.inputs[0] ** (exponent - 1)


_roll = np.vectorize(lambda row, shift: np.roll(row, int(shift)), signature="(n),()->(n)")


@differentiable_op(signature="(n),()->(n)")
def roll(x, shift):
    return _roll(x, shift)


@roll.numpy_gradient
def roll_gradient(op, cotangent):
    return _roll(cotangent, -op.inputs[1]), None


@differentiable_op(signature="(n),(m)->(n+m-1)")
def convolve(x, y):
    return np.convolve(x, y)


@convolve.numpy_gradient
def convolve_gradient(op, cotangent):
    x, y = op.inputs
    return np.correlate(cotangent, y, "valid"), np.correlate(cotangent, x, "valid")


@differentiable_op
def add_all(*xs):
    return sum(xs)


@add_all.gradient
def add_all_gradient(op, cotangent):
    return [cotangent] * len(op.inputs)


@dataclass
class Good:
    """An op, the same function in TensorFlow ops, and inputs to try both on."""

    op: Op
    native: Any
    inputs: tuple

    def __str__(self):
        return self.op.__name__


def _native_maximum(x):
    return tf.reduce_max(x, -1), tf.argmax(x, -1)


def _native_convolve(x, y):
    n, m = tf.size(x), tf.size(y)
    padded = tf.pad(x, [[m - 1, m - 1]])
    return tf.map_fn(lambda k: tf.reduce_sum(padded[k : k + m] * y[::-1]), tf.range(n + m - 1), x.dtype)


_X = np.float32([0.3, 0.7, 1.2, 1.7])
_Y = np.float32([0.2, 0.5, 1.0, 2.9])
_A = np.float32([[4, 1, 0], [1, 3, 1], [0, 1, 5]])

GOOD = (
    Good(mod, tf.math.floormod, (_X, _Y)),
    Good(numpy_mod, tf.math.floormod, (_X, _Y)),
    Good(numpy_mod, tf.math.floormod, (_X[:, None], _Y[:1])),
    Good(exp, tf.exp, (_X,)),
    Good(matmul, tf.matmul, (_A, _A[:, :2])),
    Good(matmul, tf.matmul, (np.stack([_A, _A + 1]), _A[:, :2])),
    Good(solve, lambda a, b: tf.linalg.matvec(tf.linalg.inv(a), b), (_A, _X[:3])),
    Good(solve, lambda a, b: tf.linalg.matvec(tf.linalg.inv(a), b), (_A, np.float32([[1, 2, 3], [4, 5, 6]]))),
    Good(sine_and_cosine, lambda x: (tf.sin(x), tf.cos(x)), (_X,)),
    Good(maximum_and_place, _native_maximum, (np.stack([_X, -_X]),)),
    Good(power, tf.square, (_X,)),
    Good(roll, lambda x, shift: tf.roll(x, shift, -1), (_X, np.int32(1))),
    Good(convolve, _native_convolve, (_X, _Y[:2])),
    Good(add_all, lambda *xs: tf.add_n(xs), (_X, _X, _Y)),
)
