"""Linear ops: the JVP is the op itself on tangents, and the derivatives of a numpy adjoint are calls of both ops.

With f(x, o) linear in x, and A(o) its adjoint: (f(t, o), u) = (t, A(o) u) in the real inner product. So the VJP of A is
f by u, and the VJP of f(t, o) by o. Its JVP is A by u, and the derivative of the JVP of f by x along o.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfpyop._lowering._tensorflow import push_forwardprop_state, should_record_backprop
from tfpyop._lowering.autodiff.deferred_errors import deferred_error_vectors
from tfpyop._lowering.autodiff.gradient_node import sum_of
from tfpyop._lowering.autodiff.recorded_call import RecordedCall
from tfpyop._lowering.autodiff.rule_call import inputs_without_part
from tfpyop._lowering.autodiff.vectors import or_zeros, scatter, scatter_needed
from tfpyop._lowering.tensors import dtype_of
from tfpyop._registry.bind import bind
from tfpyop._registry.op_def import ConcreteOp, SplitRule
from tfpyop._registry.rule_op_def import RuleOpDef, numbers_of
from tfpyop._rules.missing import missing_for_some_inputs, missing_second_derivative, residual_differentiated
from tfpyop._spec.coercion import is_differentiable
from tfpyop._spec.rule_values import Places
from tfpyop.errors import GradientError

Vectors = Sequence[tf.Tensor | None]


def linear_tangents(call: RecordedCall, tangents: Vectors, places: Places) -> list[tf.Tensor | None]:
    """Return the JVP of an op that is linear in the inputs at these places: the op itself on their tangents."""
    return _with_none_for_integers(bind(call.op, _replaced(call.inputs, tangents, places)))


def is_of_adjoint(call: RecordedCall) -> bool:
    """Return whether the op is the op of a numpy adjoint rule."""
    definition = call.op.definition
    return isinstance(definition, RuleOpDef) and definition.forward_op.rules.is_linear(definition.wrt)


def cotangents_of_adjoint(
    call: RecordedCall, cotangents: Vectors, vjp: Callable[[RecordedCall, Sequence[Any]], list[tf.Tensor | None]]
) -> list[tf.Tensor | None]:
    """Return the VJP of the op of a numpy adjoint rule, which does not depend on linear inputs and outputs.

    Args:
      call: The call of the rule's op.
      cotangents: One cotangent for each output.
      vjp: Returns the VJP of a call. No tape is used, because TensorFlow stops recording where it builds gradients.
    """
    forward, linear = call.forward_call, _linear_numbers(call)
    n_inputs, n_primals = len(forward.inputs), len(call.inputs) - len(call.vectors)
    others = [number for number in range(n_inputs) if call.needs[number] and number not in linear]
    results: list[tf.Tensor | None] = [None] * n_primals
    for error, numbers in _missing(forward, others).items():
        like, by = [forward.inputs[number] for number in numbers], [*cotangents, *call.vectors]
        for number, placeholder in zip(numbers, deferred_error_vectors(forward.op, error, like, by), strict=True):
            results[number] = placeholder
    others = [number for number in others if results[number] is None]
    if not others and not any(call.needs[n_primals:]):
        return [*results, *[None] * len(call.vectors)]
    tangents = or_zeros(scatter_needed(call.returned, cotangents), forward.inputs)
    leaves = _replaced(forward.inputs, tangents, linear)
    outputs = bind(forward.op, leaves)
    if others:
        skipped = [number for number in range(n_inputs) if number not in others]
        moved = vjp(RecordedCall(forward.op, leaves, outputs, (), skipped, call.is_compiled), call.vectors)
        results[:n_inputs] = [moved[number] if number in others else results[number] for number in range(n_inputs)]
    return [*results, *_with_none_for_integers(outputs)]


def _missing(forward: RecordedCall, others: Sequence[int]) -> dict[Callable[[ConcreteOp], GradientError], list[int]]:
    """Return the inputs by which the derivative of an adjoint cannot be computed, by the error that they raise."""
    rule = forward.op.rules.vjp
    without = inputs_without_part(forward, rule) if isinstance(rule, SplitRule) else []
    missing = {missing_for_some_inputs: [number for number in others if number in without]}
    if forward.op.residual_names:  # only the function computes them, and their rules may need them
        missing[residual_differentiated] = [number for number in others if number not in without]
    return {error: numbers for error, numbers in missing.items() if numbers}


def tangents_of_adjoint(
    call: RecordedCall, tangents: Vectors, jvp: Callable[[RecordedCall, Sequence[Any]], Vectors]
) -> list[tf.Tensor | None]:
    """Return the JVP of the op of a numpy adjoint rule.

    Args:
      call: The call of the rule's op.
      tangents: One tangent for each input; None where there is none.
      jvp: Returns the JVP of a call.
    """
    forward, linear = call.forward_call, _linear_numbers(call)
    n_inputs, n_primals = len(forward.inputs), len(call.inputs) - len(call.vectors)
    primals, by_vectors = call.inputs[:n_primals], tangents[n_primals:]
    results: list[tf.Tensor | None] = [None] * len(call.outputs)
    if any(tangent is not None for tangent in by_vectors):
        vectors = _replaced(call.vectors, or_zeros(by_vectors, call.vectors), None)
        results = list(bind(call.op, [*primals, *vectors]))
    others = [None if number in linear else tangents[number] for number in range(n_inputs)]
    for numbers in _other_linear_parts(call, linear):
        moved = [tangent if number in numbers else None for number, tangent in enumerate(others)]
        if any(tangent is not None for tangent in moved):  # f is linear in them too, and so is its adjoint
            inputs = _replaced(forward.inputs, or_zeros(moved, forward.inputs), numbers)
            values = bind(call.op, [*inputs, *call.inputs[n_inputs:]])
            results = list(map(sum_of, results, values))
            others = [None if number in numbers else tangent for number, tangent in enumerate(others)]
    if any(tangent is not None for tangent in others):
        results = list(map(sum_of, results, _along_others(call, forward, others, jvp)))
    return [tf.zeros_like(like) if value is None else value for value, like in zip(results, call.outputs, strict=True)]


def _along_others(
    call: RecordedCall,
    forward: RecordedCall,
    tangents: Vectors,
    jvp: Callable[[RecordedCall, Sequence[Any]], Vectors],
) -> list[tf.Tensor | None]:
    """Return the derivative of A(o) u along o: by x, the derivative of the JVP of f along o, for the cotangents u."""
    forward = forward.with_outputs()
    with push_forwardprop_state(), tf.GradientTape() as tape:  # else the accumulator would record
        inputs, outputs, residuals = (
            [tf.identity(tensor) for tensor in tensors]
            for tensors in (forward.inputs, forward.outputs, forward.residuals)
        )
        sources = [tensor for tensor, is_returned in zip(inputs, call.returned, strict=True) if is_returned]
        tape.watch(sources)
        is_recording = should_record_backprop(sources)
        moved = jvp(RecordedCall(forward.op, inputs, outputs, residuals), tangents)
    if not is_recording:
        return deferred_error_vectors(call.op, missing_second_derivative, call.outputs, tangents)
    pairs = [(value, vector) for value, vector in zip(moved, call.vectors, strict=True) if value is not None]
    found: list[tf.Tensor | None] = tape.gradient(
        [value for value, _ in pairs], sources, output_gradients=[vector for _, vector in pairs]
    )
    return found


def _linear_numbers(call: RecordedCall) -> Sequence[int]:
    """Return the indices of the inputs of the forward call that an adjoint rule is for."""
    definition, n_inputs = call.op.definition, len(call.forward_call.inputs)
    assert isinstance(definition, RuleOpDef)
    return numbers_of(call.forward_call.op, definition.wrt, n_inputs) if definition.wrt else range(n_inputs)


def _other_linear_parts(call: RecordedCall, linear: Sequence[int]) -> list[Sequence[int]]:
    """Return the indices of the inputs that each other adjoint rule of the forward op is for."""
    op, n_inputs = call.forward_call.op, len(call.forward_call.inputs)
    names = op.rules.vjp.parts if isinstance(op.rules.vjp, SplitRule) else ()
    parts = [numbers_of(op, part, n_inputs) for part in names if op.rules.is_linear(part)]
    return [numbers for numbers in parts if numbers != tuple(linear)]


def _replaced(tensors: Sequence[tf.Tensor], vectors: Vectors, numbers: Places | None) -> list[tf.Tensor]:
    """Return the tensors, with the vectors of differentiable tensors in place of them at these indices (None: all)."""
    return [
        tensor if vector is None or (numbers is not None and number not in numbers) else vector
        for number, (tensor, vector) in enumerate(zip(tensors, vectors, strict=True))
    ]


def _with_none_for_integers(outputs: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    return scatter(outputs, [output for output in outputs if is_differentiable(dtype_of(output))])
