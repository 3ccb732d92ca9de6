"""`@op.implicit` and `@op.stationary`: a rule states what the outputs solve; VJP, JVP and all orders come from it."""

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.sparse import linalg as sparse_linalg

from tests import modes, saved_ops
from tests.saved_derivatives import derivatives_when_loaded, gradient_of
from tests.test_jacobian import assert_derivatives, notes_of, tangents, weighted_gradient
from tfpyop import UNDEFINED, ContractError, GradientError, RegistrationError, differentiable_op
from tfpyop._op import op_def_of
from tfpyop._rules.implicit_derivatives import solver_of
from tfpyop.testing import CheckError, check_gradient, check_implicit, check_op

KINDS = ["implicit", "stationary"]
MATRIX = np.array([[4.0, 1, 0.5], [1, 3, 1], [0.5, 1, 5]])
X = np.array([[0.3, -0.7, 1.2], [0.5, -1, 0.2]])
OP_MODES = ["eager", "graph", "XLA"]


def asinh(kind, **options):
    """The solution of sinh(y) = x, elementwise."""
    op = differentiable_op(lambda x: np.arcsinh(x), signature="()->()")

    def equation(op):
        return tf.sinh(op.outputs[0]) - op.inputs[0]

    def objective(op):
        return tf.cosh(op.outputs[0]) - op.outputs[0] * op.inputs[0]

    getattr(op, kind)(equation if kind == "implicit" else objective, **options)
    return op


def solved(kind="implicit", *, wrt=None, solve=None, verify=None, **options):
    """The solution of a y = b, a symmetric."""
    op = differentiable_op(lambda a, b: np.linalg.solve(a, b[..., None])[..., 0], signature="(n,n),(n)->(n)", **options)

    def equation(op):
        return tf.linalg.matvec(op.inputs[0], op.outputs[0]) - op.inputs[1]

    def objective(op):
        (a, b), (y,) = op.inputs, op.outputs
        return tf.reduce_sum(y * (tf.linalg.matvec(a, y) / 2 - b), -1)

    getattr(op, kind)(equation if kind == "implicit" else objective, wrt=wrt, solve=solve, verify=verify)
    return op


def gmres(matvec, right):
    """SciPy's solver, which needs values."""

    def product(vector):
        return matvec(tf.constant(vector.reshape(right.shape), right.dtype)).numpy()

    shape = (right.shape[0], right.shape[0])
    found, status = sparse_linalg.gmres(sparse_linalg.LinearOperator(shape, product), right.numpy(), rtol=1e-12)
    assert status == 0
    return found


def richardson(matvec, right):
    """A solver in TensorFlow ops."""
    return tf.while_loop(lambda i, x: i < 600, lambda i, x: [i + 1, x + 0.2 * (right - matvec(x))], [0, 0 * right])[1]


def natively(a, b):
    return tf.linalg.solve(a, b[..., None])[..., 0]


SOLVERS = [None, "cg", "normal-cg", richardson]


# -- values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_gradients_in_every_mode(mode, kind):
    (found,) = modes.gradient(mode, asinh(kind), X)
    np.testing.assert_allclose(found, 1 / np.sqrt(1 + X**2))


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_gradients_of_vectors_in_every_mode(mode, solve):
    expected = modes.gradient("tape, eager", natively, np.stack([MATRIX, MATRIX]), X)
    for found, value in zip(
        modes.gradient(mode, solved(solve=solve), np.stack([MATRIX] * 2), X), expected, strict=True
    ):
        np.testing.assert_allclose(found, value, rtol=1e-9)


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA", "XLA, unknown sizes"])
def test_jvps_in_every_mode(mode, solve):
    op = solved(solve=solve)
    shaped = lambda a, b: tangents(op, tf.ensure_shape(a, [2, 3, 3]), tf.ensure_shape(b, [2, 3]))  # noqa: E731
    found = modes.call(mode, shaped, np.stack([MATRIX] * 2), X)
    expected = tangents(natively, tf.constant(np.stack([MATRIX] * 2)), tf.constant(X))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 1, 3)])
def test_elementwise_shapes(kind, shape):
    assert_derivatives(asinh(kind), tf.asinh, np.random.default_rng(0).normal(size=shape))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize("shapes", [((3, 3), (3,)), ((3, 3), (4, 3)), ((4, 1, 3, 3), (2, 3)), ((0, 3, 3), (3,))])
def test_loop_dimensions_are_broadcast(kind, vectorized, shapes):
    op = solved(kind, vectorized=vectorized)
    a = np.broadcast_to(MATRIX, shapes[0]) * 1.0
    b = np.random.default_rng(0).normal(size=shapes[1])

    def native(a, b):  # the objective depends on the symmetric part of the matrix only
        a, b = _broadcast(a, b)
        return natively(a if kind == "implicit" else (a + tf.linalg.matrix_transpose(a)) / 2, b)

    assert_derivatives(op, native, a, b)


def _broadcast(a, b):
    loop = tf.broadcast_static_shape(a.shape[:-2], b.shape[:-1])
    return tf.broadcast_to(a, loop + a.shape[-2:]), tf.broadcast_to(b, loop + b.shape[-1:])


def test_vectors_without_elements():
    op = solved()
    found = weighted_gradient(op, tf.zeros([0, 0]), tf.zeros([0]))
    assert [value.shape.as_list() for value in found] == [[0, 0], [0]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_real_dtypes(kind, dtype):
    assert_derivatives(asinh(kind), tf.asinh, X.astype(dtype), rtol={"float16": 2e-2, "float32": 1e-5}.get(dtype, 1e-9))


@pytest.mark.parametrize("solve", SOLVERS[:3])
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_values(dtype, solve):
    a = (MATRIX + 0.3j * (np.triu(MATRIX, 1) - np.tril(MATRIX, -1))).astype(dtype)  # Hermitian
    b = (X + 1j * X[::-1]).astype(dtype)
    assert_derivatives(solved(solve=solve), lambda a, b: natively(*_broadcast(a, b)), a, b, rtol=2e-4)


def test_an_equation_that_is_not_analytic():
    op = differentiable_op(lambda x: np.conj(x) / 2 + 1j * np.abs(x) ** 2, signature="()->()")
    op.implicit(
        lambda op: (
            tf.math.conj(2 * op.outputs[0] - 2j * tf.cast(tf.abs(op.inputs[0]) ** 2, "complex128")) - op.inputs[0]
        )
    )
    native = lambda x: tf.math.conj(x) / 2 + 1j * tf.cast(tf.abs(x) ** 2, "complex128")  # noqa: E731
    assert_derivatives(op, native, X[0] + 1j * X[1])


def test_outputs_of_other_dtypes_and_cores_and_integers():
    op = differentiable_op(
        lambda x: (x.sum(-1), (x * (1 + 1j)) ** 2, np.round(x).astype("i4")),
        signature="(n)->(),(n),(n)",
        dtype=(None, "complex128", "int32"),
    )

    @op.implicit
    def equations(op):
        (x,), (total, square, _) = op.inputs, op.outputs
        return total - tf.reduce_sum(x, -1), tf.sqrt(square) - tf.cast(x, "complex128") * (1 + 1j), "never read"

    x = np.abs(X)

    def native(x):
        return tf.cast(tf.reduce_sum(x, -1), "complex128"), (tf.cast(x, "complex128") * (1 + 1j)) ** 2

    def in_one_dtype(x):
        total, square, _ = op(x)
        return tf.cast(total, "complex128"), square

    assert_derivatives(in_one_dtype, native, x)


def test_outputs_that_solve_two_equations_together():
    op = differentiable_op(
        lambda s, p: (s / 2 + np.sqrt(s**2 / 4 - p), s / 2 - np.sqrt(s**2 / 4 - p)), signature="(),()->(),()"
    )
    op.implicit(lambda op: (sum(op.outputs) - op.inputs[0], op.outputs[0] * op.outputs[1] - op.inputs[1]))
    native = lambda s, p: (s / 2 + tf.sqrt(s**2 / 4 - p), s / 2 - tf.sqrt(s**2 / 4 - p))  # noqa: E731
    assert_derivatives(op, native, np.array([3.0, 5.0]), np.array([[2.0], [1.0]]))


def test_ops_without_a_signature_have_core_dimensions_only():
    op = differentiable_op(lambda x: np.linalg.inv(x))
    op.implicit(lambda op: op.inputs[0] @ op.outputs[0] - tf.eye(3, dtype=op.inputs[0].dtype))
    assert_derivatives(op, tf.linalg.inv, MATRIX)


# -- inputs


def test_an_input_of_which_the_residual_does_not_depend_has_no_gradient():
    op = differentiable_op(lambda x, y: np.arcsinh(x) + 0 * y, signature="(),()->()")
    op.implicit(lambda op: tf.sinh(op.outputs[0]) - op.inputs[0])
    x, y = tf.constant(X), tf.constant(X)
    found = weighted_gradient(op, x, y)
    assert found[1] is None
    np.testing.assert_allclose(found[0], weighted_gradient(tf.asinh, x)[0])
    with tf.autodiff.ForwardAccumulator(y, tf.ones_like(y)) as accumulator:
        z = op(x, y)
    assert not np.any(accumulator.jvp(z))


@pytest.mark.parametrize("mode", ["tape, eager", "tape inside", "gradients", "tape inside, XLA"])
@pytest.mark.parametrize("solve", [None, "normal-cg"])
def test_the_same_tensor_twice(mode, solve):
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()")
    op.implicit(lambda op: op.outputs[0] - op.inputs[0] * op.inputs[1], solve=solve)
    (found,) = modes.gradient(mode, lambda x: op(x, x), X)
    np.testing.assert_allclose(found, 2 * X)


@pytest.mark.parametrize("kind", KINDS)
def test_an_op_without_arguments(kind):
    op = differentiable_op(lambda: np.float64(2), signature="->()", dtype="float64")
    getattr(op, kind)(lambda op: (op.outputs[0] - 2) ** 2)
    x = tf.Variable(3.0, dtype=tf.float64)
    with tf.GradientTape() as tape:
        y = op() * x
    assert tape.gradient(y, x).numpy() == 2


@pytest.mark.parametrize("mode", OP_MODES)
def test_needs(mode):
    seen = []
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()")

    @op.implicit
    def equation(op):
        seen.append(op.needs)
        return op.outputs[0] - op.inputs[0] * op.inputs[1]

    def differentiate(x, y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            z = op(x, y)
        return tape.gradient(z, y)

    np.testing.assert_allclose(modes.call(mode, differentiate, X, X + 1), X)
    assert set(seen) == {(False, True)}


@pytest.mark.parametrize("mode", ["tape, eager", "tape inside", "gradients", "tape inside, XLA"])
def test_rules_for_some_inputs(mode):
    op = solved(wrt="b")
    op.numpy_gradient(lambda op, g: -np.linalg.solve(op.inputs[0], g[..., None]) * op.outputs[0][..., None, :], wrt="a")
    a = np.stack([MATRIX] * 2)
    expected = modes.gradient("tape, eager", natively, a, X)
    for found, value in zip(modes.gradient(mode, op, a, X), expected, strict=True):
        np.testing.assert_allclose(found, value)
    by_b = tangents(lambda b: op(a, b), tf.constant(X))
    np.testing.assert_allclose(by_b, tangents(lambda b: natively(tf.constant(a), b), tf.constant(X)))


@pytest.mark.parametrize("mode", ["tape, eager", "tape inside", "gradients"])
def test_methods_and_static_arguments(mode):
    class Power:
        def __init__(self, factor):
            self.factor = factor

        @differentiable_op(signature="()->()")
        def root(self, x, *, degree=2):
            return (x / self.factor) ** (1 / degree)

        @root.implicit
        def equation(self, op):
            return self.factor * op.outputs[0] ** op.static.degree - op.inputs[0]

    x = np.abs(X)
    for factor in (3, 5):
        (found,) = modes.gradient(mode, lambda x, f=factor: Power(f).root(x, degree=3), x)
        np.testing.assert_allclose(found, (x / factor) ** (-2 / 3) / 3 / factor)
    assert check_implicit(Power(2.0).root, max_examples=5, seed=1).status == "passed"


# -- other ops in the residual


@pytest.mark.slow
@pytest.mark.parametrize("solve", [None, "normal-cg", richardson])
@pytest.mark.parametrize("inner", ["numpy_gradient", "numerical", "numpy_jacobian"])
@pytest.mark.parametrize("mode", OP_MODES)
def test_ops_with_numpy_and_numerical_rules_in_the_residual(mode, inner, solve):
    if inner == "numerical":
        cube = differentiable_op(lambda x: x + x**3, signature="()->()", grad="numerical")
    else:
        cube = differentiable_op(lambda x: x + x**3, signature="()->()")
        rules = {"numpy_jacobian": lambda op: 1 + 3 * op.inputs[0] ** 2}
        getattr(cube, inner)(rules.get(inner, lambda op, g: (1 + 3 * op.inputs[0] ** 2) * g))
    op = differentiable_op(lambda x: x + x**3, signature="()->()")
    op.implicit(lambda op: (op.outputs[0] - cube(op.inputs[0])) * (0.2 if solve is richardson else 1), solve=solve)
    inverse = differentiable_op(
        lambda y: np.sinh(np.arcsinh(1.5 * np.sqrt(3) * y) / 3) * 2 / np.sqrt(3), signature="()->()"
    )
    inverse.implicit(lambda op: cube(op.outputs[0]) - op.inputs[0], solve=solve if solve is not richardson else None)

    def derivatives(x):
        return [*weighted_gradient(op, x), *tangents(op, x), *weighted_gradient(inverse, x), *tangents(inverse, x)]

    y, weights = tf.constant(inverse(X)), np.arange(1, 7).reshape(2, 3)
    found = modes.call(mode, derivatives, X)
    slope, inverse_slope = 1 + 3 * X**2, 1 / (1 + 3 * y.numpy() ** 2)
    for value, expected in zip(found, [slope, slope, inverse_slope, inverse_slope], strict=True):
        np.testing.assert_allclose(value, weights * expected, rtol=1e-6)


def test_a_second_derivative_needs_second_derivatives_of_the_ops_in_the_residual():
    cube = differentiable_op(lambda x: x**3, signature="()->()", numpy_grad=lambda op, g: 3 * op.inputs[0] ** 2 * g)
    op = differentiable_op(lambda x: np.cbrt(x), signature="()->()")
    op.implicit(lambda op: cube(op.outputs[0]) - op.inputs[0])
    x = tf.constant(X)
    with tf.GradientTape() as outer:
        outer.watch(x)
        (first,) = weighted_gradient(op, x)
    with pytest.raises(GradientError, match=r"cannot compute a second derivative: this numpy rule has no gradient"):
        outer.gradient(first, x)


# -- higher orders


def third(function, x):
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as middle:
            middle.watch(x)
            (first,) = weighted_gradient(function, x)
        second = middle.gradient(first, x)
    return first, second, outer.gradient(second, x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", OP_MODES)
def test_third_derivatives(mode, kind):
    found = modes.call(mode, lambda x: third(asinh(kind), x), X)
    np.testing.assert_allclose(found, third(tf.asinh, tf.constant(X)), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("mode", OP_MODES)
def test_third_derivatives_of_vectors(mode, solve):
    matrix = tf.constant(MATRIX)

    def along(function):
        return lambda x: function(matrix + tf.linalg.diag(x), tf.sin(x))

    found = modes.call(mode, lambda x: third(along(solved(solve=solve)), x), X[0])
    np.testing.assert_allclose(found, third(along(natively), tf.constant(X[0])), rtol=1e-7, atol=1e-9)


# -- solve=


def test_a_solver_of_scipy_in_eager_code():
    a = np.stack([MATRIX + np.triu(np.ones([3, 3]), 1), MATRIX])
    assert_derivatives(solved(solve=gmres), natively, a, X)


@pytest.mark.parametrize("solve", ["cg", "normal-cg"])
def test_rows_that_need_nothing_and_rows_that_converge_at_once(solve):
    op, a, b = solved(solve=solve), tf.constant(np.stack([MATRIX, np.eye(3), MATRIX])), tf.constant(np.ones([3, 3]))
    with tf.GradientTape() as tape:
        tape.watch(b)
        y = op(a, b)
        loss = tf.reduce_sum(y[1:] ** 3)
    found = tape.gradient(loss, b)
    expected = np.linalg.solve(a, 3 * y.numpy()[..., None] ** 2)[..., 0] * [[0], [1], [1]]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("mode", OP_MODES)
@pytest.mark.parametrize("solve", ["cg", "normal-cg", lambda matvec, right: 0 * right])
def test_a_solver_that_finds_no_solution(mode, solve):
    op = differentiable_op(lambda b: b * 0 + 1, signature="(n)->(n)")
    op.implicit(lambda op: 0 * op.outputs[0] - op.inputs[0], solve=solve)
    message = (
        r"the linear solver in solve= found no solution. The Jacobian of the residual by the outputs may be singular.\n"
        r"  Expected: an error relative to the right-hand side up to 1.49e-08\n"
    )
    with pytest.raises((GradientError, tf.errors.InvalidArgumentError), match=message):
        modes.call(mode, lambda b: weighted_gradient(op, b)[0], X)


def test_a_solver_that_does_not_return_zeros_for_zeros():
    op = solved(solve=lambda matvec, right: 0 * right - 1)
    with pytest.raises(GradientError, match=r"the linear solver in solve= found no solution"):
        weighted_gradient(lambda a, b: 0 * op(a, b), tf.constant(MATRIX), tf.constant(X[0]))


def test_a_solver_that_returns_another_shape():
    op = solved(solve=lambda matvec, right: right[:1])
    with pytest.raises(
        ContractError, match=r"vector of the wrong shape.\n  Expected: float64\(6,\)\n  Got:      float64\(1,\)"
    ):
        weighted_gradient(op, tf.constant(MATRIX), tf.constant(X))


@pytest.mark.parametrize(
    ("solve", "remedy"),
    [("gc", "Known: 'cg', 'normal-cg'."), (3, "Omit solve= to solve with a matrix."), (True, "Omit solve=")],
)
def test_invalid_solvers(solve, remedy):
    with pytest.raises(
        RegistrationError, match=rf"solve= is invalid.\n  Expected: 'cg', 'normal-cg', or a(.|\n)*{remedy}"
    ):
        solved(solve=solve)


def mixed(function, a, b):
    """Second derivatives by the input that the inner derivative is not by."""
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(a)
        with tf.GradientTape() as inner:
            inner.watch(b)
            with tf.autodiff.ForwardAccumulator(b, tf.cos(b)) as accumulator:
                y = function(a, b)
            value = tf.reduce_sum(y**2)
        by_cotangent, by_tangent = inner.gradient(value, b), accumulator.jvp(y)
    return outer.gradient(by_cotangent, a), outer.gradient(by_tangent, a)


@pytest.mark.parametrize("n", [2, 65])
def test_eager_jacobians_with_and_without_a_loop(n):
    a = np.diag(np.linspace(1, 2, n)) + 0.1 / n
    assert_derivatives(solved(), natively, a, np.cos(np.arange(n)))


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_second_derivatives_by_an_input_that_the_first_derivative_does_not_need(mode, solve):
    found = modes.call(mode, lambda a, b: mixed(solved(solve=solve), a, b), MATRIX, X[0])
    for value, expected in zip(found, mixed(natively, tf.constant(MATRIX), tf.constant(X[0])), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-7, atol=1e-9)


def along(function):
    return lambda x: function(tf.constant(MATRIX) + tf.linalg.diag(x), tf.sin(x))


def gradient(function, x):
    return weighted_gradient(function, x)[0]


def tangent(function, x):
    return tangents(function, x)[0]


NESTED = {
    "forward over reverse, function inside": lambda f, x: tangent(lambda x: gradient(tf.function(f), x), x),
    "forward over reverse, function around": lambda f, x: tangent(tf.function(lambda x: gradient(f, x)), x),
    "reverse over forward": lambda f, x: gradient(lambda x: tangent(f, x), x),
    "forward over forward": lambda f, x: tangent(lambda x: tangent(f, x), x),
    "gradients of gradients": tf.function(lambda f, x: tf.gradients(tf.gradients(f(x), x), x)[0]),
    "a gradient of rows": lambda f, x: gradient(lambda x: tf.vectorized_map(f, tf.stack([x, 2 * x])), x),
    "a gradient of a gradient of rows": lambda f, x: gradient(
        lambda x: gradient(lambda x: tf.vectorized_map(f, tf.stack([x, 2 * x])), x), x
    ),
    "gradients of gradients over rows": lambda f, x: tf.vectorized_map(
        lambda x: gradient(lambda x: gradient(f, x), x), tf.stack([x, 2 * x])
    ),
    "a gradient of rows of gradients": lambda f, x: gradient(
        lambda x: tf.vectorized_map(lambda x: gradient(f, x), tf.stack([x, 2 * x])), x
    ),
    "tangents of rows of gradients": lambda f, x: tangent(
        lambda x: tf.vectorized_map(lambda x: gradient(f, x), tf.stack([x, 2 * x])), x
    ),
    "a gradient of rows of rows of gradients": lambda f, x: gradient(
        lambda x: tf.vectorized_map(lambda x: tf.vectorized_map(lambda x: gradient(f, x), x), tf.stack([[x], [2 * x]])),
        x,
    ),
    "a Jacobian of a gradient": lambda f, x: jacobian(lambda x: gradient(f, x), x),
}


def jacobian(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.jacobian(y, x)


@pytest.mark.slow
@pytest.mark.parametrize("solve", ["cg", "normal-cg"])
@pytest.mark.parametrize("is_traced", [False, True])
@pytest.mark.parametrize("name", NESTED)
def test_solutions_without_a_matrix_are_differentiated_in_every_nesting(name, is_traced, solve):
    def transform(op):
        return tf.function(lambda x: NESTED[name](along(op), x)) if is_traced else lambda x: NESTED[name](along(op), x)

    x = tf.constant(X[0])
    np.testing.assert_allclose(transform(solved(solve=solve))(x), transform(natively)(x), rtol=1e-7, atol=1e-9)


# -- singular Jacobians

SINGULAR = r"the Jacobian of the residual by the outputs is singular.\n  Expected: a reciprocal condition number"


def root(**options):
    op = differentiable_op(lambda x: np.sqrt(x), signature="()->()")
    op.implicit(lambda op: op.outputs[0] ** 2 - op.inputs[0], **options)
    return op


@pytest.mark.parametrize("mode", OP_MODES)
@pytest.mark.parametrize("derivative", ["gradient", "tangent"])
def test_a_singular_equation_of_one_unknown(mode, derivative):
    op = root()
    function = {"gradient": weighted_gradient, "tangent": tangents}[derivative]
    with pytest.raises((GradientError, tf.errors.InvalidArgumentError), match=SINGULAR) as caught:
        modes.call(mode, lambda x: function(op, x)[0], np.array([4.0, 0.0, 1.0]))
    text = str(caught.value)
    assert "implicit rule of op" in text
    assert "Got:      0, at element [1] of the loop dimensions" in text


@pytest.mark.parametrize("mode", OP_MODES)
@pytest.mark.parametrize("derivative", ["gradient", "tangent"])
@pytest.mark.parametrize("n_equal", [1, 2])
def test_a_singular_equation_of_several_unknowns(mode, derivative, n_equal):
    row = np.array([0.1, 0.7, 1.3])  # which elimination does not reduce to zeros exactly
    matrix = np.stack([row, 3 * row, [1.0, 0, 0]]) if n_equal == 1 else np.stack([row, row / 3, row * 7])
    op = differentiable_op(lambda b: b * 0, signature="(n)->(n)")
    op.implicit(lambda op: tf.linalg.matvec(matrix, op.outputs[0]) - op.inputs[0])
    function = {"gradient": weighted_gradient, "tangent": tangents}[derivative]
    with pytest.raises((GradientError, tf.errors.InvalidArgumentError), match=SINGULAR):
        modes.call(mode, lambda x: function(op, x)[0], X)


@pytest.mark.parametrize("mode", OP_MODES)
def test_a_tangent_of_zero_over_zero_is_an_error(mode):
    op = differentiable_op(lambda x: np.abs(x), signature="()->()")
    op.implicit(lambda op: op.outputs[0] ** 2 - op.inputs[0] ** 2)
    with pytest.raises((GradientError, tf.errors.InvalidArgumentError), match=SINGULAR):
        modes.call(mode, lambda x: tangents(op, x)[0], np.array([0.0, 1.0]))


@pytest.mark.parametrize("mode", OP_MODES)
def test_a_cotangent_of_zero_needs_no_solution(mode):
    def masked(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = root()(x)
            loss = tf.reduce_sum(tf.where(x > 0, y, tf.ones_like(y)))
        return tape.gradient(loss, x)

    assert modes.call(mode, masked, np.array([4.0, 0.0, 1.0])).tolist() == [0.25, 0, 0.5]


@pytest.mark.parametrize(
    "residual", [lambda x, y: (y**2 - x) ** 2, lambda x, y: y**4 - 2 * x * y**2 + x**2], ids=["square", "expanded"]
)
def test_a_jacobian_that_is_singular_up_to_rounding_is_found_by_check_gradient(residual):
    op = differentiable_op(lambda x: np.sqrt(x), signature="()->()", domain="[1, 10]")
    op.implicit(lambda op: residual(op.inputs[0], op.outputs[0]))
    with pytest.raises(CheckError, match=r"the Jacobian of the residual by the outputs is singular"):
        check_gradient(op, max_examples=50, seed=1)


def test_the_units_of_equations_and_unknowns_do_not_matter():
    op = differentiable_op(lambda b: b * [1e-20, 1e25], signature="(2)->(2)")
    op.implicit(lambda op: op.outputs[0] * [1e30, 1e-15] - op.inputs[0] * [1e10, 1e10])
    (found,) = weighted_gradient(op, tf.constant(X[0, :2]))
    np.testing.assert_allclose(found, [1e-20, 2e25])


@pytest.mark.parametrize("mode", OP_MODES)
def test_a_jacobian_that_is_not_finite(mode):
    op = differentiable_op(lambda x: x**2, signature="()->()")
    op.implicit(lambda op: tf.sqrt(op.outputs[0]) - op.inputs[0])
    message = r"by the outputs is not finite.\n(.|\n)*Check that the residual is differentiable at the solution"
    with pytest.raises((GradientError, tf.errors.InvalidArgumentError), match=message):
        modes.call(mode, lambda x: weighted_gradient(op, x)[0], np.array([0.0, 1.0]))


# -- verify=


@pytest.mark.parametrize("mode", OP_MODES)
@pytest.mark.parametrize("derivative", ["gradient", "tangent"])
@pytest.mark.parametrize("solve", [None, "cg"])
def test_a_residual_that_is_not_zero(mode, derivative, solve):
    op = differentiable_op(lambda x: np.sqrt(x) + 1e-3 * (x > 3), signature="()->()")
    op.implicit(lambda op: op.outputs[0] ** 2 - op.inputs[0], verify=1e-6, solve=solve)
    function = {"gradient": weighted_gradient, "tangent": tangents}[derivative]
    np.testing.assert_allclose(modes.call(mode, lambda x: function(op, x)[0], np.array([1.0])), [0.5])
    message = (
        r"implicit rule of op .*: the residual is not zero at the value that the function returned.\n"
        r"  Expected: absolute values up to 1e-06\n  Got:      0.004, at element \[1\] of the loop dimensions\n"
    )
    with pytest.raises((GradientError, tf.errors.InvalidArgumentError), match=message):
        modes.call(mode, lambda x: function(op, x)[0], np.array([1.0, 4.0]))


def test_a_value_that_is_not_stationary():
    op = differentiable_op(lambda x: 1.1 * x, signature="()->()")
    op.stationary(lambda op: (op.outputs[0] - op.inputs[0]) ** 2, verify=1e-3)
    with pytest.raises(GradientError) as caught:
        weighted_gradient(op, tf.constant(X))
    assert "): the gradient of the objective is not zero at the value that the function returned." in str(caught.value)
    assert str(caught.value).endswith(
        "Check that the function returns a stationary point of this objective. Reduce the tolerance of the optimizer, "
        "or increase verify=, the largest absolute value of the gradient that is allowed."
    )


def test_an_invalid_limit_of_a_gradient():
    message = (
        r"verify= is invalid.\n  Expected: the largest absolute value of the gradient of the objective, a positive"
    )
    with pytest.raises(RegistrationError, match=message):
        solved("stationary", verify=0)


@pytest.mark.parametrize("verify", [0, -1.0, True, "yes", float("nan"), float("inf")])
def test_invalid_limits(verify):
    with pytest.raises(RegistrationError, match=r"verify= is invalid.\n  Expected: the largest absolute value of the"):
        root(verify=verify)


# -- errors


def raised(error, result, *, kind="implicit", function=lambda x: np.sqrt(x), signature="()->()", mode="eager", x=X):
    op = differentiable_op(function, signature=signature, name="tests.implicit.raised")
    getattr(op, kind)(result)
    with pytest.raises(error) as caught:
        modes.call(mode, lambda x: weighted_gradient(op, x)[0], np.abs(x))
    return str(caught.value)


@pytest.fixture(autouse=True)
def _several_ops_of_one_name(monkeypatch):
    monkeypatch.setattr("tfpyop._registry.registry.Registry.register", lambda *_, **__: None)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_residual_of_the_wrong_shape(mode):
    text = raised(ContractError, lambda op: tf.reduce_sum(op.outputs[0] ** 2 - op.inputs[0]), mode=mode)
    assert "implicit of op 'tests.implicit.raised'" in text
    assert "the residual of output 0 has the wrong shape.\n  Expected: float64[2, 3]\n  Got:      float64[]\n" in text
    assert "Return each residual in the shape and dtype of its output." in text


WRONG_SHAPES = {"one row": lambda f: f[:1], "a scalar": lambda f: f[0, 0], "twice": lambda f: tf.concat([f, f], 0)}
CHECKED, COMPILED = "tape inside, unknown shapes", "tape inside, XLA, unknown sizes"
OF_SHAPES = {
    (CHECKED, "one row"): "the residual does not have the shape of its output",
    (CHECKED, "twice"): "the residual does not have the shape of its output",
    # the gradient of the reshape, whose shape is a constant, may run before the assertion
    (
        CHECKED,
        "a scalar",
    ): "the residual does not have the shape of its output|Input to reshape is a tensor with 6 values",
    # XLA ignores assertions, and knows the shapes when it compiles
    (COMPILED, "one row"): "Input to reshape is a tensor with 3 values, but the requested shape has 6",
    (COMPILED, "twice"): "Input to reshape is a tensor with 12 values, but the requested shape has 6",
    (COMPILED, "a scalar"): "the residual of output 0 has the wrong shape",
}


@pytest.mark.parametrize(("mode", "wrong"), OF_SHAPES)
def test_a_wrong_shape_where_sizes_are_unknown(mode, wrong):
    op = differentiable_op(lambda x: np.sqrt(x), signature="()->()")
    op.implicit(lambda op: WRONG_SHAPES[wrong](tf.ensure_shape(op.outputs[0] ** 2 - op.inputs[0], [None, None])))
    with pytest.raises((ContractError, tf.errors.InvalidArgumentError), match=OF_SHAPES[mode, wrong]):
        modes.gradient(mode, op, np.abs(X))


def test_a_residual_of_the_wrong_dtype():
    text = raised(ContractError, lambda op: tf.cast(op.outputs[0] ** 2 - op.inputs[0], tf.float32))
    assert "the residual of output 0 has the wrong dtype.\n  Expected: float64[2, 3]\n  Got:      float32[2, 3]" in text


@pytest.mark.parametrize(
    ("result", "got"), [((1.0, 2.0, 3.0), "a tuple of 3"), (1.0, "one float"), (None, "one NoneType")]
)
def test_a_wrong_count_of_residuals(result, got):
    text = raised(ContractError, lambda op: result, function=lambda x: (x, x), signature="()->(),()")
    assert "an implicit rule returned the wrong number of residuals." in text
    assert f"Expected: 2, one for each of op.outputs\n  Got:      {got}\n" in text


def test_a_residual_of_none():
    text = raised(ContractError, lambda op: None)
    assert "the residual of output 0 is None.\n  Expected: float64[2, 3]\n  Got:      None" in text


def test_a_residual_that_does_not_depend_on_the_output():
    text = raised(GradientError, lambda op: op.inputs[0] - 2)
    assert "is singular" in text
    assert "Check that the residual depends on every output" in text


@pytest.mark.parametrize(
    ("objective", "expected", "got"),
    [
        (lambda op: op.outputs[0] ** 2, "float64[2]", "float64[2, 3]"),
        (lambda op: tf.reduce_sum(op.outputs[0] ** 2), "float64[2]", "float64[]"),
        (lambda op: tf.cast(tf.reduce_sum(op.outputs[0], -1), "complex64"), "float64[2]", "complex64[2]"),
    ],
)
def test_an_objective_that_is_not_one_number_for_each_element(objective, expected, got):
    text = raised(ContractError, objective, kind="stationary", signature="(n)->(n)")
    assert "the objective is not one real number for each element of the loop dimensions." in text
    assert f"Expected: {expected}\n  Got:      {got}\n  Sum over the core dimensions" in text


@pytest.mark.parametrize("result", [None, (1.0,)])
def test_a_wrong_count_of_objectives(result):
    text = raised(ContractError, lambda op: result, kind="stationary")
    assert "a stationary rule returned the wrong number of objectives.\n  Expected: one tensor" in text
    assert ("Check that the rule has a return statement." in text) == (result is None)
    assert "@op.implicit" not in text


def test_an_objective_that_does_not_depend_on_the_output():
    text = raised(GradientError, lambda op: op.inputs[0], kind="stationary")
    assert "stationary of op 'tests.implicit.raised'" in text
    assert "the objective does not depend on output 0." in text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "result",
    [
        lambda op: op.outputs[0] ** 2 - np.exp(np.log(op.inputs[0])),
        lambda op: op.outputs[0] ** 2 - tf.numpy_function(np.positive, [op.inputs[0]], tf.float64),
    ],
    ids=["numpy", "numpy_function"],
)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_numpy_in_a_residual(kind, result, mode):
    text = raised(GradientError, result, kind=kind, mode=mode)
    assert (
        "TensorFlow cannot trace how the" in text or f"the op's {kind} rule calls numpy on a symbolic tensor." in text
    )
    assert text.endswith(", or make the numpy part an op of its own with differentiable_op.")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("result", [UNDEFINED, (UNDEFINED,)])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_rule_that_returns_undefined(kind, result, mode):
    if kind == "stationary" and isinstance(result, tuple):
        pytest.skip("an objective in a tuple is another error")
    text = raised(GradientError, lambda op: result, kind=kind, mode=mode)
    article = {"implicit": "an", "stationary": "a"}[kind]
    assert f"{kind} of op 'tests.implicit.raised'" in text
    assert f": {article} {kind} rule returned UNDEFINED.\n  Expected: a" in text
    assert "name the inputs in non_differentiable=" in text


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_gradient_in_place_of_an_objective(mode):
    text = raised(ContractError, lambda op: 2 * op.outputs[0], kind="stationary", signature="(n)->(n)", mode=mode)
    assert text.endswith("If this is the gradient of the objective, attach it with @op.implicit.")
    text = raised(
        ContractError,
        lambda op: op.outputs,
        kind="stationary",
        function=lambda x: (x, x),
        signature="(n)->(n),(n)",
        mode=mode,
    )
    assert text.endswith("If this is the gradient of the objective, attach it with @op.implicit.")


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("axis", [-1, None])
def test_an_objective_in_place_of_a_residual(mode, axis):
    result = lambda op: tf.reduce_sum(op.outputs[0] ** 2, axis)  # noqa: E731
    text = raised(ContractError, result, signature="(n)->(n)", mode=mode)
    assert text.endswith("If this is an objective that the outputs minimize, attach it with @op.stationary.")


def test_a_rule_with_a_cotangent_says_how_it_is_called():
    op = differentiable_op(lambda x: x, signature="()->()")
    op.implicit(lambda op, cotangent: cotangent)
    with pytest.raises(TypeError) as caught:
        weighted_gradient(op, tf.constant(X))
    assert any("An implicit rule is called as rule(op)." in note for note in notes_of(caught.value))


OTHERS = ["gradient", "numpy_gradient", "jvp", "numpy_jvp", "jacobian", "adjoint", "implicit", "stationary"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", OTHERS)
def test_a_derivative_has_one_rule(kind, other):
    op = differentiable_op(lambda x: x, signature="()->()")
    getattr(op, other)(lambda op, *vectors: vectors)
    message = (
        r"defines the same derivative as the" if other != kind else rf"the op already has an? {kind} rule, defined at"
    )
    with pytest.raises(RegistrationError, match=message):
        getattr(op, kind)(lambda op: op.outputs[0])
    op = differentiable_op(lambda x: x, signature="()->()")
    getattr(op, kind)(lambda op: op.outputs[0])
    with pytest.raises(RegistrationError, match=message):
        getattr(op, other)(lambda op, *vectors: vectors)


@pytest.mark.parametrize("kind", KINDS)
def test_the_op_of_a_numpy_rule_takes_no_equation(kind):
    first = differentiable_op(lambda x: x, signature="()->()").numpy_gradient(lambda op, g: g)
    with pytest.raises(RegistrationError, match=rf"@op.{kind} is not available for the op of a numpy rule"):
        getattr(first, kind)(lambda op: 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_residuals_of_the_function(kind):
    options = {"signature": "()->()", "residuals": {"root": ("()", np.float64)}}
    op = differentiable_op(lambda x: (x, {"root": x}), **options)
    with pytest.raises(
        RegistrationError, match=rf"saves the residual 'root', which TensorFlow cannot differentiate in @op.{kind}"
    ):
        getattr(op, kind)(lambda op: 1.0)


def test_integers_that_the_function_saves():
    op = differentiable_op(
        lambda x: (np.abs(x), {"sign": np.sign(x).astype("i4")}),
        signature="()->()",
        residuals={"sign": ("()", np.int32)},
    )
    op.implicit(lambda op: op.outputs[0] - tf.cast(op.residuals.sign, op.inputs[0].dtype) * op.inputs[0])
    assert_derivatives(op, tf.abs, X)
    assert check_implicit(op, max_examples=5, seed=1).status == "passed"


@pytest.mark.parametrize("kind", KINDS)
def test_descriptions(kind):
    op = asinh(kind)
    assert [(rule.defines, rule.kind) for rule in op.rules] == [("gradient", f"{kind} rule"), ("JVP", f"{kind} rule")]
    assert f"gradient:      {kind} rule (" in op.describe()


# -- executors, Keras and saved models


def test_an_executor_runs_the_function():
    with ThreadPoolExecutor(2) as executor:
        op = differentiable_op(
            lambda a, b: np.linalg.solve(a, b), signature="(n,n),(n)->(n)", vectorized=False, executor=executor
        )
        op.implicit(lambda op: tf.linalg.matvec(*[op.inputs[0], op.outputs[0]]) - op.inputs[1])
        assert_derivatives(op, natively, np.stack([MATRIX] * 2), X)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_in_keras(jit_compile):
    op = asinh("implicit")
    inputs = keras.Input([2])
    model = keras.Model(inputs, op(keras.layers.Dense(1, kernel_initializer="ones", use_bias=False)(inputs)))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
    x, y = np.float32([[1, 2]]), np.float32([[1]])
    model.fit(x, y, verbose=0)
    error, slope = np.arcsinh(3) - 1, 1 / np.sqrt(10)
    np.testing.assert_allclose(model.get_weights()[0], 1 - 0.1 * 2 * error * slope * x.T, rtol=1e-5)


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, "implicit_by_cg"])
def test_derivatives_are_loaded_in_another_process(tmp_path, is_compiled, kind):
    op = getattr(saved_ops, f"product_with_{kind}")
    found = derivatives_when_loaded(tmp_path, op, gradient_of(op), is_compiled=is_compiled)
    np.testing.assert_allclose(found, [[3.0, 5.0], [1.0, 2.0]] * 2, rtol=1e-6)


def test_a_singular_jacobian_is_an_error_in_a_loaded_model(tmp_path):
    op, spec = saved_ops.product_with_implicit, tf.TensorSpec([1])
    module = tf.Module()
    module.value = tf.function(op, input_signature=[spec, spec])
    tf.saved_model.save(module, str(tmp_path), options=tf.saved_model.SaveOptions(experimental_custom_gradients=True))
    loaded, x = tf.saved_model.load(str(tmp_path)), tf.constant([0.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = loaded.value(x, x)
    with pytest.raises((GradientError, tf.errors.InvalidArgumentError), match=SINGULAR):
        tape.gradient(z, x)


def test_the_derivative_of_a_saved_derivative_by_cg(tmp_path):
    op, spec = saved_ops.product_with_implicit_by_cg, tf.TensorSpec([1])
    module = tf.Module()
    module.derivative = tf.function(lambda x, y: weighted_gradient(op, x, y)[0], input_signature=[spec, spec])
    tf.saved_model.save(module, str(tmp_path), options=tf.saved_model.SaveOptions(experimental_custom_gradients=True))
    loaded, x, y = tf.saved_model.load(str(tmp_path)), tf.constant([2.0]), tf.constant([3.0])
    with tf.GradientTape() as tape:
        tape.watch([x, y])
        z = loaded.derivative(x, y)
    by_x, by_y = tape.gradient(z, [x, y], unconnected_gradients=tf.UnconnectedGradients.ZERO)
    assert (z.numpy(), by_x.numpy(), by_y.numpy()) == ([3], [0], [1])


def test_a_solution_in_the_graph_of_an_op_without_such_a_rule():
    op = op_def_of(asinh("implicit")).specialize(None, {})
    with pytest.raises(GradientError, match=r"the op has no implicit rule with solve=, but the graph contains"):
        solver_of(op, ())


# -- checks


@pytest.mark.slow
def test_what_is_checked():
    checks = ["check_gradient", "check_jvp", "check_implicit", "check_needs", "check_second_order"]
    report = check_op(solved(), checks=["check_implicit"], max_examples=5, seed=1)
    assert [(outcome.check, outcome.status) for outcome in report.outcomes] == [("check_implicit", "passed")]
    report = check_op(asinh("implicit"), checks=checks, max_examples=5, seed=1)
    assert {outcome.status for outcome in report.outcomes} <= {"passed", "skipped"}


@pytest.mark.parametrize("detached_first", [False, True])
def test_numpy_in_the_residual_of_one_instance_only(detached_first):
    class Root:
        def __init__(self, is_detached):
            self.is_detached = is_detached

        @differentiable_op(signature="()->()")
        def root(self, x):
            return np.sqrt(x)

        @root.implicit
        def equation(self, op):
            y = op.outputs[0]
            return (y * tf.constant(y.numpy()) if self.is_detached else y**2) - op.inputs[0]

    x = tf.constant(4.0)
    for is_detached in (detached_first, not detached_first):
        root = Root(is_detached)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = root.root(x)
        if is_detached:
            with pytest.raises(GradientError, match="cannot trace how the residual depends"):
                tape.gradient(y, x)
        else:
            assert tape.gradient(y, x).numpy() == 0.25


def test_a_check_without_a_regular_example_is_inconclusive():
    op = differentiable_op(lambda x: np.sqrt(x), signature="()->()", domain="[2, 10]")
    op.implicit(lambda op: op.outputs[0] ** 2 - op.inputs[0], solve=lambda matvec, right: 0 * right - 1)
    with pytest.raises(CheckError, match=r"inconclusive: the function raised(.|\n)*solve= found no solution"):
        check_implicit(op, max_examples=20, seed=1)


def test_an_op_without_an_equation_is_skipped():
    op = differentiable_op(lambda x: x, signature="()->()", grad=lambda op, g: g)
    assert check_implicit(op).reason == "the op has no implicit or stationary rule"
