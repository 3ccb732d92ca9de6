"""Functions that take exactly one loop dimension (`vectorized="rows"`), as batches of libraries are."""

import numpy as np
import pytest
import tensorflow as tf

from tests import modes
from tests.processes import run_python
from tests.saved_ops import solved_rows
from tfpyop import ContractError, RegistrationError, differentiable_op
from tfpyop._spec.signature import _bind
from tfpyop.testing import check_op, check_purity

A = np.float32([[2, 0], [1, 1]])
B = np.float32([4, 6])
SHAPES = [
    *[((), ()), ((3,), (3,)), ((3,), ()), ((), (3,)), ((1,), (3,))],
    *[((2, 1), (3,)), ((2, 3), (2, 3)), ((0,), ()), ((2, 0), ())],
]


def given(a_loop, b_loop):
    """Matrices with these loop dimensions that differ from each other, and vectors."""
    shifts = np.arange(np.prod(a_loop, dtype=int), dtype="float32").reshape((*a_loop, 1, 1))
    return A + shifts * np.eye(2, dtype="float32"), np.broadcast_to(B, (*b_loop, 2)).copy()


def expected(a, b):
    return np.linalg.solve(a, b[..., None])[..., 0]


@pytest.mark.parametrize("mode", modes.MODES)
@pytest.mark.parametrize("loops", SHAPES, ids=str)
def test_values_in_every_mode(mode, loops):
    a, b = given(*loops)
    np.testing.assert_allclose(modes.call(mode, solved_rows, a, b), expected(a, b), rtol=1e-5)


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
@pytest.mark.parametrize("loops", [((), ()), ((2, 1), (3,)), ((1,), (3,)), ((0,), ())], ids=str)
def test_gradients_are_summed_over_broadcast_dimensions(mode, loops):
    a, b = given(*loops)
    by_a, by_b = modes.gradient(mode, solved_rows, a, b)

    def solve(a, b):
        return tf.linalg.solve(a + 0 * b[..., None], b[..., None] + 0 * a[..., :1])

    for found, reference in zip([by_a, by_b], modes.gradient("tape, eager", solve, a, b), strict=True):
        np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-5)


def test_the_function_is_called_once_for_all_loop_dimensions():
    shapes = []
    op = differentiable_op(lambda x: (shapes.append(x.shape), x.sum(-1))[1], signature="(n)->()", vectorized="rows")
    for loop in ((), (4,), (2, 3)):
        assert op(tf.ones([*loop, 5])).shape == loop
    tf.vectorized_map(lambda x: tf.vectorized_map(op, x), tf.ones([2, 3, 7, 5]))
    assert op(tf.ones([2, 0, 5])).shape == [2, 0]
    assert shapes[:3] == [(1, 5), (4, 5), (6, 5)]
    assert set(shapes[3:]) == {(42, 5)}


def by_rows(**options):
    """An op that refuses anything but one loop dimension."""

    def function(x, y):
        assert x.ndim == y.ndim == 2
        return x * y

    return differentiable_op(function, signature="(n),(n)->(n)", vectorized="rows", **options)


def with_jacobian():
    op = by_rows()

    @op.numpy_jacobian
    def jacobian(op):
        x, y = op.inputs
        assert x.ndim == y.ndim == 2
        return y[..., None] * np.eye(x.shape[-1], dtype=x.dtype), x[..., None] * np.eye(x.shape[-1], dtype=x.dtype)

    return op


def with_jvp():
    op = by_rows(grad=lambda op, g: (g * op.inputs[1], g * op.inputs[0]))
    op.numpy_jvp(jvp_of_rows)
    return op


def jvp_of_rows(op, t, u):
    assert t.ndim == u.ndim == op.inputs[0].ndim == 2
    return t * op.inputs[1] + u * op.inputs[0]


def gradient_of_rows(op, g):
    assert g.ndim == op.inputs[0].ndim == 2
    return g * op.inputs[1], g * op.inputs[0]


def from_jvp():
    op = by_rows(grad="from-jvp")
    op.numpy_jvp(jvp_of_rows)
    return op


def from_vjp():
    op = by_rows(jvp="from-vjp")
    op.numpy_gradient(gradient_of_rows)
    return op


KINDS = {
    "numerical": by_rows(grad="numerical"),
    "Jacobian": with_jacobian(),
    "JVP": with_jvp(),
    'grad="from-jvp"': from_jvp(),
    'jvp="from-vjp"': from_vjp(),
}


@pytest.mark.parametrize("op", KINDS.values(), ids=KINDS)
def test_all_kinds_of_numpy_rules_get_rows(op):
    x, y = np.ones((2, 1, 3), "float32"), np.float32([2, 3, 4])
    for mode in ("tape, eager", "tape inside", "tape outside, XLA"):
        by_x, by_y = modes.gradient(mode, op, x, y)
        np.testing.assert_allclose(by_x, np.broadcast_to(y, x.shape), rtol=1e-5)
        np.testing.assert_allclose(by_y, [2, 2, 2], rtol=1e-5)
    x = tf.constant(x)
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        z = op(x, y)
    np.testing.assert_allclose(accumulator.jvp(z), np.broadcast_to(y, x.shape), rtol=1e-5)
    check_op(op, max_examples=4, seed=1)


def test_the_check_of_purity_rejects_no_rows():
    outcome = check_purity(by_rows(), seed=1, max_examples=40)
    assert outcome.status == "passed"
    assert outcome.n_rejected < outcome.n_examples / 2  # empty loops only


@pytest.mark.parametrize("residuals", [{}, {"twice": object}], ids=["no object", "an object"])
def test_derived_rules_are_called_once_with_all_basis_vectors_as_rows(residuals):
    shapes = []
    values = [{"twice": 2}] if residuals else []
    op = differentiable_op(
        lambda x: ((x**2).sum(1), *values) if values else (x**2).sum(1),
        signature="(n)->()",
        vectorized="rows",
        grad="from-jvp",
        residuals=residuals,
    )

    @op.numpy_jvp
    def jvp(op, t):
        shapes.append(op.inputs[0].shape)
        assert t.shape == op.inputs[0].shape
        factor = op.residuals.twice if residuals else 2
        return factor * (op.inputs[0] * t).sum(1)

    x = np.arange(1, 13, dtype="float32").reshape(2, 2, 3)
    for loop in ((), (2,), (2, 2)):
        given = x[(0,) * (2 - len(loop))]
        np.testing.assert_allclose(modes.gradient("tape, eager", op, given)[0], 2 * given)
    # all basis vectors, and one vector that confirms the rule for these shapes
    assert shapes == [(3, 3), (1, 3), (6, 3), (2, 3), (12, 3), (4, 3)]


_LOAD = """
import sys
import tensorflow as tf
import tests.saved_ops
loaded = tf.saved_model.load(sys.argv[1])
a, b = tf.constant([[2.0, 0.0], [0.0, 4.0]]), tf.constant([[[4.0, 8.0]], [[2.0, 4.0]]])
with tf.GradientTape() as tape:
    tape.watch(b)
    x = loaded.solve(a, b)
print(x.numpy().tolist(), tape.gradient(x, b).numpy().tolist())
"""


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
@pytest.mark.parametrize("loops", [((), ()), ((2, 1), (3,)), ((0,), ())], ids=str)
def test_all_rows_have_one_object(mode, loops):
    n_calls = []

    def function(a, b):
        n_calls.append(1)
        inverse = np.linalg.inv(a)
        return np.einsum("bij,bj->bi", inverse, b), {"inverse": inverse}

    op = differentiable_op(function, signature="(n,n),(n)->(n)", vectorized="rows", residuals={"inverse": object})

    @op.numpy_gradient
    def gradient(op, cotangent):
        by_b = np.einsum("bji,bj->bi", op.residuals.inverse, cotangent)
        return -by_b[:, :, None] * op.outputs[0][:, None, :], by_b

    a, b = given(*loops)
    found = modes.gradient(mode, op, a, b)
    n_runs = 3 if mode.endswith("again") else 1
    assert len(n_calls) == (0 if 0 in loops[0] else n_runs)
    for value, reference in zip(found, modes.gradient(mode, solved_rows, a, b), strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-4, atol=1e-5)


def sums_of_squares():
    """An op whose rows have one object."""
    op = differentiable_op(
        lambda x: ((x**2).sum(1), {"twice": 2}), signature="(n)->()", vectorized="rows", residuals={"twice": object}
    )
    op.numpy_gradient(lambda op, g: op.residuals.twice * op.inputs[0] * g[:, None])
    return op


@pytest.mark.parametrize("loop", [(), (2,), (2, 3)])
def test_a_function_with_an_object_is_evaluated_without_checks(loop):
    (host,) = [op.host for op in [sums_of_squares()._definition.specialize(None, {})]]
    values, handle = host.evaluate([np.ones((*loop, 3))])
    assert values.shape == loop
    assert handle == 0


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
@pytest.mark.parametrize("n", [0, 2])
def test_vectorized_map_of_rows_with_an_object(wrap, n):
    op = sums_of_squares()
    x = tf.constant(np.arange(n * 3.0).reshape(n, 3))

    @wrap
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.vectorized_map(op, x)
        return y, tape.gradient(y, x)

    y, by_x = gradients(x)
    np.testing.assert_allclose(y, (x.numpy() ** 2).sum(1))
    np.testing.assert_allclose(by_x, 2 * x)


def test_another_process_flattens_the_rows(tmp_path):
    module = tf.Module()
    spec = [tf.TensorSpec([2, 2]), tf.TensorSpec([None, None, 2])]
    module.solve = tf.function(solved_rows, input_signature=spec)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(module, str(tmp_path), options=options)
    process = run_python("-c", _LOAD, str(tmp_path), timeout=300)
    expected = "[[[2.0, 2.0]], [[1.0, 1.0]]] [[[0.5, 0.25]], [[0.5, 0.25]]]"
    assert process.stdout.strip() == expected, process.stderr


@pytest.mark.parametrize("vectorized", ["rows", False])
def test_equal_calls_of_a_rule_bind_their_shapes_once(vectorized):
    op = differentiable_op(lambda x: (x**2).sum(-1), signature="(n)->()", vectorized=vectorized)
    op.numpy_gradient(lambda op, g: 2 * op.inputs[0] * g[..., None])
    x = tf.ones([2, 2, 3])

    def differentiate():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        return tape.gradient(y, x)

    differentiate()
    n_misses = _bind.cache_info().misses
    for _ in range(3):
        np.testing.assert_allclose(differentiate(), 2 * x)
    assert _bind.cache_info().misses == n_misses


def test_methods_and_out():
    class Layer:
        @differentiable_op(signature="(n)->(n)", vectorized="rows")
        def doubled(self, x, *, out=None):
            assert x.ndim == 2
            return np.multiply(x, 2, out=out)

    assert Layer().doubled(tf.ones([2, 2, 3])).numpy().tolist() == np.full((2, 2, 3), 2).tolist()
    assert Layer().doubled(tf.ones([4, 3])).numpy().tolist() == np.full((4, 3), 2).tolist()


def test_a_result_without_rows_is_an_error():
    op = differentiable_op(lambda x: x.sum(), signature="(n)->()", vectorized="rows")
    for mode in ("eager", "graph", "XLA"):
        with pytest.raises((ContractError, tf.errors.OpError), match="output 0 has the wrong shape"):
            modes.call(mode, op, np.ones((2, 3), "float32"))


MISUSE = {
    "no signature": ({"signature": None}, "vectorized='rows' requires a signature."),
    "no input": (
        {"signature": "->()"},
        "vectorized='rows' requires an input in every call, because loop dimensions come from inputs.",
    ),
    "an optional dimension": (
        {"signature": "(n?,k)->(n?)"},
        "vectorized='rows' does not support optional core dimensions.",
    ),
    "an executor": ({"executor": lambda: None}, "executor= requires vectorized=False."),
    "another word": ({"vectorized": "row"}, "vectorized= is neither True nor False nor 'rows'."),
}


@pytest.mark.parametrize(("options", "problem"), MISUSE.values(), ids=MISUSE)
def test_misuse(options, problem):
    with pytest.raises(RegistrationError) as caught:
        differentiable_op(lambda: 1.0, **{"signature": "()->()", "vectorized": "rows", **options})
    assert caught.value.problem == problem
