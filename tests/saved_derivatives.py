"""Derivatives of saved functions of ops in `tests.saved_ops`, in a process that loads them."""

import ast

import tensorflow as tf

from tests.processes import run_python
from tfpyop import export

_LOAD = """
import sys
import tensorflow as tf
import tests.saved_ops
loaded = tf.saved_model.load(sys.argv[1])
x, y = tf.constant([1.0, 2.0]), tf.constant([3.0, 5.0])
with tf.GradientTape() as tape:
    tape.watch([x, y])
    value = loaded.value(x, y)
print([part.numpy().tolist() for part in (*tape.gradient(value, [x, y]), *loaded.derivative(x, y))])
"""


def gradient_of(op):
    """Return the gradient of an op of two inputs as a function, to be saved as a derivative."""

    def gradient(x, y):
        with tf.GradientTape() as tape:
            tape.watch([x, y])
            z = op(x, y)
        return tape.gradient(z, [x, y])

    return gradient


def derivatives_when_loaded(directory, op, derivative, *, is_compiled):
    """Save an op of two inputs and a derivative of it; return what a process that loads them computes.

    It computes the gradient of the saved op at [1, 2] and [3, 5] by a tape, and calls the saved derivative there.
    """
    module, spec = tf.Module(), tf.TensorSpec([2], tf.float32)
    module.value = tf.function(op, input_signature=[spec, spec], jit_compile=is_compiled)
    module.derivative = tf.function(derivative, input_signature=[spec, spec], jit_compile=is_compiled)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(module, str(directory), options=options)
    assert [required.name for required in export.required_ops(str(directory))] == [op.name]
    process = run_python("-c", _LOAD, str(directory), timeout=300)
    assert process.returncode == 0, process.stderr
    return ast.literal_eval(process.stdout)
