"""Numpy rules that do not get the outputs: `uses_outputs=False`, and adjoints."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from tests import saved_ops
from tests.modes import compiled
from tests.saved_derivatives import derivatives_when_loaded, gradient_of
from tests.texts import exactly
from tfpyop import ContractError, GradientError, RegistrationError, SignatureError, differentiable_op
from tfpyop.testing import check_op

X = np.float32([0.3, 0.7])
V = np.float32([1.0, 2.0])
CALLS = collections.Counter()


@differentiable_op(signature="()->()")
def sine(x):
    CALLS["function"] += 1
    return np.sin(x)


@sine.numpy_gradient(uses_outputs=False)
def sine_gradient(op, cotangent):
    CALLS["rule"] += 1
    return cotangent * np.cos(op.inputs[0])


@sine_gradient.numpy_gradient(uses_outputs=False)
def sine_second(op, cotangent):
    CALLS["second"] += 1
    x, first = op.inputs
    return -cotangent * first * np.sin(x), cotangent * np.cos(x)


@differentiable_op(signature="(n),(n)->(),(n)", dtype=(None, np.int32), residuals={"product": ("(n)", np.float64)})
def dot(x, y):
    product = x * y
    return (product.sum(-1), np.sign(product).astype(np.int32)), {"product": product}


@dot.numpy_gradient(wrt="x", uses_outputs=False)
def dot_by_x(op, cotangent, of_integers):
    assert of_integers is None
    assert op.residuals.product.shape == np.broadcast_shapes(*(x.shape for x in op.inputs))
    return cotangent[..., None] * op.inputs[1]


@dot.numpy_gradient(wrt="y")
def dot_by_y(op, cotangent, of_integers):
    assert op.outputs[1].dtype == np.int32
    return cotangent[..., None] * op.inputs[0]


class Wave:
    """A method with a rule that does not get the outputs."""

    def __init__(self, frequency):
        self.frequency = frequency

    @differentiable_op(signature="()->()", static_argnames=("phase",), vectorized=False)
    def value(self, x, *, phase=0.0):
        return np.sin(self.frequency * x + phase)

    @value.numpy_gradient(uses_outputs=False)
    def value_gradient(self, op, cotangent):
        return cotangent * self.frequency * np.cos(self.frequency * op.inputs[0] + op.static.phase)


def hessian_vector_product(function, x, vector):
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = function(x)
            loss = tf.reduce_sum(y * y) / 2
        gradient = inner.gradient(loss, x)
    return outer.gradient(gradient, x, output_gradients=vector)


def plain(function):
    return function


IN_MODES = pytest.mark.parametrize("mode", [plain, tf.function, compiled], ids=["eager", "graph", "XLA"])


@IN_MODES
def test_a_rule_of_the_rule_gets_inputs_and_cotangents(mode):
    product = mode(lambda x, v: hessian_vector_product(sine, x, v))
    assert np.allclose(product(tf.constant(X), tf.constant(V)), V * np.cos(2 * X), atol=1e-6)


@pytest.mark.parametrize("mode", [tf.function, compiled], ids=["graph", "XLA"])
def test_graphs_drop_what_only_gives_outputs(mode):
    def jacobian(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = sine(x)
        return tape.jacobian(y, x)

    derivatives = mode(jacobian), mode(lambda x: hessian_vector_product(sine, x, tf.constant(V)))
    for derivative, expected in zip(derivatives, [{"rule": 1}, {"function": 1, "rule": 1, "second": 1}], strict=True):
        derivative(tf.constant(X))
        CALLS.clear()
        derivative(tf.constant(V))
        assert dict(CALLS) == expected


@IN_MODES
def test_integer_outputs_and_residuals_reach_the_rule(mode):
    @mode
    def gradients(x, y):
        with tf.GradientTape() as tape:
            tape.watch([x, y])
            value, _ = dot(x, y)
        return tape.gradient(value, [x, y])

    by_x, by_y = gradients(tf.constant(X), tf.constant([V, -V]))
    assert np.allclose(by_x, 0)  # of both rows
    assert np.allclose(by_y, [X, X])


@IN_MODES
def test_methods_and_static_arguments(mode):
    wave = Wave(3.0)

    @mode
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = wave.value(x, phase=0.5)
        return tape.gradient(y, x)

    assert np.allclose(gradient(tf.constant(X)), 3 * np.cos(3 * X + 0.5), atol=1e-6)


@IN_MODES
def test_the_jvp_of_an_elementwise_op(mode):
    @mode
    def tangent(x, v):
        with tf.autodiff.ForwardAccumulator(x, v) as accumulator:
            y = sine(x)
        return accumulator.jvp(y)

    assert np.allclose(tangent(tf.constant(X), tf.constant(V)), V * np.cos(X), atol=1e-6)


def test_a_derivative_that_needs_the_outputs_calls_the_function_again():
    square = differentiable_op(lambda x: x**2, signature="()->()")
    square.numpy_gradient(uses_outputs=False)(lambda op, cotangent: 2 * op.inputs[0] * cotangent)
    square.jvp(lambda op, tangent: 2 * tangent * op.outputs[0] / op.inputs[0])  # the JVP reads the outputs
    x, v = tf.constant(X), tf.constant(V)
    with tf.GradientTape() as outer:
        cotangent = tf.constant([1.0, 1.0])
        outer.watch(cotangent)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = square(x)
        gradient = inner.gradient(y, x, output_gradients=cotangent)
    assert np.allclose(outer.gradient(gradient, cotangent, output_gradients=v), 2 * X * V)


@pytest.mark.parametrize("is_compiled", [False, True], ids=["graph", "XLA"])
def test_it_is_saved_and_loaded_in_another_process(tmp_path, is_compiled):
    op = saved_ops.difference
    found = derivatives_when_loaded(tmp_path, op, gradient_of(op), is_compiled=is_compiled)
    assert found == [[1, 1], [-2, -2]] * 2


@IN_MODES
def test_a_rule_that_reads_the_outputs_raises(mode):
    exp = differentiable_op(lambda x: np.exp(x), signature="()->()")
    exp.numpy_gradient(uses_outputs=False)(lambda op, cotangent: cotangent * op.outputs[0])

    @mode
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = exp(x)
        return tape.gradient(y, x)

    with pytest.raises(Exception, match=r"the rule reads op.outputs, but does not get them") as caught:
        gradient(tf.constant(X))
    assert "Remove uses_outputs=False." in str(caught.value)


@pytest.mark.parametrize(
    "read",
    [lambda y: y[0], len, list, lambda y: tuple(y) and None, lambda y: [*y]],
    ids=["item", "len", "list", "tuple", "star"],
)
def test_every_way_to_read_them_raises(read):
    total = differentiable_op(lambda x: np.cumsum(x, -1), signature="(n)->(n)")
    total.numpy_adjoint(lambda op, cotangent: read(op.outputs))
    with tf.GradientTape() as tape:
        x = tf.Variable(X)
        y = total(x)
    with pytest.raises(GradientError, match="The adjoint of a linear op does not depend on its outputs"):
        tape.gradient(y, x)


def test_the_context_can_be_shown():
    shown = []
    total = differentiable_op(lambda x: 2 * x, signature="()->()")
    total.numpy_adjoint(lambda op, cotangent: shown.append(repr(op)) or 2 * cotangent)
    with tf.GradientTape() as tape:
        x = tf.Variable(X)
        y = total(x)
    tape.gradient(y, x)
    assert "outputs=<not passed to this rule>" in shown[0]


def test_misuse_is_told():
    op = differentiable_op(lambda x: x, signature="()->()")
    with pytest.raises(
        RegistrationError,
        match=exactly("uses_outputs= is neither True nor False.\n  Got:      'no'\n  Pass one of them."),
    ):
        op.numpy_gradient(uses_outputs="no")
    stateful = differentiable_op(lambda x: x, signature="()->()", stateful=True)
    with pytest.raises(RegistrationError, match="uses_outputs=False is not available for a stateful op"):
        stateful.numpy_gradient(uses_outputs=False)(lambda op, cotangent: cotangent)
    with pytest.raises(SignatureError, match="the call has the wrong number of inputs"):
        sine_gradient(X, X, X)
    several = differentiable_op(lambda *x: x, signature="(),()->(),()")
    rule = several.numpy_gradient(uses_outputs=False)(lambda op, *cotangents: cotangents)
    with pytest.raises(ContractError, match="the inputs and residuals of its op, and the cotangents"):
        rule(X)


def test_the_checks_pass():
    check_op(sine, seed=1, max_examples=5)
