"""`grad="from-jvp"` and `jvp="from-vjp"`: the missing rule of a pair follows from the other one by basis vectors."""

from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tests import modes, saved_ops
from tests.saved_derivatives import derivatives_when_loaded, gradient_of
from tests.test_jacobian import assert_derivatives, notes_of, tangents, weighted_gradient
from tfpyop import UNDEFINED, CoercionError, ContractError, GradientError, RegistrationError, differentiable_op

FROM = {"from-jvp": {"grad": "from-jvp"}, "from-vjp": {"jvp": "from-vjp"}}
PAIRS = [(option, where) for option in FROM for where in ("numpy", "TensorFlow")]
pairs = pytest.mark.parametrize(("option", "where"), PAIRS)
MATRIX = np.array([[1.0, 2, 3], [4, 5, 6]])
X = np.array([[1.0, 2, 3], [0.5, -1, 2]])


def attach(op, option, where, jvp, vjp, **options):
    """Attach the known rule of the pair, in numpy or in TensorFlow ops."""
    kind = "jvp" if option == "from-jvp" else "gradient"
    return getattr(op, kind if where == "TensorFlow" else f"numpy_{kind}")(
        jvp if option == "from-jvp" else vjp, **options
    )


def matvec(matrix, vector):
    return (matrix @ vector[..., None])[..., 0]


def squares(option, where, calls=None, **options):
    """MATRIX @ x**2, with a rule that is called with `calls`."""
    op = differentiable_op(
        lambda x: (x**2) @ MATRIX.astype(x.dtype).T, **{"signature": "(3)->(2)", **FROM[option], **options}
    )

    def note(vector):
        if calls is not None:
            calls.append(tuple(vector.shape))

    def cast(x):
        return tf.cast(MATRIX, x.dtype) if where == "TensorFlow" else MATRIX.astype(x.dtype)

    def jvp(op, tangent):
        note(tangent)
        assert tangent.shape == op.inputs[0].shape
        return matvec(cast(tangent), 2 * op.inputs[0] * tangent)

    def vjp(op, cotangent):
        note(cotangent)
        assert cotangent.shape == op.outputs[0].shape
        transposed = tf.linalg.matrix_transpose if where == "TensorFlow" else np.transpose
        conj = tf.math.conj if where == "TensorFlow" else np.conj
        return conj(2 * op.inputs[0]) * matvec(transposed(cast(cotangent)), cotangent)

    attach(op, option, where, jvp, vjp)
    return op


def natively(x):
    return tf.linalg.matvec(tf.cast(MATRIX, x.dtype), x**2)


# -- values


@pairs
@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_gradients_in_every_mode(mode, option, where):
    (found,) = modes.gradient(mode, squares(option, where), X)
    np.testing.assert_allclose(found, 2 * X * MATRIX.sum(0))


@pairs
@pytest.mark.parametrize("mode", ["eager", "graph", "unknown shapes", "XLA", "XLA, unknown sizes"])
def test_jvps_in_every_mode(mode, option, where):
    op = squares(option, where)
    (found,) = modes.call(mode, lambda x: tangents(op, tf.ensure_shape(x, [2, 3])), X)
    np.testing.assert_allclose(found, (2 * X * np.arange(1, 7).reshape(2, 3)) @ MATRIX.T)


@pairs
@pytest.mark.parametrize("shape", [(3,), (2, 3), (0, 3), (4, 1, 3)])
@pytest.mark.parametrize("vectorized", [True, False])
def test_loop_dimensions(option, where, shape, vectorized):
    x = np.random.default_rng(0).normal(size=shape)
    assert_derivatives(squares(option, where, vectorized=vectorized), natively, x)


@pairs
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"])
def test_dtypes(option, where, dtype):
    known = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    x = X.astype(known)
    if "complex" in dtype:
        x = (x + 0.5j * x[::-1]).astype(known)
    assert_derivatives(squares(option, where), natively, x, rtol=0.05 if "16" in dtype else 1e-5)


@pytest.mark.parametrize("option", FROM)
@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize(
    ("function", "native", "jvp", "vjp", "dtype", "x"),
    [
        (
            np.abs,
            tf.abs,
            lambda x, t: np.real(np.conj(x) * t) / np.abs(x),
            lambda x, c: c * x / np.abs(x),
            "float64",
            np.array([3 + 4j, 1 - 1j]),
        ),
        (np.conj, tf.math.conj, lambda x, t: np.conj(t), lambda x, c: np.conj(c), None, np.array([3 + 4j, 1 - 1j])),
        (
            lambda x: x * (2 + 1j),
            lambda x: tf.cast(x, tf.complex128) * (2 + 1j),
            lambda x, t: t * (2 + 1j),
            lambda x, c: np.real(c * (2 - 1j)),
            "complex128",
            X[0],
        ),
    ],
    ids=["complex to real", "not analytic", "real to complex"],
)
def test_complex_values(option, vectorized, function, native, jvp, vjp, dtype, x):
    op = differentiable_op(
        lambda x: function(x), signature="()->()", dtype=dtype, vectorized=vectorized, **FROM[option]
    )
    attach(op, option, "numpy", lambda op, t: jvp(op.inputs[0], t), lambda op, c: vjp(op.inputs[0], c))
    assert_derivatives(op, native, x)


@pytest.mark.parametrize("option", FROM)
def test_a_function_in_tensorflow_ops_that_is_not_analytic(option):
    op = differentiable_op(np.conj, signature="()->()", name=f"tests.pairs.conj_{option}", **FROM[option])
    attach(op, option, "TensorFlow", *[lambda op, vector: tf.math.conj(vector)] * 2)
    assert_derivatives(op, tf.math.conj, np.array([3 + 4j, 1 - 1j]))


def several(option, where, **options):
    """Outputs of different cores, an integer input and an integer output, and inputs of different loop dimensions."""
    op = differentiable_op(
        lambda a, b, n: (
            a[..., :, None] * b[..., None, :] * n[..., None, None],
            (a**2).sum(-1) + 0 * b[..., 0],
            2 * n + 0 * (a[..., 0] * b[..., 0]).astype(n.dtype),
        ),
        signature="(m),(n),()->(m,n),(),()",
        dtype=(None, None, "int32"),
        **FROM[option],
        **options,
    )

    def numbers(op):
        a, b, n = op.inputs
        return a, b, (tf.cast(n, a.dtype) if where == "TensorFlow" else n.astype(a.dtype))

    def total(values, axis):
        return tf.reduce_sum(values, axis) if where == "TensorFlow" else np.sum(values, axis)

    def jvp(op, s, t, none):
        assert none is None
        a, b, n = numbers(op)
        by_a = s[..., :, None] * b[..., None, :]
        return (
            (by_a + a[..., :, None] * t[..., None, :]) * n[..., None, None],
            2 * total(a * s, -1) + 0 * b[..., 0],
            None,
        )

    def vjp(op, c, d, none):
        assert none is None
        a, b, n = numbers(op)
        c = c * n[..., None, None]
        return total(c * b[..., None, :], -1) + 2 * a * d[..., None], total(c * a[..., :, None], -2), None

    attach(op, option, where, jvp, vjp)
    return op


@pairs
@pytest.mark.parametrize("vectorized", [True, False])
def test_several_outputs_inputs_and_integers(option, where, vectorized):
    n = np.array([2, 3, 1], "int32")

    def native(a, b):
        a_whole = a + tf.zeros([3, 4, 2], a.dtype)
        product = a_whole[..., :, None] * b[..., None, :] * n[:, None, None, None]
        return product, tf.reduce_sum(a_whole**2, -1)

    op = several(option, where, vectorized=vectorized)
    a, b = np.random.default_rng(0).normal(size=(4, 2)), np.random.default_rng(1).normal(size=(3, 1, 3))
    assert_derivatives(lambda a, b: op(a, b, n[:, None])[:2], native, a, b)


@pytest.mark.parametrize("where", ["numpy", "TensorFlow"])
def test_a_gradient_rule_that_sums_over_loop_dimensions_itself(where):
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()", jvp="from-vjp")

    def fitted(cotangent, like):
        while len(cotangent.shape) > len(like.shape):
            cotangent = (tf.reduce_sum if where == "TensorFlow" else np.sum)(cotangent, 0)
        return cotangent

    attach(
        op,
        "from-vjp",
        where,
        None,
        lambda op, c: (fitted(c * op.inputs[1], op.inputs[0]), fitted(c * op.inputs[0], op.inputs[1])),
    )
    assert_derivatives(op, lambda x, y: x * y, X, X[0])


@pairs
def test_ops_without_a_signature(option, where):
    calls = []
    op = squares(option, where, calls, signature=None, shape=lambda x: (2,))
    assert_derivatives(op, natively, X[0])
    assert set(calls) == {(3,) if option == "from-jvp" else (2,)}
    found = modes.call("graph", lambda x: [*weighted_gradient(op, x), *tangents(op, x)], X[0])
    expected = [*weighted_gradient(natively, tf.constant(X[0])), *tangents(natively, tf.constant(X[0]))]
    for value, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, other)


@pairs
def test_missing_optional_dimensions(option, where):
    op = differentiable_op(
        np.matmul, signature="(m?,n),(n,p?)->(m?,p?)", name=f"tests.pairs.matmul_{option}_{where}", **FROM[option]
    )

    def jvp(op, s, t):
        assert len(op.inputs[1].shape) == 1
        return matvec(s, op.inputs[1]) + matvec(op.inputs[0], t)

    def vjp(op, c):
        assert len(op.inputs[1].shape) == 1
        a, b = op.inputs
        return c[..., :, None] * b[..., None, :], c @ a if where == "numpy" else tf.linalg.matvec(
            a, c, transpose_a=True
        )

    attach(op, option, where, jvp, vjp)
    assert_derivatives(op, tf.linalg.matvec, MATRIX, X[0])


@pairs
def test_static_arguments_and_residuals(option, where):
    op = differentiable_op(
        lambda x, *, factor=1.0: (factor * np.exp(x), {"root": np.exp(x)}),
        signature="()->()",
        residuals={"root": ("()", np.float64)},
        **FROM[option],
    )
    attach(op, option, where, *[lambda op, vector: op.static.factor * op.residuals.root * vector] * 2)
    assert_derivatives(lambda x: op(x, factor=3.0), lambda x: 3 * tf.exp(x), X)


@pairs
@pytest.mark.parametrize("mode", ["tape, eager", "tape inside", "gradients"])
def test_rules_of_methods_take_self(option, where, mode):
    class Scale:
        def __init__(self, factor):
            self.factor = factor

        @differentiable_op(signature="(),()->()", **FROM[option])
        def product(self, x, y):
            return self.factor * x * y

        def rule(self, op, *vectors):
            x, y = op.inputs
            if option == "from-jvp":
                return self.factor * (vectors[0] * y + vectors[1] * x)
            return self.factor * vectors[0] * y, self.factor * vectors[0] * x

        attach(product, option, where, rule, rule)

    for factor in (3, 5):
        scale = Scale(factor)
        np.testing.assert_allclose(modes.gradient(mode, scale.product, X, X + 1), [factor * (X + 1), factor * X])
        assert_derivatives(scale.product, lambda x, y, factor=factor: factor * x * y, X, X + 1)


@pairs
def test_a_derivative_that_is_infinite_along_zero_does_not_count(option, where):
    op = differentiable_op(lambda x: np.sqrt(x), signature="()->()", **FROM[option])
    xp = np if where == "numpy" else tf

    def rule(op, vector):
        with np.errstate(divide="ignore", invalid="ignore"):
            return vector / (2 * xp.sqrt(op.inputs[0]))

    attach(op, option, where, rule, rule)
    x, vector = tf.constant([0.0, 4.0]), tf.constant([0.0, 1.0])
    if option == "from-jvp":
        np.testing.assert_allclose(vjp_of(op, x, vector), [0, 0.25])
        return
    with tf.autodiff.ForwardAccumulator(x, vector) as accumulator:
        y = op(x)
    np.testing.assert_allclose(accumulator.jvp(y), [0, 0.25])


def vjp_of(op, x, vector):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = op(x)
    return tape.gradient(y, x, output_gradients=vector)


@pairs
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_an_input_without_elements_has_an_empty_vector(option, where, mode):
    op = differentiable_op(lambda a, x: (a @ x[..., None])[..., 0], signature="(n,k),(k)->(n)", **FROM[option])
    xp = np if where == "numpy" else tf

    def jvp(op, s, t):
        a, x = op.inputs
        return xp.squeeze(xp.matmul(s, x[..., None]) + xp.matmul(a, t[..., None]), -1)

    def vjp(op, c):
        a, x = op.inputs
        transposed = np.swapaxes(a, -1, -2) if where == "numpy" else tf.linalg.matrix_transpose(a)
        return c[..., :, None] * x[..., None, :], xp.squeeze(xp.matmul(transposed, c[..., None]), -1)

    attach(op, option, where, jvp, vjp)
    a, x = np.zeros((0, 3)), np.ones(3)
    if option == "from-vjp":
        (tangent,) = modes.call(mode, lambda a, x: tangents(op, a, x), a, x)
        assert tangent.shape == (0,)
        return
    by_a, by_x = modes.call(mode, lambda a, x: weighted_gradient(op, a, x), a, x)
    assert by_a.shape == (0, 3)
    np.testing.assert_array_equal(by_x, np.zeros(3))


# -- evaluations


@pairs
def test_one_call_takes_all_basis_vectors(option, where):
    calls = []
    op = squares(option, where, calls)
    derivative = weighted_gradient if option == "from-jvp" else tangents
    derivative(op, tf.constant(X))
    once, alone = [(3, 2, 3)] if option == "from-jvp" else [(2, 2, 2)], calls[1:]
    assert calls[:1] == once
    assert alone == [shape[1:] for shape in once]  # a single vector confirms the rule for these shapes
    calls.clear()
    derivative(op, tf.constant(X + 1))
    assert calls == once


@pairs
def test_a_rule_that_mixes_further_loop_dimensions_raises(option, where):
    matrix = np.tril(np.ones((3, 3)))
    op = differentiable_op(lambda x: x @ matrix.T, signature="(n)->(n)", **FROM[option])
    xp, of = (np, np.asarray) if where == "numpy" else (tf, tf.constant)

    def jvp(op, t):
        return xp.tensordot(of(matrix), t, 1)  # right for one vector

    def vjp(op, c):
        return xp.tensordot(of(matrix.T), c, 1)

    attach(op, option, where, jvp, vjp)
    derivative = weighted_gradient if option == "from-jvp" else tangents
    rule = "JVP" if option == "from-jvp" else "gradient"
    with pytest.raises(GradientError, match=f"the {rule} rule returns something else for one vector than for several"):
        derivative(op, tf.constant(X[0]))


@pytest.mark.parametrize("option", FROM)
def test_a_rule_of_core_dimensions_is_called_for_each_basis_vector(option):
    calls = []
    op = squares(option, "numpy", calls, vectorized=False)
    (weighted_gradient if option == "from-jvp" else tangents)(op, tf.constant(X))
    assert calls == ([(3,)] * 6 if option == "from-jvp" else [(2,)] * 4)


@pytest.mark.parametrize("where", ["numpy", "TensorFlow"])
def test_one_vector_suffices_for_each_input_of_an_elementwise_op(where):
    calls = []
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()", grad="from-jvp")

    def jvp(op, s, t):
        calls.append(tuple(s.shape))
        return s * op.inputs[1] + t * op.inputs[0]

    attach(op, "from-jvp", where, jvp, None)
    assert_derivatives(op, lambda x, y: x * y, X, X + 1)
    assert calls == [(2, 2, 3), (2, 3), (2, 3)]  # all basis vectors, one alone to confirm the rule, and a tangent


@pytest.mark.parametrize("vectorized", [True, False])
def test_a_jacobian_takes_each_basis_vector_once(vectorized):
    calls = []
    op = squares("from-jvp", "numpy", calls, vectorized=vectorized)
    x = tf.constant(X)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = op(x)
    np.testing.assert_allclose(tape.batch_jacobian(y, x), 2 * MATRIX * X[:, None, :])
    assert sum(int(np.prod(shape[:-1])) for shape in calls) == (8 if vectorized else 6)  # of both rows, a vector alone
    calls.clear()
    rows = tape.jacobian(y, x)
    np.testing.assert_allclose(tf.einsum("iaib->iab", rows), 2 * MATRIX * X[:, None, :])
    assert sum(int(np.prod(shape[:-1])) for shape in calls) == 6


@pytest.mark.parametrize("option", FROM)
def test_an_executor_runs_the_elements(option):
    with ThreadPoolExecutor(2) as executor:
        op = squares(option, "numpy", vectorized=False, executor=executor)
        assert_derivatives(op, natively, X)


@pairs
def test_vectorized_map(option, where):
    op, rows = squares(option, where), tf.constant(X)
    gradients = tf.vectorized_map(lambda x: weighted_gradient(op, x)[0], rows)
    np.testing.assert_allclose(gradients, tf.stack([weighted_gradient(natively, row)[0] for row in rows]))
    moved = tf.vectorized_map(lambda x: tangents(op, x)[0], rows)
    np.testing.assert_allclose(moved, tf.stack([tangents(natively, row)[0] for row in rows]))


# -- needs and rules for some inputs


@pytest.mark.parametrize("where", ["numpy", "TensorFlow"])
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_only_inputs_that_are_needed_have_basis_vectors(where, mode):
    seen = []
    op = differentiable_op(lambda x, y: x * y[..., None], signature="(n),()->(n)", grad="from-jvp")

    def jvp(op, s, t):
        seen.append((op.needs, tuple(t.shape)))
        return s * op.inputs[1][..., None] + t[..., None] * op.inputs[0]

    attach(op, "from-jvp", where, jvp, None)

    def differentiate(x, y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            z = op(x, y)
        return tape.gradient(z, y)

    np.testing.assert_allclose(modes.call(mode, differentiate, X, X[:, 0]), X.sum(-1))
    assert set(seen) == {((False, True), (1, 2))}


@pytest.mark.parametrize("where", ["numpy", "TensorFlow"])
def test_a_gradient_rule_need_not_compute_what_does_not_vary(where):
    seen = []
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()", jvp="from-vjp")

    def vjp(op, c):
        seen.append(op.needs)
        return None if not op.needs[0] else c * op.inputs[1], c * op.inputs[0]

    attach(op, "from-vjp", where, None, vjp)
    y = tf.constant(X + 1)
    np.testing.assert_allclose(tangents(lambda y: op(X, y), y)[0], X * np.arange(1, 7).reshape(2, 3))
    assert seen == [(False, True)]


@pytest.mark.parametrize("where", ["numpy", "TensorFlow"])
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
@pytest.mark.parametrize("ignored", [UNDEFINED, np.zeros(7), None], ids=["undefined", "wrong shape", "None"])
@pytest.mark.parametrize("options", [{}, {"non_differentiable": ("y",)}], ids=["needs", "non_differentiable"])
def test_values_that_are_not_needed_are_not_read(where, mode, ignored, options):
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()", jvp="from-vjp", **options)
    attach(op, "from-vjp", where, None, lambda op, c: (c * op.inputs[1], ignored))
    (found,) = modes.call(mode, lambda x, y: tangents(lambda x: op(x, y), x), X, X + 1)
    np.testing.assert_allclose(found, (X + 1) * np.arange(1, 7).reshape(2, 3))


@pytest.mark.parametrize("where", ["numpy", "TensorFlow"])
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_a_vector_that_is_needed_and_undefined_is_an_error(where, mode):
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()", jvp="from-vjp")
    attach(op, "from-vjp", where, None, lambda op, c: (c * op.inputs[1], UNDEFINED))
    with pytest.raises((GradientError, tf.errors.OpError), match="the derivative by input 1 is not defined"):
        modes.call(mode, lambda x, y: tangents(op, x, y), X, X + 1)
    op = differentiable_op(lambda x: x, signature="()->()", grad="from-jvp")
    attach(op, "from-jvp", where, lambda op, t: UNDEFINED, None)
    with pytest.raises((GradientError, tf.errors.OpError), match="the tangent of output 0 is not defined"):
        modes.call(mode, lambda x: weighted_gradient(op, x), X)


@pytest.mark.parametrize(
    "wheres", [(a, b) for a in ("numpy", "TensorFlow") for b in ("numpy", "TensorFlow")], ids="-".join
)
@pytest.mark.parametrize("option", FROM)
@pytest.mark.parametrize("mode", ["tape, eager", "tape inside", "gradients", "tape inside, XLA"])
def test_rules_for_some_inputs(option, wheres, mode):
    op = differentiable_op(
        lambda pair, z, *, k=2: k * pair["a"] * pair["b"] * z, signature="(),(),()->()", **FROM[option]
    )
    attach(
        op,
        option,
        wheres[0],
        lambda op, s, t: op.static.k * op.inputs[2] * (s * op.inputs[1] + t * op.inputs[0]),
        lambda op, c: [op.static.k * op.inputs[2] * c * op.inputs[number] for number in (1, 0)],
        wrt="pair",
    )
    attach(op, option, wheres[1], *[lambda op, v: op.static.k * op.inputs[0] * op.inputs[1] * v] * 2, wrt="z")
    found = modes.gradient(mode, lambda a, b, z: op({"b": b, "a": a}, z, k=3), X, X + 1, X + 2)
    np.testing.assert_allclose(found, [3 * (X + 1) * (X + 2), 3 * X * (X + 2), 3 * X * (X + 1)])
    assert_derivatives(lambda a, b, z: op({"a": a, "b": b}, z), lambda a, b, z: 2 * a * b * z, X, X + 1, X + 2)


def test_a_gradient_rule_for_another_input_stands_beside_a_derived_rule():
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()", grad="from-jvp")
    op.numpy_jvp(lambda op, t: t * op.inputs[1], wrt="x")
    op.gradient(lambda op, c: c * op.inputs[0], wrt="y")
    assert_derivatives(op, lambda x, y: x * y, X, X + 1)
    with pytest.raises(RegistrationError, match=r"the gradient rule attached at .* the same .* grad=\"from-jvp\" of"):
        op.gradient(lambda op, c: c, wrt="x")


# -- second order


def hessian(function, x):
    with tf.GradientTape() as outer:
        outer.watch(x)
        (first,) = weighted_gradient(function, x)
    return outer.gradient(first, x)


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_tensorflow_differentiates_a_derived_rule_in_its_ops(mode):
    found = modes.call(mode, lambda x: hessian(squares("from-jvp", "TensorFlow"), x), X)
    np.testing.assert_allclose(found, hessian(natively, tf.constant(X)))


@pytest.mark.parametrize("traced", [False, True])
def test_a_rule_may_call_its_op(traced):
    solve = differentiable_op(
        lambda a, b: np.linalg.solve(a, b[..., None])[..., 0], signature="(n,n),(n)->(n)", grad="from-jvp"
    )

    @solve.jvp
    def solve_jvp(op, a_tangent, b_tangent):
        return solve(op.inputs[0], b_tangent - tf.linalg.matvec(a_tangent, op.outputs[0]))

    def derivatives(function, a):
        def value(a):
            return function(a, tf.constant(X[0]))

        return [*weighted_gradient(value, a), hessian(value, a)]

    def native(a, b):
        return tf.linalg.solve(a, b[:, None])[:, 0]

    a = tf.constant(np.eye(3) * 3 + MATRIX[[0, 1, 0]] / 9)
    call = tf.function(derivatives, autograph=False) if traced else derivatives
    for found, expected in zip(call(solve, a), derivatives(native, a), strict=True):
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("option", FROM)
def test_a_second_derivative_of_a_derived_rule_in_numpy_says_what_to_do(option):
    op, x = squares(option, "numpy"), tf.constant(X)
    known, decorator = ("JVP", "jvp") if option == "from-jvp" else ("gradient", "gradient")
    other = "gradient" if option == "from-jvp" else "JVP"
    with tf.GradientTape() as outer:
        outer.watch(x)
        value = weighted_gradient(op, x)[0] if option == "from-jvp" else tangents(op, x)[0]
        message = (
            rf"cannot compute a second derivative: \w+=\"{option}\" with a {known} rule in numpy provides first "
            rf"derivatives only.\n  Write the {known} rule in TensorFlow ops with @op.{decorator}. Or remove "
            rf"\w+=\"{option}\", and attach a {other} rule in TensorFlow ops with @op.{other.lower()}\."
        )
        with pytest.raises(GradientError, match=message):
            outer.gradient(value, x)


def test_the_derivative_of_a_derived_gradient_by_its_cotangent_is_the_jvp():
    op, x, vector = squares("from-jvp", "numpy"), tf.constant(X), tf.constant([[1.0, 2.0], [3.0, 4.0]], tf.float64)
    with tf.GradientTape() as outer:
        outer.watch(vector)
        first = vjp_of(op, x, vector)
    np.testing.assert_allclose(outer.gradient(first, vector), (2 * X) @ MATRIX.T)


# -- errors


def test_a_derived_rule_needs_the_other_rule():
    x = tf.constant(X)
    op = differentiable_op(lambda x: x, signature="()->()", grad="from-jvp")
    with pytest.raises(GradientError, match=r"gradient: grad=\"from-jvp\" needs a JVP rule, but the op has none.\n"):
        weighted_gradient(op, x)
    op = differentiable_op(lambda x: x, signature="()->()", jvp="from-vjp")
    with pytest.raises(GradientError, match=r"derivative: jvp=\"from-vjp\" needs a gradient rule, but the op has none"):
        tangents(op, x)


def test_the_errors_for_a_missing_rule_offer_the_options():
    x = tf.constant(X)
    op = differentiable_op(lambda x: x, signature="(n)->(n)", numpy_jvp=lambda op, t: t)
    offered = r'To derive it from the JVP rule, pass grad="from-jvp" to differentiable_op'
    with pytest.raises(GradientError, match=offered) as caught:
        weighted_gradient(op, x)
    assert "@op.jacobian" not in str(caught.value)  # it would be a second JVP rule
    op = differentiable_op(lambda x: x, signature="(n)->(n)", numpy_grad=lambda op, c: c)
    offered = r'To derive it from the gradient rule, pass jvp="from-vjp" to differentiable_op(.|\n)*@op.numpy_jacobian'
    with pytest.raises(GradientError, match=offered):
        tangents(op, x)
    op = differentiable_op(lambda x: x, signature="(n)->(n)")
    for derivative in (weighted_gradient, tangents):
        with pytest.raises(GradientError, match=r"or the Jacobian with @op.jacobian or @op.numpy_jacobian") as caught:
            derivative(op, x)
        assert "from-" not in str(caught.value)


BOTH = r'grad="from-jvp" derives the gradient rule from a JVP rule, but {} also attached.\n  Remove one of the two: '


@pytest.mark.parametrize(
    ("decorator", "what"),
    [
        ("gradient", "a gradient rule is"),
        ("numpy_gradient", "a gradient rule is"),
        ("jacobian", "a Jacobian rule, which defines both, is"),
        ("numpy_jacobian", "a Jacobian rule, which defines both, is"),
        ("adjoint", "an adjoint rule, which defines both, is"),
        ("numpy_adjoint", "an adjoint rule, which defines both, is"),
        ("implicit", "an implicit rule, which defines both, is"),
        ("stationary", "a stationary rule, which defines both, is"),
    ],
)
def test_a_second_rule_is_an_error(decorator, what):
    op = differentiable_op(lambda x: x, signature="()->()", grad="from-jvp")
    with pytest.raises(RegistrationError, match=BOTH.format(what)):
        getattr(op, decorator)(lambda *arguments: None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"grad": "from-jvp", "jvp": "from-vjp"},
            r'grad="from-jvp" and jvp="from-vjp" derive each rule from the other one.\n  Remove one of the two',
        ),
        ({"grad": "from-jvp", "numpy_grad": lambda op, c: c}, BOTH.format("a gradient rule is")),
        ({"grad": "from-jvp", "non_differentiable": True}, r'non_differentiable=True contradicts grad="from-jvp"'),
        ({"grad": "numerical", "jvp": "from-vjp"}, r"grad= requests numerical derivatives, but a rule is also passed"),
        ({"grad": "from-vjp"}, r'grad=\'from-vjp\' is neither a rule .*\n  Did you mean jvp="from-vjp"\?'),
        ({"grad": "from_jvp"}, r"is neither a rule nor the name of a method.\n  Did you mean 'from-jvp'\?"),
        ({"jvp": "from-jvp"}, r"jvp='from-jvp' is not a rule(.|\n)*or 'from-vjp'\n  Did you mean grad='from-jvp'\?"),
        ({"numpy_jvp": "from-vjp"}, r"numpy_jvp='from-vjp' is not a rule(.|\n)*Did you mean jvp='from-vjp'\?"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(RegistrationError, match=message):
        differentiable_op(lambda x: x, signature="()->()", **options)


@pairs
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_an_imaginary_part_is_not_dropped(option, where, mode):
    op = differentiable_op(lambda x: x * x, signature="()->()", **FROM[option])
    if where == "TensorFlow":
        rule = lambda op, v: tf.complex(2 * op.inputs[0] * v, tf.ones_like(v))  # noqa: E731
    else:
        rule = lambda op, v: 2 * op.inputs[0] * v + 1j  # noqa: E731
    attach(op, option, where, rule, rule)
    derivative = weighted_gradient if option == "from-jvp" else tangents
    what = "tangent 0" if option == "from-jvp" else "the cotangent of input 0"
    message = f"{what} is complex, but the {'output' if option == 'from-jvp' else 'input'} is real"
    with pytest.raises((CoercionError, tf.errors.OpError), match=message if where == "TensorFlow" else what):
        modes.call(mode, lambda x: derivative(op, x)[0], X)


@pytest.mark.parametrize("where", ["numpy", "TensorFlow"])
def test_a_tangent_of_the_wrong_shape_says_how_the_rule_was_called(where):
    op = differentiable_op(lambda x: x, signature="(n)->(n)", grad="from-jvp")
    attach(op, "from-jvp", where, lambda op, t: t[0], None)
    with pytest.raises(
        ContractError, match=r"tangent 0 has the wrong shape.\n  Expected: float64\[3, 2, 3\]"
    ) as caught:
        weighted_gradient(op, tf.constant(X))
    assert any('grad="from-jvp" calls the JVP rule with basis vectors' in note for note in notes_of(caught.value))


@pytest.mark.parametrize(
    ("where", "mode", "problem"),
    [
        ("numpy", "tape inside, unknown shapes", "tangent 0 has the wrong shape"),
        ("numpy", "tape inside, XLA, unknown sizes", "tangent 0 has the wrong shape"),
        ("TensorFlow", "tape inside, unknown shapes", "a derivative rule returned a vector of the wrong shape"),
        # XLA ignores assertions, and knows the shapes when it compiles
        ("TensorFlow", "tape inside, XLA, unknown sizes", r"Shapes of all inputs must match: .* = \[1,2,3\] != "),
    ],
)
def test_a_tangent_of_the_wrong_shape_where_sizes_are_unknown(where, mode, problem):
    op = differentiable_op(lambda x: x, signature="(n)->(n)", grad="from-jvp")
    attach(op, "from-jvp", where, lambda op, t: t[:1], None)
    with pytest.raises(tf.errors.InvalidArgumentError, match=problem):
        modes.gradient(mode, op, X)


@pytest.mark.parametrize("where", ["numpy", "TensorFlow"])
def test_a_rule_of_other_arguments_says_how_it_is_called(where):
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()", grad="from-jvp")
    attach(op, "from-jvp", where, lambda op, t: t, None)
    with pytest.raises(TypeError) as caught:
        weighted_gradient(op, tf.constant(X), tf.constant(X))
    assert any("called as rule(op, tangent 0, tangent 1)" in note for note in notes_of(caught.value))


def test_numpy_in_a_rule_in_tensorflow_ops_is_an_error_in_graphs():
    op = differentiable_op(lambda x: np.sin(x), signature="()->()", grad="from-jvp")
    op.jvp(lambda op, t: t * np.cos(op.inputs[0].numpy()))
    with pytest.raises(GradientError, match=r"the op's jvp rule calls numpy.*\n.*@op.numpy_jvp"):
        modes.gradient("tape inside", op, X)


# -- descriptions and saved models


@pairs
def test_the_description_names_the_option(option, where):
    op = squares(option, where)
    derived = {rule.defines: str(rule) for rule in op.rules}
    defines, text = ("gradient", 'grad="from-jvp"') if option == "from-jvp" else ("JVP", 'jvp="from-vjp"')
    assert derived[defines].startswith(f"{text} (")
    assert text in op.describe()


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("where", ["numpy", "tensorflow"])
def test_derived_gradients_are_loaded_in_another_process(tmp_path, is_compiled, where):
    op = getattr(saved_ops, f"product_from_{where}_jvp")
    found = derivatives_when_loaded(tmp_path, op, gradient_of(op), is_compiled=is_compiled)
    assert found == [[3.0, 5.0], [1.0, 2.0]] * 2


def test_a_derived_tangent_is_loaded_in_another_process(tmp_path):
    op = saved_ops.total_product

    def tangent(x, y):
        with tf.autodiff.ForwardAccumulator(x, tf.constant([1.0, 0.0])) as by_x:
            z = op(x, y)
        with tf.autodiff.ForwardAccumulator(y, tf.constant([0.0, 1.0])) as by_y:
            other = op(x, y)
        return by_x.jvp(z), by_y.jvp(other)

    found = derivatives_when_loaded(tmp_path, op, tangent, is_compiled=False)
    assert found == [[3.0, 5.0], [1.0, 2.0], [3.0, 0.0], [0.0, 2.0]]
