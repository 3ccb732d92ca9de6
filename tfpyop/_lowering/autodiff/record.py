"""Recording: pass the derivatives of a call to TensorFlow's tapes and accumulators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import tensorflow as tf

from tfpyop._lowering._tensorflow import is_watched, record_operation, should_record_backprop
from tfpyop._lowering.autodiff.differentiate import input_cotangents, output_tangents
from tfpyop._lowering.autodiff.recorded_call import RecordedCall
from tfpyop._lowering.xla.compilation import compiling


def record(call: RecordedCall) -> None:
    """Record a call on every active tape and forward accumulator that watches one of its inputs."""
    if call.is_of_vjp and tf.executing_eagerly():
        primals = [*call.forward_call.inputs, *call.forward_call.outputs, *call.forward_call.residuals]
        call = replace(call, needs_primal_derivatives=should_record_backprop(primals))

    moves = [is_watched([tensor]) for tensor in call.inputs]  # TensorFlow passes tangents of zero for the other inputs

    def backward(*cotangents: Any) -> list[Any]:
        with compiling(call.is_compiled):
            return input_cotangents(call, cotangents)

    def forward(*tangents: Any) -> list[Any]:
        moved = [tangent if is_moved else None for tangent, is_moved in zip(tangents, moves, strict=True)]
        with compiling(call.is_compiled):
            return output_tangents(call, moved)

    record_operation(call.op.name, call.outputs, call.inputs, backward, forward)
