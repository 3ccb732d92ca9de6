"""A function that calls ops works in compiled functions and in all others, whichever of them calls it first."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.modes import compiled
from tests.processes import run_python
from tfpyop import differentiable_op
from tfpyop._lowering import _tensorflow
from tfpyop._lowering.xla import retracing

X = np.float32([0.3, 1.0, 2.0])
COMPILED = {"jit_compile": True, "autograph": False}


@differentiable_op(signature="()->()", name="tests.test_retracing:sin")
def sin(x):
    return np.sin(x)


@sin.numpy_gradient
def sin_gradient(op, cotangent):
    return cotangent * np.cos(op.inputs[0])


@sin_gradient.gradient
def sin_second(op, cotangent):
    x, _, first = op.inputs
    return -tf.sin(x) * first * cotangent, None, tf.cos(x) * cotangent


class Traced:
    """A `tf.function` that counts how often it is traced."""

    def __init__(self, function, **options):
        self.traces = 0

        def counted(*arguments):
            self.traces += 1
            return function(*arguments)

        self.function = tf.function(counted, **options)

    def __call__(self, *arguments):
        return self.function(*arguments)


def compiled_again(function):
    """A new function that calls this one, compiled by XLA."""
    return compiled(lambda *arguments: function(*arguments))


def in_order(order, function, x):
    """Call a function by itself, and in a compiled one; returns what the two calls return."""
    calls = {"plain": function, "compiled": compiled_again(function)}
    results = {kind: calls[kind](x) for kind in order}
    return results["plain"].numpy(), results["compiled"].numpy()


ORDERS = pytest.mark.parametrize("order", [("plain", "compiled"), ("compiled", "plain")], ids=" first, then ".join)


def test_three_compiled_functions_take_one_trace_more():
    inner = Traced(lambda x: sin(x) + 1)
    inner(X)
    for _ in range(3):
        np.testing.assert_allclose(compiled_again(inner)(X), np.sin(X) + 1, rtol=1e-6)
    np.testing.assert_allclose(inner(X), np.sin(X) + 1, rtol=1e-6)
    assert inner.traces == 2


@ORDERS
def test_each_kind_of_call_has_its_own_nodes(order):
    inner = Traced(lambda x: sin(x) + 1)
    for result in in_order(order, inner, X):
        np.testing.assert_allclose(result, np.sin(X) + 1, rtol=1e-6)
    kinds = [
        {node.type for node in trace.graph.get_operations()} & {"PyFuncStateless", "XlaCallModule"}
        for trace in inner.function._list_all_concrete_functions()
    ]
    assert kinds == [{"PyFuncStateless" if kind == "plain" else "XlaCallModule"} for kind in order]


def _nested(inner):
    return tf.function(lambda x: tf.function(lambda x: inner(x))(x))


def _conditional(inner):
    return tf.function(lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: inner(x), lambda: x))


def _branches(inner):
    return tf.function(lambda x: tf.switch_case(tf.size(x) - 3, [lambda: inner(x), lambda: x]))


def _autograph_conditional(inner):
    @tf.function
    def conditional(x):
        if tf.reduce_sum(x) > 0:
            x = inner(x)
        return x

    return conditional


def _loop(inner):
    @tf.function
    def loop(x):
        for _ in tf.range(1):
            x = inner(x)
        return x

    return loop


def _while(inner):
    return tf.function(lambda x: tf.while_loop(lambda n, x: n < 1, lambda n, x: (n + 1, inner(x)), (0, x))[1])


def _map(inner):
    return tf.function(lambda x: tf.map_fn(inner, x))


def _vectorized_map(inner):
    return tf.function(lambda x: tf.vectorized_map(inner, x))


def _signature(inner):
    return tf.function(lambda x: inner(x), input_signature=[tf.TensorSpec([None])])


def _relaxed(inner):
    function = tf.function(lambda x: inner(x), reduce_retracing=True)
    function(X[:1])
    function(X[:2])
    return function


def _concrete(inner):
    """The trace is looked for while the outer function is traced, so it is one for XLA where XLA compiles that."""
    return tf.function(lambda x: tf.function(inner).get_concrete_function(tf.TensorSpec([3]))(x))


def _method(inner):
    class Model(tf.Module):
        @tf.function
        def __call__(self, x):
            return inner(x)

    return Model()


def _recomputed(inner):
    return tf.function(tf.recompute_grad(inner))


AROUND = {
    "function": lambda inner: inner,
    "nested functions": _nested,
    "tf.cond": _conditional,
    "tf.switch_case": _branches,
    "if": _autograph_conditional,
    "for": _loop,
    "tf.while_loop": _while,
    "map_fn": _map,
    "vectorized_map": _vectorized_map,
    "input_signature": _signature,
    "reduce_retracing": _relaxed,
    "get_concrete_function": _concrete,
    "method": _method,
    "recompute_grad": _recomputed,
}


@ORDERS
@pytest.mark.parametrize("around", AROUND)
def test_values_are_right_in_any_order(around, order):
    function = AROUND[around](tf.function(lambda x: sin(x) + 1))
    for result in in_order(order, function, tf.constant(X)):
        np.testing.assert_allclose(result, np.sin(X) + 1, rtol=1e-6)


def _gradient(function):
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x)

    return gradient


def _jvp(function):
    def jvp(x):
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            y = function(x)
        return accumulator.jvp(y)

    return jvp


def _hessian_vector_product(function):
    return _jvp(_gradient(function))


def _jacobian(function):
    def jacobian(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tf.linalg.diag_part(tape.jacobian(y, x))

    return jacobian


DERIVATIVES = {
    "gradient": (_gradient, np.cos),
    "gradient of a gradient": (lambda function: _gradient(_gradient(function)), lambda x: -np.sin(x)),
    "jvp": (_jvp, np.cos),
    "Hessian-vector product": (_hessian_vector_product, lambda x: -np.sin(x)),
    "jacobian": (_jacobian, np.cos),
    "gradient in a function": (lambda function: tf.function(_gradient(function)), np.cos),
}


@ORDERS
@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_derivatives_are_right_in_any_order(derivative, order):
    differentiate, expected = DERIVATIVES[derivative]
    function = differentiate(tf.function(lambda x: sin(x) + 1))
    for result in in_order(order, function, tf.constant(X)):
        np.testing.assert_allclose(result, expected(X), rtol=1e-5)


@ORDERS
def test_a_tape_may_be_around_both(order):
    inner = tf.function(lambda x: sin(x) + 1)
    outer = tf.function(lambda x: inner(x) * 2, **COMPILED)
    scales = {"plain": (inner, 1), "compiled": (outer, 2)}
    for kind in order:
        function, scale = scales[kind]
        np.testing.assert_allclose(_gradient(function)(tf.constant(X)), scale * np.cos(X), rtol=1e-5)


@ORDERS
@pytest.mark.parametrize("around", ["tf.cond", "for", "map_fn"])
def test_gradients_through_loops_and_branches_are_right_in_any_order(around, order):
    function = _gradient(AROUND[around](tf.function(lambda x: sin(x) + 1)))
    for result in in_order(order, function, tf.constant(X)):
        np.testing.assert_allclose(result, np.cos(X), rtol=1e-5)


@ORDERS
def test_a_function_that_creates_variables(order):
    variables = []

    @tf.function
    def inner(x):
        if not variables:
            variables.append(tf.Variable(2.0))
        return sin(x) * variables[0]

    for result in in_order(order, inner, tf.constant(X)):
        np.testing.assert_allclose(result, 2 * np.sin(X), rtol=1e-6)
    assert len(variables) == 1
    with tf.GradientTape() as tape:
        y = compiled_again(inner)(tf.constant(X))
    np.testing.assert_allclose(tape.gradient(y, variables[0]), np.sum(np.sin(X)), rtol=1e-5)


def test_a_rule_that_calls_a_function():
    cosine = tf.function(lambda x: sin(x + np.float32(np.pi / 2)))
    other = differentiable_op(np.sin, signature="()->()", grad=lambda op, grad: grad * cosine(op.inputs[0]))
    for kind in ({}, COMPILED, {}):
        gradient = tf.function(_gradient(other), **kind)(tf.constant(X))
        np.testing.assert_allclose(gradient, np.cos(X), rtol=1e-5)


class Sine(keras.layers.Layer):
    """A layer whose call is a function of its own."""

    @tf.function
    def call(self, x):
        """Apply the op."""
        return sin(x) + 1


# Keras copies weights in a way that numpy 2 is going to forbid
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_keras_model_that_was_called_is_trained_compiled():
    x, y = np.ones((8, 3), np.float32), np.ones((8, 1), np.float32)
    model = keras.Sequential([keras.layers.Dense(4), Sine(), keras.layers.Dense(1)])
    before = model(x).numpy()
    model.compile("sgd", "mse", jit_compile=True)
    np.testing.assert_allclose(model.predict(x, verbose=0), before, rtol=1e-4, atol=1e-6)
    model.fit(x, y, verbose=0)
    np.testing.assert_allclose(model(x), model.predict(x, verbose=0), rtol=1e-4, atol=1e-6)
    assert np.abs(model(x) - before).max() > 0


def _loaded(tmp_path, **options):
    module = tf.Module()
    module.call = tf.function(sin, input_signature=[tf.TensorSpec([None])], **options)
    tf.saved_model.save(module, str(tmp_path))
    return tf.saved_model.load(str(tmp_path))


@ORDERS
@pytest.mark.filterwarnings("ignore:.*custom gradients:UserWarning")
def test_a_loaded_function_that_was_saved_compiled(order, tmp_path):
    loaded = _loaded(tmp_path, jit_compile=True)
    function = tf.function(lambda x: loaded.call(x) + sin(x))
    for result in in_order(order, function, tf.constant(X)):
        np.testing.assert_allclose(result, 2 * np.sin(X), rtol=1e-6)


def test_a_function_called_both_ways_is_saved_for_servers(tmp_path):
    inner = tf.function(lambda x: sin(x) + 1)
    in_order(("compiled", "plain"), inner, tf.constant(X))
    module = tf.Module()
    module.call = inner
    tf.saved_model.save(module, str(tmp_path))
    np.testing.assert_allclose(tf.saved_model.load(str(tmp_path)).call(tf.constant(X)), np.sin(X) + 1, rtol=1e-6)


@pytest.mark.parametrize("kind", ["concrete function", "loaded function"])
def test_where_tracing_again_does_not_help_the_error_has_the_word_to_look_for(kind, tmp_path):
    if kind == "concrete function":
        inner = tf.function(sin).get_concrete_function(tf.TensorSpec([3]))
    else:
        inner = _loaded(tmp_path).call
    inner(tf.constant(X))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Detected unsupported operations.*PyFuncStateless"):
        compiled_again(inner)(tf.constant(X))


# -- functions without ops, and traces that serve both kinds of calls


@ORDERS
def test_a_function_without_ops_is_traced_once(order):
    inner = Traced(lambda x: tf.sin(x) + 1)
    in_order(order, inner, tf.constant(X))
    compiled_again(lambda x: tf.map_fn(inner, tf.stack([x, x])))(tf.constant(X))
    assert inner.traces == 1


def test_a_function_with_other_peoples_python_is_traced_once():
    inner = Traced(lambda x: tf.numpy_function(np.sin, [x], tf.float32, stateful=False))
    inner(X)
    with pytest.raises(tf.errors.InvalidArgumentError, match="PyFuncStateless"):
        compiled_again(inner)(X)
    assert inner.traces == 1


@ORDERS
def test_a_compiled_function_is_traced_once_for_all_calls(order):
    inner = Traced(lambda x: sin(x) + 1, jit_compile=True)
    in_order(order, inner, tf.constant(X))
    tf.function(lambda x: inner(x))(tf.constant(X))
    assert inner.traces == 1


@ORDERS
def test_a_function_with_nothing_but_the_derivative_of_an_op(order):
    """A native call has no host node, but its gradient has one."""
    op = differentiable_op(np.sin, signature="()->()", prefer="native")
    op.native(tf.sin)
    op.numpy_gradient(lambda op, cotangent: cotangent * np.cos(op.inputs[0]))
    function = _gradient(tf.function(lambda x: op(x)))
    for result in in_order(order, function, tf.constant(X)):
        np.testing.assert_allclose(result, np.cos(X), rtol=1e-5)


@ORDERS
def test_a_function_with_nothing_but_a_check_of_an_op(order):
    op = differentiable_op(np.sin, signature="(n)->(n)", prefer="native", non_differentiable=True)
    op.native(lambda x: tf.ensure_shape(tf.sin(x), [None]))
    inner = Traced(lambda x: op(x), input_signature=[tf.TensorSpec([None])])
    for result in in_order(order, inner, tf.constant(X)):
        np.testing.assert_allclose(result, np.sin(X), rtol=1e-6)
    assert inner.traces == 2


def test_a_context_that_wants_functions_of_its_own_has_them():
    class Replicated(_tensorflow.XLAControlFlowContext):
        """A context as TPUs have it."""

        def RequiresUniqueFunctionRetracing(self):  # noqa: N802 - TensorFlow's name
            return True

    inner = Traced(lambda x: sin(x) + 1)
    in_order(("plain", "compiled"), inner, tf.constant(X))

    def replicated(x):
        context = Replicated()
        context.Enter()
        try:
            return inner(x)
        finally:
            context.Exit()

    for number in (1, 2):
        tf.function(replicated, autograph=False).get_concrete_function(tf.TensorSpec([3]))
        assert inner.traces == 2 + number


# -- how it is installed


def test_installing_again_changes_nothing():
    lookup = _tensorflow.FunctionCache.lookup
    context = _tensorflow.function_context._enclosing_xla_context
    retracing.install()
    assert _tensorflow.FunctionCache.lookup is lookup
    assert _tensorflow.function_context._enclosing_xla_context is context


def test_another_function_cache_is_left_alone(monkeypatch, caplog):
    lookup = _tensorflow.FunctionCache.lookup
    monkeypatch.setattr(_tensorflow.FunctionCache, "lookup", lambda self, key: None)
    with caplog.at_level(logging.WARNING, "tfpyop"):
        retracing.install()
    monkeypatch.undo()
    assert _tensorflow.FunctionCache.lookup is lookup
    [record] = caplog.records
    assert "is not traced again" in record.message
    assert "PyFuncStateless" in record.message


def test_ops_work_with_another_function_cache():
    program = """
import numpy as np
import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import function_context
kept = function_context._enclosing_xla_context
del function_context._enclosing_xla_context
from tfpyop import differentiable_op
function_context._enclosing_xla_context = kept
sin = differentiable_op(np.sin, signature="()->()", non_differentiable=True)
inner = tf.function(sin)
print(inner(tf.constant(0.0)).numpy(), tf.function(sin, jit_compile=True)(tf.constant(0.0)).numpy())
try:
    tf.function(lambda x: inner(x), jit_compile=True, autograph=False)(tf.constant(0.0))
except tf.errors.InvalidArgumentError as error:
    print("PyFuncStateless" in str(error))
"""
    result = run_python("-c", program, check=True)
    assert result.stdout == "0.0 0.0\nTrue\n"
    assert "is not traced again" in result.stderr
