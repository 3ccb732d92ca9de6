"""Limits of TensorFlow that the pages tell of: that they are still there, for its own ops too, and the way around them.

If the first test of a pair fails, TensorFlow has learnt it: remove the limit from the page.
"""

import numpy as np
import pytest
import tensorflow as tf

from tfpyop import differentiable_op, export, prefer_native

X = np.float32([1, 2, 3])
WEIGHT = tf.Variable(2.0)


@differentiable_op(signature="()->()", name="tests.test_tensorflow_limits:weighted")
def weighted(x):
    return x * WEIGHT.numpy()


@weighted.gradient
def weighted_gradient(op, cotangent):
    return cotangent * WEIGHT


@tf.custom_gradient
def custom(x):
    def gradient(cotangent, variables=None):
        return (cotangent * WEIGHT, [None] * len(variables)) if variables else cotangent * WEIGHT

    return x * WEIGHT, gradient


@differentiable_op(signature="(),()->()", name="tests.test_tensorflow_limits:product")
def product(x, weight):
    return x * weight


@product.gradient
def product_gradient(op, cotangent):
    x, weight = op.inputs
    return cotangent * weight, cotangent * x


AROUND = {
    "while_loop": lambda f, x: tf.while_loop(
        lambda n, x: n < 1, lambda n, x: (n + 1, f(x)), (0, x), maximum_iterations=1
    )[1],
    "cond": lambda f, x: tf.cond(tf.reduce_sum(x) > 0, lambda: f(x), lambda: x),
    "switch_case": lambda f, x: tf.switch_case(tf.size(x) - 3, [lambda: f(x), lambda: x]),
    "map_fn": lambda f, x: tf.map_fn(f, x),
    "scan": lambda f, x: tf.scan(lambda _, x: f(x), x, tf.constant(0.0)),
}


def gradient_of(around, function, **options):
    @tf.function(autograph=False, **options)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = around(function, x)
        return tape.gradient(y, x)

    return gradient(tf.constant(X)).numpy()


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("function", [weighted, custom], ids=["op", "TensorFlow"])
def test_a_rule_that_reads_a_variable_fails_in_loops_and_branches(function, around):
    with pytest.raises((ValueError, AttributeError), match=r"which captures|Tensor\.graph is undefined"):
        gradient_of(around, function)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_a_variable_that_is_an_input_works_in_loops_and_branches(around, jit_compile):
    result = gradient_of(around, lambda x: product(x, WEIGHT), jit_compile=jit_compile)
    np.testing.assert_array_equal(result, [2, 2, 2])


def test_a_rule_that_reads_a_variable_works_elsewhere():
    for around in (lambda f, x: f(x), lambda f, x: tf.function(f)(x), tf.vectorized_map):
        np.testing.assert_array_equal(gradient_of(around, weighted), [2, 2, 2])


@differentiable_op(signature="(n)->(n)", name="tests.test_tensorflow_limits:double")
def double(x):
    return 2 * x


@double.native
def double_native(x):
    return 2 * x


def called():
    """A function that is traced anew, so that it calls the native implementation where that is preferred."""
    return tf.function(lambda x: double(x) + 1, input_signature=[tf.TensorSpec([3])])


def lite(converter):
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], X)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


# TensorFlow announces that its interpreter moves to another package
@pytest.mark.filterwarnings("ignore:.*(LiteRT|tf.lite.Interpreter):UserWarning")
class TestLite:
    """TensorFlow Lite."""

    def test_it_has_no_python(self):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([called().get_concrete_function()])
        with pytest.raises(Exception, match=r"'tf\.PyFuncStateless' op is neither a custom op nor a flex op"):
            converter.convert()

    def test_it_takes_a_model_that_was_saved_native(self, tmp_path):
        model = tf.Module()
        model.call = called()
        export.save(model, str(tmp_path), native=True, signatures=model.call)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path))
        np.testing.assert_array_equal(lite(converter), 2 * X + 1)

    def test_it_takes_a_function_that_was_traced_native(self):
        with prefer_native():
            concrete = called().get_concrete_function()
        np.testing.assert_array_equal(lite(tf.lite.TFLiteConverter.from_concrete_functions([concrete])), 2 * X + 1)
