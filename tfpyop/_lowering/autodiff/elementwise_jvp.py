"""The JVP of an elementwise op, derived from its VJP rule in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfpyop._lowering.autodiff.recorded_call import RecordedCall
from tfpyop._lowering.autodiff.rule_call import leaves_of_rule, rule_op_for
from tfpyop._lowering.autodiff.vectors import scatter_needed
from tfpyop._lowering.tensors import dtype_of
from tfpyop._registry.bind import bind
from tfpyop._registry.op_def import NumpyRule
from tfpyop._spec.coercion import is_differentiable


def elementwise_jvp(
    call: RecordedCall, rule: NumpyRule, tangents: Sequence[tf.Tensor | None]
) -> list[tf.Tensor | None]:
    """Return the JVP of an elementwise op: its VJP for a cotangent of one is the derivative of every element.

    A complex output also needs the VJP for a cotangent of i, because the function may not be analytic.
    """
    needs = tuple([tangent is not None for tangent in tangents])
    rule_op = rule_op_for(call, rule, needs)
    shape = tf.shape(call.outputs[0])
    inputs = [tf.broadcast_to(tensor, shape) for tensor in call.inputs]
    moved = [None if tangent is None else tf.broadcast_to(tangent, shape) for tangent in tangents]
    results: list[tf.Tensor | None] = []
    for number, output in enumerate(call.outputs):
        if not is_differentiable(dtype_of(output)):
            results.append(None)
            continue
        parts = []
        for unit in (1, 1j) if output.dtype.is_complex else (1,):
            ones = [
                tf.cast(tf.fill(shape, unit if other == number else 0), tensor.dtype)
                if is_differentiable(dtype_of(tensor))
                else tensor
                for other, tensor in enumerate(call.outputs)
            ]
            columns = scatter_needed(needs, bind(rule_op, leaves_of_rule(call, rule, inputs, ones)))
            parts.append(_real_product(columns, moved, tf.zeros(shape, output.dtype.real_dtype)))
        result = tf.complex(*parts) if len(parts) == 2 else parts[0]
        result.set_shape(output.shape)
        results.append(result)
    return results


def _real_product(
    columns: Sequence[tf.Tensor | None], tangents: Sequence[tf.Tensor | None], start: tf.Tensor
) -> tf.Tensor:
    """Add the real inner product of derivatives and tangents, element by element, to `start`.

    A tangent of zero contributes nothing even where the derivative is infinite or NaN, because inputs without a tangent
    get zeros too.
    """
    for column, tangent in zip(columns, tangents, strict=True):
        if column is None or tangent is None:
            continue
        pairs = [(column, tangent)]
        if column.dtype.is_complex:
            pairs = [(part(column), part(tangent)) for part in (tf.math.real, tf.math.imag)]
        for derivative, moved in pairs:
            start += tf.cast(tf.math.multiply_no_nan(derivative, moved), start.dtype)
    return start
