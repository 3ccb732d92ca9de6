"""Differentiation: compute cotangents of inputs from cotangents of outputs, and tangents of outputs from tangents.

Selects the rule of an op, or derives it: the JVP from a VJP rule, and the derivatives of a numpy rule's op. Both
directions are in one file because each of them may need the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from tfpyop._lowering._tensorflow import (
    map_rows,
    push_forwardprop_state,
    record_operation_backprop_only,
    should_record_backprop,
    stop_recording,
)
from tfpyop._lowering.autodiff.deferred_errors import deferred_error_vectors
from tfpyop._lowering.autodiff.elementwise_jvp import elementwise_jvp
from tfpyop._lowering.autodiff.gradient_node import is_saving, sum_of
from tfpyop._lowering.autodiff.jvp import apply_jvp_rule, dense_tangent, sum_over_parts, tangents_of_part
from tfpyop._lowering.autodiff.linear import cotangents_of_adjoint, is_of_adjoint, tangents_of_adjoint
from tfpyop._lowering.autodiff.recorded_call import RecordedCall
from tfpyop._lowering.autodiff.rule_call import inputs_without_part, split_parts, undefined_inputs
from tfpyop._lowering.autodiff.vectors import map_over, or_zeros, scatter, scatter_needed
from tfpyop._lowering.autodiff.vjp import apply_vjp_rule, dense_cotangent
from tfpyop._lowering.tensors import dtype_of
from tfpyop._registry.bind import bind
from tfpyop._registry.op_def import ConcreteOp, NumpyRule, OpDef, PlainRule, SplitRule, TensorFlowRule, parts_of
from tfpyop._rules.missing import (
    detached_rule,
    missing_gradient,
    missing_jvp,
    missing_second_derivative,
    undefined_derivative,
)
from tfpyop._spec.coercion import is_differentiable
from tfpyop._spec.rule_outputs import CotangentSpec
from tfpyop._spec.rule_values import Places

T = TypeVar("T")


def input_cotangents(call: RecordedCall, cotangents: Sequence[Any]) -> list[tf.Tensor | None]:
    """Apply the gradient rule of an op and check its results.

    Args:
      call: The call that is differentiated.
      cotangents: One cotangent for each output; None where the result does not depend on the output.

    Returns:
      One cotangent for each input; None for inputs without a derivative.

    Raises:
      GradientError: The op has no gradient rule.
      ContractError: The rule returned an invalid cotangent.
    """
    op = call.op
    given = [dense_cotangent(cotangent, output) for cotangent, output in zip(cotangents, call.outputs, strict=True)]
    rule = op.rules.vjp
    if call.is_of_vjp:
        return _vjp_of_vjp(call, given)
    if op.is_partial and rule is not None:
        return input_cotangents(_with_all_outputs(call), _of_all_outputs(call, given))
    if rule is None:
        is_of_rule = op.forward_op is not None and not tf.executing_eagerly()
        if is_of_rule or is_saving():  # TensorFlow may build a derivative that nothing uses
            return deferred_error_vectors(op, missing_gradient, call.inputs, given)
        raise missing_gradient(op)
    return apply_vjp_rule(call, rule, given)


def _vjp_of_vjp(call: RecordedCall, cotangents: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    """Return the derivative of a VJP rule. By the cotangents it is the JVP; by the primals it needs another rule."""
    if is_of_adjoint(call):
        return cotangents_of_adjoint(call, cotangents, input_cotangents)
    forward_call = call.forward_call
    tangents = scatter_needed(call.returned, cotangents)
    missing, n_primals = missing_second_derivative, len(call.inputs) - len(call.vectors)
    by_primals: list[tf.Tensor | None] = [None] * n_primals
    if any(call.needs[:n_primals]):
        by_primals = deferred_error_vectors(call.op, missing, call.inputs[:n_primals], cotangents)
    if not any(call.needs[n_primals:]):
        return [*by_primals, *[None] * len(call.vectors)]
    if has_jvp(forward_call.op) and not _without_any_rule(forward_call, tangents):
        return [*by_primals, *output_tangents(forward_call.with_outputs(), tangents)]
    return [*by_primals, *deferred_error_vectors(call.op, missing, call.vectors, cotangents)]


def _with_all_outputs(call: RecordedCall) -> RecordedCall:
    """Return a call of a numpy rule that computes everything, in place of a call that computes only what is needed.

    A rule of the rule reads all outputs.
    """
    op = _returning_all(call.op)
    outputs = bind(op, call.inputs) if isinstance(op.host.output_spec, CotangentSpec) else call.outputs
    return RecordedCall(op, call.inputs, outputs, (), call.skipped, call.is_compiled)


def _returning_all(op: ConcreteOp) -> ConcreteOp:
    """Return the op of a numpy rule that computes everything."""
    definition = op.definition
    assert isinstance(definition, OpDef)
    return definition.specialize(op.tree, op.static)


def _of_all_outputs(call: RecordedCall, vectors: Sequence[T]) -> list[T | None]:
    """Return vectors of the outputs of a call, or None, for each output of `_with_all_outputs`."""
    if not isinstance(call.op.host.output_spec, CotangentSpec):
        return list(vectors)
    op = _returning_all(call.op)
    whole = RecordedCall(op, call.inputs, (), ())
    pairs = zip(whole.returned, scatter_needed(call.returned, vectors), strict=True)
    return [vector for is_returned, vector in pairs if is_returned]


def output_tangents(call: RecordedCall, tangents: Sequence[Any]) -> list[tf.Tensor | None]:
    """Apply the JVP rule of an op, or derive the JVP from its VJP rule.

    Args:
      call: The call that is differentiated.
      tangents: One tangent for each input; None where there is none. If a batch accumulator watches the call, these are
        stacks of tangents, with one dimension more than their input.

    Returns:
      One tangent for each output, or stacks of tangents; None for outputs without a derivative.

    Raises:
      GradientError: The op has no JVP rule, and none can be derived.
      ContractError: The rule returned an invalid tangent.
    """
    linked = _relink_outputs(call)
    is_batched = [_is_batched(*pair) for pair in zip(tangents, call.inputs, strict=True)]
    return _tangents_of_batch(linked, tangents, is_batched) if any(is_batched) else _tangents(linked, tangents)


def _tangents(call: RecordedCall, tangents: Sequence[Any]) -> list[tf.Tensor | None]:
    op = call.op
    given = [dense_tangent(tangent, tensor) for tangent, tensor in zip(tangents, call.inputs, strict=True)]
    if any(given[number] is not None for number in undefined_inputs(call)):
        raise undefined_derivative(op)
    if op.is_partial and (op.rules.jvp is not None or op.rules.vjp is not None):
        return _tangents_of_needed(call, given)
    if op.rules.jvp is not None:
        rest, moved = _without_jvp_rule(call, given)
        by_rule = apply_jvp_rule(
            call, op.rules.jvp, [None if m is not None else t for t, m in zip(given, moved, strict=True)]
        )
        return by_rule if rest is None else list(map(sum_of, by_rule, _tangents_by_parts(call, rest, moved)))
    if call.is_of_vjp:
        return _jvp_of_vjp(call, given)
    if not has_jvp(op):
        raise missing_jvp(op)
    assert op.rules.vjp is not None
    if not isinstance(op.rules.vjp, SplitRule):
        return _jvp_by_vjp(call, op.rules.vjp, given)
    return _tangents_by_parts(call, op.rules.vjp, given)


def _without_jvp_rule(
    call: RecordedCall, tangents: Sequence[tf.Tensor | None]
) -> tuple[SplitRule | None, Sequence[tf.Tensor | None]]:
    """Return the VJP rules for inputs that have no JVP rule, and the tangents of these inputs."""
    vjp, jvp = call.op.rules.vjp, call.op.rules.jvp
    nothing = [None] * len(tangents)
    if not isinstance(vjp, SplitRule) or not isinstance(jvp, SplitRule):
        return None, nothing
    with_vjp, with_jvp = inputs_without_part(call, vjp), inputs_without_part(call, jvp)
    moved = tangents_of_part(tangents, [number for number in with_jvp if number not in with_vjp])
    return (None, nothing) if all(tangent is None for tangent in moved) else (vjp, moved)


def _tangents_by_parts(
    call: RecordedCall, rule: SplitRule, tangents: Sequence[tf.Tensor | None]
) -> list[tf.Tensor | None]:
    """Derive the JVP from the VJP rules for some inputs. Raise GradientError if none is for an input that varies."""

    def apply(
        call: RecordedCall, part: PlainRule, moved: Sequence[tf.Tensor | None], _: Places
    ) -> list[tf.Tensor | None]:
        return _jvp_by_vjp(call, part, moved)

    return sum_over_parts(call, rule, "gradient", tangents, apply)


def _jvp_by_vjp(call: RecordedCall, rule: PlainRule, tangents: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Derive the JVP from a VJP rule that is for all inputs that vary."""
    if not isinstance(rule, NumpyRule):
        return _transpose_vjp(call, tangents)
    if not _is_elementwise(call.op):
        raise missing_jvp(call.op)
    return elementwise_jvp(call, rule, tangents)


def _tangents_of_needed(call: RecordedCall, tangents: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Return the tangents of a call of a numpy rule that computes only what is needed, by the rules of this rule."""
    whole = _with_all_outputs(call)
    is_returned = _of_all_outputs(call, [True] * len(call.outputs))
    return [tangent for tangent, flag in zip(_tangents(whole, tangents), is_returned, strict=True) if flag]


def _is_batched(tangent: Any, tensor: tf.Tensor) -> bool:
    """Return whether a tangent is a stack of tangents, as from TensorFlow's batch accumulators.

    A tangent of unknown rank, or for an input of unknown rank, counts as a single tangent. `dense_tangent` makes the
    graph check this.
    """
    if tangent is None or tangent.shape.rank is None or tensor.shape.rank is None:
        return False
    return bool(tangent.shape.rank == tensor.shape.rank + 1)


def _tangents_of_batch(
    call: RecordedCall, tangents: Sequence[Any], is_batched: Sequence[bool]
) -> list[tf.Tensor | None]:
    """Return stacks of output tangents, one tangent for each of the stacked input tangents."""
    values = [tf.convert_to_tensor(t) if flag else t for t, flag in zip(tangents, is_batched, strict=True)]
    over_rows = tf.vectorized_map if tf.executing_eagerly() else map_rows
    return map_over(over_rows, lambda row: _tangents(call, row), values, is_batched)


def has_jvp(op: ConcreteOp) -> bool:
    """Return whether an op has a JVP rule, or a gradient rule from which the JVP can be derived."""
    if op.rules.jvp is not None or op.rules.vjp is None:
        return op.rules.jvp is not None
    return _is_elementwise(op) or all(isinstance(rule, TensorFlowRule) for rule in parts_of(op.rules.vjp).values())


def _without_any_rule(call: RecordedCall, tangents: Sequence[Any]) -> list[int]:
    """Return the inputs that vary, but have neither a JVP rule nor a VJP rule from which the JVP can be derived."""
    jvp, vjp = call.op.rules.jvp, call.op.rules.vjp
    if not isinstance(vjp, SplitRule) or (jvp is not None and not isinstance(jvp, SplitRule)):
        return []
    missing = range(len(call.inputs)) if jvp is None else inputs_without_part(call, jvp)
    derivable = [
        number
        for numbers, part in split_parts(call, vjp)
        if isinstance(part, TensorFlowRule) or _is_elementwise(call.op)
        for number in numbers
    ]
    return [number for number in missing if tangents[number] is not None and number not in derivable]


def _is_elementwise(op: ConcreteOp) -> bool:
    return op.signature is not None and op.signature.is_elementwise and op.forward_op is None


def unwatched_inputs(call: RecordedCall) -> list[int] | None:
    """Return the inputs that no tape watches, if the op has no rule or no derivative for some inputs; else None.

    A cotangent that cannot be computed is an error only if it is needed.
    """
    rule = call.op.rules.vjp
    missing = inputs_without_part(call, rule) if isinstance(rule, SplitRule) else []
    if not missing and not undefined_inputs(call):
        return None
    return [number for number, tensor in enumerate(call.inputs) if not should_record_backprop([tensor])]


def _relink_outputs(call: RecordedCall) -> RecordedCall:
    """Return the call with outputs that tapes connect to the inputs. The existing outputs are recorded only later."""
    outputs = [tf.identity(tensor) for tensor in call.outputs]
    skipped = unwatched_inputs(call)

    def backward(*cotangents: Any) -> list[Any]:
        return input_cotangents(call.skipping(skipped), cotangents)

    record_operation_backprop_only(call.op.name, outputs, list(call.inputs), backward)
    return replace(call, outputs=outputs)


def _transpose_vjp(call: RecordedCall, tangents: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Derive the JVP from a VJP rule in TensorFlow ops: differentiate the rule, which is linear in the cotangents."""
    wanted = [output for output in call.outputs if is_differentiable(dtype_of(output))]
    copied = _copied(call, [number for number, tangent in enumerate(tangents) if tangent is None])
    with push_forwardprop_state(), tf.GradientTape(persistent=True) as tape:  # else the accumulator would record
        vectors = [tf.zeros_like(output) for output in wanted]
        tape.watch(vectors)
        pulled = input_cotangents(copied, scatter(call.outputs, vectors))
    results = [tf.zeros_like(output) for output in wanted]
    for number, (value, tangent) in enumerate(zip(pulled, tangents, strict=True)):
        if value is None or tangent is None:
            continue
        terms = tape.gradient(value, vectors, output_gradients=tangent)
        if all(term is None for term in terms) and not _is_zero(call, number):
            raise detached_rule(call.op)
        results = [total if term is None else total + term for total, term in zip(results, terms, strict=True)]
    return scatter(call.outputs, results)


def _copied(call: RecordedCall, skipped: Collection[int]) -> RecordedCall:
    """Return the call with copied tensors, which the active accumulator does not watch. Outer accumulators do.

    This ends the recursion of a rule that calls the op itself.
    """
    inputs, outputs, residuals = (
        [tf.identity(tensor) for tensor in tensors] for tensors in (call.inputs, call.outputs, call.residuals)
    )
    return RecordedCall(call.op, inputs, outputs, residuals, skipped)


def _is_zero(call: RecordedCall, number: int) -> bool:
    """Return whether the gradient rule gives an input a cotangent of zero, if the value is known at this point."""
    varied = [
        tf.reshape(tf.cast(tf.cos(tf.cast(tf.range(tf.size(output)), tf.float32)), output.dtype), tf.shape(output))
        for output in call.outputs
        if is_differentiable(dtype_of(output))
    ]
    with push_forwardprop_state(), stop_recording():
        others = [other for other in range(len(call.inputs)) if other != number]
        value = input_cotangents(_copied(call, others), scatter(call.outputs, varied))[number]
    known = None if value is None else tf.get_static_value(value)
    return known is not None and not np.any(known)


def _jvp_of_vjp(call: RecordedCall, tangents: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Return the JVP of a VJP rule, which is linear in the cotangents. Along the primals, it needs another rule."""
    if is_of_adjoint(call):
        return scatter(call.outputs, tangents_of_adjoint(call, tangents, output_tangents))
    n_primals = len(call.inputs) - len(call.vectors)
    vectors = [
        vector if tangent is None else tangent
        for vector, tangent in zip(call.vectors, or_zeros(tangents[n_primals:], call.vectors), strict=True)
    ]
    leaves = [*call.inputs[:n_primals], *vectors]
    results = scatter(call.outputs, bind(call.op, leaves))
    along_primals = tangents[:n_primals]
    if all(tangent is None for tangent in along_primals):
        return results
    missing = deferred_error_vectors(call.op, missing_second_derivative, call.outputs, along_primals)
    return [None if value is None else value + placeholder for value, placeholder in zip(results, missing, strict=True)]
