"""JVP rules: apply the rule of an op, and check what it returns against the op's outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfpyop._lowering._tensorflow import record_operation, stop_recording
from tfpyop._lowering.autodiff.deferred_errors import deferred_error_vectors
from tfpyop._lowering.autodiff.gradient_node import sum_of
from tfpyop._lowering.autodiff.linear import linear_tangents
from tfpyop._lowering.autodiff.recorded_call import RecordedCall
from tfpyop._lowering.autodiff.rule_call import (
    apply_numpy_rule,
    apply_rule,
    error_without_part,
    inputs_without_part,
    mark_unconnected,
    places_in_rule,
    split_parts,
)
from tfpyop._lowering.autodiff.vectors import or_zeros, scatter
from tfpyop._lowering.tensors import dtype_of, tensor_of_vector, type_of
from tfpyop._registry.op_def import LinearRule, NumpyRule, PlainRule, Rule, SplitRule
from tfpyop._rules.missing import undefined_by_rule
from tfpyop._spec.coercion import is_differentiable
from tfpyop._spec.outputs import is_compatible
from tfpyop._spec.rule_values import Places, placed, rule_values, wrong_tangent_shape
from tfpyop._spec.undefined import UNDEFINED, undefined_vector
from tfpyop.errors import naming


def apply_jvp_rule(call: RecordedCall, rule: Rule, tangents: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Apply the JVP rule of an op; return one tangent for each output, None for outputs without a derivative.

    Args:
      call: The call that is differentiated.
      rule: The op's JVP rule.
      tangents: A dense tangent for each input that varies, else None.

    Raises:
      ContractError: The rule returned an invalid tangent.
      GradientError: The op has rules for some inputs, and none for another input that varies.
    """
    if not isinstance(rule, SplitRule):
        return _apply(call, rule, tangents, places_in_rule(call))
    return sum_over_parts(call, rule, "jvp", tangents, _apply)


def sum_over_parts(
    call: RecordedCall,
    rule: SplitRule,
    kind: str,
    tangents: Sequence[tf.Tensor | None],
    apply: Callable[..., list[tf.Tensor | None]],
) -> list[tf.Tensor | None]:
    """Return the sum of the tangents by each of the rules for some inputs.

    Args:
      call: The call that is differentiated.
      rule: The rules.
      kind: The kind of the rules, for the error.
      tangents: A dense tangent for each input that varies, else None.
      apply: Returns the tangents by one rule. Takes the call, the rule, the tangents of its inputs and their places.

    Raises:
      GradientError: None of the rules is for an input that varies.
    """
    if any(tangents[number] is not None for number in inputs_without_part(call, rule)):
        raise error_without_part(call, rule, kind)
    results: list[tf.Tensor | None] = [None] * len(call.outputs)
    for places, part in split_parts(call, rule):
        moved = tangents_of_part(tangents, places)
        if any(tangent is not None for tangent in moved):
            results = list(map(sum_of, results, apply(call, part, moved, places)))
    return results


def tangents_of_part(tangents: Sequence[tf.Tensor | None], numbers: Places) -> list[tf.Tensor | None]:
    """Return the tangents of these inputs, and None for the other inputs."""
    return [tangent if number in numbers else None for number, tangent in enumerate(tangents)]


def _apply(
    call: RecordedCall, rule: PlainRule, tangents: Sequence[tf.Tensor | None], places: Places
) -> list[tf.Tensor | None]:
    """Apply a rule for all inputs, or for a part of them; return one tangent for each output."""
    op = call.op
    vectors = or_zeros(tangents, call.inputs)
    needs = tuple([tangent is not None for tangent in tangents])
    if isinstance(rule, NumpyRule):
        return scatter(call.outputs, apply_numpy_rule(call, rule, vectors, call.inputs, needs))
    if isinstance(rule, LinearRule):
        return linear_tangents(call, vectors, places)
    given = placed(vectors, places)
    result = apply_rule(call, rule, "jvp", given, needs)
    with naming(f"JVP of {op.subject}"):
        values = rule_values(result, len(call.outputs), "tangent", "outputs")
        fitted = [
            _undefined(call, number, given) if value is UNDEFINED else _fit(value, call.outputs[number], number)
            for number, value in enumerate(values)
        ]
    return mark_unconnected(call, rule.function, given, fitted, needs)


def _undefined(call: RecordedCall, number: int, tangents: Sequence[tf.Tensor | None]) -> tf.Tensor | None:
    """Return a placeholder for the tangent of an output that is not defined. Raise GradientError in eager code."""
    if not is_differentiable(dtype_of(call.outputs[number])):
        return None
    if tf.executing_eagerly():
        raise undefined_vector("tangent", number)
    return deferred_error_vectors(call.op, undefined_by_rule, [call.outputs[number]], tangents)[0]


def dense_tangent(tangent: Any, tensor: tf.Tensor) -> tf.Tensor | None:
    """Return a dense tangent for a differentiable input that varies, else None."""
    if tangent is None or not is_differentiable(dtype_of(tensor)):
        return None
    dense = tf.convert_to_tensor(tangent)
    if None not in (tensor.shape.rank, dense.shape.rank):
        return dense
    with stop_recording():
        check = tf.debugging.assert_equal(
            tf.rank(dense),
            tf.rank(tensor),
            "tfpyop: a batch accumulator needs inputs whose rank is known (tf.ensure_shape)",
        )
    with tf.control_dependencies([check]):
        return tf.identity(dense)


def _fit(value: Any, output: tf.Tensor, number: int) -> tf.Tensor | None:
    if not is_differentiable(dtype_of(output)):
        return None
    if value is None:
        return tf.zeros_like(output)
    tensor = tf.cast(tensor_of_vector(value, output, f"tangent {number}", f"op.outputs[{number}]"), output.dtype)
    got, promised = type_of(tensor), type_of(output)
    if got.shape is not None and not is_compatible(got.shape, promised.shape):
        raise wrong_tangent_shape(number, promised, got)
    return tensor if output.shape.rank is None or tensor.shape == output.shape else _ensured(tensor, output.shape)


def _ensured(tensor: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """Return the tensor, with a check of its shape that runs with the graph.

    The derivative is recorded here. TensorFlow's own derivative fails in nested accumulators, because the node has a
    shape attribute, which cannot be hashed.
    """
    with stop_recording():
        ensured = tf.ensure_shape(tensor, shape)

    def unchanged(vector: Any) -> list[Any]:
        return [vector]

    record_operation("tfpyop shape", [ensured], [tensor], unchanged, unchanged)
    return ensured
