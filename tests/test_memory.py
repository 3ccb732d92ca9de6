"""What belongs to a graph goes with it, and what belongs to a local op goes with that."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry
from tensorflow.python.ops.script_ops import _py_funcs

from tests import ops
from tfpyop import differentiable_op
from tfpyop._registry.op_def import REGISTRY

X = tf.constant([1.0, 2.0, 3.0])


def table_sizes():
    for _ in range(3):
        gc.collect()
    return len(REGISTRY.listed()), len(REGISTRY._concrete_ops), _py_funcs.size(), len(gradient_registry.list())


def with_gradient(op, *arguments):
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        result = op(*arguments)
    return tape.gradient(result, arguments)


class Layer(tf.Module):
    """Holds a function whose op is a method: a cycle through instance, function, graph and op."""

    def __init__(self):
        self.call = tf.function(lambda x: with_gradient(self.scale, x)[0], autograph=False)

    @differentiable_op(signature="()->()")
    def scale(self, x):
        return 2 * x

    @scale.gradient
    def scale_gradient(self, op, cotangent):
        return 2 * cotangent


def trace_named(rule_op):
    function = tf.function(lambda x: with_gradient(rule_op, x, x), autograph=False)
    function(X)
    return function.get_concrete_function(X).graph


def trace_local():
    op = differentiable_op(lambda x: 2 * x, signature="()->()", numpy_grad=lambda op, g: 2 * g)
    function = tf.function(lambda x: with_gradient(op, x), autograph=False)
    function(X)
    return function.get_concrete_function(X).graph


def trace_method():
    layer = Layer()
    layer.call(X)
    return layer.call.get_concrete_function(X).graph


def trace_loop():
    op = differentiable_op(lambda x: 2 * x, signature="()->()", grad=lambda op, g: 2 * g)

    def loop(x):
        return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, op(y)), [0, x])[1]

    function = tf.function(lambda x: with_gradient(loop, x), autograph=False)
    function(X)
    return function.get_concrete_function(X).graph


def trace_session():
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session() as session:
        x = tf.constant([1.0, 2.0])
        session.run(tf.gradients(ops.mod(x, x), x))
    return graph


@pytest.mark.slow
@pytest.mark.parametrize(
    "trace",
    [
        lambda: trace_named(ops.mod),
        lambda: trace_named(ops.numpy_mod),
        trace_local,
        trace_method,
        trace_loop,
        trace_session,
    ],
    ids=["TensorFlow rule", "numpy rule", "local op", "method", "loop", "session"],
)
def test_300_retraces_leave_every_table_at_the_size_it_had(trace):
    trace()
    before = table_sizes()
    graphs = [weakref.ref(trace()) for _ in range(300)]
    assert table_sizes() == before
    assert not any(graph() for graph in graphs)


@pytest.mark.slow
def test_10000_local_ops_leave_nothing():
    before = table_sizes()
    for number in range(10_000):
        op = differentiable_op(lambda x, number=number: x + number, signature="()->()", grad=lambda op, g: g)
        if number % 100 == 0:
            with_gradient(op, X)
            tf.function(op)(X)
    functions = weakref.ref(op.numpy), weakref.ref(op)
    del op
    assert table_sizes() == before
    assert [function() for function in functions] == [None, None]


def test_a_local_op_lives_as_long_as_the_function_it_is_traced_into():
    def make():
        op = differentiable_op(lambda x: 2 * x, signature="()->()", grad=lambda op, g: 2 * g)
        inner = tf.function(op)
        outer = tf.function(lambda x: inner(x) + 1, autograph=False)
        return outer.get_concrete_function(X)

    function = make()
    gc.collect()
    assert function(X).numpy().tolist() == [3, 5, 7]
    assert with_gradient(function, X)[0].numpy().tolist() == [2, 2, 2]


def test_a_function_traced_before_lives_on_in_the_one_that_calls_it():
    def make():
        op = differentiable_op(lambda x: 2 * x, signature="()->()", grad=lambda op, g: 2 * g)
        inner = tf.function(op)
        inner(X)  # traced here, only called below
        return tf.function(lambda x: inner(x) + 1, autograph=False).get_concrete_function(X)

    function = make()
    gc.collect()
    assert with_gradient(function, X)[0].numpy().tolist() == [2, 2, 2]


def test_a_local_op_lives_as_long_as_its_dataset():
    def make():
        op = differentiable_op(lambda x: 2 * x, signature="()->()")
        return tf.data.Dataset.range(3).map(op)

    dataset = make()
    gc.collect()
    assert list(dataset.as_numpy_iterator()) == [0, 2, 4]


def test_a_tape_keeps_what_it_needs_and_nothing_longer():
    op = differentiable_op(lambda x: 2 * x, signature="()->()", grad=lambda op, g: 2 * g)
    with tf.GradientTape() as tape:
        tape.watch(X)
        y = op(X)
    alive = weakref.ref(op)
    del op
    gc.collect()
    assert tape.gradient(y, X).numpy().tolist() == [2, 2, 2]
    del tape
    gc.collect()
    assert alive() is None


def test_eager_calls_leave_no_arrays_behind():
    kept = []
    op = differentiable_op(lambda x: (kept.append(weakref.ref(x)), np.square(x))[1], signature="()->()")
    for _ in range(100):
        op(X)
    gc.collect()
    assert not any(array() is not None for array in kept)


@pytest.mark.parametrize("options", [None, {}, {"jit_compile": True}], ids=["eager", "graph", "XLA"])
def test_function_and_rule_read_the_very_memory_of_the_input(options):
    addresses = []

    def doubled(x):
        addresses.append(x.ctypes.data)
        return x * 2

    def rule(op, grad):
        addresses.append(op.inputs[0].ctypes.data)
        return 2 * grad

    op = differentiable_op(doubled, signature="(n)->(n)", numpy_grad=rule)
    x = tf.ones(1_000_000)
    function = lambda x: with_gradient(op, x)  # noqa: E731 - one of both
    call = function if options is None else tf.function(function, autograph=False, **options)
    for _ in range(2):
        addresses.clear()
        call(x)
    assert addresses == [x._numpy_internal().ctypes.data] * 2
