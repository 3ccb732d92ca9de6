"""VJP rules: apply the rule of an op, and check what it returns against the op's inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfpyop._lowering._tensorflow import EagerTensor
from tfpyop._lowering.autodiff.deferred_errors import deferred_error_vectors
from tfpyop._lowering.autodiff.recorded_call import RecordedCall
from tfpyop._lowering.autodiff.rule_call import (
    apply_numpy_rule,
    apply_rule,
    error_without_part,
    inputs_without_part,
    is_separable,
    mark_unconnected,
    places_in_rule,
    split_parts,
    undefined_inputs,
)
from tfpyop._lowering.autodiff.sparse_cotangents import checked_slices
from tfpyop._lowering.autodiff.vectors import scatter_needed
from tfpyop._lowering.shape_tensors import is_same_shape
from tfpyop._lowering.tensors import dtype_of, input_arrays, tensor_of_vector, type_of
from tfpyop._lowering.xla import nodes as xla_nodes
from tfpyop._lowering.xla.compilation import is_compiling
from tfpyop._registry.op_def import ConcreteOp, NumpyRule, PlainRule, Rule, SplitRule, TensorFlowRule
from tfpyop._rules.missing import missing_for_some_inputs, undefined_by_rule, undefined_derivative
from tfpyop._spec.coercion import cast, is_differentiable, is_half
from tfpyop._spec.outputs import is_compatible
from tfpyop._spec.payload import Needs
from tfpyop._spec.rule_values import Places, broadcast_shapes_of, rule_values, summed_axes, wrong_cotangent_shape
from tfpyop._spec.signature import symbolic_shape
from tfpyop._spec.undefined import UNDEFINED, undefined_vector
from tfpyop.errors import GradientError, Shape, naming


def apply_vjp_rule(call: RecordedCall, rule: Rule, cotangents: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Apply the gradient rule of an op; return one cotangent for each input, None where the call does not need it.

    Args:
      call: The call that is differentiated.
      rule: The op's gradient rule.
      cotangents: A dense cotangent for each output, None for outputs without a derivative.

    Raises:
      ContractError: The rule returned an invalid cotangent.
      GradientError: The op has rules for some inputs, and none for another input.
    """
    undefined = undefined_inputs(call)
    results = _without_rule(call, undefined, lambda: undefined_derivative(call.op), undefined_derivative, cotangents)
    if isinstance(rule, SplitRule):
        missing = [number for number in inputs_without_part(call, rule) if number not in undefined]
        without = _without_rule(
            call, missing, lambda: error_without_part(call, rule, "gradient"), missing_for_some_inputs, cotangents
        )
        results = [old if new is None else new for old, new in zip(results, without, strict=True)]
    for places, part in _parts(call, rule):
        needs = tuple([flag and number in places and number not in undefined for number, flag in enumerate(call.needs)])
        if any(needs):
            found = _apply(call, part, cotangents, needs, places, is_of_some=isinstance(rule, SplitRule))
            results = [new if flag else old for flag, new, old in zip(needs, found, results, strict=True)]
    return results


def _without_rule(
    call: RecordedCall,
    numbers: Sequence[int],
    error: Callable[[], GradientError],
    deferred: Callable[[ConcreteOp], GradientError],
    cotangents: Sequence[tf.Tensor | None],
) -> list[tf.Tensor | None]:
    """Return placeholders for inputs without a rule, if TensorFlow does not say whether they are needed; else None.

    Args:
      call: The call that is differentiated.
      numbers: The indices of these inputs.
      error: Returns the error if a cotangent is certainly needed.
      deferred: Returns the error when the graph runs.
      cotangents: The cotangents of the outputs.

    Raises:
      GradientError: The cotangent of one of these inputs is needed.
    """
    results: list[tf.Tensor | None] = [None] * len(call.inputs)
    missing = [number for number in numbers if call.needs[number]]
    if missing and (call.skipped is not None or tf.executing_eagerly()):
        raise error()
    like = [call.inputs[number] for number in missing]
    placeholders = deferred_error_vectors(call.op, deferred, like, cotangents) if like else []
    for number, placeholder in zip(missing, placeholders, strict=True):
        results[number] = placeholder
    return results


def _parts(call: RecordedCall, rule: Rule) -> Sequence[tuple[Places, PlainRule]]:
    """Return the rules that make up a rule, with the places of the inputs that each of them is for.

    Where TensorFlow prunes what is not used, but the needs are unknown, numerical derivatives are one node for each
    input. They vary the inputs one by one in any case.
    """
    if isinstance(rule, SplitRule):
        return split_parts(call, rule)
    if call.skipped is None and not tf.executing_eagerly() and is_separable(rule):
        return [([number], rule) for number in range(len(call.inputs))]
    return [(places_in_rule(call), rule)]


def _apply(
    call: RecordedCall,
    rule: PlainRule,
    cotangents: Sequence[tf.Tensor | None],
    needs: Needs,
    places: Places,
    *,
    is_of_some: bool,
) -> list[tf.Tensor | None]:
    """Apply a rule for all inputs, or for a part of them; return one cotangent for each input that is needed."""
    op = call.op
    if isinstance(rule, NumpyRule):
        return scatter_needed(needs, apply_numpy_rule(call, rule, cotangents, call.outputs, needs))
    assert isinstance(rule, TensorFlowRule)
    result = apply_rule(call, rule, "gradient", cotangents, needs)
    with naming(f"gradient of {op.subject}"):
        values = rule_values(result, len(places), "cotangent", "inputs in wrt=" if is_of_some else "inputs")
        broadcast = broadcast_shapes_of(op.signature, [type_of(tensor).shape for tensor in call.inputs])
        fitted: list[tf.Tensor | None] = [None] * len(needs)
        for number, value in zip(places, values, strict=True):
            if number is None:  # an optional input that the call leaves out
                continue
            if value is UNDEFINED and needs[number]:
                undefined = _without_rule(
                    call,
                    [number],
                    functools.partial(undefined_vector, "cotangent", call.op.place(number)),
                    undefined_by_rule,
                    cotangents,
                )
                fitted[number] = undefined[number]
            elif value is not None and needs[number]:
                fitted[number] = _fit(call, value, number, broadcast[number])
    dense = [value.values if isinstance(value, tf.IndexedSlices) else value for value in fitted]
    marked = mark_unconnected(call, rule.function, cotangents, dense, needs)
    return [
        tf.IndexedSlices(new, old.indices, old.dense_shape) if isinstance(old, tf.IndexedSlices) else new
        for old, new in zip(fitted, marked, strict=True)
    ]


def dense_cotangent(cotangent: Any, output: tf.Tensor) -> tf.Tensor | None:
    """Return a dense cotangent for a differentiable output, zeros where the result does not depend on the output."""
    if not is_differentiable(dtype_of(output)):
        return None
    if type(cotangent) is EagerTensor:
        return cotangent
    return tf.zeros_like(output) if cotangent is None else tf.convert_to_tensor(cotangent)


def _fit(call: RecordedCall, value: Any, number: int, broadcast: Shape | None) -> tf.Tensor:
    """Return one cotangent, cast to the primal's dtype and summed over the loop dimensions that broadcasting added."""
    primal, place = call.inputs[number], call.op.place(number)
    what = f"the cotangent of input {place}"
    if isinstance(value, tf.IndexedSlices):
        value = checked_slices(call, value, primal, what)
    if call.keeps_sparse and isinstance(value, tf.IndexedSlices) and _is_sparse_like(value, primal):
        return value
    tensor = tensor_of_vector(value, primal, what, f"op.inputs[{number}]")
    if tf.executing_eagerly() and not is_half(dtype_of(primal)):  # the values are not known in a graph
        (array,) = input_arrays([tensor])
        cast(array, dtype_of(primal), what=what)
    tensor = tf.cast(tensor, primal.dtype)
    shape, wanted = type_of(tensor).shape, type_of(primal).shape
    if shape is not None and not is_compatible(shape, wanted) and not is_compatible(shape, broadcast):
        raise wrong_cotangent_shape(place, len(call.inputs), type_of(primal), broadcast, type_of(tensor))
    if shape is None or wanted is None or broadcast is None or None in (*shape, *wanted, *broadcast):
        return _fit_unknown(call, tensor, number)
    return tensor if shape == wanted else tf.reshape(tf.reduce_sum(tensor, summed_axes(shape, wanted)), wanted)


def _is_sparse_like(value: tf.IndexedSlices, primal: tf.Tensor) -> bool:
    """Return whether it is certain that slices have the dtype and shape of the primal."""
    shape = None if value.dense_shape is None else tf.get_static_value(value.dense_shape)
    is_known = shape is not None and primal.shape.is_fully_defined() and list(shape) == primal.shape.as_list()
    rest = value.values.shape[1:]
    return is_known and value.dtype == primal.dtype and rest.is_fully_defined() and rest == primal.shape[1:]


def _fit_unknown(call: RecordedCall, tensor: tf.Tensor, number: int) -> tf.Tensor:
    """Check and sum a cotangent if its shape, or the shape of its primal, is known only when the graph runs."""
    primal = call.inputs[number]
    shape, wanted = tf.shape(tensor), tf.shape(primal)
    problem = f"gradient of {call.op.subject}: the cotangent of input {call.op.place(number)} has the wrong shape."
    with tf.control_dependencies(_checks(call, tensor, number, problem)):
        axes = tf.raw_ops.BroadcastGradientArgs(s0=wanted, s1=shape).r0
        result = tf.reshape(tf.reduce_sum(tensor, axes), wanted)
    result.set_shape(primal.shape)
    return result


def _checks(call: RecordedCall, tensor: tf.Tensor, number: int, problem: str) -> list[Any]:
    """Return nodes that raise unless a cotangent has the shape of its primal or the broadcast shape."""
    signature, shapes = call.op.signature, [type_of(primal).shape for primal in call.inputs]
    if is_compiling():  # XLA drops nodes that raise at run time
        allowed = [symbolic_shape(shapes[number], number)]
        allowed += [] if signature is None else [signature.broadcast_sizes(shapes, number)]
        known = [sizes for sizes in allowed if sizes is not None]
        what = f"the cotangent of input {call.op.place(number)}"
        return [xla_nodes.check_shape(call.inputs, tensor, allowed=known, what=what, problem=problem)]
    shape, wanted = tf.shape(tensor), tf.shape(call.inputs[number])
    is_allowed = is_same_shape(shape, wanted)
    if signature is not None:
        is_allowed = tf.logical_or(is_allowed, is_same_shape(shape, _broadcast_shape(call, number)))
    return [tf.debugging.Assert(is_allowed, [f"{problem} Expected, got:", wanted, shape])]


def _broadcast_shape(call: RecordedCall, number: int) -> tf.Tensor:
    """Return the broadcast loop dimensions of all inputs, followed by the core dimensions of one input, as a tensor."""
    assert call.op.signature is not None
    ranks = call.op.signature.core_ranks([type_of(tensor).shape for tensor in call.inputs])
    loop = tf.zeros([0], tf.int32)
    for tensor, rank in zip(call.inputs, ranks, strict=True):
        loop = tf.broadcast_dynamic_shape(loop, tf.shape(tensor)[: tf.rank(tensor) - rank])
    return tf.concat([loop, tf.shape(call.inputs[number])[tf.rank(call.inputs[number]) - ranks[number] :]], 0)
