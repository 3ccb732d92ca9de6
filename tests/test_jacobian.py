"""`@op.jacobian` and `@op.numpy_jacobian`: a rule gives the Jacobian; VJP, JVP and what follows come from it."""

import sys
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from scipy import sparse

from tests import modes, saved_ops
from tests.saved_derivatives import derivatives_when_loaded, gradient_of
from tfpyop import ContractError, GradientError, RegistrationError, differentiable_op

KINDS = ["jacobian", "numpy_jacobian"]
MATRIX = np.array([[1.0, 2, 3], [4, 5, 6]])
X = np.array([[1.0, 2, 3], [0.5, -1, 2]])


def namespace(kind):
    return tf if kind == "jacobian" else np


def attached(op, kind, rule, **options):
    result = getattr(op, kind)(rule, **options)
    return result if kind == "numpy_jacobian" else None


def squares(kind, calls=None, **options):
    """MATRIX @ x**2."""
    is_whole = options.get("vectorized", True)

    def rule(op):
        (x,) = op.inputs
        assert is_whole or kind == "jacobian" or x.shape == (3,)
        if calls is not None:
            calls.append(tuple(x.shape))
        return 2 * MATRIX.astype(x.dtype if kind != "jacobian" else x.dtype.as_numpy_dtype) * x[..., None, :]

    op = differentiable_op(lambda x: (x**2) @ MATRIX.astype(x.dtype).T, signature="(3)->(2)", **options)
    attached(op, kind, rule)
    return op


def natively(x):
    return tf.linalg.matvec(tf.cast(MATRIX, x.dtype), x**2)


def power(kind):
    op = differentiable_op(lambda x, y: x**y, signature="(),()->()")

    def rule(op):
        x, y = op.inputs
        return y * x ** (y - 1), op.outputs[0] * (tf.math.log(x) if kind == "jacobian" else np.log(x))

    attached(op, kind, rule)
    return op


def weighted_gradient(function, *tensors):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        outputs = tf.nest.flatten(function(*tensors))
        value = sum(
            tf.reduce_sum(output * tf.reshape(tf.cast(tf.range(1, tf.size(output) + 1), output.dtype), output.shape))
            for output in outputs
        )
    return tape.gradient(value, tensors)


def tangents(function, *tensors):
    moved = [tf.cast(tf.reshape(tf.range(tf.size(x)) + 1, x.shape), x.dtype) for x in tensors]
    with tf.autodiff.ForwardAccumulator(list(tensors), moved) as accumulator:
        outputs = tf.nest.flatten(function(*tensors))
    return [accumulator.jvp(output) for output in outputs]


def assert_derivatives(op, native, *arrays, rtol=1e-6):
    tensors = [tf.constant(array) for array in arrays]
    for derivative in (weighted_gradient, tangents):
        for found, expected in zip(derivative(op, *tensors), derivative(native, *tensors), strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(
                tf.cast(found, tf.complex128), tf.cast(expected, tf.complex128), rtol=rtol, atol=rtol
            )


# -- values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_gradients_in_every_mode(mode, kind):
    (found,) = modes.gradient(mode, squares(kind), X)
    np.testing.assert_allclose(found, 2 * X * MATRIX.sum(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_partial_derivatives_are_broadcast_in_every_mode(mode, kind):
    x, y = np.array([[1.0], [2.0]]), np.array([2.0, 3.0, 4.0])
    expected = modes.gradient("tape, eager", lambda x, y: x**y, x, y)
    for found, value in zip(modes.gradient(mode, power(kind), x, y), expected, strict=True):
        np.testing.assert_allclose(found, value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["eager", "graph", "unknown shapes", "XLA", "XLA, unknown sizes"])
def test_jvps_in_every_mode(mode, kind):
    op = squares(kind)
    (found,) = modes.call(mode, lambda x: tangents(op, tf.ensure_shape(x, [2, 3])), X)
    np.testing.assert_allclose(found, (2 * X * np.arange(1, 7).reshape(2, 3)) @ MATRIX.T)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (0, 3), (4, 1, 3)])
@pytest.mark.parametrize("vectorized", [True, False])
def test_loop_dimensions(kind, shape, vectorized):
    x = np.random.default_rng(0).normal(size=shape)
    assert_derivatives(squares(kind, vectorized=vectorized), natively, x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"])
def test_dtypes(kind, dtype):
    x = X.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if "complex" in dtype:
        x = x * (1 + 0.5j).real + 0.5j * x[::-1]
    x = x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert_derivatives(squares(kind), natively, x, rtol=0.05 if "16" in dtype else 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("function", "native", "rule", "dtype", "x"),
    [
        (
            np.abs,
            tf.abs,
            lambda op: (
                op.inputs[0] / op.outputs[0]
                if isinstance(op.inputs[0], np.ndarray)
                else op.inputs[0] / tf.cast(op.outputs[0], op.inputs[0].dtype)
            ),
            "float64",
            np.array([3 + 4j, 1 - 1j]),
        ),
        (lambda x: x * (2 + 1j), lambda x: tf.cast(x, tf.complex128) * (2 + 1j), lambda op: 2 + 1j, "c16", X[0]),
        (np.real, tf.math.real, lambda op: 1.0, "float64", np.array([3 + 4j, 1 - 1j])),
    ],
    ids=["complex to real", "real to complex", "real part"],
)
def test_real_and_complex_sides(kind, function, native, rule, dtype, x):
    if function is np.abs:
        conjugate = rule
        rule = lambda op: (np.conj if kind == "numpy_jacobian" else tf.math.conj)(conjugate(op))  # noqa: E731
    op = differentiable_op(lambda x: function(x), signature="()->()", dtype=dtype)
    attached(op, kind, rule)
    assert_derivatives(op, native, x)


@pytest.mark.parametrize("kind", KINDS)
def test_several_outputs_of_different_cores(kind):
    op = differentiable_op(
        lambda a, b: (a[..., :, None] * b[..., None, :], (a**2).sum(-1) + 0 * b[..., 0]), signature="(m),(n)->(m,n),()"
    )

    def rule(op):
        a, b = op.inputs
        m, n = a.shape[-1], b.shape[-1]
        eye_m, eye_n = np.eye(m), np.eye(n)
        by_a = eye_m[:, None, :] * b[..., None, :, None]
        by_b = a[..., :, None, None] * eye_n
        return (by_a, by_b), (2 * a, None)

    attached(op, kind, rule)
    a, b = np.random.default_rng(0).normal(size=(4, 2)), np.random.default_rng(1).normal(size=(3, 1, 3))

    def native(a, b):
        a_whole = a + tf.zeros([3, 4, 2], a.dtype)
        return a_whole[..., :, None] * b[..., None, :], tf.reduce_sum(a_whole**2, -1)

    assert_derivatives(op, native, a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_one_input_and_several_outputs_take_a_value_for_each_output(kind):
    xp = namespace(kind)
    op = differentiable_op(lambda x: (np.sin(x), 3 * x), signature="()->(),()")
    attached(op, kind, lambda op: (xp.cos(op.inputs[0]), 3.0))
    assert_derivatives(op, lambda x: (tf.sin(x), 3 * x), X)


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_without_derivative_is_none(kind):
    op = differentiable_op(lambda x, y: (x * y, np.ones_like(x * y)), signature="(),()->(),()")
    attached(op, kind, lambda op: ((op.inputs[1], op.inputs[0]), None))
    (by_x, by_y) = weighted_gradient(lambda x, y: op(x, y)[0], tf.constant(X), tf.constant(X + 1))
    expected = weighted_gradient(lambda x, y: x * y, tf.constant(X), tf.constant(X + 1))
    np.testing.assert_allclose([by_x, by_y], expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("entry", [None, 7.0])
def test_what_a_rule_returns_for_integers_is_ignored(kind, entry):
    op = differentiable_op(
        lambda x, n: (x * n, n + 0 * x.astype("i4")), signature="(),()->(),()", dtype=(None, "int32")
    )

    def rule(op):
        x, n = op.inputs
        return (tf.cast(n, x.dtype) if kind == "jacobian" else n, entry), (entry, entry)

    attached(op, kind, rule)
    x, n = tf.constant(X), tf.constant([1, 2, 3])
    assert_derivatives(lambda x: op(x, n)[0], lambda x: x * tf.cast(n, x.dtype), X)
    assert weighted_gradient(lambda x: op(x, n)[0], x)[0].dtype == tf.float64


@pytest.mark.parametrize("kind", KINDS)
def test_ops_without_a_signature_have_core_dimensions_only(kind):
    op = differentiable_op(lambda x: x.sum(0))
    attached(op, kind, lambda op: np.ones([2, 1]) * np.eye(3)[:, None, :])
    assert_derivatives(op, lambda x: tf.reduce_sum(x, 0), X)


@pytest.mark.parametrize("kind", KINDS)
def test_optional_dimensions(kind):
    op = differentiable_op(np.matmul, signature="(m?,n),(n,p?)->(m?,p?)", name=f"tests.jacobian.matmul_{kind}")
    xp = namespace(kind)

    def rule(op):
        a, b = op.inputs
        assert len(b.shape) == 1
        eye = np.eye(a.shape[-2])
        return eye[:, :, None] * b[..., None, None, :], xp.reshape(a, xp.shape(a))

    attached(op, kind, rule)
    assert_derivatives(op, tf.linalg.matvec, MATRIX, X[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_jacobian_without_loop_dimensions_is_broadcast(kind):
    op = differentiable_op(lambda x: x @ MATRIX.T, signature="(3)->(2)")
    attached(op, kind, lambda op: MATRIX)
    assert_derivatives(op, lambda x: tf.linalg.matvec(MATRIX, x), X)


@pytest.mark.parametrize("kind", KINDS)
def test_static_arguments_and_residuals(kind):
    op = differentiable_op(
        lambda x, *, factor=1.0: (factor * np.exp(x), {"root": np.exp(x)}),
        signature="()->()",
        residuals={"root": ("()", np.float64)},
    )
    attached(op, kind, lambda op: op.static.factor * op.residuals.root)
    assert_derivatives(lambda x: op(x, factor=3.0), lambda x: 3 * tf.exp(x), X)
    with tf.GradientTape() as tape:
        x = tf.Variable(X)
        y = op(x, factor=2.0)
    np.testing.assert_allclose(tape.batch_jacobian(y, x), 2 * np.exp(X)[:, :, None] * np.eye(3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["tape, eager", "tape inside", "gradients"])
def test_rules_of_methods_take_self(kind, mode):
    class Scale:
        def __init__(self, factor):
            self.factor = factor

        @differentiable_op(signature="(),()->()")
        def product(self, x, y):
            return self.factor * x * y

        @getattr(product, kind)
        def product_jacobian(self, op):
            return self.factor * op.inputs[1], self.factor * op.inputs[0]

    for factor in (3, 5):
        found = modes.gradient(mode, Scale(factor).product, X, X + 1)
        np.testing.assert_allclose(found, [factor * (X + 1), factor * X])


# -- sparse blocks


@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.coo_array, sparse.dia_array])
@pytest.mark.parametrize("vectorized", [True, False])
def test_sparse_blocks(make, vectorized):
    op = differentiable_op(lambda x: x @ MATRIX.T, signature="(3)->(2)", vectorized=vectorized)
    op.numpy_jacobian(lambda op: make(MATRIX))
    for shape in ((3,), (2, 3), (0, 3)):
        assert_derivatives(op, lambda x: tf.linalg.matvec(MATRIX, x), np.random.default_rng(0).normal(size=shape))


def test_sparse_blocks_of_several_core_dimensions_are_flattened():
    op = differentiable_op(lambda x: np.swapaxes(x, -1, -2), signature="(m,n)->(n,m)")

    def rule(op):
        m, n = op.inputs[0].shape[-2:]
        places = np.arange(m * n).reshape(m, n).T.ravel()
        return sparse.csr_array((np.ones(m * n), (np.arange(m * n), places)), shape=(m * n, m * n))

    op.numpy_jacobian(rule)
    assert_derivatives(op, tf.linalg.matrix_transpose, np.arange(12.0).reshape(2, 2, 3))


def test_a_sparse_block_of_the_wrong_shape():
    op = differentiable_op(lambda x: x @ MATRIX.T, signature="(3)->(2)")
    op.numpy_jacobian(lambda op: sparse.csr_array(MATRIX.T))
    message = r"output 0 by input 0 has the wrong shape.\n  Expected: float64\[2, 3\]\n  Got:      float64\[3, 2\]"
    with pytest.raises(ContractError, match=message):
        weighted_gradient(op, tf.constant(X))


def test_a_sparse_block_for_a_batch_names_the_option_that_helps():
    def blocks(op):
        return sparse.block_diag([np.diag(2 * row) for row in np.atleast_2d(op.inputs[0])])

    remedy = "If each element of the loop dimensions needs its own matrix, pass vectorized=False to the op."
    for shape in [(3,), (2, 3)]:
        x = tf.constant(np.arange(1.0, 1 + np.prod(shape)).reshape(shape))
        op = differentiable_op(lambda x: x**2, signature="(n)->(n)")
        op.numpy_jacobian(blocks)
        if len(shape) == 2:
            with pytest.raises(ContractError) as caught:
                weighted_gradient(op, x)
            assert str(caught.value).endswith(remedy)
        op = differentiable_op(lambda x: x**2, signature="(n)->(n)", vectorized=False)
        op.numpy_jacobian(blocks)
        assert_derivatives(op, lambda x: x**2, x.numpy())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes since Python 3.11")
def test_a_sparse_matrix_that_cannot_be_made_for_a_batch_names_the_option_that_helps():
    op = differentiable_op(lambda x: x**2, signature="(n)->(n)")
    op.numpy_jacobian(lambda op: sparse.diags(2 * op.inputs[0]))
    with pytest.raises(ValueError, match="diagonals") as caught:
        weighted_gradient(op, tf.ones([2, 3]))
    assert any(note.endswith("or pass vectorized=False.") for note in caught.value.__notes__)


@pytest.mark.parametrize("kind", KINDS)
def test_partial_derivatives_without_a_signature_suggest_the_signature(kind):
    op = differentiable_op(lambda x: x**2)
    getattr(op, kind)(lambda op: 2 * op.inputs[0])
    with pytest.raises(ContractError) as caught:
        weighted_gradient(op, tf.constant([1.0, 2.0]))
    assert str(caught.value).endswith('If the op is elementwise, pass signature="()->()" to it.')
    op = differentiable_op(lambda x: x**2, signature="()->()")
    getattr(op, kind)(lambda op: 2 * op.inputs[0])
    assert_derivatives(op, lambda x: x**2, np.array([1.0, 2.0]))


def test_a_sparse_block_in_tensorflow_ops():
    op = differentiable_op(lambda x: x @ MATRIX.T, signature="(3)->(2)", name="tests.jacobian.sparse_in_tensorflow")
    op.jacobian(lambda op: sparse.csr_array(MATRIX))
    message = (
        r"jacobian of op 'tests.jacobian.sparse_in_tensorflow'.*: the Jacobian of output 0 by input 0 is a sparse "
        r"matrix, which TensorFlow does not take.\n  Got:      csr_array\n  Attach the rule with @op.numpy_jacobian"
    )
    with pytest.raises(ContractError, match=message):
        weighted_gradient(op, tf.constant(X))


# -- evaluations


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vectorized", [True, False])
def test_a_jacobian_of_one_call_is_evaluated_once(kind, vectorized):
    calls = []
    op = squares(kind, calls, vectorized=vectorized)
    x = tf.constant(X[0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = op(x)
    np.testing.assert_allclose(tape.jacobian(y, x), 2 * MATRIX * X[0])
    assert len(calls) == 1
    assert np.prod(calls[0]) == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize("method", ["jacobian", "batch_jacobian"])
def test_the_jacobian_of_a_batch_is_evaluated_once(kind, vectorized, method):
    calls = []
    op = squares(kind, calls, vectorized=vectorized)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = op(x)
    found = getattr(tape, method)(y, x)
    rows = found if method == "batch_jacobian" else tf.einsum("iaib->iab", found)
    np.testing.assert_allclose(rows, 2 * MATRIX * X[:, None, :])
    n_elements = sum(int(np.prod(shape)) for shape in calls)
    assert n_elements == 6  # each element of the batch once
    assert len(calls) == (2 if kind == "numpy_jacobian" and not vectorized else 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compute_dtype", [None, "float64"])
def test_a_compute_dtype_does_not_change_the_number_of_evaluations(kind, compute_dtype):
    calls = []
    op = squares(kind, calls, compute_dtype=compute_dtype)
    x = tf.constant(X, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = op(x)
    tape.batch_jacobian(y, x)
    assert [int(np.prod(shape)) for shape in calls] == [6]


@pytest.mark.parametrize("kind", KINDS)
def test_vectorized_map_of_vjps_and_jvps_evaluates_once(kind):
    calls = []
    op = squares(kind, calls)
    x, vectors = tf.constant(X[0]), tf.constant(np.random.default_rng(0).normal(size=(5, 2)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = op(x)
    found = tf.vectorized_map(lambda vector: tape.gradient(y, x, output_gradients=vector), vectors)
    np.testing.assert_allclose(found, vectors @ (2 * MATRIX * X[0]))
    assert [int(np.prod(shape)) for shape in calls] == [3]
    calls.clear()

    def jvp(direction):
        with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
            y = op(x)
        return accumulator.jvp(y)

    directions = tf.constant(np.random.default_rng(0).normal(size=(5, 3)))
    np.testing.assert_allclose(tf.vectorized_map(jvp, directions), directions @ (2 * MATRIX * X[0]).T)
    assert [int(np.prod(shape)) for shape in calls] == [3]


def test_an_executor_runs_the_elements():
    with ThreadPoolExecutor(2) as executor:
        op = squares("numpy_jacobian", vectorized=False, executor=executor)
        assert_derivatives(op, natively, X)
        x = tf.constant(X)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        np.testing.assert_allclose(tape.batch_jacobian(y, x), 2 * MATRIX * X[:, None, :])


@pytest.mark.parametrize("kind", KINDS)
def test_several_cotangents_and_inputs_take_one_evaluation(kind):
    calls = []
    op = differentiable_op(lambda x, y: (x * y, x + y), signature="(),()->(),()")
    attached(op, kind, lambda op: (calls.append(1), ((op.inputs[1], op.inputs[0]), (1.0, 1.0)))[1])
    weighted_gradient(op, tf.constant(X), tf.constant(X))
    assert calls == [1]


# -- needs and rules for some inputs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_needs(kind, mode):
    seen = []
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()")

    def rule(op):
        seen.append(op.needs)
        return "never used" if not op.needs[0] else op.inputs[1], op.inputs[0]

    attached(op, kind, rule)

    def differentiate(x, y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            z = op(x, y)
        return tape.gradient(z, y)

    np.testing.assert_allclose(modes.call(mode, differentiate, X, X + 1), X)
    assert set(seen) == {(False, True)}


@pytest.mark.parametrize("kinds", [(a, b) for a in [*KINDS, "gradient"] for b in KINDS], ids="-".join)
@pytest.mark.parametrize("mode", ["tape, eager", "tape inside", "gradients", "tape inside, XLA"])
def test_rules_for_some_inputs(kinds, mode):
    op = differentiable_op(lambda pair, z, *, k=2: k * pair["a"] * pair["b"] * z, signature="(),(),()->()")
    getattr(op, kinds[1])(wrt="z")(lambda op: op.static.k * op.inputs[0] * op.inputs[1])
    if kinds[0] == "gradient":

        @op.gradient(wrt="pair")
        def by_pair(op, cotangent):
            a, b, z = op.inputs
            return op.static.k * b * z * cotangent, op.static.k * a * z * cotangent

    else:
        getattr(op, kinds[0])(wrt=("pair",))(
            lambda op: (op.static.k * op.inputs[1] * op.inputs[2], op.static.k * op.inputs[0] * op.inputs[2])
        )
    found = modes.gradient(mode, lambda a, b, z: op({"b": b, "a": a}, z, k=3), X, X + 1, X + 2)
    np.testing.assert_allclose(found, [3 * (X + 1) * (X + 2), 3 * X * (X + 2), 3 * X * (X + 1)])
    if kinds[0] != "gradient":
        assert_derivatives(lambda a, b, z: op({"a": a, "b": b}, z), lambda a, b, z: 2 * a * b * z, X, X + 1, X + 2)


# -- second order


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_tensorflow_differentiates_a_rule_in_its_ops(mode):
    op = squares("jacobian")

    def hessian(function, x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            (first,) = weighted_gradient(function, x)
        return outer.gradient(first, x)

    found = modes.call(mode, lambda x: hessian(op, x), X)
    np.testing.assert_allclose(found, hessian(natively, tf.constant(X)))


def test_the_op_of_a_numpy_rule_takes_a_second_rule():
    op = differentiable_op(lambda x: x**3, signature="()->()")
    first = op.numpy_jacobian(lambda op: 3 * op.inputs[0] ** 2)
    np.testing.assert_allclose(first(X, X**3, X), 3 * X**3)

    @first.gradient
    def second(op, cotangent):
        x, _, vector = op.inputs
        return 6 * x * vector * cotangent, None, 3 * x**2 * cotangent

    def gradient(x):
        return weighted_gradient(op, x)[0]

    def native_gradient(x):
        return weighted_gradient(lambda x: x**3, x)[0]

    assert_derivatives(gradient, native_gradient, X)


@pytest.mark.parametrize("transform", ["gradient", "jvp"])
def test_a_second_derivative_of_a_numpy_rule_says_what_to_do(transform):
    op = squares("numpy_jacobian")
    x = tf.constant(X)
    with tf.GradientTape() as outer:
        outer.watch(x)
        value = weighted_gradient(op, x)[0] if transform == "gradient" else tangents(op, x)[0]
        message = r"this numpy Jacobian has no gradient rule.\n  Write the Jacobian in TensorFlow ops with @op.jacobian"
        with pytest.raises(GradientError, match=message):
            outer.gradient(value, x)


# -- errors


def raised(kind, rule, signature="(n)->()", function=lambda x: x.sum(-1), x=X):
    op = differentiable_op(function, signature=signature)
    attached(op, kind, rule)
    with pytest.raises(ContractError) as caught:
        weighted_gradient(op, *[tf.constant(x)] * signature.split("->", maxsplit=1)[0].count("("))
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_transposed_block_of_the_wrong_shape(kind):
    text = raised(kind, lambda op: np.ones([2, 3, 2]), "(3)->(2)", lambda x: x @ MATRIX.T)
    assert "the Jacobian of output 0 by input 0 has the wrong shape." in text
    assert "Expected: float64[2, 2, 3]\n  Got:      float64[2, 3, 2]\n" in text
    assert "Return the loop dimensions, then the core dimensions of the output, then the core dimensions of the" in text
    assert "The core dimensions are swapped: transpose the block." in text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 3), (5, 2, 3), (2, 1), (1,), ()])
def test_other_wrong_shapes(kind, shape):
    assert "the Jacobian of output 0 by input 0 has the wrong shape." in raised(kind, lambda op: np.ones(shape))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 3), (5, 2, 3), (2, 1), (2, 3, 3)])
@pytest.mark.parametrize("mode", ["unknown shapes", "XLA, unknown sizes"])
def test_wrong_shapes_where_sizes_are_unknown(kind, shape, mode):
    op = differentiable_op(lambda x: x.sum(-1), signature="(n)->()")
    attached(op, kind, lambda op: np.ones(shape) * op.inputs[0][..., :1, :1])
    with pytest.raises((ContractError, tf.errors.InvalidArgumentError, ValueError)):
        modes.call(mode, lambda x: weighted_gradient(lambda x: tf.ensure_shape(op(x), [2]), x)[0], X)


@pytest.mark.parametrize("kind", KINDS)
def test_a_complex_block_between_real_values(kind):
    text = raised(kind, lambda op: np.ones([2, 3]) * 1j)
    assert (
        "has the wrong dtype.\n  Expected: a real dtype, for float64 by float64\n  Got:      complex128[2, 3]" in text
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("result", "signature", "outputs", "expected", "got"),
    [
        (None, "()->()", 1, "one block", "None"),
        ((1.0,), "(),()->()", 1, "a tuple of 2 blocks, one for each of op.inputs", "a tuple of 1"),
        (1.0, "(),()->()", 1, "a tuple of 2 blocks, one for each of op.inputs", "one float"),
        ((1.0, 1.0), "()->()", 1, "one block", "a tuple of 2"),
        (1.0, "()->(),()", 2, "a tuple of 2, with one block for each of op.outputs", "one float"),
        ((1.0, 2.0, 3.0), "()->(),()", 2, "a tuple of 2, with one block for each of op.outputs", "a tuple of 3"),
        (
            ((1.0, 2.0), 1.0),
            "(),()->(),()",
            2,
            "a tuple of 2, with a tuple of 2 blocks, one for each of op.inputs for each of op.outputs",
            "one float",
        ),
    ],
)
def test_wrong_counts(kind, result, signature, outputs, expected, got):
    text = raised(kind, lambda op: result, signature, lambda *x: x[0] if outputs == 1 else (x[0], x[0]))
    assert f"Expected: {expected}\n" in text
    assert f"Got:      {got}\n" in text


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_count_for_some_inputs(kind):
    op = differentiable_op(lambda x, y, z: x * y * z, signature="(),(),()->()")
    getattr(op, kind)(wrt=("x", "y"))(lambda op: 1.0)
    getattr(op, kind)(wrt="z")(lambda op: 1.0)
    with pytest.raises(ContractError, match=r"a tuple of 2 blocks, one for each of op.inputs in wrt="):
        weighted_gradient(op, *[tf.constant(X)] * 3)


OTHERS = ["gradient", "numpy_gradient", "jvp", "numpy_jvp"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("wrt", [None, "x"])
def test_a_derivative_has_one_rule(kind, other, wrt):
    name = "gradient rule" if "gradient" in other else "JVP rule"
    op = differentiable_op(lambda x: x, signature="()->()")
    getattr(op, other)(lambda op, vector: vector, wrt=wrt)
    message = rf"the Jacobian rule attached at .* defines the same derivative as the {name} of the op, defined at"
    with pytest.raises(RegistrationError, match=message):
        getattr(op, kind)(lambda op: 1.0, wrt=wrt)
    if "jvp" in other:  # nothing of the Jacobian was attached
        with pytest.raises(GradientError, match="no gradient rule"):
            weighted_gradient(op, tf.constant(X))
    op = differentiable_op(lambda x: x, signature="()->()")
    getattr(op, kind)(lambda op: 1.0, wrt=wrt)
    message = rf"the {name} attached at .* defines the same derivative as the Jacobian rule of the op, defined at"
    with pytest.raises(RegistrationError, match=message):
        getattr(op, other)(lambda op, vector: vector, wrt=wrt)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_an_op_has_one_jacobian(kind, other):
    op = differentiable_op(lambda x: x, signature="()->()")
    getattr(op, kind)(lambda op: 1.0)
    with pytest.raises(RegistrationError, match=r"the op already has a Jacobian rule, defined at .*; a second one was"):
        getattr(op, other)(lambda op: 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_jacobian_beside_derivatives_from_values_is_an_error(kind):
    op = differentiable_op(lambda x: x, signature="()->()", grad="numerical")
    message = (
        r'grad="numerical" already defines this derivative; a Jacobian rule was attached at .*\n'
        r'  Remove one of the two: grad="numerical" or the rule\.'
    )
    with pytest.raises(RegistrationError, match=message):
        getattr(op, kind)(lambda op: 1.0)


def test_an_adjoint_next_to_a_jacobian_names_both_kinds():
    op = differentiable_op(lambda x: x, signature="()->()")
    op.jacobian(lambda op: 1.0)
    message = r"the adjoint rule attached at .* defines the same derivative as the Jacobian rule of the op, defined at"
    with pytest.raises(RegistrationError, match=message):
        op.adjoint(lambda op, g: g)


@pytest.mark.parametrize("kind", KINDS)
def test_the_op_of_a_numpy_rule_takes_no_jacobian(kind):
    op = differentiable_op(lambda x: x, signature="()->()")
    first = op.numpy_jacobian(lambda op: 1.0)
    with pytest.raises(RegistrationError, match=r"cannot have a Jacobian rule, because it has no signature"):
        getattr(first, kind)(lambda op: 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_with_a_cotangent_says_how_it_is_called(kind):
    op = differentiable_op(lambda x: x, signature="()->()")
    getattr(op, kind)(lambda op, cotangent: cotangent)
    with pytest.raises(TypeError) as caught:
        weighted_gradient(op, tf.constant(X))
    assert any(r"A Jacobian rule is called as rule(op)." in note for note in notes_of(caught.value))


def notes_of(error):
    return [*getattr(error, "__notes__", []), str(error)]


def test_numpy_in_a_rule_in_tensorflow_ops_is_an_error_in_graphs():
    op = differentiable_op(lambda x: np.sin(x), signature="()->()")
    op.jacobian(lambda op: np.cos(op.inputs[0].numpy()))
    with pytest.raises(GradientError, match=r"the op's jacobian rule calls numpy.*\n.*@op.numpy_jacobian"):
        modes.gradient("tape inside", op, X)


# -- saved models


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_jacobians_are_loaded_in_another_process(tmp_path, is_compiled, kind):
    op = getattr(saved_ops, f"product_with_{kind}")
    found = derivatives_when_loaded(tmp_path, op, gradient_of(op), is_compiled=is_compiled)
    assert found == [[3.0, 5.0], [1.0, 2.0]] * 2
