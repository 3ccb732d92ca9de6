"""Backward: from the cotangents of an op's outputs to those of its inputs, by whichever rule the op has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfpyop._coercion import dtype_kind, is_differentiable
from tfpyop._rules import HostOp, broadcast_shapes_of, cotangent_values, summed_axes, wrong_cotangent_shape
from tfpyop.errors import CoercionError, Shape, TfpyopError
from tfpyop.lowering.tensors import dtype_of, type_of


def input_cotangents(
    op: HostOp, inputs: Sequence[tf.Tensor], outputs: Sequence[tf.Tensor], cotangents: Sequence[Any]
) -> list[tf.Tensor | None]:
    """Apply the gradient rule of an op and hold what it returns to the contract.

    Args:
      op: The op that was called.
      inputs: Its primals.
      outputs: What it returned for them.
      cotangents: One for each output; None where nothing depends on it.

    Returns:
      One cotangent for each input, None for those without a derivative.

    Raises:
      GradientError: The op has no gradient rule.
      ContractError: The rule returned something that is no cotangent of the inputs.
    """
    given = [_given(cotangent, output) for cotangent, output in zip(cotangents, outputs, strict=True)]
    rule, rule_op = op.rules.gradient, op.rules.numpy_gradient
    if rule_op is not None:
        passed = [output if cotangent is None else cotangent for cotangent, output in zip(given, outputs, strict=True)]
        results = iter(rule_op.call_flat([*inputs, *outputs, *passed], op.static))
        return [next(results) if is_differentiable(dtype_of(tensor)) else None for tensor in inputs]
    if rule is None:
        raise op.missing_gradient()
    try:
        values = cotangent_values(rule(op.context(inputs, outputs), *given), len(inputs))
        broadcast = broadcast_shapes_of(op.signature, [type_of(tensor).shape for tensor in inputs])
        return [
            None if value is None or not is_differentiable(dtype_of(tensor)) else _fit(op, value, inputs, number, shape)
            for number, (value, tensor, shape) in enumerate(zip(values, inputs, broadcast, strict=True))
        ]
    except TfpyopError as error:
        error.subject = error.subject or f"gradient of {op.host.subject}"
        raise


def _given(cotangent: Any, output: tf.Tensor) -> tf.Tensor | None:
    """A dense cotangent for each differentiable output, zero where nothing depends on it."""
    if not is_differentiable(dtype_of(output)):
        return None
    return tf.zeros_like(output) if cotangent is None else tf.convert_to_tensor(cotangent)


def _fit(op: HostOp, value: Any, inputs: Sequence[tf.Tensor], number: int, broadcast: Shape | None) -> tf.Tensor:
    """One cotangent: cast to the primal's dtype, summed over the loop dimensions that broadcasting added."""
    primal = inputs[number]
    tensor = tf.convert_to_tensor(value, dtype_hint=primal.dtype)
    if dtype_kind(dtype_of(tensor)) == "c" and dtype_kind(dtype_of(primal)) != "c":
        raise CoercionError(
            f"the cotangent of input {number} is complex, but the input is real.",
            expected=str(type_of(primal)),
            got=str(type_of(tensor)),
            remedy="Return the real part: tf.math.real(...).",
        )
    tensor = tf.cast(tensor, primal.dtype)
    shape, wanted = type_of(tensor).shape, type_of(primal).shape
    if shape is not None and wanted is not None and None not in shape and None not in wanted:
        if shape == wanted:
            return tensor
        if shape != broadcast:
            raise wrong_cotangent_shape(number, type_of(primal), broadcast, str(type_of(tensor)))
        return tf.reshape(tf.reduce_sum(tensor, summed_axes(shape, wanted)), wanted)
    return _fit_unknown(op, tensor, inputs, number)


def _fit_unknown(op: HostOp, tensor: tf.Tensor, inputs: Sequence[tf.Tensor], number: int) -> tf.Tensor:
    """Check and sum a cotangent whose shape, or whose primal's, is known only when the graph runs."""
    primal = inputs[number]
    shape, wanted = tf.shape(tensor), tf.shape(primal)
    allowed = _same_shape(shape, wanted)
    if op.signature is not None:
        allowed |= _same_shape(shape, _broadcast_shape(op, inputs, number))
    problem = f"gradient of {op.host.subject}: the cotangent of input {number} has the wrong shape. Expected, got:"
    with tf.control_dependencies([tf.debugging.Assert(allowed, [problem, wanted, shape])]):
        axes = tf.raw_ops.BroadcastGradientArgs(s0=wanted, s1=shape).r0
        result = tf.reshape(tf.reduce_sum(tensor, axes), wanted)
    result.set_shape(primal.shape)
    return result


def _broadcast_shape(op: HostOp, inputs: Sequence[tf.Tensor], number: int) -> tf.Tensor:
    """The loop dimensions of all inputs, broadcast, and the core dimensions of one, as a tensor."""
    assert op.signature is not None
    loop = tf.zeros([0], tf.int32)
    for tensor, core in zip(inputs, op.signature.inputs, strict=True):
        loop = tf.broadcast_dynamic_shape(loop, tf.shape(tensor)[: tf.rank(tensor) - len(core)])
    n_core = len(op.signature.inputs[number])
    return tf.concat([loop, tf.shape(inputs[number])[tf.rank(inputs[number]) - n_core :]], 0)


def _same_shape(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    rank = tf.maximum(tf.size(left), tf.size(right))
    padded = [tf.pad(shape, [[rank - tf.size(shape), 0]], constant_values=-1) for shape in (left, right)]
    return tf.reduce_all(tf.equal(*padded))
