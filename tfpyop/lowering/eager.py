"""The eager lowering: the host function runs at once; no TensorFlow op does."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfpyop._rules import HostOp
from tfpyop.errors import UnsupportedError
from tfpyop.lowering._tensorflow import EagerTensor, could_possibly_record
from tfpyop.lowering.calls import Call
from tfpyop.lowering.recording import record
from tfpyop.lowering.tensors import array_of, host_results, tensor_of


def call(op: HostOp, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Run the op on eager tensors, and record it if a tape is active."""
    for number, tensor in enumerate(tensors):
        if not isinstance(tensor, EagerTensor):
            raise UnsupportedError(
                f"input {number} is a symbolic tensor of a graph, but the call is outside of that graph.",
                subject=op.host.subject,
                got=str(tensor),
                remedy="Return the tensor from its tf.function, or make the call inside.",
            )
    inputs = [array_of(tensor) for tensor in tensors]
    arrays = host_results(op.host, inputs)
    n_outputs = len(arrays) - len(op.residual_names)
    outputs = [tensor_of(array) for array in arrays[:n_outputs]]
    if could_possibly_record() and op.is_differentiable(
        [array.dtype for array in inputs], [array.dtype for array in arrays[:n_outputs]]
    ):
        residuals = [tensor_of(array) for array in arrays[n_outputs:]]
        record(Call(op, list(tensors), outputs, residuals))
    return outputs
