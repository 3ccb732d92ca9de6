"""The parity table: every kind of op under every transformation gives what native ops give, or raises as declared."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests import ops
from tests.modes import compiled
from tfpyop import CoercionError, GradientError, UnsupportedError, differentiable_op, numerical
from tfpyop._lowering import vectorized_map
from tfpyop._op import op_def_of
from tfpyop._registry.bind import bind
from tfpyop._registry.op_def import REGISTRY

MATRIX = np.array([[4.0, 1, 0], [1, 3, 1], [0, 1, 5]])
X = np.array([0.3, -0.7, 1.2])


@differentiable_op(signature="()->()")
def tanh(x):
    return np.tanh(x)


@tanh.numpy_gradient
def tanh_gradient(op, cotangent):
    return cotangent * (1 - op.outputs[0] ** 2)


@tanh_gradient.gradient
def tanh_second(op, cotangent):
    _, y, first_cotangent = op.inputs
    return None, -2 * y * first_cotangent * cotangent, (1 - y**2) * cotangent


@differentiable_op(signature="()->()")
def sine(x):
    return np.sin(x)


@sine.numpy_gradient(uses_outputs=False)
def sine_gradient(op, cotangent):
    return cotangent * np.cos(op.inputs[0])


@sine_gradient.gradient
def sine_second(op, cotangent):
    x, first_cotangent = op.inputs
    return -tf.sin(x) * first_cotangent * cotangent, tf.cos(x) * cotangent


@differentiable_op(signature="(n,n),(n)->(n)", residuals={"inverse": ("(n,n)", np.float64)})
def solve_kept(a, b):
    loop = np.broadcast_shapes(a.shape[:-2], b.shape[:-1])
    inverse = np.broadcast_to(np.linalg.inv(a), loop + a.shape[-2:])
    return (inverse @ b[..., None])[..., 0], {"inverse": inverse}


@solve_kept.gradient
def solve_kept_gradient(op, cotangent):
    b_cotangent = tf.linalg.matvec(op.residuals.inverse, cotangent, transpose_a=True)
    return -b_cotangent[..., :, None] * op.outputs[0][..., None, :], b_cotangent


@solve_kept.numpy_jvp
def solve_kept_jvp(op, a_tangent, b_tangent):
    right = b_tangent - (a_tangent @ op.outputs[0][..., None])[..., 0]
    return (op.residuals.inverse @ right[..., None])[..., 0]


@differentiable_op(signature="(n,n),(n)->(n)")
def solve(a, b):
    return np.linalg.solve(a, b[..., None])[..., 0]


@solve.gradient
def solve_gradient(op, cotangent):
    a, _ = op.inputs
    b_cotangent = solve(tf.linalg.matrix_transpose(a), cotangent)
    return -b_cotangent[..., :, None] * op.outputs[0][..., None, :], b_cotangent


@differentiable_op(signature="(n)->(n)", vectorized=False)
def softmax(x):
    assert x.ndim == 1
    e = np.exp(x - x.max())
    return e / e.sum()


@softmax.numpy_gradient
def softmax_gradient(op, cotangent):
    (y,) = op.outputs
    return y * (cotangent - cotangent @ y)


@softmax.numpy_jvp
def softmax_jvp(op, tangent):
    (y,) = op.outputs
    return y * (tangent - tangent @ y)


@differentiable_op(signature="(n)->(n)")
def jacobian_softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@jacobian_softmax.jacobian
def jacobian_of_softmax(op):
    (y,) = op.outputs
    return tf.linalg.diag(y) - y[..., :, None] * y[..., None, :]


@differentiable_op(signature="(n)->(n)", vectorized=False)
def numpy_jacobian_softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@numpy_jacobian_softmax.numpy_jacobian
def numpy_jacobian_of_softmax(op):
    (y,) = op.outputs
    return np.diag(y) - np.outer(y, y)


@differentiable_op(signature="(),()->()")
def partial_product(x, y):
    return x * y


@partial_product.numpy_jacobian
def partials_of_product(op):
    x, y = op.inputs
    return y, x


@differentiable_op(signature="(n,n),(n)->(n)")
def product(matrix, vector):
    return (matrix @ vector[..., None])[..., 0]


@product.numpy_adjoint(linear_in="vector")
def product_by_vector(op, cotangent):
    return (np.swapaxes(op.inputs[0], -1, -2) @ cotangent[..., None])[..., 0]


@product.numpy_adjoint(linear_in="matrix")
def product_by_matrix(op, cotangent):
    return cotangent[..., None] * op.inputs[1][..., None, :]


@differentiable_op(signature="(n)->(n)", vectorized=False)
def running_total(x, *, factor=1.0):
    assert x.ndim == 1
    return factor * np.cumsum(x)


@running_total.adjoint
def running_total_adjoint(op, cotangent):
    return op.static.factor * tf.cumsum(cotangent, -1, reverse=True)


@differentiable_op(signature="()->()")
def implicit_asinh(x):
    return np.arcsinh(x)


@implicit_asinh.implicit(verify=1e-12)
def equation_of_asinh(op):
    return tf.sinh(op.outputs[0]) - op.inputs[0]


@differentiable_op(signature="(n,n),(n)->(n)", vectorized=False)
def implicit_solve(a, b):
    return np.linalg.solve(a, b)


@implicit_solve.implicit
def equation_of_solve(op):
    (a, b), (y,) = op.inputs, op.outputs
    return product(a, y) - b  # an op with numpy rules


@differentiable_op(signature="(n,n),(n)->(n)")
def minimizer(a, b):
    return np.linalg.solve(a, b[..., None])[..., 0]


@minimizer.stationary
def objective(op):
    (a, b), (y,) = op.inputs, op.outputs
    return tf.einsum("...i,...ij,...j->...", y, a, y) / 2 - tf.reduce_sum(b * y, -1)


@differentiable_op(signature="(n,n),(n)->(n)")
def solve_by_cg(a, b):
    return np.linalg.solve(a, b[..., None])[..., 0]


@solve_by_cg.implicit(solve="cg")
def equation_for_cg(op):
    (a, b), (y,) = op.inputs, op.outputs
    return tf.linalg.matvec(a, y) - b


@differentiable_op(signature="(n,n),(n)->(n)")
def solve_by_normal_cg(a, b):
    return np.linalg.solve(a, b[..., None])[..., 0]


@solve_by_normal_cg.implicit(solve="normal-cg")
def equation_for_normal_cg(op):
    (a, b), (y,) = op.inputs, op.outputs
    return product(a, y) - b  # an op with numpy rules


class Root:
    """An op of a method that solves an equation of two outputs, and another op with a numpy rule in the equation."""

    def __init__(self, factor):
        self.factor = factor

    @differentiable_op(signature="()->(),()")
    def solve(self, x):
        y = x / (self.factor + np.tanh(x) ** 2)
        return y, np.sin(y)

    @solve.implicit
    def equations(self, op):
        (x,), (y, z) = op.inputs, op.outputs
        return y * (self.factor + tanh(x) ** 2) - x, tf.asin(z) - y


ROOT = Root(2.0)


def rolled(x):  # not tf.roll, which TensorFlow maps along the wrong axis
    return tf.concat([x[..., -1:], x[..., :-1]], -1)


@differentiable_op(signature="(n,n),(n)->(n)", grad="from-jvp")
def solve_from_jvp(a, b):
    return np.linalg.solve(a, b[..., None])[..., 0]


@solve_from_jvp.jvp
def solve_jvp(op, a_tangent, b_tangent):
    return solve_from_jvp(op.inputs[0], b_tangent - tf.linalg.matvec(a_tangent, op.outputs[0]))


@differentiable_op(signature="(n)->(n)", grad="from-jvp", numpy_jvp=softmax_jvp.numpy, vectorized=False)
def softmax_from_jvp(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@differentiable_op(signature="(n)->(n)", jvp="from-vjp")
def softmax_from_vjp(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@softmax_from_vjp.numpy_gradient
def softmax_from_vjp_gradient(op, cotangent):
    (y,) = op.outputs
    return y * (cotangent - (cotangent * y).sum(-1, keepdims=True))


@differentiable_op(signature="(n)->(n)", grad=numerical(sparsity=lambda n: np.eye(n) + np.eye(n, k=1)))
def coupled(x):
    return np.sin(x) * np.concatenate([x[..., 1:], np.ones_like(x[..., :1])], -1)


def coupled_natively(x):
    return tf.sin(x) * tf.concat([x[..., 1:], tf.ones_like(x[..., :1])], -1)


class Smoother:
    """An op of a method that is linear in one input."""

    def __init__(self, weight):
        self.weight = weight

    @differentiable_op(signature="(n),(n)->(n)")
    def smooth(self, x, width):
        return self.weight * np.roll(x, 1, -1) * np.sin(width)

    @smooth.numpy_adjoint(linear_in="x")
    def by_x(self, op, cotangent):
        return self.weight * np.roll(cotangent * np.sin(op.inputs[1]), -1, -1)

    @smooth.gradient(wrt="width")
    def by_width(self, op, cotangent):
        return self.weight * cotangent * rolled(op.inputs[0]) * tf.cos(op.inputs[1])


def smooth_natively(x):
    return 2 * rolled(x) * tf.sin(x * x)


SMOOTHER = Smoother(2.0)
numerical_sin = differentiable_op(np.sin, grad="numerical", name="tests.transformations.numerical_sin")
complex_sin = differentiable_op(np.sin, grad="complex-step", name="tests.transformations.complex_sin")


def solve_natively(x):
    return tf.linalg.matvec(tf.linalg.inv(MATRIX + tf.linalg.diag(x)), x)


KINDS = {  # each keeps the shape of its input
    "elementwise": (tanh, tf.tanh),
    "matrix": (lambda x: solve(MATRIX + tf.linalg.diag(x), x), solve_natively),
    "several outputs": (
        lambda x: ops.sine_and_cosine(x)[0] * ops.sine_and_cosine(x)[1],
        lambda x: tf.sin(x) * tf.cos(x),
    ),
    "residuals": (lambda x: solve_kept(MATRIX + tf.linalg.diag(x), x), solve_natively),
    "static argument": (lambda x: ops.power(x, exponent=3), lambda x: x**3),
    "integer input": (lambda x: ops.roll(x, 1), lambda x: tf.concat([x[..., -1:], x[..., :-1]], -1)),
    "numpy rule": (softmax, tf.nn.softmax),
    "numpy rule without outputs": (sine, tf.sin),
    "TensorFlow rule": (ops.exp, tf.exp),
    "numerical rule": (numerical_sin, tf.sin),
    "complex step": (complex_sin, tf.sin),
    "sparsity pattern": (coupled, coupled_natively),
    "Jacobian": (jacobian_softmax, tf.nn.softmax),
    "numpy Jacobian": (numpy_jacobian_softmax, tf.nn.softmax),
    "gradient from JVP": (lambda x: solve_from_jvp(MATRIX + tf.linalg.diag(x), x), solve_natively),
    "gradient from numpy JVP": (softmax_from_jvp, tf.nn.softmax),
    "JVP from numpy gradient": (softmax_from_vjp, tf.nn.softmax),
    "numpy partial derivatives": (lambda x: partial_product(x, tf.sin(x)), lambda x: x * tf.sin(x)),
    "adjoint": (
        lambda x: tf.sin(running_total(x * x, factor=2.0)),
        lambda x: tf.sin(2 * tf.cumsum(x * x, -1)),
    ),
    "numpy adjoint": (
        lambda x: product(MATRIX / 9 + tf.linalg.diag(x) / 9, tf.sin(x)),
        lambda x: tf.linalg.matvec(MATRIX / 9 + tf.linalg.diag(x) / 9, tf.sin(x)),
    ),
    "implicit": (implicit_asinh, tf.asinh),
    "implicit matrix": (lambda x: implicit_solve(MATRIX + tf.linalg.diag(x), x), solve_natively),
    "implicit, solve='cg'": (lambda x: solve_by_cg(MATRIX + tf.linalg.diag(x), x), solve_natively),
    "implicit, solve='normal-cg'": (lambda x: solve_by_normal_cg(MATRIX + tf.linalg.diag(x), x), solve_natively),
    "implicit method": (
        lambda x: tf.add(*ROOT.solve(x)),
        lambda x: x / (2 + tf.tanh(x) ** 2) + tf.sin(x / (2 + tf.tanh(x) ** 2)),
    ),
    "stationary": (lambda x: minimizer(MATRIX + tf.linalg.diag(x), x), solve_natively),
    "adjoint of a method": (lambda x: SMOOTHER.smooth(x, x * x), smooth_natively),
}
SECOND_ORDER_RULE_MISSING = {
    *("integer input", "numpy rule", "numerical rule", "complex step", "sparsity pattern", "residuals"),
    *("numpy Jacobian", "numpy partial derivatives", "gradient from numpy JVP", "JVP from numpy gradient"),
}
"""Kinds whose numpy rule has no rule of its own, or whose rule uses residuals."""
NO_SECOND_ORDER = r"cannot compute (a second|the forward-mode) derivative|cannot differentiate .* through a residual"
WITHOUT_MATRIX = {"implicit, solve='cg'", "implicit, solve='normal-cg'"}
"""Kinds whose derivatives have a loop that ends at different times in different rows."""
MAPPED_IN_XLA = {
    *("Jacobian, XLA", "Jacobian in a function, XLA", "batch Jacobian, XLA", "vectorized_map, XLA"),
    *("vectorized_map in a function, XLA", "gradient in vectorized_map, XLA"),
}
"""Transformations in which TensorFlow cannot compile these loops. `tape.jacobian` raises ValueError."""
JVP_MISSING = {"integer input"}
"""Kinds with a numpy rule that is not elementwise, and no JVP."""


def gradient(f, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    return tape.gradient(y, x, output_gradients=tf.range(1, 4, dtype=tf.float64))


def tangent(f, x, direction):
    with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
        y = f(x)
    return accumulator.jvp(y)


def jvp(f, x):
    return tangent(f, x, tf.constant([1.0, -2, 0.5], tf.float64))


def jacobian(f, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    return tape.jacobian(y, x)


def batch_jacobian(f, x):
    xs = tf.stack([x, 2 * x])
    with tf.GradientTape() as tape:
        tape.watch(xs)
        y = f(xs)
    return tape.batch_jacobian(y, xs)


def over_rows(f, x):
    xs = tf.stack([x, 2 * x])
    with tf.GradientTape() as tape:
        tape.watch(xs)
        y = tf.vectorized_map(f, xs)
    return y, tape.gradient(y, xs, output_gradients=tf.stack([x, 3 * x]))


def looped(f, x, maximum_iterations=None):
    def loop(x):
        def body(i, y):
            return [i + 1, 0.3 * f(y) + 0.1]

        return tf.while_loop(lambda i, _: i < 50, body, [0, x], maximum_iterations=maximum_iterations)[1]

    return gradient(loop, x)


FIRST_ORDER = {
    "forward": lambda f, x: f(x),
    "gradient": gradient,
    "tape inside": tf.function(gradient, autograph=False),
    "tape outside": lambda f, x: gradient(tf.function(f, autograph=False), x),
    "tf.gradients": tf.function(lambda f, x: tf.gradients(f(x), x)[0], autograph=False),
    "Jacobian": jacobian,
    "Jacobian in a function": tf.function(jacobian, autograph=False),
    "batch Jacobian": batch_jacobian,
    "vectorized_map": over_rows,
    "vectorized_map in a function": tf.function(over_rows, autograph=False),
    "nested vectorized_map": lambda f, x: tf.vectorized_map(
        lambda a: tf.vectorized_map(f, a), tf.stack([[x], [2 * x]])
    ),
    "gradient in vectorized_map": lambda f, x: tf.vectorized_map(lambda x: gradient(f, x), tf.stack([x, 2 * x])),
    "while": looped,
    "while in a function": tf.function(looped, autograph=False),
    "cond": tf.function(
        lambda f, x: gradient(lambda x: tf.cond(x[0] > 0, lambda: f(x), lambda: x), x), autograph=False
    ),
    "scan": lambda f, x: gradient(lambda x: tf.scan(lambda state, _: f(state) + 0.1, tf.range(3), x)[-1], x),
    "map_fn": lambda f, x: gradient(lambda x: tf.reduce_sum(tf.map_fn(f, tf.stack([x, 2 * x])), 0), x),
}
FORWARD_MODE = {
    "JVP": jvp,
    "JVP in a function": tf.function(jvp, autograph=False),
    "JVP outside a function": lambda f, x: jvp(tf.function(f, autograph=False), x),
}
SECOND_ORDER = {
    "HVP": lambda f, x: jvp(lambda x: gradient(f, x), x),
    "HVP in a function": tf.function(lambda f, x: jvp(lambda x: gradient(f, x), x), autograph=False),
    "HVP outside a function": lambda f, x: jvp(lambda x: gradient(tf.function(f, autograph=False), x), x),
    "reverse over reverse": lambda f, x: gradient(lambda x: gradient(f, x), x),
    "tf.hessians": tf.function(lambda f, x: tf.hessians(tf.reduce_sum(f(x)), x)[0], autograph=False),
}


WITHOUT_XLA = FIRST_ORDER | FORWARD_MODE | SECOND_ORDER


@functools.cache
def native_results(name, native):
    """What native ops give under a transformation; not compiled, because XLA gives the same and takes long."""
    plain = name.removesuffix(", XLA")
    transform = WITHOUT_XLA[plain if plain in WITHOUT_XLA else plain.removesuffix(" outside")]
    return tf.nest.flatten(transform(native, tf.constant(X)))


def assert_parity(name, kind, transform):
    op, native = KINDS[kind]
    results = tf.nest.flatten(transform(op, tf.constant(X)))
    for result, expected in zip(results, native_results(name, native), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-7, atol=1e-8)


def recompiled(transform):
    """The same with all of it compiled by XLA, whatever has been traced of it without."""
    return compiled(getattr(transform, "python_function", transform))


XLA_FIRST_ORDER = {f"{name}, XLA": recompiled(FIRST_ORDER[name]) for name in FIRST_ORDER if "while" not in name} | {
    "tape outside, XLA": lambda f, x: gradient(compiled(f), x),
    "while, XLA": recompiled(functools.partial(looped, maximum_iterations=50)),
    "vectorized_map outside, XLA": lambda f, x: over_rows(compiled(f), x),
}
XLA_FORWARD_MODE = {"JVP, XLA": recompiled(jvp), "JVP outside, XLA": lambda f, x: jvp(compiled(f), x)}
XLA_SECOND_ORDER = {f"{name}, XLA": recompiled(transform) for name, transform in SECOND_ORDER.items()} | {
    "HVP outside, XLA": lambda f, x: jvp(lambda x: gradient(compiled(f), x), x),
}
FIRST_ORDER |= XLA_FIRST_ORDER
FORWARD_MODE |= XLA_FORWARD_MODE
SECOND_ORDER |= XLA_SECOND_ORDER


EXPENSIVE = {
    *("while", "while in a function", "map_fn", "vectorized_map in a function", "batch Jacobian"),
    *("Jacobian in a function", "HVP outside a function", "HVP in a function", "tf.hessians"),
}


def every_kind(transforms):
    """Each transformation of each kind; the expensive ones only for those kinds in the first tier that differ most."""
    first = {"elementwise", "residuals", "numpy rule", "numerical rule"}

    def is_slow(name, kind):
        return ("XLA" in name or name in EXPENSIVE) and kind not in first

    return pytest.mark.parametrize(
        ("name", "kind"),
        [
            pytest.param(name, kind, marks=pytest.mark.slow if is_slow(name, kind) else ())
            for name in transforms
            for kind in KINDS
        ],
    )


@every_kind(FIRST_ORDER)
def test_first_derivatives_equal_those_of_native_ops(name, kind):
    if kind in WITHOUT_MATRIX and name in MAPPED_IN_XLA:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - tape.jacobian raises its own error from ours
            FIRST_ORDER[name](KINDS[kind][0], tf.constant(X))
        error = caught.value if isinstance(caught.value, GradientError) else caught.value.__context__
        assert isinstance(error, GradientError)
        assert "is not available in vectorized_map in a function that XLA compiles" in str(error)
    else:
        assert_parity(name, kind, FIRST_ORDER[name])


@every_kind(FORWARD_MODE)
def test_forward_mode_equals_that_of_native_ops(name, kind):
    if kind in JVP_MISSING:
        with pytest.raises(
            (GradientError, tf.errors.InvalidArgumentError),
            match=r"cannot compute the forward-mode derivative|cannot compute a second derivative",
        ):
            FORWARD_MODE[name](KINDS[kind][0], tf.constant(X))
    else:
        assert_parity(name, kind, FORWARD_MODE[name])


@every_kind(SECOND_ORDER)
def test_second_derivatives_equal_those_of_native_ops(name, kind):
    if kind in SECOND_ORDER_RULE_MISSING:
        with pytest.raises(
            (GradientError, tf.errors.InvalidArgumentError),
            match=NO_SECOND_ORDER,
        ):
            SECOND_ORDER[name](KINDS[kind][0], tf.constant(X))
    else:
        assert_parity(name, kind, SECOND_ORDER[name])


def test_third_derivatives_of_an_elementwise_op():
    def derivative(f):
        return lambda x: gradient(lambda x: f(x) * tf.constant([1, 1 / 2, 1 / 3], tf.float64), x)

    x = tf.constant(X)
    expected = derivative(derivative(derivative(tf.exp)))(x)
    np.testing.assert_allclose(derivative(derivative(derivative(ops.exp)))(x), expected, rtol=1e-9)


def test_the_jvp_of_an_op_with_a_broadcast_input():
    x, y = tf.constant([[1.0], [2.0]]), tf.constant([3.0, 5.0, 7.0])
    product = differentiable_op(
        lambda x, y: x * y, signature="(),()->()", numpy_grad=lambda op, g: (g * op.inputs[1], g * op.inputs[0])
    )
    with tf.autodiff.ForwardAccumulator([x, y], [tf.ones_like(x), 2 * tf.ones_like(y)]) as accumulator:
        result, expected = product(x, y), x * y
    np.testing.assert_allclose(accumulator.jvp(result), accumulator.jvp(expected))


def test_a_batched_op_is_one_host_call():
    calls = []
    op = differentiable_op(lambda x: (calls.append(x.shape), x * x)[1], signature="()->()", grad=lambda op, g: 2 * g)
    tf.vectorized_map(op, tf.ones([1000, 3]))
    assert calls == [(1000, 3)]


def test_inputs_that_rows_share_are_not_copied():
    seen = []
    op = differentiable_op(lambda a, x: (seen.append(a), a[..., 0] * x)[1], signature="(n),()->()")
    shared = tf.ones([4])
    tf.vectorized_map(lambda x: op(shared, x), tf.ones([1000]))
    (array,) = seen
    assert array.shape == (1, 4)
    assert np.shares_memory(array, np.asarray(memoryview(shared)))


def test_other_peoples_numpy_functions_are_mapped_as_before():
    result = tf.vectorized_map(lambda x: tf.numpy_function(np.negative, [x], tf.float64), tf.constant(X))
    assert result.numpy().tolist() == (-X).tolist()


def test_stateful_ops_are_not_vectorized():
    op = differentiable_op(lambda x: x, signature="()->()", stateful=True)
    with pytest.raises(UnsupportedError, match=r"stateful ops cannot run in tf\.vectorized_map"):
        tf.vectorized_map(op, tf.constant(X))


def test_residuals_are_dropped_when_no_gradient_is_needed():
    import weakref

    kept = []

    def function(x):
        residual = np.ones(x.shape)
        kept.append(weakref.ref(residual))
        return x, {"ones": residual}

    op = differentiable_op(function, signature="(n)->(n)", residuals={"ones": ("(n)", np.float64)})
    op(X)
    assert kept[0]() is None


def test_residuals_keep_their_dtype():
    op = differentiable_op(lambda x: (x, {"k": x}), signature="()->()", residuals={"k": ("()", np.float64)})
    dtypes = []

    @op.gradient
    def rule(op, cotangent):
        dtypes.append(op.residuals.k.dtype)
        return cotangent

    gradient(op, tf.constant(X, tf.float64))
    with tf.GradientTape() as tape:
        x = tf.Variable(1.0)
        y = op(x)
    tape.gradient(y, x)
    assert dtypes == [tf.float64, tf.float64]


@pytest.mark.parametrize("rule", ["numpy_grad", "grad"])
def test_rows_cost_one_host_call_each_way(rule):
    calls = []
    forward = differentiable_op(lambda x: (calls.append("function"), np.exp(x))[1], signature="()->()")

    def gradient_in_tensorflow(op, cotangent):
        return cotangent * forward(op.inputs[0])

    def gradient_in_numpy(op, cotangent):
        calls.append("rule")
        return cotangent * np.exp(op.inputs[0])

    op = differentiable_op(
        lambda x: (calls.append("function"), np.exp(x))[1],
        signature="()->()",
        **{rule: gradient_in_numpy if rule == "numpy_grad" else gradient_in_tensorflow},
    )
    x = tf.constant(np.tile(X, (5, 1)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.vectorized_map(op, x)
    assert calls == ["function"]
    np.testing.assert_allclose(tape.gradient(y, x), np.exp(x), rtol=1e-12)
    assert calls == ["function", "rule" if rule == "numpy_grad" else "function"]


COMPLEX = np.array([1 + 2j, 0.5 - 1j])
COMPLEX_KINDS = {
    "TensorFlow rule": (ops.complex_exp, tf.exp),
    "numpy rule": (ops.complex_numpy_exp, tf.exp),
    "numerical": (differentiable_op(lambda z: np.exp(z), signature="()->()", grad="numerical"), tf.exp),
    "to real": (differentiable_op(lambda z: np.abs(z), signature="()->()", dtype="f8", grad="numerical"), tf.abs),
}


@pytest.mark.parametrize("kind", COMPLEX_KINDS)
def test_complex_derivatives_follow_tensorflows_convention(kind):
    z = tf.constant(COMPLEX)

    def derivatives(f):
        with tf.autodiff.ForwardAccumulator(z, tf.ones_like(z) * (1 + 3j)) as accumulator, tf.GradientTape() as tape:
            tape.watch(z)
            y = f(z)
        cotangent = tf.cast(tf.complex([2.0, 1.0], [-1.0, 0.5]), y.dtype)
        return accumulator.jvp(y), tape.gradient(y, z, output_gradients=cotangent)

    op, native = COMPLEX_KINDS[kind]
    for result, expected in zip(derivatives(op), derivatives(native), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [tf.complex64, tf.complex128])
def test_a_complex_matrix_inverse_equals_that_of_tensorflow(dtype):
    inverse = differentiable_op(np.linalg.inv, signature="(n,n)->(n,n)")

    @inverse.numpy_gradient
    def rule(op, cotangent):
        adjoint = np.conj(np.swapaxes(op.outputs[0], -1, -2))
        return -adjoint @ cotangent @ adjoint

    z = tf.cast(tf.complex(MATRIX, MATRIX.T / 7), dtype)
    results = []
    for function in (inverse, tf.linalg.inv):
        with tf.GradientTape() as tape:
            tape.watch(z)
            y = function(z)
        results.append(tape.gradient(y, z, output_gradients=tf.ones_like(y) * (1 - 2j)))
    assert results[0].dtype == dtype
    np.testing.assert_allclose(*results, rtol=1e-4)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
@pytest.mark.parametrize("traced", [False, True])
def test_functions_that_cannot_take_half_precision_compute_in_float32(dtype, traced):
    inverse = differentiable_op(np.linalg.inv, signature="(n,n)->(n,n)")

    @inverse.numpy_gradient
    def rule(op, cotangent):
        return -np.linalg.inv(op.inputs[0]).T @ cotangent @ np.linalg.inv(op.inputs[0]).T

    def differentiate(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = inverse(x)
        return y, tape.gradient(y, x)

    function = tf.function(differentiate) if traced else differentiate
    result, derivative = function(2 * tf.eye(2, dtype=dtype))
    assert (result.dtype, derivative.dtype) == (dtype, dtype)
    np.testing.assert_array_equal(tf.cast(result, tf.float32), [[0.5, 0], [0, 0.5]])


@pytest.mark.parametrize("traced", [False, True])
def test_ragged_tensors_keep_their_rows_in_elementwise_ops(traced):
    op = tf.function(ops.power) if traced else ops.power
    ragged = tf.ragged.constant([[1.0, 2.0], [3.0]])
    with tf.GradientTape() as tape:
        tape.watch(ragged.flat_values)
        result = op(ragged)
    assert result.to_list() == [[1, 4], [9]]
    assert tape.gradient(result.flat_values, ragged.flat_values).numpy().tolist() == [2, 4, 6]


@pytest.mark.parametrize(
    "value", [tf.ragged.constant([[1.0, 2.0], [3.0]]), tf.sparse.from_dense([[1.0, 0.0]])], ids=["ragged", "sparse"]
)
def test_other_composite_tensors_are_refused(value):
    with pytest.raises(TypeError, match=r"which cannot be passed as an array\.\n  Convert it with"):
        solve(MATRIX, value)


def test_a_function_may_leave_the_loop_to_the_host():
    seen = []
    op = differentiable_op(lambda x: (seen.append(x.shape), x.sum())[1], signature="(n)->()", vectorized=False)
    assert op(tf.ones([2, 3, 4])).numpy().tolist() == [[4, 4, 4], [4, 4, 4]]
    assert seen == [(4,)] * 6


@differentiable_op(signature="()->()", residuals={"square": ("()", np.float64)})
def cube_kept(x):
    return x**3, {"square": x**2}


@cube_kept.gradient
def cube_kept_gradient(op, cotangent):
    return 3 * op.residuals.square * cotangent


@pytest.mark.parametrize("traced", [False, True])
def test_residuals_are_guarded_in_vectorized_map_too(traced):
    def derivative(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = cube_kept(x)
        return tape.gradient(y, x)

    def second(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.vectorized_map(derivative, x) * x
        return tape.gradient(y, x)

    with pytest.raises(
        (GradientError, tf.errors.InvalidArgumentError),
        match="cannot differentiate a derivative rule through a residual",
    ):
        (tf.function(second, autograph=False) if traced else second)(tf.constant(X))


DETACHED = "TensorFlow cannot trace how the results of the rule depend on its inputs"
RAISED = (GradientError, tf.errors.InvalidArgumentError)
"""What eager code raises, and what a graph does when it runs."""


def test_forward_mode_through_a_rule_that_tensorflow_cannot_follow_raises():
    op = differentiable_op(
        lambda x: x**2,
        signature="()->()",
        grad=lambda op, cotangent: tf.numpy_function(np.multiply, [2 * op.inputs[0], cotangent], tf.float64),
    )
    with pytest.raises(GradientError, match=DETACHED):
        jvp(op, tf.constant(X))


def test_forward_mode_nests_and_mixes_with_reverse_mode():
    def forward(f):
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            y = f(x)
        return accumulator.jvp(y)

    def forward_over_forward(f):
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            first = forward(f)
        return accumulator.jvp(first)

    def reverse_over_forward(f):
        with tf.GradientTape() as tape:
            tape.watch(x)
            first = forward(f)
        return tape.gradient(first, x)

    x = tf.constant(X)
    for second in (forward_over_forward, reverse_over_forward):
        np.testing.assert_allclose(second(ops.exp), np.exp(X), err_msg=second.__name__)


def test_a_jvp_rule_works_without_a_known_shape():
    op = differentiable_op(lambda x: x**2, jvp=lambda op, tangent: 2 * op.inputs[0] * tangent)
    np.testing.assert_allclose(FORWARD_MODE["JVP in a function"](op, tf.constant(X)), jvp(tf.square, tf.constant(X)))


@pytest.mark.parametrize(("a", "b"), [((4,), (4, 2)), ((4,), (4,)), ((2, 4), (4,)), ((2, 4), (4, 2))])
@pytest.mark.parametrize("stacked", [(True, True), (True, False), (False, True)])
def test_optional_dimensions_are_batched(a, b, stacked):
    matmul = differentiable_op(lambda a, b: np.matmul(a, b), signature="(n?,k),(k,m?)->(n?,m?)")
    shapes = [(5, *shape) if flag else shape for shape, flag in zip((a, b), stacked, strict=True)]
    left, right = (np.arange(np.prod(shape), dtype=np.float64).reshape(shape) for shape in shapes)
    rows = [array for array, flag in zip((left, right), stacked, strict=True) if flag]

    def row(arguments):
        remaining = iter(arguments)
        return matmul(*(next(remaining) if flag else array for array, flag in zip((left, right), stacked, strict=True)))

    expected = [np.matmul(left[i] if stacked[0] else left, right[i] if stacked[1] else right) for i in range(5)]
    np.testing.assert_allclose(tf.vectorized_map(row, [tf.constant(array) for array in rows]), expected)


def test_text_keeps_its_zeros_in_vectorized_map():
    op = differentiable_op(lambda text: len(text.item()), dtype=np.int32)
    assert tf.vectorized_map(op, tf.constant([b"ab\0", b"c"])).numpy().tolist() == [3, 1]


@pytest.mark.parametrize("x", [1e3, 1e4, 5e-5, 1e-6])
@pytest.mark.parametrize(("function", "derivative"), [(np.sin, np.cos), (np.log, np.reciprocal)], ids=["sin", "log"])
def test_numerical_derivatives_find_the_scale_of_the_function(function, derivative, x):
    op = differentiable_op(lambda x: function(x), signature="()->()", grad="numerical")
    with tf.GradientTape() as tape:
        value = tf.constant(x, tf.float64)
        tape.watch(value)
        y = op(value)
    np.testing.assert_allclose(tape.gradient(y, value), derivative(x), rtol=1e-8)


@pytest.mark.parametrize("grad", ["numerical", "complex-step"])
def test_numerical_derivatives_of_methods(grad):
    class Scale:
        factor = 3.0

        @differentiable_op(signature="()->()", grad=grad)
        def scaled(self, x):
            return self.factor * x**2

    np.testing.assert_allclose(gradient(Scale().scaled, tf.constant(X)), gradient(lambda x: 3 * x**2, tf.constant(X)))


def total_gradient(f, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    return tape.gradient(y, x)


def through_numpy(x, y):
    return tf.numpy_function(np.multiply, [x, y], tf.float64)


def through_an_op_without_derivative(x, y):
    product = differentiable_op(lambda x, y: x * y, signature="(),()->()", non_differentiable=True)
    return product(x, y)


def in_mode(function, traced):
    return tf.function(function, autograph=False) if traced else function


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(
    "part",
    [
        through_numpy,
        through_an_op_without_derivative,
        lambda x, y: tf.stop_gradient(x * y),
        lambda x, y: x * y / 2 + through_numpy(x, y) / 2,
    ],
    ids=["numpy_function", "op", "stop_gradient", "half of it"],
)
def test_forward_mode_raises_if_tensorflow_cannot_follow_one_of_several_cotangents(part, traced):
    op = differentiable_op(
        lambda x, y: x * y, signature="(),()->()", grad=lambda op, g: (g * op.inputs[1], part(g, op.inputs[0]))
    )

    def product(z):
        return op(z[0], z[1])

    x, direction = tf.constant([2.0, 5.0], tf.float64), tf.constant([1.0, 1.0], tf.float64)
    np.testing.assert_allclose(total_gradient(product, x), [5, 2])
    with pytest.raises(RAISED, match=DETACHED):
        in_mode(lambda x: tangent(product, x, direction), traced)(x)


@pytest.mark.parametrize("traced", [False, True])
def test_forward_mode_raises_if_one_of_two_cotangents_goes_through_numpy(traced):
    op = differentiable_op(
        lambda x: (2 * x, 3 * x), signature="()->(),()", grad=lambda op, g, h: 2 * g + through_numpy(h, np.float64(3))
    )
    with pytest.raises(RAISED, match=DETACHED):
        in_mode(lambda x: jvp(lambda x: op(x)[1], x), traced)(tf.constant(X))


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(
    "zero", [lambda x, g: None, lambda x, g: tf.zeros_like(x), lambda x, g: tf.zeros_like(g)], ids=["None", "x", "g"]
)
def test_a_cotangent_of_constant_zeros_takes_part_in_forward_mode(zero, traced):
    op = differentiable_op(
        lambda x, y: x + np.sign(y), signature="(),()->()", grad=lambda op, g: (g, zero(op.inputs[1], g))
    )
    result = in_mode(lambda x: tangent(lambda x: op(x, x), x, tf.ones_like(x)), traced)(tf.constant(X))
    np.testing.assert_allclose(result, np.ones(3))


cube_in_numpy = differentiable_op(
    lambda x: x**3,
    signature="()->()",
    numpy_grad=lambda op, cotangent: 3 * op.inputs[0] ** 2 * cotangent,
    name="tests.transformations.cube_in_numpy",
)
NO_RULE = "cannot compute a second derivative: this numpy rule has no gradient rule"


@pytest.mark.parametrize("traced", [False, True])
def test_a_zero_tangent_that_is_followed_is_no_constant(traced):
    def by_direction(x):
        direction = tf.zeros_like(x)
        with tf.GradientTape() as tape:
            tape.watch(direction)
            product = tangent(lambda x: total_gradient(cube_in_numpy, x), x, direction)
        return tape.gradient(product, direction)

    with pytest.raises(RAISED, match=NO_RULE):
        in_mode(by_direction, traced)(tf.constant(X))


def value_and_gradient(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = cube_in_numpy(x)
    return y, tape.gradient(y, x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_inside_of_a_function_does_not_disturb_that_of_another_output(kind):
    op, native = KINDS[kind]

    def differentiate(f):
        return total_gradient(lambda x: tf.function(lambda x: (f(x), total_gradient(f, x)))(x)[0], tf.constant(X))

    np.testing.assert_allclose(differentiate(op), differentiate(native), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("traced", [False, True])
def test_a_second_derivative_that_is_wanted_still_raises(traced):
    with pytest.raises(RAISED, match=NO_RULE):
        total_gradient(lambda x: in_mode(value_and_gradient, traced)(x)[1], tf.constant(X))


def test_forward_mode_past_a_stopped_gradient():
    def stopped(x):
        y, derivative = value_and_gradient(x)
        return y * tf.stop_gradient(derivative)

    expected = 9 * X**4 * np.array([1.0, -2, 0.5])
    np.testing.assert_allclose(in_mode(lambda x: jvp(stopped, x), True)(tf.constant(X)), expected)
    np.testing.assert_allclose(total_gradient(stopped, tf.constant(X)), 9 * X**4)


@pytest.mark.parametrize("traced", [False, True])
def test_a_residual_may_be_differentiated_along_zero(traced):
    def derivative_times_zero(x):
        return total_gradient(cube_kept, x) * tf.zeros_like(x) + x

    result = in_mode(lambda x: total_gradient(derivative_times_zero, x), traced)(tf.constant(X))
    np.testing.assert_allclose(result, np.ones(3))


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("shape", [[3], [None]])
@pytest.mark.parametrize("is_known", [True, False])
def test_accumulators_nest_around_a_jvp_rule(is_known, shape, traced):
    def rule(op, t):
        result = 3 * op.inputs[0] ** 2 * t
        return result if is_known else tf.reshape(result, tf.boolean_mask(tf.shape(result), [True]))

    op = differentiable_op(lambda x: x**3, signature="()->()", jvp=rule)

    def second(x):
        return tangent(lambda x: tangent(op, x, tf.ones_like(x)), x, tf.ones_like(x))

    if traced:
        second = tf.function(second, autograph=False, input_signature=[tf.TensorSpec(shape, tf.float64)])
    np.testing.assert_allclose(second(tf.constant(X)), 6 * X)


@pytest.mark.parametrize("kind", ["numpy_jvp", "jvp", "numpy_grad"])
@pytest.mark.parametrize("stacked", ["primal", "tangent", "both"])
def test_forward_mode_over_rows_of_primals_or_tangents(stacked, kind):
    op = differentiable_op(lambda x: x**2, signature="()->()", **{kind: lambda op, t: 2 * op.inputs[0] * t})
    x = tf.constant(X)
    rows = tf.stack([x, 2 * x])
    primal, direction = (rows if stacked in (name, "both") else x for name in ("primal", "tangent"))

    def row(row):
        return tangent(op, row if stacked != "tangent" else x, row if stacked != "primal" else x)

    np.testing.assert_allclose(tf.vectorized_map(row, rows), 2 * primal * direction)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("rule", ["numpy_grad", "grad"])
def test_inputs_without_tangents_take_no_part_in_forward_mode(rule, traced):
    module = np if rule == "numpy_grad" else tf

    def rule_of_sum(op, g):
        with np.errstate(divide="ignore"):
            return g, g / (2 * module.sqrt(op.inputs[1]))

    op = differentiable_op(lambda x, y: x + np.sqrt(y), signature="(),()->()", **{rule: rule_of_sum})
    result = in_mode(lambda x: tangent(lambda x: op(x, tf.zeros_like(x)), x, tf.ones_like(x)), traced)(tf.constant(X))
    np.testing.assert_allclose(result, np.ones(3))


def test_outputs_without_cotangents_take_no_part_in_numerical_gradients():
    op = differentiable_op(lambda x: (2 * x, np.sqrt(x)), signature="()->(),()", grad="numerical")
    assert total_gradient(lambda x: op(x)[0], tf.zeros([], tf.float64)).numpy() == pytest.approx(2)


DETACHING = {
    "numpy": lambda op, g: g * np.exp(op.inputs[0]),
    ".numpy()": lambda op, g: g * np.exp(op.inputs[0].numpy()),
    "float": lambda op, g: tf.stack([g[i] * np.exp(float(op.inputs[0][i])) for i in range(3)]),
    "output": lambda op, g: g * op.outputs[0].numpy(),
    "cotangent": lambda op, g: g.numpy() * op.outputs[0],
    "numpy_function": lambda op, g: through_numpy(g, op.outputs[0]),
}


@pytest.mark.parametrize("detaching", DETACHING)
def test_second_derivatives_of_a_rule_that_calls_numpy_raise(detaching):
    op = differentiable_op(lambda x: np.exp(x), signature="()->()", grad=DETACHING[detaching])

    def second(x):
        return total_gradient(lambda x: total_gradient(lambda x: op(op(x)), x), x)

    x = tf.constant(X)
    np.testing.assert_allclose(total_gradient(op, x), np.exp(X))
    with pytest.raises(GradientError, match=DETACHED):
        second(x)
    with pytest.raises(GradientError, match=DETACHED):
        tangent(lambda x: total_gradient(lambda x: op(op(x)), x), x, x)


def test_second_derivatives_in_graphs_through_numpy_function_raise():
    op = differentiable_op(lambda x: np.exp(x), signature="()->()", grad=DETACHING["numpy_function"])
    function = tf.function(lambda x: total_gradient(lambda x: total_gradient(op, x), x), autograph=False)
    with pytest.raises(RAISED, match=DETACHED):
        function(tf.constant(X))


def _tape(function, x):
    return total_gradient(function, x)


def _accumulator(function, x):
    return tangent(function, x, tf.ones(3, tf.float64))


def _function_around(second, op, x):
    """Differentiate a function, whose derivatives TensorFlow makes as graphs beside its own."""
    return second(tf.function(op, autograph=False), x)


def _function_inside(second, op, x):
    """Differentiate inside of a function that captures what it differentiates by."""
    return tf.function(lambda: second(op, x), autograph=False)()


SECOND = {
    f"{outer.__name__}({inner.__name__})": lambda function, x, outer=outer, inner=inner: outer(
        lambda x: inner(function, x), x
    )
    for outer in (_tape, _accumulator)
    for inner in (_tape, _accumulator)
}


@pytest.mark.parametrize(
    ("second", "place"),
    [
        (second, place)
        for second in SECOND
        for place in (_function_around, _function_inside)
        if (second, place) != ("_tape(_accumulator)", _function_around)  # which TensorFlow does not have: see below
    ],
)
def test_second_derivatives_through_numpy_function_raise_where_tensors_are_captured(second, place):
    op = differentiable_op(lambda x: np.exp(x), signature="()->()", grad=DETACHING["numpy_function"])
    with pytest.raises(RAISED, match=DETACHED):
        place(SECOND[second], op, tf.constant(X))


EXP = differentiable_op(lambda x: np.exp(x), signature="()->()", grad=lambda op, g: g * op.outputs[0])


IN_FUNCTIONS = {
    "function": lambda op, g: g * tf.function(lambda x: through_numpy(x, x))(op.inputs[0]),
    "function in a function": lambda op, g: (
        g * tf.function(lambda x: tf.function(lambda x: through_numpy(x, x))(x))(op.inputs[0])
    ),
    "branch": lambda op, g: (
        g * tf.cond(tf.reduce_sum(g) > 0, lambda: through_numpy(op.inputs[0], op.inputs[0]), lambda: op.inputs[0])
    ),
    "loop": lambda op, g: g * tf.map_fn(lambda x: through_numpy(x, x), op.inputs[0]),
}


@pytest.mark.parametrize("rule", IN_FUNCTIONS)
@pytest.mark.parametrize("is_traced", [False, True])
def test_second_derivatives_through_numpy_function_in_a_function_raise(rule, is_traced):
    op = differentiable_op(lambda x: x**3 / 3, signature="()->()", grad=IN_FUNCTIONS[rule])
    second = in_mode(lambda x: SECOND["_tape(_tape)"](op, x), is_traced)
    with pytest.raises(RAISED, match=DETACHED):
        second(tf.constant(X))


def test_second_derivatives_through_functions_that_stay_in_tensorflow_are_right():
    rules = [
        lambda op, g: g * tf.function(lambda x: x * x)(op.inputs[0]),
        lambda op, g: g * tf.cond(tf.reduce_sum(g) > 0, lambda: op.inputs[0] ** 2, lambda: op.inputs[0]),
        lambda op, g: g * tf.map_fn(lambda x: EXP(x) * 0 + x * x, op.inputs[0]),
    ]
    for rule in rules:
        op = differentiable_op(lambda x: x**3 / 3, signature="()->()", grad=rule)
        second = tf.function(lambda x, op=op: SECOND["_tape(_tape)"](op, x), autograph=False)
        np.testing.assert_allclose(second(tf.constant(X)), 2 * X)


@pytest.mark.parametrize("function", [EXP, tf.exp], ids=["op", "TensorFlow"])
def test_a_tape_around_an_accumulator_around_a_function_gives_none(function):
    """If this fails, TensorFlow has learnt it: remove the exception from the page on forward mode."""
    assert _function_around(SECOND["_tape(_accumulator)"], function, tf.constant(X)) is None


@pytest.mark.parametrize("function", [EXP, tf.exp], ids=["op", "TensorFlow"])
@pytest.mark.parametrize("around", [_tape, _accumulator])
def test_what_the_page_advises_instead_is_right(function, around):
    x = tf.constant(X)
    inside = tf.function(lambda x: _accumulator(function, x), autograph=False)
    np.testing.assert_allclose(around(inside, x), np.exp(X))
    np.testing.assert_allclose(_function_around(SECOND["_accumulator(_tape)"], function, x), np.exp(X))


def test_a_rule_that_calls_numpy_may_run_under_a_tape_that_does_not_follow_it():
    op = differentiable_op(lambda x, y: np.exp(x) * y, signature="(),()->()")
    op.gradient(lambda op, g: (g * op.outputs[0], g * np.exp(op.inputs[0])))
    x, y = tf.constant(X), tf.constant(2.0, tf.float64)
    with tf.GradientTape() as outer:
        outer.watch(x)
        first = total_gradient(lambda x: op(x, y), x)
        loss = tf.reduce_sum(op(x, y)) + 0 * tf.reduce_sum(tf.stop_gradient(first))
    np.testing.assert_allclose(outer.gradient(loss, x), 2 * np.exp(X))


def test_rules_may_use_python_control_flow_and_constants_of_numpy():
    def rule(op, g):
        x, shift = op.inputs
        assert np.prod(x.shape) == 3
        sign = -1 if tf.reduce_sum(x) < 0 else 1
        return sign * g * np.float64(2) * x * int(shift), None

    op = differentiable_op(lambda x, shift: np.sign(x.sum()) * x**2 * shift, signature="(n),()->(n)", grad=rule)
    result = total_gradient(lambda x: total_gradient(lambda x: op(x, 3), x), tf.constant(X))
    np.testing.assert_allclose(result, [6, 6, 6])


MULTIPLY = differentiable_op(lambda a, b: a * b, signature="(),()->()", name="tests.transformations.multiply")
ROWS = tf.ragged.constant([[1.0, 2.0], [], [3.0]])


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(
    "partner", [2.0, ROWS, tf.constant([[10.0], [20.0], [30.0]]), tf.constant([[5.0]]), [[10.0], [20.0], [30.0]]]
)
def test_partners_of_ragged_tensors_broadcast_as_natively(partner, traced):
    expected = (ROWS * partner).to_list()
    assert in_mode(lambda: MULTIPLY(ROWS, partner), traced)().to_list() == expected
    assert in_mode(lambda: MULTIPLY(partner, ROWS), traced)().to_list() == expected


@pytest.mark.parametrize(
    "partner",
    [
        [1.0, 2.0, 3.0],
        tf.ragged.constant([[1.0], [2.0], [3.0]]),
        tf.ragged.constant([[[1.0], [2.0]], [], [[3.0]]]),
        tf.RaggedTensor.from_row_lengths(tf.ones([3, 3]), [2, 0, 1]),
    ],
    ids=["dense", "other rows", "deeper rows", "values with dimensions"],
)
def test_partners_of_ragged_tensors_with_other_rows_are_refused(partner):
    with pytest.raises(
        CoercionError,
        match=r"multiply'.*the ragged inputs do not have the same row lengths(.|\n)*Got: +float32\[3, \?\], ",
    ):
        MULTIPLY(ROWS, partner)


def test_the_token_of_an_op_over_rows_leads_to_its_derivatives_while_the_op_is_alive():
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()", name="tests.over_rows")
    op.gradient(lambda op, cotangent: (cotangent * op.inputs[1], cotangent * op.inputs[0]))
    concrete = op_def_of(op).specialize(None, {})
    alive = vectorized_map._differentiable(concrete, (True, False))
    again = vectorized_map.op_of_token(REGISTRY.token_of(alive))

    @tf.function(autograph=False)
    def differentiate(x, y):
        (z,) = bind(again, [x, y])
        return tf.gradients(z, [x, y])

    found = differentiate(tf.constant([1.0, 2.0, 3.0]), tf.constant(2.0))
    assert [gradient.numpy().tolist() for gradient in found] == [[2, 2, 2], 6]


def _squares(**rules):
    def vjp(op, cotangent):
        return 2 * op.inputs[0] * np.flip(np.cumsum(np.flip(cotangent, -1), -1), -1)

    def jvp(op, tangent):
        return np.cumsum(2 * op.inputs[0] * tangent, -1)

    known = {"numpy_grad": vjp, "numpy_jvp": jvp}
    options = {name: known.get(name) if rule is None else rule for name, rule in rules.items()}
    return differentiable_op(lambda x: np.cumsum(x**2, -1), signature="(n)->(n)", **options)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "rules",
    [
        {"numpy_grad": None, "numpy_jvp": None},
        {"numpy_grad": None, "jvp": "from-vjp"},
        {"numpy_jvp": None, "grad": "from-jvp"},
        {"grad": "numerical"},
    ],
    ids=str,
)
def test_a_function_that_a_tape_has_differentiated_has_tangents(rules, jit_compile):
    function = tf.function(_squares(**rules), jit_compile=jit_compile)
    x = tf.constant([1.0, 2.0])
    for _ in range(2):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        np.testing.assert_allclose(tape.gradient(y, x), [4, 4], rtol=1e-5)
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            y = function(x)
        np.testing.assert_allclose(accumulator.jvp(y), [2, 6], rtol=1e-5)
