"""Ops as arguments of TensorFlow: of tf.function, of tf.data and of AutoGraph."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.forms import Scale, X, Y, bare, direct, hypot, maximum, with_options
from tfpyop import differentiable_op


def test_an_op_among_the_arguments_of_a_tf_function_stays_the_op():
    seen = []

    @tf.function
    def apply(function, x):
        seen.append(function)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x)

    double = differentiable_op(lambda x: 2 * x, grad=lambda op, cotangent: 2 * cotangent)
    triple = differentiable_op(lambda x: 3 * x, grad=lambda op, cotangent: 3 * cotangent)
    x = tf.constant(X)
    assert [apply(op, x).numpy().tolist() for op in (double, triple, double)] == [[2, 2], [3, 3], [2, 2]]
    assert [function is op for function, op in zip(seen, (double, triple), strict=True)] == [True, True]


@pytest.mark.parametrize("op", [bare, with_options, hypot, direct], ids=repr)
def test_tf_function_takes_an_op(op):
    assert tf.function(op)(X, Y).numpy().tolist() == [5, 10]


def test_tf_function_takes_an_op_by_keywords_and_defaults():
    assert tf.function(with_options)(y=Y, x=X).numpy().tolist() == [5, 10]
    assert tf.function(with_options)(X[:1], factor=3).numpy().tolist() == [15]


def test_tf_function_takes_an_op_with_an_input_signature():
    function = tf.function(with_options, input_signature=[tf.TensorSpec([None]), tf.TensorSpec([None])])
    assert function(X, Y).numpy().tolist() == [5, 10]
    assert function.get_concrete_function().output_shapes.as_list() == [None]


@pytest.mark.parametrize("op", [Scale().method, Scale.static, Scale().static])
def test_tf_function_takes_the_op_of_a_method(op):
    assert tf.function(op)(X).numpy().tolist() == [6, 12]


def test_tf_function_takes_the_op_of_a_function_without_a_signature():
    assert tf.function(maximum)(X).numpy() == 6


@pytest.mark.parametrize("op", [bare, hypot], ids=repr)
def test_a_dataset_maps_an_op_over_its_components(op):
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).map(op)
    assert list(dataset.as_numpy_iterator()) == [5, 10]


def without_source():
    namespace = {"__name__": __name__}
    exec(compile("def function(x): return x + 1", "<no file>", "exec"), namespace)
    return namespace["function"]


def with_generator():
    def function(x):
        def parts():
            yield x + 1

        return next(parts())

    return function


def with_coroutine():
    def function(x):
        async def later():
            return x + 1

        try:
            later().send(None)
        except StopIteration as stop:
            return stop.value

    return function


def with_else_after_a_loop():
    def function(x):
        for _ in range(1):
            x = x + 1
        else:
            return x

    return function


# TensorFlow 2.21 on Python 3.13: AutoGraph gives up where warnings are errors, whatever it is to convert.
autograph_works = pytest.mark.filterwarnings("ignore:.*got an unexpected keyword argument '___pyct:DeprecationWarning")


@pytest.fixture
def autograph_warnings():
    """The warnings of AutoGraph during a test, as they come."""
    warnings = []
    handler = logging.Handler()
    handler.emit = lambda record: "AutoGraph" in record.getMessage() and warnings.append(record.getMessage())
    tf.get_logger().addHandler(handler)
    yield warnings
    tf.get_logger().removeHandler(handler)


@autograph_works
@pytest.mark.parametrize("make", [without_source, with_generator, with_coroutine, with_else_after_a_loop])
def test_autograph_leaves_the_function_of_an_op_alone(make, autograph_warnings):
    op = differentiable_op(make())
    assert tf.function(lambda x: op(x))(X).numpy().tolist() == [4, 7]
    assert tf.function(op)(X).numpy().tolist() == [4, 7]
    assert next(tf.data.Dataset.from_tensors(X).map(op).as_numpy_iterator()).tolist() == [4, 7]
    assert autograph_warnings == []
    function = make()
    tf.function(lambda x: function(x))(X)  # without the op AutoGraph tries to convert it, and says so
    assert "could not transform" in autograph_warnings[0]


@autograph_works
@pytest.mark.parametrize("rule", [without_source, with_generator, with_coroutine, with_else_after_a_loop])
@pytest.mark.parametrize("kind", ["grad", "numpy_grad"])
def test_autograph_leaves_rules_alone(rule, kind, autograph_warnings):
    function = rule()
    op = differentiable_op(lambda x: x, **{kind: lambda op, cotangent: function(cotangent)})

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        return tape.gradient(y, x)

    assert gradient(tf.constant(X)).numpy().tolist() == [2, 2]
    assert autograph_warnings == []


def test_an_op_that_a_class_takes_as_an_attribute_is_called_as_before():
    before = with_options(X, 2.0)

    class Model:
        act = with_options

    assert with_options(X, 2.0).numpy().tolist() == Model.act(X, 2.0).numpy().tolist() == before.numpy().tolist()


def test_a_type_may_be_a_static_argument_at_the_first_place():
    op = differentiable_op(lambda kind, x: x.astype(kind), static_argnames="kind", dtype=np.float64)
    assert op(np.float64, X).dtype == tf.float64


@pytest.mark.parametrize("compiler", [None, False, True], ids=["eager", "graph", "XLA"])
def test_a_function_may_change_its_static_lists(compiler):
    def counted(x, *, items):
        items.append(1)
        return x * len(items)

    op = differentiable_op(counted, signature="()->()", non_differentiable=True)
    items = [1, 2]
    call = lambda x: op(x, items=items)  # noqa: E731
    if compiler is not None:
        call = tf.function(call, jit_compile=compiler, autograph=False)
    assert [call(tf.constant(1.0)).numpy() for _ in range(3)] == [3, 3, 3]
    assert items == [1, 2]


@pytest.mark.slow
def test_an_op_without_inputs_can_be_the_first_call_of_a_process():
    program = """
import numpy as np
from tfpyop import differentiable_op
op = differentiable_op(lambda: np.arange(3, dtype=np.float32), signature="->(3)", dtype=np.float32)
print(op().numpy().tolist())
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert process.stdout == "[0.0, 1.0, 2.0]\n", process.stderr
