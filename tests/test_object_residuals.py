"""Residuals that are Python objects: rules get the object of their call, or one that is created again."""

import gc
import itertools
import logging
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf

from tests import modes, parallel_ops, saved_ops
from tests.processes import run_python
from tests.saved_derivatives import derivatives_when_loaded
from tfpyop import ContractError, GradientError, RegistrationError, differentiable_op
from tfpyop._host import kept_objects
from tfpyop._host.kept_objects import MOST_RECENT, KeptObjects, forget_handles

ROOT = Path(__file__).parent.parent
A = np.array([[4.0, 1, 0], [1, 3, 1], [0.5, 1, 5]])
B = np.array([1.0, -2.0, 3.0])
STACK = np.stack([A, 2 * A, A + np.eye(3)])


class Factors:
    """A factorisation, which can be counted."""

    alive: ClassVar = weakref.WeakSet()

    def __init__(self, matrix):
        self.lu = scipy.linalg.lu_factor(matrix)
        Factors.alive.add(self)

    def solve(self, right, trans=0):
        return scipy.linalg.lu_solve(self.lu, right, trans=trans)


@pytest.fixture(autouse=True)
def nothing_is_left():
    gc.collect()
    Factors.alive.clear()
    Kept.alive.clear()


def plain_gradient_of(op, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = op(x)
    return tape.gradient(y, [x])


@pytest.fixture
def created_again(caplog):
    """The debug messages about functions that are called again."""
    caplog.set_level(logging.DEBUG, logger="tfpyop")
    return lambda: [record.getMessage() for record in caplog.records if "called again" in record.getMessage()]


def solve_with(**options):
    """A linear solve whose rules use the factorisation of the function."""
    options = {"signature": "(n,n),(n)->(n)", "vectorized": False, **options}

    def function(a, b):
        factors = Factors(a)
        return factors.solve(b), {"factors": factors}

    op = differentiable_op(function, residuals={"factors": object}, **options)

    def gradient(op, cotangent):
        assert isinstance(op.residuals.factors, Factors)
        by_b = op.residuals.factors.solve(cotangent, trans=2)
        return -by_b[:, None] * np.conj(op.outputs[0]), by_b

    def jvp(op, a_tangent, b_tangent):
        return op.residuals["factors"].solve(b_tangent - a_tangent @ op.outputs[0])

    op.numpy_gradient(gradient)
    op.numpy_jvp(jvp)
    return op


solve = solve_with()


@differentiable_op(signature="(n,n),(n)->(n)", residuals={"solver": object, "inverse": ("(n,n)", np.float64)})
def solve_all(a, b):
    """Takes loop dimensions: one object for all of them. The object is a closure of the inputs."""
    loop = np.broadcast_shapes(a.shape[:-2], b.shape[:-1])
    whole = np.broadcast_to(np.linalg.inv(np.float64(a)), loop + a.shape[-2:])

    def solver(right):
        return np.linalg.solve(np.swapaxes(a, -1, -2), right[..., None])[..., 0]

    return np.linalg.solve(a, b[..., None])[..., 0], {"solver": solver, "inverse": whole}


@solve_all.numpy_gradient
def solve_all_gradient(op, cotangent):
    by_b = op.residuals.solver(cotangent)
    other = (np.swapaxes(op.residuals.inverse, -1, -2) @ cotangent[..., None])[..., 0]
    np.testing.assert_allclose(by_b, other, rtol=1e-4)
    return -by_b[..., :, None] * op.outputs[0][..., None, :], by_b


def solve_natively(a, b):
    return tf.linalg.matvec(tf.linalg.inv(a), b)


OPS = {"one element": solve, "loop dimensions": solve_all}
every_op = pytest.mark.parametrize("op", OPS.values(), ids=OPS)


def gradient_of(op):
    def gradient(a, b):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            y = tf.math.sin(op(a, b))
        return tape.gradient(y, [a, b])

    return gradient


def by_tf_gradients(op):
    def gradient(a, b):
        return tf.gradients(tf.math.sin(op(a, b)), [a, b])

    return gradient


def jvp_of(op):
    def jvp(a, b):
        with tf.autodiff.ForwardAccumulator([a, b], [tf.ones_like(a), 2 * b]) as accumulator:
            y = tf.math.sin(op(a, b))
        return accumulator.jvp(y)

    return jvp


def close(got, expected):
    tf.nest.map_structure(lambda *pair: np.testing.assert_allclose(*pair, rtol=2e-4, atol=1e-6), got, expected)


def native(derivative, *arguments):
    return tf.nest.map_structure(
        lambda tensor: tensor.numpy(), derivative(solve_natively)(*map(tf.constant, arguments))
    )


# -- values in all modes


@every_op
@pytest.mark.parametrize("mode", modes.MODES)
@pytest.mark.parametrize("a", [A, STACK], ids=["single", "batch"])
def test_a_gradient(mode, op, a, created_again):
    close(modes.call(mode, gradient_of(op), a, B), native(gradient_of, a, B))
    assert not created_again()


@pytest.mark.parametrize("mode", [mode for mode in modes.WITHOUT_XLA if mode != "eager"])
def test_a_gradient_by_tf_gradients(mode, created_again):
    close(modes.call(mode, by_tf_gradients(solve), STACK, B), native(gradient_of, STACK, B))
    assert not created_again()


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA", "XLA, again"])
def test_a_jvp(mode, created_again):
    close(modes.call(mode, jvp_of(solve), A, B), native(jvp_of, A, B))
    assert not created_again()


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_dtypes(mode, dtype):
    a, b = A.astype(dtype), B.astype(dtype)
    if dtype.startswith("complex"):
        a, b = a + 1j * np.eye(3, dtype=dtype), b * (1 - 2j)
    got = modes.call(mode, gradient_of(solve), a.astype(dtype), b.astype(dtype))
    close(got, native(gradient_of, a.astype(dtype), b.astype(dtype)))
    assert [array.dtype for array in got] == [dtype, dtype]


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
@pytest.mark.parametrize(("a", "b"), [(A, np.stack([B, 2 * B])), (STACK[:1], np.zeros((0, 3))), (STACK[:0], B)])
def test_broadcast_and_empty_inputs(mode, a, b):
    by_a, by_b = modes.call(mode, gradient_of(solve), a, b)
    assert (by_a.shape, by_b.shape) == (a.shape, b.shape)
    if 0 not in (*a.shape, *b.shape):
        close([by_a, by_b], native(gradient_of, a, b))
    else:
        assert not by_a.any()
        assert not by_b.any()


def elementwise(**options):
    op = differentiable_op(
        lambda x: (x**3, {"slope": (3 * x**2,)}), signature="()->()", residuals={"slope": object}, **options
    )
    op.numpy_gradient(lambda op, cotangent: op.residuals.slope[0] * cotangent)
    return op


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
@pytest.mark.parametrize("x", [np.array(2.0), np.ones((2, 3)), np.zeros((0, 2)), np.array([np.nan, 1.0])])
@pytest.mark.parametrize("is_vectorized", [True, False])
def test_an_elementwise_op_and_the_jvp_that_follows(mode, x, is_vectorized, created_again):
    op = elementwise(vectorized=is_vectorized)

    def derivatives(x):
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator, tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        return tape.gradient(y, x), accumulator.jvp(y)

    np.testing.assert_allclose(modes.call(mode, derivatives, x), [3 * x**2] * 2)
    assert not created_again()


# -- transformations


@every_op
@pytest.mark.parametrize("wrap", [lambda f: f, tf.function, modes.compiled], ids=["eager", "graph", "XLA"])
def test_rows(op, wrap):
    def over_rows(stack):
        return tf.vectorized_map(lambda row: gradient_of(op)(row, tf.constant(B)), stack)

    expected = [native(gradient_of, row, B) for row in STACK]
    got = wrap(over_rows)(tf.constant(STACK))
    close([part.numpy() for part in got], [np.stack(parts) for parts in zip(*expected, strict=True)])


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function, modes.compiled], ids=["eager", "graph", "XLA"])
def test_a_jacobian_takes_one_factorisation(wrap):
    numbers = itertools.count()
    counted = differentiable_op(
        lambda a, b: (np.linalg.solve(a, b), {"call": (next(numbers), np.linalg.inv(a))}),
        signature="(n,n),(n)->(n)",
        residuals={"call": object},
        vectorized=False,
        numpy_grad=lambda op, g: (None, op.residuals.call[1].T @ g),
    )

    def jacobian(a, b):
        with tf.GradientTape() as tape:
            tape.watch(b)
            y = counted(a, b)
        return tape.jacobian(y, b)

    close(wrap(jacobian)(tf.constant(A), tf.constant(B)).numpy(), np.linalg.inv(A))
    assert next(numbers) == 1


@pytest.mark.parametrize("is_vectorized", [True, False])
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_a_jacobian_rule(mode, is_vectorized):
    op = differentiable_op(
        lambda a, b: (np.linalg.solve(a, b[..., None])[..., 0], {"inverse": [np.linalg.inv(a)]}),
        signature="(n,n),(n)->(n)",
        residuals={"inverse": object},
        vectorized=is_vectorized,
    )
    op.numpy_jacobian(wrt="b")(lambda op: op.residuals.inverse[0])

    def jacobian(a, b):
        with tf.GradientTape() as tape:
            tape.watch(b)
            y = op(a, b)
        return tape.batch_jacobian(y, b)

    close(modes.call(mode, jacobian, STACK, np.stack([B] * 3)), np.linalg.inv(STACK))


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_an_adjoint_rule(mode):
    op = differentiable_op(
        lambda a, b: ((factors := Factors(a)).solve(b), {"factors": factors}),
        signature="(n,n),(n)->(n)",
        residuals={"factors": object},
        vectorized=False,
    )
    op.numpy_adjoint(linear_in="b")(lambda op, g: op.residuals.factors.solve(g, trans=2))

    def derivatives(a, b):
        with tf.GradientTape() as outer:
            outer.watch(b)
            with tf.GradientTape() as tape:
                tape.watch(b)
                y = tf.reduce_sum(op(a, b) ** 3)
            first = tape.gradient(y, b)
        return first, outer.gradient(first, b)

    def natively(a, b):
        with tf.GradientTape() as outer:
            outer.watch(b)
            with tf.GradientTape() as tape:
                tape.watch(b)
                y = tf.reduce_sum(solve_natively(a, b) ** 3)
            first = tape.gradient(y, b)
        return first, outer.gradient(first, b)

    close(modes.call(mode, derivatives, A, B), modes.call(mode, natively, A, B))


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_numerical_derivatives_do_not_read_objects(mode):
    op = differentiable_op(
        lambda x: (np.sin(x), {"kept": object()}), signature="()->()", residuals={"kept": object}, grad="numerical"
    )

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        return tape.gradient(y, x)

    np.testing.assert_allclose(modes.call(mode, gradient, B), np.cos(B), rtol=1e-8)


def second_order(attach):
    """x³ with a rule that uses an object, and a rule of this rule."""
    op = differentiable_op(lambda x: (x**3, {"x": [x]}), signature="()->()", residuals={"x": object})
    seen = []

    @op.numpy_gradient
    def rule(op, cotangent):
        return 3 * op.residuals.x[0] ** 2 * cotangent

    @getattr(rule, attach)
    def rule_of_rule(op, by_x):
        x, _, kept, cotangent = op.inputs
        seen.append(kept if kept is None else type(kept))
        return 6 * (x if kept is None else kept[0]) * cotangent * by_x, None, None, 3 * x**2 * by_x

    return op, seen


@pytest.mark.parametrize("attach", ["gradient", "numpy_gradient"])
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_a_rule_of_a_rule(mode, attach, created_again):
    op, seen = second_order(attach)

    def second(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = op(x)
            first = tape.gradient(y, x)
        return outer.gradient(first, x)

    np.testing.assert_allclose(modes.call(mode, second, B), 6 * B)
    assert set(seen) == {None if attach == "gradient" else list}
    assert not created_again()


def test_a_loop_has_one_object_for_each_iteration(created_again):
    @tf.function
    def gradient(a, b):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            x = b
            for i in tf.range(40):
                x = solve(a + tf.cast(i, a.dtype) * tf.eye(3, dtype=a.dtype), 10 * x)
        return tape.gradient(x, [a, b])

    def natively(a, b):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            x = b
            for i in range(40):
                x = solve_natively(a + tf.cast(i, a.dtype) * tf.eye(3, dtype=a.dtype), 10 * x)
        return tape.gradient(x, [a, b])

    arguments = tf.constant(A), tf.constant(B)
    close([part.numpy() for part in gradient(*arguments)], [part.numpy() for part in natively(*arguments)])
    assert not created_again()
    del arguments
    assert len(Factors.alive) == 0


def test_a_compiled_loop_that_is_longer_than_what_is_kept(created_again):
    n = MOST_RECENT + 4

    def gradient(b):
        with tf.GradientTape() as tape:
            tape.watch(b)

            def step(i, x):
                return i + 1, solve(tf.constant(A) + tf.cast(i, b.dtype) * tf.eye(3, dtype=b.dtype), 5 * x)

            _, x = tf.while_loop(lambda i, x: i < n, step, [0, b], maximum_iterations=n)
        return tape.gradient(x, b)

    expected = np.eye(3)
    for i in range(n):
        expected = 5 * np.linalg.inv(A + i * np.eye(3)) @ expected
    close(modes.compiled(gradient)(tf.constant(B)).numpy(), expected.sum(0))
    assert 4 <= len(created_again()) <= n


@pytest.mark.parametrize("is_compiled", [False, True])
def test_inputs_that_tensorflow_folds(is_compiled):
    """TensorFlow evaluates a call of constants once, and so stores its handle in the graph."""

    @tf.function(jit_compile=is_compiled)
    def gradient(scale):
        a = tf.constant(A)
        with tf.GradientTape() as tape:
            tape.watch(a)
            y = scale * solve(a, tf.constant(B))
        return tape.gradient(y, a)

    with tf.GradientTape() as tape:
        a = tf.constant(A)
        tape.watch(a)
        y = solve_natively(a, tf.constant(B))
    expected = tape.gradient(y, a).numpy()
    for scale in (1.0, 2.0, 3.0):
        close(gradient(tf.constant(scale, tf.float64)).numpy(), scale * expected)
    assert len(Factors.alive) <= MOST_RECENT


def test_a_call_that_is_made_again_by_recompute_grad_or_stopped():
    expected = native(gradient_of, A, B)
    for wrap in (lambda f: f, tf.function):
        again = tf.recompute_grad(solve)
        close([part.numpy() for part in wrap(gradient_of(again))(tf.constant(A), tf.constant(B))], expected)
    with tf.GradientTape() as tape:
        b = tf.constant(B)
        tape.watch(b)
        y = tf.stop_gradient(solve(tf.constant(A), b)) * b
    close(tape.gradient(y, b).numpy(), np.linalg.solve(A, B))


# -- lifetimes


def test_an_object_lives_as_long_as_the_tape():
    a, b = tf.constant(A), tf.constant(B)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([a, b])
        y = solve(a, b)
        z = solve(tf.stop_gradient(a), y)
    assert len(Factors.alive) == 2
    for _ in range(3):
        tape.gradient(z, [a, b])
    assert len(Factors.alive) == 2
    del tape
    assert len(Factors.alive) == 0


def test_an_object_lives_as_long_as_the_tape_around_a_function():
    function, a, b = tf.function(solve), tf.constant(A), tf.constant(B)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([a, b])
        y = function(a, b)
    assert len(Factors.alive) == 1
    for _ in range(2):
        close([part.numpy() for part in tape.gradient(y, [a, b])], native(plain_gradient, A, B))
    assert len(Factors.alive) == 1
    del tape
    assert len(Factors.alive) == 0


def plain_gradient(op):
    def gradient(a, b):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            y = op(a, b)
        return tape.gradient(y, [a, b])

    return gradient


class Kept:
    alive: ClassVar = weakref.WeakSet()

    def __init__(self):
        Kept.alive.add(self)


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function, modes.compiled], ids=["eager", "graph", "XLA"])
@pytest.mark.parametrize("is_taped", [False, True])
def test_ten_thousand_calls_leave_nothing_behind(wrap, is_taped):
    op = differentiable_op(lambda x: (x + 1, {"kept": Kept()}), signature="()->()", residuals={"kept": object})
    op.numpy_gradient(lambda op, g: g)
    n_at_once = 20 if wrap in (tf.function, modes.compiled) else 1
    # TensorFlow's threads leave it to the next call to release the memory of arrays
    most = {tf.function: n_at_once, modes.compiled: MOST_RECENT}.get(wrap, 0)

    @wrap
    def calls(x):
        for _ in range(n_at_once):
            x = op(x)
        return x

    x = tf.constant(1.0)
    for _ in range(10_000 // n_at_once):
        if is_taped:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = calls(x)
            del tape
        else:
            y = calls(x)
        assert y.numpy() == 1 + n_at_once
        assert len(Kept.alive) <= most


# -- objects that are gone


@every_op
@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_an_object_that_is_gone_is_created_again_once(op, wrap, created_again):
    a, b = tf.constant(STACK[:1] if op is solve else STACK), tf.constant(B)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([a, b])
        y = wrap(op)(a, b)
    forget_handles()
    for _ in range(3):
        close([part.numpy() for part in tape.gradient(y, [a, b])], native(plain_gradient, a.numpy(), B))
    assert len(created_again()) == 1
    assert "called again to create an object" in created_again()[0]


@pytest.mark.parametrize("handle", [0, 1, 12345, 2**64 - 1])
@pytest.mark.parametrize("wrap", [lambda f: f, tf.function, modes.compiled], ids=["eager", "graph", "XLA"])
def test_a_handle_that_was_never_given(wrap, handle, created_again):
    op = differentiable_op(
        lambda a, b: (np.linalg.solve(a, b), {"inverse": [np.linalg.inv(a)]}),
        signature="(n,n),(n)->(n)",
        residuals={"inverse": object},
        vectorized=False,
    )
    rule = op.numpy_gradient(lambda op, g: (None, op.residuals.inverse[0].T @ g))
    x = np.linalg.solve(A, B)
    arguments = [*map(tf.constant, (A, B, x)), tf.constant(handle, tf.uint64), tf.constant(B)]
    close(wrap(lambda *tensors: rule(*tensors))(*arguments)[1].numpy(), np.linalg.inv(A).T @ B)
    assert len(created_again()) == 1


def test_an_object_is_used_for_its_own_call_only(created_again):
    """With the handle of another call, other inputs, or another op, the object is created again."""
    op, other = elementwise(), elementwise()
    rule = op.numpy_jvp(lambda op, tangent: op.residuals.slope[0] * tangent)
    with tf.GradientTape() as tape:
        x = tf.constant(2.0)
        tape.watch(x)
        op(x)
    handle = max(kept_objects._STORE.calls)
    for value in (3.0, -0.0, np.nan):
        got = rule(value, np.float32(value) ** 3, np.uint64(handle), 1.0).numpy()
        np.testing.assert_allclose(got, 3 * value**2)
    with tf.GradientTape() as other_tape:
        other_tape.watch(x)
        other(x)
    assert max(kept_objects._STORE.calls) > handle
    for number in (handle, max(kept_objects._STORE.calls)):
        assert rule(2.0, 8.0, np.uint64(number), 1.0).numpy() == 12.0
    assert len(created_again()) == 4  # not for the call itself
    del tape, other_tape


def test_inputs_are_compared_by_their_bytes():
    kept = KeptObjects()
    values = [np.array([0.0, np.nan]), np.array(b"text", object)]
    handle = kept.keep(values, {"name": 1})
    assert kept.find(handle, [np.array([0.0, np.nan]), values[1]]) == {"name": 1}
    assert kept.find(handle, values) == {"name": 1}
    different = [np.array([-0.0, np.nan]), np.array([0, np.nan], np.float32), np.array([[0.0, np.nan]]), np.zeros(2)]
    for array in different:
        assert kept.find(handle, [array, values[1]]) is None
    assert kept.find(handle, [values[0], np.array(b"other", object)]) is None
    assert kept.find(handle, values[:1]) is None
    assert KeptObjects().find(handle, values) is None
    assert kept.find(np.array([1, 2], np.uint64), values) is None
    del handle
    assert kept.find(np.uint64(1), values) is None


# -- other processes, workers, threads


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_loaded_model(tmp_path, is_compiled):
    def derivative(x, y):
        with tf.GradientTape() as tape:
            tape.watch([x, y])
            z = saved_ops.divided(x, y)
        return tape.gradient(z, [x, y])

    x, y = np.array([1.0, 2.0]), np.array([3.0, 5.0])
    found = derivatives_when_loaded(tmp_path, saved_ops.divided, derivative, is_compiled=is_compiled)
    np.testing.assert_allclose(found, [1 / y, -x / y**2] * 2, rtol=1e-6)


def test_a_saved_model_says_that_the_residual_is_a_handle(tmp_path):
    module = tf.Module()
    module.call = tf.function(saved_ops.divided, input_signature=[tf.TensorSpec([2])] * 2)
    tf.saved_model.save(module, str(tmp_path))
    assert b'tests.saved_ops:divided|[["float32",[2]],["uint64",[]]]' in (tmp_path / "saved_model.pb").read_bytes()


FORKED = """
import os, signal, sys
import numpy as np, tensorflow as tf
from tfpyop._host.kept_objects import KeptObjects, retain
kept, inputs = KeptObjects(), [np.zeros(2)]
handle = kept.keep(inputs, {"pid": os.getpid()})
if sys.argv[1] == "recent":  # as XLA, which copies handles
    retain(handle)
    handle = np.array(handle)
child = os.fork()
if child == 0:
    signal.alarm(60)
    is_forgotten = kept.find(handle, inputs) is None
    own = kept.keep(inputs, {"pid": os.getpid()})
    os._exit(0 if is_forgotten and kept.find(own, inputs) == {"pid": os.getpid()} else 1)
assert os.waitpid(child, 0)[1] == 0
assert kept.find(handle, inputs) == {"pid": os.getpid()}
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
@pytest.mark.parametrize("kept", ["held", "recent"])
def test_a_forked_process_does_not_get_the_objects_of_its_parent(kept):
    run_python("-c", FORKED, kept, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_a_thread_pool_keeps_the_objects(wrap, created_again):
    with ThreadPoolExecutor(2, thread_name_prefix="solve") as pool:
        op = solve_with(executor=pool)
        got = wrap(gradient_of(op))(tf.constant(STACK), tf.constant(B))
        close([part.numpy() for part in got], native(gradient_of, STACK, B))
    assert not created_again()


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_workers_of_a_process_pool_create_the_objects_again(wrap):
    got = wrap(gradient_of(parallel_ops.solve))(tf.constant(STACK), tf.constant(B))
    close([part.numpy() for part in got], native(gradient_of, STACK, B))


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function, modes.compiled], ids=["eager", "graph", "XLA"])
def test_threads(wrap):
    derivative = wrap(gradient_of(solve))

    def differentiate(number):
        a = A + number * np.eye(3)
        return [part.numpy() for part in derivative(tf.constant(a), tf.constant(B))]

    with ThreadPoolExecutor(8) as pool:
        for number, got in enumerate(pool.map(differentiate, range(200))):
            close(got, native(gradient_of, A + number * np.eye(3), B))


# -- declarations


class Model:
    def __init__(self, factor):
        self.factor = factor

    @differentiable_op(signature="()->()", residuals={"kept": object})
    def scaled(self, x, *, power: int = 2):
        return self.factor * x**power, {"kept": {"slope": self.factor * power * x ** (power - 1)}}

    @scaled.numpy_gradient
    def scaled_gradient(self, op, cotangent):
        return op.residuals.kept["slope"] * cotangent


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_methods_and_static_arguments(mode):
    models = Model(2.0), Model(3.0)

    def gradients(x):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            outputs = [model.scaled(x, power=power) for model in models for power in (2, 3)]
        return [tape.gradient(y, x) for y in outputs]

    x = np.array([1.0, 2.0])
    expected = [factor * power * x ** (power - 1) for factor in (2, 3) for power in (2, 3)]
    np.testing.assert_allclose(modes.call(mode, gradients, x), expected)


@pytest.mark.parametrize("options", [{"compute_dtype": "float64"}, {"dtype": "float32"}, {}])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_options(options, dtype, created_again):
    op = elementwise(**{**options, **({"dtype": dtype} if "dtype" in options else {})})
    with tf.GradientTape(persistent=True) as tape:
        x = tf.constant([2.1, 3.1], dtype)
        tape.watch(x)
        y = op(x)
    first = tape.gradient(y, x)
    np.testing.assert_allclose(tf.cast(first, "float32"), 3 * tf.cast(x, "float32") ** 2, rtol=2e-2)
    assert not created_again()
    forget_handles()
    np.testing.assert_allclose(tf.cast(tape.gradient(y, x), "float32"), tf.cast(first, "float32"), rtol=2e-2)
    assert len(created_again()) == 1


@pytest.mark.parametrize("kind", ["numpy_jacobian", "from-jvp", "from-vjp"])
@pytest.mark.parametrize("declared", [object, ("()", np.int64)], ids=["object", "integer"])
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_derived_rules_of_an_op_without_a_signature(mode, kind, declared):
    options = {"from-jvp": {"grad": "from-jvp"}, "from-vjp": {"jvp": "from-vjp"}}.get(kind, {})
    op = differentiable_op(
        lambda x: (x**2, {"two": np.int64(2)}), shape=lambda shape: shape, residuals={"two": declared}, **options
    )
    if kind == "numpy_jacobian":
        op.numpy_jacobian(lambda op: np.diag(op.residuals.two * op.inputs[0]))
    else:
        attach = op.numpy_jvp if kind == "from-jvp" else op.numpy_gradient
        attach(lambda op, vector: op.residuals.two * op.inputs[0] * vector)
    (by_x,) = modes.call(mode, lambda x: plain_gradient_of(op, x), B)
    close(by_x, 2 * B)
    with tf.autodiff.ForwardAccumulator(x := tf.constant(B), tf.ones_like(x)) as accumulator:
        y = op(x)
    close(accumulator.jvp(y), 2 * B)


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_a_function_that_writes_into_a_destination(mode):
    def function(x, *, out=None):
        return np.multiply(x, 2, out=out), {"kept": None}

    op = differentiable_op(function, signature="()->()", residuals={"kept": object})
    op.numpy_gradient(lambda op, g: 2 * g if op.residuals.kept is None else None)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        return y, tape.gradient(y, x)

    np.testing.assert_allclose(modes.call(mode, gradient, B), [2 * B, np.full(3, 2.0)])


def test_keras():
    layer = keras.layers.Dense(3, kernel_initializer="identity")
    inputs = keras.Input([3])
    outputs = solve(tf.constant(A, tf.float32), layer(inputs))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    x = np.eye(3, dtype=np.float32)
    history = model.fit(x, 2 * x, epochs=20, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_the_description():
    assert "residuals: solver (object), inverse" in solve_all.describe()


def test_names_and_values_of_the_context():
    seen = []
    op = differentiable_op(
        lambda x: (x, {"a": x, "values": 5}), signature="()->()", residuals={"values": object, "a": ("()", "f4")}
    )

    @op.numpy_gradient
    def rule(op, cotangent):
        kept = op.residuals
        seen.extend([repr(kept), sorted(kept), len(kept), kept.values, "values" in kept, repr(kept)])
        return cotangent

    with tf.GradientTape() as tape:
        x = tf.constant(1.0)
        tape.watch(x)
        y = op(x)
    tape.gradient(y, x)
    assert seen[1:5] == [["a", "values"], 2, 5, True]
    assert "values=object" in seen[0]
    assert "values=5" in seen[5]


# -- errors


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
@pytest.mark.parametrize("attach", ["gradient", "jvp"])
def test_a_rule_in_tensorflow_ops_cannot_read_an_object(mode, attach):
    op = differentiable_op(lambda x: (x, {"lu": [x]}), signature="()->()", residuals={"lu": object})
    getattr(op, attach)(lambda op, vector: op.residuals.lu)
    derivative = {
        "gradient": lambda x: plain_gradient(lambda a, b: op(a) + op(b))(x, x),
        "jvp": lambda x: jvp_of(lambda a, b: op(a))(x, 2 * x),
    }[attach]
    with pytest.raises(
        GradientError, match="residual 'lu' is a Python object, which a rule in TensorFlow ops cannot use"
    ):
        modes.call(mode, derivative, B)


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_a_function_that_returns_other_outputs_when_it_is_called_again(wrap):
    numbers = itertools.count(1)
    op = differentiable_op(
        lambda x: (x * next(numbers), {"kept": object()}),
        signature="()->()",
        residuals={"kept": object},
        numpy_grad=lambda op, g: (op.residuals.kept, g)[1],
    )
    with tf.GradientTape() as tape:
        x = tf.constant([1.0, 2.0])
        tape.watch(x)
        y = wrap(op)(x)
    forget_handles()
    with pytest.raises((ContractError, tf.errors.OpError), match="output 0 changed when the function was called again"):
        tape.gradient(y, x)


def test_stateful_ops_cannot_have_objects():
    with pytest.raises(RegistrationError, match="residual 'lu' is a Python object, but the op is declared stateful"):
        differentiable_op(lambda x: (x, {"lu": x}), signature="()->()", residuals={"lu": object}, stateful=True)


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_a_function_that_does_not_return_its_object(mode):
    op = differentiable_op(lambda x: x, signature="()->()", residuals={"lu": object})
    with pytest.raises((ContractError, tf.errors.OpError), match="the function did not return its residuals"):
        modes.call(mode, op, B)
