"""TensorFlow's batch accumulators, which follow many tangents at once, take ops as they take TensorFlow's own."""

import numpy as np
import pytest
import tensorflow as tf

from tfpyop import GradientError, differentiable_op

X, Y = np.float32([0.5, 1.0, 2.0]), np.float32([4.0, 5.0, 6.0])
TANGENTS = np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, -2, 3]])


def product(signature, **rules):
    return differentiable_op(lambda x, y: x * y, signature=signature, **rules)


def vjp(op, cotangent):
    x, y = op.inputs
    return cotangent * y, cotangent * x


def jvp(op, x_tangent, y_tangent):
    x, y = op.inputs
    return x_tangent * y + y_tangent * x


OPS = {
    f"{name}, {signature}": product(signature, **rules)
    for signature in ("(),()->()", "(n),(n)->(n)")
    for name, rules in {
        "gradient": {"grad": vjp},
        "numpy gradient": {"numpy_grad": vjp},
        "jvp": {"jvp": jvp},
        "numpy jvp": {"numpy_jvp": jvp},
    }.items()
    if (name, signature) != ("numpy gradient", "(n),(n)->(n)")  # which has no forward mode
}


def follow(function, primals, tangents):
    with tf.autodiff.ForwardAccumulator._batch_accumulator(primals, tangents) as accumulator:
        outputs = function(*primals)
    return accumulator.jvp(outputs)


def in_mode(mode, function, *arguments):
    function = function if mode == "eager" else tf.function(function, autograph=False, jit_compile=mode == "XLA")
    return function(*map(tf.constant, arguments))


MODES = pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])


@MODES
@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_each_tangent_is_followed(op, mode):
    result = in_mode(mode, lambda x, y, t: follow(op, (x, y), (t, 2 * t)), X, Y, TANGENTS)
    np.testing.assert_allclose(result, TANGENTS * Y + 2 * TANGENTS * X, rtol=1e-6)


@MODES
@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_an_input_that_is_not_followed_stands_still(op, mode):
    result = in_mode(mode, lambda x, y, t: follow(lambda x: op(x, y), (x,), (t,)), X, Y, TANGENTS)
    np.testing.assert_allclose(result, TANGENTS * Y, rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 3])
def test_scalars_and_batches_as_large_as_the_input(batch):
    op = OPS["numpy jvp, (),()->()"]
    tangents = np.arange(1, 1 + batch, dtype=np.float32)
    result = follow(lambda x: op(x, 3.0), (tf.constant(2.0),), (tf.constant(tangents),))
    np.testing.assert_allclose(result, 3 * tangents)


def test_a_numpy_rule_runs_once_for_all_tangents():
    calls = []

    def counted(op, x_tangent, y_tangent):
        calls.append(x_tangent.shape)
        return jvp(op, x_tangent, y_tangent)

    op = product("(),()->()", numpy_jvp=counted)
    follow(op, (tf.constant(X), tf.constant(Y)), (tf.constant(TANGENTS), tf.constant(TANGENTS)))
    assert calls == [(4, 3)]


def test_outputs_without_a_derivative_have_no_tangents():
    op = differentiable_op(
        lambda x: (np.sign(x).astype(np.int32), x * x),
        signature="()->(),()",
        dtype=(np.int32, np.float32),
        jvp=lambda op, tangent: (None, 2 * op.inputs[0] * tangent),
    )
    sign, square = follow(op, (tf.constant(X),), (tf.constant(TANGENTS),))
    assert sign is None or not np.any(sign)
    np.testing.assert_allclose(square, 2 * X * TANGENTS)


@MODES
def test_columns_of_a_hessian(mode):
    square = differentiable_op(lambda x: x**3, signature="()->()")
    rule = square.numpy_gradient(lambda op, cotangent: 3 * op.inputs[0] ** 2 * cotangent)
    rule.gradient(
        lambda op, cotangent: (6 * op.inputs[0] * op.inputs[2] * cotangent, None, 3 * op.inputs[0] ** 2 * cotangent)
    )

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = square(x)
        return tape.gradient(y, x)

    result = in_mode(mode, lambda x, t: follow(gradient, (x,), (t,)), X, TANGENTS)
    np.testing.assert_allclose(result, 6 * X * TANGENTS, rtol=1e-5)


@MODES
def test_a_tape_around_follows_the_derivative_of_every_tangent(mode):
    square = differentiable_op(lambda x: x * x, signature="()->()", jvp=lambda op, t: 2 * op.inputs[0] * t)
    square.gradient(lambda op, cotangent: 2 * op.inputs[0] * cotangent)

    def second(x, t):
        with tf.GradientTape() as tape:
            tape.watch(x)
            tangents = follow(lambda x: square(square(x)), (x,), (t,))
        return tape.gradient(tangents, x)

    np.testing.assert_allclose(in_mode(mode, second, X, TANGENTS), 12 * X**2 * TANGENTS.sum(0), rtol=1e-5)


def test_without_a_rule_it_raises():
    op = product("(n),(n)->(n)", numpy_grad=vjp)
    with pytest.raises(GradientError, match="cannot compute the forward-mode derivative"):
        follow(op, (tf.constant(X), tf.constant(Y)), (tf.constant(TANGENTS), tf.constant(TANGENTS)))


def test_where_the_rank_is_unknown_it_raises():
    op = OPS["jvp, (),()->()"]

    @tf.function(input_signature=[tf.TensorSpec(None), tf.TensorSpec(None)])
    def unknown(x, t):
        return follow(lambda x: op(x, x), (x,), (t,))

    with pytest.raises(tf.errors.InvalidArgumentError, match="a batch accumulator needs inputs whose rank is known"):
        unknown(X, TANGENTS)


def test_one_tangent_of_an_input_of_unknown_rank_is_followed():
    op = OPS["jvp, (),()->()"]

    @tf.function(input_signature=[tf.TensorSpec(None), tf.TensorSpec(None)])
    def unknown(x, t):
        with tf.autodiff.ForwardAccumulator(x, t) as accumulator:
            y = op(x, x)
        return accumulator.jvp(y)

    np.testing.assert_allclose(unknown(X, TANGENTS[3]), 2 * X * TANGENTS[3])


@pytest.mark.parametrize("function", [OPS["gradient, (),()->()"], tf.multiply], ids=["op", "TensorFlow"])
def test_around_a_function_tensorflow_itself_refuses(function):
    """If this fails, TensorFlow has learnt it: remove the exception from the page on forward mode."""
    with pytest.raises(ValueError, match="are incompatible"):
        follow(tf.function(function, autograph=False), (tf.constant(X), tf.constant(Y)), (tf.constant(TANGENTS),) * 2)
