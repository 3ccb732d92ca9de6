"""The eager lowering: run the host function at once, without a TensorFlow op."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfpyop._lowering._tensorflow import EagerTensor, could_possibly_record, ensure_initialized, keep_interrupts
from tfpyop._lowering.autodiff.record import record
from tfpyop._lowering.autodiff.recorded_call import RecordedCall
from tfpyop._lowering.tensors import host_results, input_arrays, tensor_of
from tfpyop._registry.op_def import ConcreteOp
from tfpyop.errors import CoercionError, UnsupportedError


def install() -> None:
    """Make eager calls raise KeyboardInterrupt unchanged."""
    keep_interrupts()


def call(op: ConcreteOp, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Run the op on tensors, all of which must be eager."""
    for number, tensor in enumerate(tensors):
        if not isinstance(tensor, EagerTensor):
            raise UnsupportedError(
                f"input {op.place(number)} is a symbolic tensor of a graph, but the call is outside this graph.",
                subject=op.subject,
                got=str(tensor),
                remedy="Return the tensor from its tf.function, or call the op inside the tf.function.",
            )
    return run(op, tensors)


def run(op: ConcreteOp, tensors: Sequence[EagerTensor]) -> list[tf.Tensor]:
    """Run the op on eager tensors, and record it if a tape is active."""
    if not tensors:
        ensure_initialized()  # with inputs, creating them has initialized the context
    try:
        inputs = input_arrays(tensors, op.place)
    except CoercionError as error:
        raise error.with_subject(op.subject) from error.__cause__
    arrays = host_results(op.host, inputs)
    n_outputs = len(arrays) - len(op.residual_names)
    outputs = [tensor_of(array) for array in arrays[:n_outputs]]
    if could_possibly_record() and op.is_differentiable(
        [array.dtype for array in inputs], [array.dtype for array in arrays[:n_outputs]]
    ):
        residuals = [tensor_of(array) for array in arrays[n_outputs:]]
        record(RecordedCall(op, list(tensors), outputs, residuals, is_compiled=False))
    return outputs
