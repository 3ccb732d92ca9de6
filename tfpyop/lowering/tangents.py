"""Forward: from the tangents of an op's inputs to those of its outputs, by whichever rule the op has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop._coercion import is_differentiable
from tfpyop._promise import is_compatible, rule_values, wrong_tangent_shape
from tfpyop.errors import TfpyopError
from tfpyop.lowering._tensorflow import push_forwardprop_state, record_operation_backprop_only
from tfpyop.lowering.calls import Call, apply_rule
from tfpyop.lowering.tensors import dtype_of, type_of


def output_tangents(call: Call, tangents: Sequence[Any]) -> list[tf.Tensor | None]:
    """Apply the JVP rule of an op, or what follows from its VJP rule.

    Args:
      call: The call that is differentiated.
      tangents: One for each input; None where there is none.

    Returns:
      One tangent for each output, None for those without a derivative.

    Raises:
      GradientError: The op has no JVP rule, and none follows.
      ContractError: The rule returned something that is no tangent of the outputs.
    """
    op, call = call.op, _linked(call)
    given = [_given(tangent, tensor) for tangent, tensor in zip(tangents, call.inputs, strict=True)]
    rule = op.rules.jvp
    if rule is not None and rule.op is not None:
        passed = [tensor if tangent is None else tangent for tangent, tensor in zip(given, call.inputs, strict=True)]
        leaves = [*call.inputs, *call.outputs, *call.guarded_residuals(), *passed]
        return _spread(call.outputs, rule.op.call_flat(leaves, op.structure, op.static))
    if rule is not None:
        assert rule.function is not None
        result = apply_rule(call, rule.function, "jvp", given)
        try:
            values = rule_values(result, len(call.outputs), "tangent", "outputs")
            return [_fit(value, call.outputs[number], number) for number, value in enumerate(values)]
        except TfpyopError as error:
            raise error.about(f"JVP of {op.host.subject}") from None
    if call.is_of_vjp:
        return _of_vjp(call, given)
    gradient = op.rules.gradient
    if gradient is not None and gradient.function is not None:
        return _transposed(call, given)
    is_elementwise = op.signature is not None and op.signature.is_elementwise and not op.is_of_rule
    if gradient is not None and is_elementwise:
        return _elementwise(call, given)
    raise op.missing_jvp()


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

    # The accumulator at work would take the tape's place, so its state is put aside. The copies are made before that:
    # it does not follow them, as outer ones do, and a rule that calls the op itself comes to an end.
    inputs, outputs, residuals = (
        [tf.identity(tensor) for tensor in tensors] for tensors in (call.inputs, call.outputs, call.residuals)
    )
    wanted = [output for output in call.outputs if is_differentiable(dtype_of(output))]
    with push_forwardprop_state(), tf.GradientTape() as tape:
        vectors = [tf.zeros_like(output) for output in wanted]
        tape.watch(vectors)
        pulled = input_cotangents(Call(call.op, inputs, outputs, residuals), _spread(call.outputs, vectors))
    pairs = [
        (value, tangent)
        for value, tangent in zip(pulled, tangents, strict=True)
        if value is not None and tangent is not None
    ]
    if not pairs:  # the rule says that nothing depends on anything
        return _spread(call.outputs, [tf.zeros_like(output) for output in wanted])
    results = tape.gradient([value for value, _ in pairs], vectors, output_gradients=[tangent for _, tangent in pairs])
    if all(result is None for result in results):
        raise call.op.disconnected_gradient()
    filled = [tf.zeros_like(output) if value is None else value for value, output in zip(results, wanted, strict=True)]
    return _spread(call.outputs, filled)


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
            columns = _spread(call.inputs, rule.op.call_flat(leaves, call.op.structure, call.op.static))
            parts.append(_real_product(columns, moved, output.dtype.real_dtype))
        result = tf.complex(*parts) if len(parts) == 2 else parts[0]
        result.set_shape(output.shape)
        results.append(result)
    return results


def _real_product(
    columns: Sequence[tf.Tensor | None], tangents: Sequence[tf.Tensor | None], dtype: tf.DType
) -> tf.Tensor:
    """The real inner product of derivatives and tangents, element by element."""
    terms = [
        tf.cast(tf.math.real(tf.math.conj(column) * tangent), dtype)
        for column, tangent in zip(columns, tangents, strict=True)
        if column is not None and tangent is not None
    ]
    return tf.add_n(terms)


def _of_vjp(call: Call, tangents: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """A VJP rule is linear in the cotangents; along the primals it needs a rule of its own."""
    n_vectors = len(call.vectors)
    along_primals = tangents[: len(tangents) - n_vectors]
    is_zero = tf.executing_eagerly() and not any(
        tangent is not None and np.any(tangent.numpy()) for tangent in along_primals
    )
    if not is_zero:
        raise call.op.missing_second_derivative()
    vectors = [
        vector if tangent is None else tangent
        for vector, tangent in zip(call.vectors, tangents[-n_vectors:], strict=True)
    ]
    leaves = [*call.inputs[: len(call.inputs) - n_vectors], *vectors]
    return list(call.op.owner.call_flat(leaves, call.op.structure, call.op.static))


def _given(tangent: Any, tensor: tf.Tensor) -> tf.Tensor | None:
    """A dense tangent for each differentiable input, zero where there is none."""
    if not is_differentiable(dtype_of(tensor)):
        return None
    return tf.zeros_like(tensor) if tangent is None else tf.convert_to_tensor(tangent)


def _fit(value: Any, output: tf.Tensor, number: int) -> tf.Tensor | None:
    if not is_differentiable(dtype_of(output)):
        return None
    if value is None:
        return tf.zeros_like(output)
    tensor = tf.cast(tf.convert_to_tensor(value, dtype_hint=output.dtype), output.dtype)
    got, promised = type_of(tensor), type_of(output)
    if got.shape is not None and not is_compatible(got.shape, promised.shape):
        raise wrong_tangent_shape(number, promised, str(got))
    return tensor if output.shape.rank is None else tf.ensure_shape(tensor, output.shape)


def _spread(like: Sequence[tf.Tensor], values: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    """Values for the differentiable ones among some tensors, with None for the others."""
    remaining = iter(values)
    return [next(remaining) if is_differentiable(dtype_of(tensor)) else None for tensor in like]
