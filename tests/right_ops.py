"""Ops that are right, among them some that are ill-conditioned, not smooth, or of every form an op can have."""

import threading
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st
from scipy import sparse, special

from tests import ops, saved_ops
from tfpyop import UNDEFINED, Op, complex_step, differentiable_op, numerical
from tfpyop.testing import arguments


@dataclass(frozen=True)
class Right:
    """An op, and how to draw its arguments where that does not follow."""

    what: str
    op: Op
    drawn: dict = field(default_factory=dict)

    @property
    def arguments(self):
        """A strategy, None for the default one."""
        return arguments(self.op, **self.drawn) if self.drawn else None

    def __str__(self):
        return self.what


def elementwise(what, function, derivative, domain=None, **options):
    """An op of one input whose derivative is known in TensorFlow."""
    op = differentiable_op(
        lambda x: function(x),
        signature="()->()",
        domain=domain,
        grad=lambda op, g: g * derivative(op.inputs[0]),
        **options,
    )
    return Right(what, op)


def in_numpy(what, function, derivative, domain=None, **options):
    """The same with a rule in numpy."""
    op = differentiable_op(
        lambda x: function(x),
        signature="()->()",
        domain=domain,
        numpy_grad=lambda op, g: g * derivative(op.inputs[0]).astype(g.dtype),
        **options,
    )
    return Right(what, op)


def given(what, function, drawn=None, **options):
    return Right(what, differentiable_op(function, **options), drawn or {})


def _sort_gradient(op, grad):
    order = np.argsort(op.inputs[0], -1, kind="stable")
    result = np.zeros_like(grad)
    np.put_along_axis(result, order, grad, -1)
    return result


def _split_product():
    op = differentiable_op(lambda x, y: x * y**2, signature="(),()->()")
    op.gradient(wrt="y")(lambda op, g: 2 * g * op.inputs[0] * op.inputs[1])
    op.numpy_gradient(wrt="x")(lambda op, g: g * op.inputs[1] ** 2)
    op.numpy_jvp(wrt=("y", "x"))(
        lambda op, of_y, of_x: 2 * op.inputs[0] * op.inputs[1] * of_y + op.inputs[1] ** 2 * of_x
    )
    return op


def _matvec(a, x):
    return (a @ x[..., None])[..., 0]


def _linear_in_each_factor(kinds):
    op = differentiable_op(lambda a, x: _matvec(a, x), signature="(m,n),(n)->(m)")
    rules = {
        "adjoint": (
            lambda op, g: g[..., None] * tf.math.conj(op.inputs[1])[..., None, :],
            lambda op, g: tf.linalg.matvec(op.inputs[0], g, adjoint_a=True),
        ),
        "numpy_adjoint": (
            lambda op, g: g[..., None] * np.conj(op.inputs[1])[..., None, :],
            lambda op, g: _matvec(np.conj(np.swapaxes(op.inputs[0], -1, -2)), g),
        ),
    }
    for number, kind in enumerate(kinds):
        getattr(op, kind)(linear_in="ax"[number])(rules[kind][number])
    return op


def _linear_in_one():
    op = differentiable_op(lambda x, y: x * np.sin(y), signature="(),()->()")
    op.numpy_adjoint(lambda op, g: g * np.sin(op.inputs[1]), linear_in="x")
    op.gradient(lambda op, g: g * op.inputs[0] * tf.cos(op.inputs[1]), wrt="y")
    return op


def _linear_in_all():
    op = differentiable_op(lambda x, y: (x - 2 * y, np.cumsum(x + 0 * y, -1)), signature="(n),(n)->(n),(n)")

    @op.numpy_adjoint
    def rule(op, g, h):
        return g + np.flip(np.cumsum(np.flip(h, -1), -1), -1) if op.needs[0] else None, -2 * g

    return op


def _fourier():
    op = differentiable_op(lambda x: np.fft.fft(x), signature="(n)->(n)", dtype="complex128")
    op.adjoint(lambda op, g: tf.signal.ifft(g) * tf.cast(tf.shape(g)[-1], g.dtype))
    return op


def _solved(kind, rule, function=lambda x: np.sqrt(x), domain="[0.1, 10]", **options):
    op = differentiable_op(function, signature="()->()", domain=domain)
    getattr(op, kind)(rule, **options)
    return op


def _second_power():
    op = differentiable_op(lambda x: x**3, signature="()->()")
    first = op.numpy_gradient(lambda op, g: 3 * g * op.inputs[0] ** 2)
    first.gradient(lambda op, g: (6 * g * op.inputs[0] * op.inputs[2], None, 3 * g * op.inputs[0] ** 2))
    return op


def _constant_exponent():
    op = differentiable_op(lambda x, p: x**2 * p, signature="(),()->()", domain={"x": "[-2, 2]", "p": "[1, 2]"})
    op.gradient(lambda op, g: 2 * op.inputs[0] * op.inputs[1] * g, wrt="x")
    return op


def _cumulated_product():
    op = differentiable_op(
        lambda x, y: np.cumsum(x * np.sin(y), -1), signature="(n),(n)->(n)", domain={"x": "[-2, 2]", "y": "[-2, 2]"}
    )

    def pulled(g):
        return np.flip(np.cumsum(np.flip(g, -1), -1), -1)

    op.numpy_adjoint(lambda op, g: pulled(g) * np.sin(op.inputs[1]), linear_in="x")
    op.numpy_gradient(lambda op, g: pulled(g) * op.inputs[0] * np.cos(op.inputs[1]), wrt="y")
    return op


def _native_square():
    op = differentiable_op(lambda x: x * x, signature="()->()", grad=lambda op, g: 2 * g * op.inputs[0])
    op.native(lambda x: tf.square(x))
    return op


class Scaled:
    """An op of a method, bound to an instance."""

    def __init__(self, factor):
        self.factor = factor

    @differentiable_op(signature="()->()")
    def scaled(self, x):
        return self.factor * x

    @scaled.gradient
    def scaled_gradient(self, op, grad):
        return self.factor * grad


def _product_of_rows(x, y):
    assert x.ndim == y.ndim == 2, "the function takes exactly one loop dimension"
    return x * y.sum(-1, keepdims=True)


def _product_of_rows_gradient(op, g):
    x, y = op.inputs
    assert x.ndim == y.ndim == g.ndim == 2, "the rule takes exactly one loop dimension"
    return g * y.sum(-1, keepdims=True), (g * x).sum(-1, keepdims=True) + 0 * y


def _absolute_difference_gradient(op, g):
    x, y = op.inputs
    return g, UNDEFINED if np.any(y == 0) else -g * np.sign(y) + 0 * x


def _filled(x, out):
    out[...] = 0
    out += x
    return out


_WEIGHTS = np.array([1e9, 1e-3])
_MIXED = np.array([[1e9, 1.0, 0.0], [1e-3, 1e-3, 1e-9], [0.0, 1e-12, 1e3]])


def _softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _softmax_derivative(op, vector):  # symmetric: VJP and JVP are the same
    return op.outputs[0] * (vector - tf.reduce_sum(vector * op.outputs[0], -1, keepdims=True))


def _power_by_partials():
    op = differentiable_op(lambda x, y: x**2 * y, signature="(),()->()")
    op.numpy_jacobian(lambda op: (2 * op.inputs[0] * op.inputs[1], op.inputs[0] ** 2))
    return op


def _with_jacobian():
    op = differentiable_op(lambda x, y: (x * y[..., None], (x * x).sum(-1) + 0 * y), signature="(n),()->(n),()")

    @op.jacobian
    def jacobian(op):
        x, y = op.inputs
        return (tf.linalg.eye(tf.shape(x)[-1], dtype=x.dtype) * y[..., None, None], x), (2 * x, None)

    return op


def _with_sparse_jacobian():
    op = differentiable_op(lambda x: np.diff(x), signature="(n)->(n-1)", vectorized=False)

    @op.numpy_jacobian
    def jacobian(op):
        n = len(op.inputs[0])
        return sparse.diags([-np.ones(n - 1), np.ones(n - 1)], [0, 1], shape=(n - 1, n), dtype=op.inputs[0].dtype)

    return op


def _power_from_jvp():
    op = differentiable_op(lambda x, y: (x**2 * y).sum(-1), signature="(n),(n)->()", grad="from-jvp")
    op.numpy_jvp(lambda op, s, t: (2 * op.inputs[0] * op.inputs[1] * s + op.inputs[0] ** 2 * t).sum(-1))
    return op


def _softmax_from_vjp():
    op = differentiable_op(lambda x: _softmax(x), signature="(n)->(n)", jvp="from-vjp", vectorized=False)
    op.numpy_gradient(lambda op, g: op.outputs[0] * (g - (g * op.outputs[0]).sum()))
    return op


WEIGHTED = [
    Right(
        "a sum of very different weights",
        differentiable_op(
            lambda x: (x * x * _WEIGHTS).sum(-1),
            signature="(2)->()",
            grad=lambda op, g: 2 * g[..., None] * op.inputs[0] * _WEIGHTS,
            jvp=lambda op, t: 2 * tf.reduce_sum(t * op.inputs[0] * _WEIGHTS, -1),
        ),
    ),
    Right(
        "a matrix of very different weights",
        differentiable_op(
            lambda x: x @ _MIXED.T,
            signature="(3)->(3)",
            grad=lambda op, g: tf.linalg.matvec(tf.constant(_MIXED.T, g.dtype), g),
            jvp=lambda op, t: tf.linalg.matvec(tf.constant(_MIXED, t.dtype), t),
        ),
    ),
    Right(
        "a high power of every element",
        differentiable_op(
            lambda x: x**9,
            signature="(n)->(n)",
            grad=lambda op, g: 9 * g * op.inputs[0] ** 8,
            jvp=lambda op, t: 9 * t * op.inputs[0] ** 8,
        ),
    ),
    Right(
        "softmax",
        differentiable_op(_softmax, signature="(n)->(n)", grad=_softmax_derivative, jvp=_softmax_derivative),
    ),
    Right(
        "a small number that is lost in a large one, and found again",
        differentiable_op(
            lambda x, y: (x + y) - x,
            signature="(),()->()",
            grad=lambda op, g: (tf.zeros_like(g), g),
            jvp=lambda op, s, t: 0 * s + t,
        ),
    ),
    Right(
        "a light part of a light output",
        differentiable_op(
            lambda x: (1e9 * np.sin(x[..., 0]), 1e3 * x[..., 0] + 1e-6 * x[..., 1] ** 2),
            signature="(2)->(),()",
            domain="[-10, 10]",
            grad=lambda op, g, h: tf.stack(
                [1e9 * g * tf.cos(op.inputs[0][..., 0]) + 1e3 * h, 2e-6 * h * op.inputs[0][..., 1]], -1
            ),
        ),
    ),
]


ADJOINTS = [
    *(
        Right(f"a matrix-vector product with {first} and {second}", _linear_in_each_factor((first, second)))
        for first in ("adjoint", "numpy_adjoint")
        for second in ("adjoint", "numpy_adjoint")
    ),
    Right(
        "a complex matrix-vector product",
        _linear_in_each_factor(("numpy_adjoint", "numpy_adjoint")),
        {"dtypes": ["complex128"], "largest": 10},
    ),
    Right("an op that is linear in one input", _linear_in_one(), {"domain": "[-3, 3]", "dtypes": ["float64"]}),
    Right("an op that is linear in all inputs", _linear_in_all()),
    Right("a Fourier transform", _fourier(), {"dtypes": ["complex128"], "largest": 100}),
]


def _diagonal_gradient(op, grad):
    result = np.zeros(op.inputs[0].shape)
    for place in range(min(result.shape[-2:])):
        result[..., place, place] = grad
    return result


def _cumulative_product_gradient(op, grad):
    """No division: the derivative of product k by factor i is the product of all other factors up to k."""
    x = op.inputs[0]
    result = np.zeros(x.shape)
    for i in range(x.shape[-1]):
        others = x.copy()
        others[..., i] = 1
        result[..., i] = (grad * np.cumprod(others, -1))[..., i:].sum(-1)
    return result


def _duplicates_gradient(op, grad):
    result = np.zeros(op.inputs[0].shape)
    np.add.at(result, (..., [0, 2, 0, 1]), grad)
    return result


def _sinc_gradient(op, grad):
    x = np.pi * op.inputs[0]
    is_small = np.abs(x) < 1e-2
    safe = np.where(is_small, 1, x)
    series = -x / 3 + x**3 / 30 - x**5 / 840
    return grad * np.pi * np.where(is_small, series, (np.cos(safe) * safe - np.sin(safe)) / safe**2)


def _sorted_place_gradient(weights):
    """The gradient of a weighted sum of sorted elements, as for a median or a quantile."""

    def rule(op, grad):
        x = op.inputs[0]
        result = np.zeros(x.shape)
        np.put_along_axis(result, np.argsort(x, -1, kind="stable"), grad[..., None] * weights(x.shape[-1]), -1)
        return result

    return rule


def _median_weights(n):
    weights = np.zeros(n)
    weights[(n - 1) // 2] += 0.5
    weights[n // 2] += 0.5
    return weights


def _quantile_weights(n):
    place = 0.3 * (n - 1)
    low = int(place)
    weights = np.zeros(n)
    weights[low] += 1 - (place - low)
    weights[min(low + 1, n - 1)] += place - low
    return weights


def _slopes_between(x):
    return np.where((x > 0) & (x < 1), 2.0, np.where((x >= 1) & (x < 3), 0.5, 0))


def _spectrum_gradient(op, grad):
    x = op.inputs[0]
    n = x.shape[-1]
    twice = np.full(n // 2 + 1, 0.5)
    twice[0] = 1
    if n % 2 == 0:
        twice[-1] = 1
    return 2 * n * np.fft.irfft(grad * np.fft.rfft(x) * twice, n)


def _shared_maximum(op, grad):
    is_largest = op.inputs[0] == op.inputs[0].max(-1, keepdims=True)
    return grad[..., None] * is_largest / is_largest.sum(-1, keepdims=True)


def _first_maximum(op, grad):
    result = np.zeros(op.inputs[0].shape)
    np.put_along_axis(result, op.inputs[0].argmax(-1)[..., None], grad[..., None], -1)
    return result


def divided_exponentials(x, y):
    d = x - y
    return np.exp(y) * np.where(d == 0, 1, np.expm1(d) / np.where(d == 0, 1, d))


def divided_exponentials_gradient(op, grad):
    x, y = op.inputs
    d = x - y
    is_small = np.abs(d) < 1e-2
    safe = np.where(is_small, 1, d)
    series = 1 / 2 + d / 3 + d**2 / 8 + d**3 / 30 + d**4 / 144
    slope = np.exp(y) * np.where(is_small, series, (safe * np.exp(safe) - np.expm1(safe)) / safe**2)
    return grad * slope, grad * (op.outputs[0] - slope)


def _keyed(function):
    known = {}

    def cached(x):
        key = x.tobytes(), x.shape, x.dtype
        if key not in known:
            known[key] = function(x)
        return known[key].copy()

    return cached


def _buffer_of_the_thread():
    local = threading.local()

    def function(x):
        buffers = vars(local).setdefault("buffers", {})
        buffer = buffers.setdefault((x.shape, x.dtype), np.empty_like(x))
        np.multiply(x, 2, out=buffer)
        return np.add(buffer, 1)

    return function


def _noted_for_later():
    last = {}

    def function(x):
        last["x"] = x.copy()  # and no rule reads it
        return np.sin(x)

    return function


def _rounded():
    op = differentiable_op(lambda x: np.rint(x), signature="()->()", non_differentiable=True)
    op.native(lambda x: tf.round(x))
    return op


POINTS = [
    given("a trace", lambda x: np.trace(x, axis1=-2, axis2=-1), signature="(m,n)->()", numpy_grad=_diagonal_gradient),
    given(
        "a cumulative product",
        lambda x: np.cumprod(x, -1),
        signature="(n)->(n)",
        domain="[-3, 3]",
        numpy_grad=_cumulative_product_gradient,
    ),
    given("duplicate indices", lambda x: x[..., [0, 2, 0, 1]], signature="(3)->(4)", numpy_grad=_duplicates_gradient),
    in_numpy("a logarithm of a sigmoid", lambda x: -np.logaddexp(0, -x), lambda x: special.expit(-x), "[-30, 30]"),
    given("sinc", lambda x: np.sinc(x), signature="()->()", domain="[-5, 5]", numpy_grad=_sinc_gradient),
    given(
        "a sum over the upper triangle",
        lambda x: np.triu(x).sum(-1),
        signature="(n,n)->(n)",
        numpy_grad=lambda op, g: np.triu(np.broadcast_to(g[..., :, None], op.inputs[0].shape)),
    ),
    given(
        "a median",
        lambda x: np.median(x, axis=-1),
        signature="(n)->()",
        numpy_grad=_sorted_place_gradient(_median_weights),
    ),
    given(
        "a quantile",
        lambda x: np.quantile(x, 0.3, axis=-1),
        signature="(n)->()",
        numpy_grad=_sorted_place_gradient(_quantile_weights),
    ),
    in_numpy(
        "an interpolation", lambda x: np.interp(x, [0.0, 1.0, 3.0], [0.0, 2.0, 3.0]).astype(x.dtype), _slopes_between
    ),
    given(
        "a power spectrum",
        lambda x: np.abs(np.fft.rfft(x)) ** 2,
        signature="(n)->(n//2+1)",
        numpy_grad=_spectrum_gradient,
    ),
    Right(
        "an inverse Fourier transform",
        differentiable_op(
            lambda x: np.fft.ifft(x),
            signature="(n)->(n)",
            dtype="complex128",
            numpy_grad=lambda op, g: np.fft.fft(g) / g.shape[-1],
        ),
        {"dtypes": ["complex128"], "largest": 100},
    ),
    given("a maximum whose ties share", lambda x: x.max(-1), signature="(n)->()", numpy_grad=_shared_maximum),
    given("a maximum whose first tie wins", lambda x: x.max(-1), signature="(n)->()", numpy_grad=_first_maximum),
    in_numpy(
        "a series below a threshold",
        lambda x: np.where(np.abs(x) < 1e-2, x - x**3 / 6 + x**5 / 120, np.sin(x)),
        np.cos,
    ),
    in_numpy(
        "Huber's loss",
        lambda x: np.where(np.abs(x) < 1.5, x * x / 2, 1.5 * np.abs(x) - 1.125),
        lambda x: np.clip(x, -1.5, 1.5),
    ),
    given(
        "a divided difference",
        lambda x, y: divided_exponentials(x, y),
        signature="(),()->()",
        domain="[-3, 3]",
        numpy_grad=divided_exponentials_gradient,
    ),
    in_numpy(
        "a masked square root",
        lambda x: np.where(x > 0, np.sqrt(np.where(x > 0, x, 1)), 0),
        lambda x: np.where(x > 0, 0.5 / np.sqrt(np.where(x > 0, x, 1)), 0),
    ),
    given(
        "a cache with the shape in its key",
        _keyed(lambda x: np.cumsum(x, -1)),
        signature="(n)->(n)",
        non_differentiable=True,
    ),
    given("a buffer of each thread", _buffer_of_the_thread(), signature="()->()", grad=lambda op, g: 2 * g),
    given(
        "a note that no rule reads", _noted_for_later(), signature="()->()", grad=lambda op, g: g * tf.cos(op.inputs[0])
    ),
    Right("rounding of halves in both implementations", _rounded()),
    given(
        "the energy of a small mass",
        lambda m, v: 0.5 * m * v**2,
        signature="(),()->()",
        domain={"m": "[1e-26, 1e-24]", "v": "[0, 1e3]"},
        grad=lambda op, g: (0.5 * g * op.inputs[1] ** 2, g * op.inputs[0] * op.inputs[1]),
    ),
]


RIGHT = [
    *WEIGHTED,
    *POINTS,
    Right("partial derivatives in numpy", _power_by_partials()),
    Right("a Jacobian in TensorFlow ops", _with_jacobian()),
    Right("an equation", _solved("implicit", lambda op: op.outputs[0] ** 2 - op.inputs[0])),
    Right(
        "an equation, without a matrix", _solved("implicit", lambda op: op.outputs[0] ** 2 - op.inputs[0], solve="cg")
    ),
    Right("an objective", _solved("stationary", lambda op: op.outputs[0] ** 3 / 3 - op.inputs[0] * op.outputs[0])),
    Right("a sparse Jacobian", _with_sparse_jacobian()),
    Right("a gradient from a JVP rule", _power_from_jvp()),
    *(
        Right(
            f"a banded pattern, {method.__name__}",
            differentiable_op(
                lambda x: np.sin(x) + np.roll(x, 1, -1) * x,
                signature="(n)->(n)",
                grad=method(sparsity=lambda n: np.eye(n) + np.roll(np.eye(n), 1, 0)),
            ),
            {"domain": "[-3, 3]"},
        )
        for method in (numerical, complex_step)
    ),
    Right("a JVP from a gradient rule", _softmax_from_vjp()),
    Right("optional inputs", saved_ops.scaled_sine, {"domain": "[-3, 3]"}),
    given(
        "any number of inputs",
        lambda *vectors: sum(vector**2 for vector in vectors),
        {"domain": "[-3, 3]"},
        signature="(n)*->(n)",
        numpy_grad=lambda op, g: [2 * vector * g for vector in op.inputs],
    ),
    *ADJOINTS,
    *(
        Right(f"the zoo's {op.__name__}", op)
        for op in (ops.mod, ops.numpy_mod, ops.exp, ops.matmul, ops.solve, ops.sine_and_cosine, ops.power, ops.add_all)
    ),
    Right("the zoo's maximum and its place", ops.maximum_and_place),
    Right("the zoo's roll", ops.roll, {"domain": {"shift": "integers [-3, 3]"}, "dtypes": ["float64"]}),
    Right("a complex exponential", ops.complex_exp, {"dtypes": ["complex128"], "largest": 10}),
    Right("one with a rule in numpy", ops.complex_numpy_exp, {"dtypes": ["complex128"], "largest": 10}),
    elementwise("sine", np.sin, tf.cos),
    elementwise("a logarithm", np.log, lambda x: 1 / x, "(0, inf)"),
    elementwise("a square root", np.sqrt, lambda x: 0.5 / tf.sqrt(x), "(0, inf)"),
    elementwise("a reciprocal", lambda x: 1 / x, lambda x: -1 / x**2, "(0, inf)"),
    elementwise("an absolute value", np.abs, tf.sign),
    elementwise("relu", lambda x: np.maximum(x, 0), lambda x: tf.cast(x > 0, x.dtype)),
    elementwise("clipping", lambda x: np.clip(x, -1, 1), lambda x: tf.cast(tf.abs(x) < 1, x.dtype)),
    elementwise("tanh", np.tanh, lambda x: 1 - tf.tanh(x) ** 2),
    elementwise("an inverse sine", np.arcsin, lambda x: 1 / tf.sqrt(1 - x**2), "(-1, 1)"),
    elementwise("a cube root", np.cbrt, lambda x: 1 / (3 * tf.abs(x) ** (2 / 3)), "[1, 100]"),
    elementwise("log1p", np.log1p, lambda x: 1 / (1 + x), "(-1, inf)"),
    elementwise(
        "a steep logistic",
        lambda x: special.expit(50 * x),
        lambda x: 50 * tf.sigmoid(50 * x) * tf.sigmoid(-50 * x),
        "[-1, 1]",
    ),
    in_numpy("log gamma", special.gammaln, special.digamma, "[0.5, 100]"),
    in_numpy("the error function", special.erf, lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2)), "[-5, 5]"),
    in_numpy("a Bessel function", special.j0, lambda x: -special.j1(x), "[-50, 50]"),
    in_numpy(
        "Lambert's W",
        lambda x: special.lambertw(x).real.astype(x.dtype),
        lambda x: 1 / (x + np.exp(special.lambertw(x).real)),
        "[0, 50]",
    ),
    in_numpy("a computation in float64", np.expm1, np.exp, "[-5, 5]", compute_dtype="float64"),
    given("floor", lambda x: np.floor(x), signature="()->()", non_differentiable=True),
    given(
        "hypot",
        lambda x, y: np.hypot(x, y),
        signature="(),()->()",
        domain="[1, 1e4]",
        grad=lambda op, g: (g * op.inputs[0] / op.outputs[0], g * op.inputs[1] / op.outputs[0]),
    ),
    given(
        "a maximum of two",
        lambda x, y: np.maximum(x, y),
        signature="(),()->()",
        grad=lambda op, g: (
            g * tf.cast(op.inputs[0] >= op.inputs[1], g.dtype),
            g * tf.cast(op.inputs[0] < op.inputs[1], g.dtype),
        ),
    ),
    given(
        "a sum",
        lambda x: x.sum(-1),
        signature="(n)->()",
        numpy_grad=lambda op, g: np.broadcast_to(g[..., None], op.inputs[0].shape),
    ),
    given(
        "a cumulative sum",
        lambda x: x.cumsum(-1),
        signature="(n)->(n)",
        grad=lambda op, g: tf.cumsum(g, -1, reverse=True),
    ),
    given("sorting", lambda x: np.sort(x, -1), signature="(n)->(n)", numpy_grad=_sort_gradient),
    given(
        "differences",
        lambda x: np.diff(x),
        signature="(n)->(n-1)",
        numpy_grad=lambda op, g: -np.diff(g, prepend=0, append=0),
    ),
    given(
        "an outer product",
        lambda x, y: x[..., :, None] * y[..., None, :],
        signature="(m),(n)->(m,n)",
        grad=lambda op, g: (tf.linalg.matvec(g, op.inputs[1]), tf.linalg.matvec(g, op.inputs[0], transpose_a=True)),
    ),
    given(
        "a trace of a square matrix",
        lambda a: np.trace(a, axis1=-2, axis2=-1),
        signature="(n,n)->()",
        numpy_grad=lambda op, g: g[..., None, None] * np.eye(op.inputs[0].shape[-1]),
    ),
    given(
        "a cross product",
        lambda x, y: np.cross(x, y),
        signature="(3),(3)->(3)",
        numpy_grad=lambda op, g: (np.cross(op.inputs[1], g), np.cross(g, op.inputs[0])),
    ),
    given(
        "a function of rows alone",
        lambda x: x / np.sqrt(1 + x @ x),
        signature="(n)->(n)",
        vectorized=False,
        domain="[-100, 100]",
        numpy_grad=lambda op, g: (
            g / np.sqrt(1 + op.inputs[0] @ op.inputs[0])
            - op.inputs[0] * (op.inputs[0] @ g) / np.sqrt(1 + op.inputs[0] @ op.inputs[0]) ** 3
        ),
    ),
    given(
        "a destination", lambda x, *, out=None: np.multiply(x, 2, out=out), signature="()->()", grad=lambda op, g: 2 * g
    ),
    given(
        "a destination filled with zeros, then added to",
        lambda x, *, out=None: _filled(x, np.empty_like(x) if out is None else out),
        signature="()->()",
        grad=lambda op, g: g,
    ),
    given(
        "a destination that is left alone",
        lambda x, *, out=None: x * np.nan,
        signature="()->()",
        non_differentiable=True,
    ),
    given(
        "residuals",
        lambda x: (np.sin(x), {"cosine": np.cos(x)}),
        signature="()->()",
        residuals={"cosine": ("()", np.float64)},
        numpy_grad=lambda op, g: g * op.residuals.cosine,
    ),
    given(
        "an object",
        lambda x: (np.sin(x), {"slope": lambda vector: np.cos(x) * vector}),
        signature="()->()",
        residuals={"slope": object},
        numpy_grad=lambda op, g: op.residuals.slope(g),
        numpy_jvp=lambda op, t: op.residuals.slope(t),
    ),
    given(
        "an object for each element",
        lambda x: (x * np.sum(x), {"x": [x]}),
        signature="(n)->(n)",
        vectorized=False,
        residuals={"x": object},
        numpy_grad=lambda op, g: g * np.sum(op.residuals.x[0]) + np.sum(g * op.residuals.x[0]),
    ),
    Right("optional dimensions", differentiable_op(np.matmul, name="tests.matmul", grad="numerical")),
    given(
        "exactly one loop dimension",
        _product_of_rows,
        signature="(n),(n)->(n)",
        vectorized="rows",
        numpy_grad=_product_of_rows_gradient,
    ),
    given(
        "a computed size",
        lambda x, *, times=2: np.concatenate([x] * times, -1),
        {"times": st.integers(1, 3)},
        signature="(n)->(k)",
        sizes={"k": lambda n, *, times: n * times},
        static_argnames=("times",),
        numpy_grad=lambda op, g: sum(np.split(g, op.static["times"], -1)),
    ),
    given(
        "an input by which there is no derivative",
        lambda x, k: x * np.floor(k),
        signature="(),()->()",
        non_differentiable=("k",),
        grad=lambda op, g: (g * tf.floor(op.inputs[1]), None),
    ),
    given(
        "UNDEFINED for the input by which there is no derivative",
        lambda x, k: x * np.floor(k),
        signature="(),()->()",
        non_differentiable=("k",),
        numpy_grad=lambda op, g: (g * np.floor(op.inputs[1]), UNDEFINED),
    ),
    given(
        "UNDEFINED at a kink",
        lambda x, y: x - np.abs(y),
        signature="(),()->()",
        domain="[-2, 2]",
        numpy_grad=_absolute_difference_gradient,
    ),
    given(
        "a surrogate that reads the output",
        lambda x: np.round(x),
        signature="()->()",
        surrogate=True,
        grad=lambda op, g: g * (1 - 1e-3 * op.outputs[0] ** 2),
    ),
    given(
        "a surrogate in one direction only",
        lambda x: np.sign(x),
        signature="()->()",
        surrogate=True,
        grad=lambda op, g: g,
        jvp=lambda op, t: 0 * t,
    ),
    given("numerical derivatives", lambda x: np.sin(x), signature="()->()", domain="[-10, 10]", grad="numerical"),
    given("a complex step", lambda x: x * np.exp(-x), signature="()->()", domain="[-5, 5]", grad="complex-step"),
    given(
        "both modes of derivatives",
        lambda x: x * x,
        signature="()->()",
        grad=lambda op, g: 2 * g * op.inputs[0],
        jvp=lambda op, t: 2 * t * op.inputs[0],
    ),
    given(
        "an index beside values",
        lambda x, i: np.where(i % 2 == 0, x, -x),
        {"domain": {"i": "integers [0, 5]"}, "dtypes": ["float64"]},
        signature="(),()->()",
        numpy_grad=lambda op, g: (np.where(op.inputs[1] % 2 == 0, g, -g), None),
    ),
    given(
        "two conventions at a kink",
        lambda x: np.maximum(x, 0),
        signature="()->()",
        grad=lambda op, g: g * tf.cast(op.inputs[0] > 0, g.dtype),
        jvp=lambda op, t: t * tf.cast(op.inputs[0] >= 0, t.dtype),
    ),
    given(
        "a number that is none among others",
        lambda x: np.concatenate([np.full_like(x[..., :1], np.nan), np.diff(x, axis=-1)], -1),
        signature="(n)->(n)",
        grad=lambda op, g: (
            tf.pad(g[..., 1:], [[0, 0]] * (len(g.shape) - 1) + [[1, 0]])
            - tf.pad(g[..., 1:], [[0, 0]] * (len(g.shape) - 1) + [[0, 1]])
        ),
    ),
    given(
        "a static parameter that is called as an option of strategies is",
        lambda x, *, allow_nan=True: np.sort(x) if allow_nan else x,
        signature="(n)->(n)",
        non_differentiable=True,
    ),
    given("no signature", lambda x: np.cos(x), grad=lambda op, g: -g * tf.sin(op.inputs[0])),
    given(
        "needs",
        lambda x, y: x * y,
        signature="(),()->()",
        numpy_grad=lambda op, g: (
            g * op.inputs[1] if op.needs[0] else None,
            g * op.inputs[0] if op.needs[1] else np.zeros(7),
        ),
        jvp=lambda op, *t: sum(
            tangent * other for tangent, other, varies in zip(t, op.inputs[::-1], op.needs, strict=True) if varies
        ),
    ),
    Right("a second rule in TensorFlow", _second_power()),
    Right("rules for some inputs", _split_product()),
    Right("no rule for one of the inputs", _constant_exponent()),
    Right("an adjoint for one input, and a gradient rule for the other", _cumulated_product()),
    Right("a native implementation", _native_square()),
    Right("a bound method", Scaled(3.0).scaled),
]
