"""Forward: from the tangents of an op's inputs to those of its outputs, by whichever rule the op has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop._coercion import is_differentiable
from tfpyop._derivative_errors import detached_rule, missing_jvp, missing_second_derivative
from tfpyop._host_op import HostOp
from tfpyop._promise import is_compatible
from tfpyop._rule_values import rule_values, wrong_tangent_shape
from tfpyop.errors import TfpyopError
from tfpyop.lowering._tensorflow import (
    map_rows,
    push_forwardprop_state,
    record_operation,
    record_operation_backprop_only,
    stop_recording,
)
from tfpyop.lowering.applied_rules import apply_rule, guarded_results
from tfpyop.lowering.calls import Call
from tfpyop.lowering.refusals import refusing
from tfpyop.lowering.tensors import dtype_of, tensor_of_vector, type_of


def output_tangents(call: Call, tangents: Sequence[Any]) -> list[tf.Tensor | None]:
    """Apply the JVP rule of an op, or what follows from its VJP rule.

    Args:
      call: The call that is differentiated.
      tangents: One for each input; None where there is none. Stacks of tangents, with one dimension more than their
        input, if a batch accumulator follows the call.

    Returns:
      One tangent for each output, None for those without a derivative, or stacks of tangents.

    Raises:
      GradientError: The op has no JVP rule, and none follows.
      ContractError: The rule returned something that is not a tangent of the outputs.
    """
    linked = _linked(call)
    is_batched = [_is_batched(*pair) for pair in zip(tangents, call.inputs, strict=True)]
    return _tangents_of_batch(linked, tangents, is_batched) if any(is_batched) else _tangents(linked, tangents)


def _tangents(call: Call, tangents: Sequence[Any]) -> list[tf.Tensor | None]:
    op = call.op
    given = [_given(tangent, tensor) for tangent, tensor in zip(tangents, call.inputs, strict=True)]
    rule = op.rules.jvp
    if rule is not None and rule.op is not None:
        vectors = _or_zeros(given, call.inputs)
        passed = [tensor if tangent is None else tangent for tangent, tensor in zip(vectors, call.inputs, strict=True)]
        leaves = [*call.inputs, *call.outputs, *call.guarded_residuals(), *passed]
        return spread(call.outputs, rule.op.call_flat(leaves, op.structure, op.static))
    if rule is not None:
        assert rule.function is not None
        vectors = _or_zeros(given, call.inputs)
        result = apply_rule(call, rule.function, "jvp", vectors)
        try:
            values = rule_values(result, len(call.outputs), "tangent", "outputs")
            fitted = [_fit(value, call.outputs[number], number) for number, value in enumerate(values)]
        except TfpyopError as error:
            raise error.about(f"JVP of {op.host.subject}") from None
        return guarded_results(call, rule.function, vectors, fitted)
    if call.is_of_vjp:
        return _of_vjp(call, given)
    if not has_jvp(op):
        raise missing_jvp(op)
    assert op.rules.gradient is not None
    return _elementwise(call, given) if op.rules.gradient.op is not None else _transposed(call, given)


def _is_batched(tangent: Any, tensor: tf.Tensor) -> bool:
    """Return whether a tangent is a stack of tangents, as those of TensorFlow's batch accumulators are.

    Where a rank is unknown it is taken for one tangent, which `_given` lets the graph check.
    """
    if tangent is None or tangent.shape.rank is None or tensor.shape.rank is None:
        return False
    return bool(tangent.shape.rank == tensor.shape.rank + 1)


def _tangents_of_batch(call: Call, tangents: Sequence[Any], is_batched: Sequence[bool]) -> list[tf.Tensor | None]:
    """Return stacks of output tangents, one for each of the input tangents that are stacked."""
    stacked = [tf.convert_to_tensor(tangent) for tangent, flag in zip(tangents, is_batched, strict=True) if flag]
    is_none: list[bool] = []

    def of_one(elements: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        remaining = iter(elements)
        whole = [next(remaining) if flag else tangent for tangent, flag in zip(tangents, is_batched, strict=True)]
        results = _tangents(call, whole)
        is_none[:] = [result is None for result in results]
        return [result for result in results if result is not None]

    mapped = iter(tf.vectorized_map(of_one, stacked) if tf.executing_eagerly() else map_rows(of_one, stacked))
    return [None if missing else next(mapped) for missing in is_none]


def has_jvp(op: HostOp) -> bool:
    """Whether an op has a JVP rule, or a gradient rule that one follows from."""
    if op.rules.jvp is not None or op.rules.gradient is None:
        return op.rules.jvp is not None
    is_elementwise = op.signature is not None and op.signature.is_elementwise and not op.is_of_rule
    return op.rules.gradient.function is not None or is_elementwise


def _linked(call: Call) -> Call:
    """The call with outputs that tapes follow back to the inputs: those at hand are recorded only after this."""
    from tfpyop.lowering.cotangents import input_cotangents

    outputs = [tf.identity(tensor) for tensor in call.outputs]

    def backward(*cotangents: Any) -> list[Any]:
        return input_cotangents(call, cotangents)

    record_operation_backprop_only(call.op.name, outputs, list(call.inputs), backward)
    return replace(call, outputs=outputs)


def _transposed(call: Call, tangents: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """The JVP out of a VJP rule in TensorFlow ops: the derivative of the rule by the cotangents it is linear in."""
    from tfpyop.lowering.cotangents import input_cotangents

    wanted = [output for output in call.outputs if is_differentiable(dtype_of(output))]
    copied = _copied(call)
    with push_forwardprop_state(), tf.GradientTape(persistent=True) as tape:  # the accumulator would take its place
        vectors = [tf.zeros_like(output) for output in wanted]
        tape.watch(vectors)
        pulled = input_cotangents(copied, spread(call.outputs, vectors))
    results = [tf.zeros_like(output) for output in wanted]
    for number, (value, tangent) in enumerate(zip(pulled, tangents, strict=True)):
        if value is None or tangent is None:
            continue
        terms = tape.gradient(value, vectors, output_gradients=tangent)
        if all(term is None for term in terms) and not _is_zero(call, number):
            raise detached_rule(call.op)
        results = [total if term is None else total + term for total, term in zip(results, terms, strict=True)]
    return spread(call.outputs, results)


def _copied(call: Call) -> Call:
    """The call with copies, which the accumulator at work does not follow, as outer ones do.

    So a rule that calls the op itself comes to an end.
    """
    inputs, outputs, residuals = (
        [tf.identity(tensor) for tensor in tensors] for tensors in (call.inputs, call.outputs, call.residuals)
    )
    return Call(call.op, inputs, outputs, residuals)


def _is_zero(call: Call, number: int) -> bool:
    """Whether the gradient rule gives an input no cotangent but zero, as far as can be told where it is called."""
    from tfpyop.lowering.cotangents import input_cotangents

    varied = [
        tf.reshape(tf.cast(tf.cos(tf.cast(tf.range(tf.size(output)), tf.float32)), output.dtype), tf.shape(output))
        for output in call.outputs
        if is_differentiable(dtype_of(output))
    ]
    with push_forwardprop_state(), stop_recording():
        value = input_cotangents(_copied(call), spread(call.outputs, varied))[number]
    known = None if value is None else tf.get_static_value(value)
    return known is not None and not np.any(known)


def _elementwise(call: Call, tangents: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """The JVP of an op that works element by element: its VJP at one is the derivative of every element.

    A complex output takes the VJP at i too, because nothing says that the function is analytic.
    """
    rule = call.op.rules.gradient
    assert rule is not None
    assert rule.op is not None
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
            leaves = [*inputs, *call.outputs, *call.guarded_residuals(), *ones]
            columns = spread(call.inputs, rule.op.call_flat(leaves, call.op.structure, call.op.static))
            parts.append(_real_product(columns, moved, tf.zeros(shape, output.dtype.real_dtype)))
        result = tf.complex(*parts) if len(parts) == 2 else parts[0]
        result.set_shape(output.shape)
        results.append(result)
    return results


def _real_product(
    columns: Sequence[tf.Tensor | None], tangents: Sequence[tf.Tensor | None], start: tf.Tensor
) -> tf.Tensor:
    """The real inner product of derivatives and tangents, element by element, added to a start.

    A tangent of zero takes no part even where the derivative is infinite or NaN: inputs that nobody moves have one too.
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


def _of_vjp(call: Call, tangents: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """A VJP rule is linear in the cotangents; along the primals it needs a rule of its own."""
    n_primals = len(call.inputs) - len(call.vectors)
    vectors = [
        vector if tangent is None else tangent
        for vector, tangent in zip(call.vectors, _or_zeros(tangents[n_primals:], call.vectors), strict=True)
    ]
    leaves = [*call.inputs[:n_primals], *vectors]
    results = spread(call.outputs, call.op.owner.call_flat(leaves, call.op.structure, call.op.static))
    along_primals = tangents[:n_primals]
    if all(tangent is None for tangent in along_primals):
        return results
    missing = refusing(call.op, missing_second_derivative, call.outputs, along_primals)
    return [None if value is None else value + beside for value, beside in zip(results, missing, strict=True)]


def _given(tangent: Any, tensor: tf.Tensor) -> tf.Tensor | None:
    """A dense tangent for each differentiable input that is moved."""
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


def _or_zeros(tangents: Sequence[tf.Tensor | None], tensors: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    """Tangents as a rule is given them: one for each differentiable input, zero for those that are not moved."""
    return [
        tf.zeros_like(tensor) if tangent is None and is_differentiable(dtype_of(tensor)) else tangent
        for tangent, tensor in zip(tangents, tensors, strict=True)
    ]


def _fit(value: Any, output: tf.Tensor, number: int) -> tf.Tensor | None:
    if not is_differentiable(dtype_of(output)):
        return None
    if value is None:
        return tf.zeros_like(output)
    tensor = tf.cast(tensor_of_vector(value, output, f"tangent {number}", "output"), output.dtype)
    got, promised = type_of(tensor), type_of(output)
    if got.shape is not None and not is_compatible(got.shape, promised.shape):
        raise wrong_tangent_shape(number, promised, got)
    return tensor if output.shape.rank is None or tensor.shape == output.shape else _ensured(tensor, output.shape)


def _ensured(tensor: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """The tensor, whose shape is checked when the graph runs.

    Accumulators are told how it is differentiated: TensorFlow's own way fails where they nest, because the node has a
    shape for an attribute, which cannot be hashed.
    """
    with stop_recording():
        ensured = tf.ensure_shape(tensor, shape)

    def unchanged(vector: Any) -> list[Any]:
        return [vector]

    record_operation("tfpyop shape", [ensured], [tensor], unchanged, unchanged)
    return ensured


def spread(like: Sequence[tf.Tensor], values: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    """Values for the differentiable ones among some tensors, with None for the others."""
    remaining = iter(values)
    return [next(remaining) if is_differentiable(dtype_of(tensor)) else None for tensor in like]
