"""Recording: pass the derivatives of a call to TensorFlow's tapes and accumulators."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfpyop._lowering._tensorflow import (
    inputs_with_tangents,
    name_tape_gradient,
    record_operation,
    record_tape_gradient,
    should_record_backprop,
)
from tfpyop._lowering.autodiff.differentiate import input_cotangents, output_tangents, unwatched_inputs
from tfpyop._lowering.autodiff.recorded_call import RecordedCall
from tfpyop._lowering.xla.compilation import compiling

_GRADIENT = "tfpyop call"
"""The name of the gradient of all recorded calls. The call is an attribute of the record."""


def install() -> None:
    """Make the gradient of recorded calls known to tapes."""
    name_tape_gradient(_GRADIENT, _backward)


def record(call: RecordedCall) -> None:
    """Record a call on every active tape and forward accumulator that watches one of its inputs.

    A tape passes on which cotangents it does not use: it does not watch the input, and the input is not a source. This
    is known only when the gradient is computed, because an input may be watched after the call.
    """
    varying = inputs_with_tangents(call.inputs)
    if not varying:
        record_tape_gradient(_GRADIENT, call.outputs, call.inputs, call)
        return
    skipped: list[int] = []
    if call.is_of_vjp and tf.executing_eagerly():  # a placeholder for a second derivative would raise at once
        skipped = [number for number, tensor in enumerate(call.inputs) if not should_record_backprop([tensor])]
    else:
        skipped = unwatched_inputs(call) or []

    def backward(*cotangents: Any) -> list[Any]:
        return _backward(call, skipped, cotangents)

    def forward(*tangents: Any) -> list[Any]:
        moved = [tangent if number in varying else None for number, tangent in enumerate(tangents)]
        with compiling(call.is_compiled):
            return output_tangents(call, moved)

    record_operation(call.op.name, call.outputs, call.inputs, backward, forward)


def _backward(call: RecordedCall, skipped: Any, cotangents: Any) -> list[Any]:
    with compiling(call.is_compiled):
        return input_cotangents(call.skipping(skipped, keeps_sparse=True), cotangents)
