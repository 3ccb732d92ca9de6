"""Every way a call can be made, and every way it can be differentiated, as functions of arrays."""

import functools

import numpy as np
import tensorflow as tf


def _arrays(result):
    return tf.nest.map_structure(lambda tensor: tensor if tensor is None else tensor.numpy(), result)


def compiled(function, **options):
    """A function of tensors, compiled by XLA."""
    return tf.function(function, jit_compile=True, autograph=False, **options)


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


def _xla(function, arguments):
    return _arrays(compiled(function)(*map(tf.constant, arguments)))


def _xla_unknown_sizes(function, arguments):
    tensors = [tf.constant(argument) for argument in arguments]
    signature = [tf.TensorSpec([None] * tensor.shape.rank, tensor.dtype) for tensor in tensors]
    return _arrays(tf.function(function, input_signature=signature, jit_compile=True)(*tensors))


def _xla_again(function, arguments):
    """The third call: the first one is given copies, to see what the function keeps."""
    call, tensors = compiled(function), [*map(tf.constant, arguments)]
    return [_arrays(call(*tensors)) for _ in range(3)][-1]


_CALLS = {
    "eager": _eager,
    "graph": _graph,
    "autograph": _autograph,
    "unknown shapes": _unknown_shapes,
    "nested": _nested,
    "session": _session,
    "XLA": _xla,
    "XLA, unknown sizes": _xla_unknown_sizes,
    "XLA, again": _xla_again,
}
MODES = tuple(_CALLS)
XLA_MODES = tuple(mode for mode in MODES if "XLA" in mode)
WITHOUT_XLA = tuple(mode for mode in MODES if mode not in XLA_MODES)
"""For texts, and for shapes that are not known when a function is compiled."""


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


def _present(differentiate):
    """The same for XLA, which has no texts: only the gradients there are, and what puts the others back."""
    missing = []

    def call(*arguments):
        gradients = differentiate(*arguments)
        missing[:] = [gradient is None for gradient in gradients]
        return [gradient for gradient in gradients if gradient is not None]

    def all_of(gradients):
        remaining = iter(gradients)
        return [None if is_missing else next(remaining) for is_missing in missing]

    return call, all_of


def _named(gradients):
    return [None if str(gradient) == "b'None'" else gradient for gradient in gradients]


def _gradient(mode, function, arguments):
    tape = _connected(functools.partial(_with_tape, function))
    if mode == "tape, eager":
        return _arrays(_with_tape(function, *map(tf.constant, arguments)))
    if mode == "tape outside":
        return _arrays(_with_tape(tf.function(function), *map(tf.constant, arguments)))
    if mode == "tape outside, XLA":
        return _arrays(_with_tape(tf.function(function, jit_compile=True), *map(tf.constant, arguments)))
    if mode == "tape inside":
        return _graph(tape, arguments)
    if mode == "tape inside, unknown shapes":
        return _unknown_shapes(tape, arguments)
    if mode == "tape inside, function inside":
        return _graph(_connected(functools.partial(_with_tape, tf.function(function))), arguments)
    if mode in ("tape inside, XLA", "tape inside, XLA, unknown sizes"):
        differentiate, is_connected = _present(functools.partial(_with_tape, function))
        results = (_xla_unknown_sizes if "unknown" in mode else _xla)(differentiate, arguments)
        return is_connected(results)
    if mode == "tape inside, XLA, again":
        differentiate, is_connected = _present(functools.partial(_with_tape, function))
        return is_connected(_xla_again(differentiate, arguments))
    if mode == "gradients, XLA":
        differentiate, is_connected = _present(functools.partial(_with_gradients, function))
        return is_connected(_xla(differentiate, arguments))
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
    "tape outside, XLA",
    "tape inside, XLA",
    "tape inside, XLA, unknown sizes",
    "tape inside, XLA, again",
    "gradients, XLA",
)


def gradient(mode, function, *arguments):
    """The gradient of the sum of a function's outputs at these arrays; None where there is none."""
    return _named(_gradient(mode, function, arguments))


GRADIENT_MODES_WITHOUT_XLA = tuple(mode for mode in GRADIENT_MODES if "XLA" not in mode)
