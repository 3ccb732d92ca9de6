"""Every way a call can be made, and every way it can be differentiated, as functions of arrays."""

import functools

import numpy as np
import tensorflow as tf


def _arrays(result):
    return tf.nest.map_structure(lambda tensor: tensor if tensor is None else tensor.numpy(), result)


def _eager(function, arguments):
    return _arrays(function(*map(tf.constant, arguments)))


def _graph(function, arguments):
    return _arrays(tf.function(function, autograph=False)(*map(tf.constant, arguments)))


def _autograph(function, arguments):
    return _arrays(tf.function(function)(*map(tf.constant, arguments)))


def _unknown_shapes(function, arguments):
    tensors = [tf.constant(argument) for argument in arguments]
    signature = [tf.TensorSpec(None, tensor.dtype) for tensor in tensors]
    return _arrays(tf.function(function, input_signature=signature)(*tensors))


def _nested(function, arguments):
    inner = tf.function(function)
    return _arrays(tf.function(lambda *tensors: inner(*tensors))(*map(tf.constant, arguments)))


def _session(function, arguments):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        inputs = [tf.compat.v1.placeholder(tf.constant(array).dtype, np.shape(array)) for array in arguments]
        return session.run(function(*inputs), dict(zip(inputs, arguments, strict=True)))


_CALLS = {
    "eager": _eager,
    "graph": _graph,
    "autograph": _autograph,
    "unknown shapes": _unknown_shapes,
    "nested": _nested,
    "session": _session,
}
MODES = tuple(_CALLS)


def call(mode, function, *arguments):
    """What the function returns for these arrays when it is called in this mode."""
    return _CALLS[mode](function, arguments)


def _with_tape(function, *tensors):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        outputs = function(*tensors)
    return tape.gradient(outputs, tensors)


def _with_gradients(function, *tensors):
    return tf.gradients(function(*tensors), tensors)


def _connected(differentiate):
    """Inside of a function a missing gradient cannot be returned as None, so it is returned as a text."""

    @functools.wraps(differentiate)
    def call(*arguments):
        return [tf.constant("None") if gradient is None else gradient for gradient in differentiate(*arguments)]

    return call


def _named(gradients):
    return [None if str(gradient) == "b'None'" else gradient for gradient in gradients]


def _gradient(mode, function, arguments):
    tape = _connected(functools.partial(_with_tape, function))
    if mode == "tape, eager":
        return _arrays(_with_tape(function, *map(tf.constant, arguments)))
    if mode == "tape outside":
        return _arrays(_with_tape(tf.function(function), *map(tf.constant, arguments)))
    if mode == "tape inside":
        return _graph(tape, arguments)
    if mode == "tape inside, unknown shapes":
        return _unknown_shapes(tape, arguments)
    if mode == "tape inside, function inside":
        return _graph(_connected(functools.partial(_with_tape, tf.function(function))), arguments)
    differentiate = _connected(functools.partial(_with_gradients, function))
    return _graph(differentiate, arguments) if mode == "gradients" else _session(differentiate, arguments)


GRADIENT_MODES = (
    "tape, eager",
    "tape outside",
    "tape inside",
    "tape inside, unknown shapes",
    "tape inside, function inside",
    "gradients",
    "gradients, session",
)


def gradient(mode, function, *arguments):
    """The gradient of the sum of a function's outputs at these arrays; None where there is none."""
    return _named(_gradient(mode, function, arguments))
