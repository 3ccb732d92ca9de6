"""Calls of derivative rules for given values, so that outputs and residuals can be rounded or moved like inputs.

Owns the step from arrays to rules. Does not compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from tfpyop import Op
from tfpyop._lowering.autodiff.differentiate import input_cotangents, output_tangents
from tfpyop._lowering.autodiff.recorded_call import RecordedCall
from tfpyop._registry.op_def import ConcreteOp, Transform
from tfpyop._spec.coercion import Array, dtype_kind
from tfpyop.testing._comparisons import Vectors
from tfpyop.testing._examples import Arguments
from tfpyop.testing._ops import concrete_op_of, undefined_inputs


@dataclass(frozen=True, slots=True)
class RuleCall:
    """The values that the rules of an op receive for one call.

    Attributes:
      op: The op with its static arguments.
      inputs: The flat inputs.
      outputs: The outputs.
      residuals: The residuals.
      undefined: The indices of the inputs by which the op has no derivative, for each direction.
    """

    op: ConcreteOp
    inputs: list[Array]
    outputs: list[Array]
    residuals: list[Array]
    undefined: dict[Transform, Sequence[int]]

    @classmethod
    def of(cls, op: Op[..., Any], arguments: Arguments, inputs: Sequence[Array]) -> RuleCall:
        """Call the function of an op with these flat inputs, in place of the inputs in the arguments."""
        concrete_op, _ = concrete_op_of(op, arguments)
        results = concrete_op.host(inputs)
        outputs = list(concrete_op.visible(results))
        undefined = {transform: undefined_inputs(op, arguments, transform) for transform in Transform}
        return cls(concrete_op, list(inputs), outputs, list(results[len(outputs) :]), undefined)

    def with_values_of(self, other: RuleCall) -> RuleCall:
        """Return the call with the floating outputs and residuals of another call, in the dtypes of this call."""
        return replace(
            self, outputs=_converted(other.outputs, self.outputs), residuals=_converted(other.residuals, self.residuals)
        )

    def mapped(self, change: Callable[[Array], Array]) -> RuleCall:
        """Return the call with all floating values changed."""
        return replace(
            self,
            inputs=_mapped(change, self.inputs),
            outputs=_mapped(change, self.outputs),
            residuals=_mapped(change, self.residuals),
        )

    def apply(self, transform: Transform, vectors: Vectors) -> list[Array | None]:
        """Return the cotangents of the inputs for cotangents, or the tangents of the outputs for tangents."""
        inputs, outputs, residuals = (
            [tf.constant(array) for array in arrays] for arrays in (self.inputs, self.outputs, self.residuals)
        )
        call = RecordedCall(self.op, inputs, outputs, residuals, list(self.undefined[transform]))
        given = [None if vector is None else tf.constant(vector) for vector in vectors]
        found = (input_cotangents if transform is Transform.VJP else output_tangents)(call, given)
        return [None if value is None else tf.convert_to_tensor(value).numpy() for value in found]


def is_floating(array: Array) -> bool:
    """Return whether an array contains floating-point or complex numbers, including ml_dtypes' numbers."""
    return dtype_kind(array.dtype) in ("f", "c")


def _converted(arrays: Sequence[Array], like: Sequence[Array]) -> list[Array]:
    return [array.astype(own.dtype) if is_floating(own) else own for array, own in zip(arrays, like, strict=True)]


def _mapped(change: Callable[[Array], Array], arrays: Sequence[Array]) -> list[Array]:
    return [change(array) if is_floating(array) else array for array in arrays]
