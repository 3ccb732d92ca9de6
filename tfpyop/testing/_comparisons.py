"""Comparisons of derivatives: TensorFlow's derivatives against numerical derivatives, at one example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop import Op
from tfpyop._numdiff.directional import Function
from tfpyop._registry.op_def import Transform
from tfpyop._spec.coercion import Array, dtype_kind, is_differentiable
from tfpyop.testing._check_runner import CheckRunner, Script
from tfpyop.testing._derivatives import (
    Slopes,
    direction_of,
    host_function,
    inner,
    slopes,
)
from tfpyop.testing._events import record_error, reject_example
from tfpyop.testing._examples import Arguments
from tfpyop.testing._ops import Flat, concrete_op_of, flat_function, undefined_inputs

_TOLERANCES = {"float64": 1e-6, "complex128": 1e-6, "float32": 2e-3, "complex64": 2e-3}
NOISE = 1e-14
"""Precision lost by cancellation inside a rule, relative to the largest cotangents and moves."""
SUBNORMAL = 1e-290
"""Absolute tolerance for tiny numbers, because TensorFlow replaces subnormal numbers by zero."""
_UNBALANCED = 1e3
"""Ratio of output changes from which weights are balanced."""
_COARSE = 5e-2
"""The relative tolerance for dtypes of two bytes."""
Vectors = Sequence[Array | None]


@dataclass(frozen=True, slots=True)
class Point:
    """A point at which derivatives are computed: an example in double precision.

    Attributes:
      arrays: The flat inputs.
      tensors: The inputs as tensors.
      function: The host function, for numerical derivatives.
      call: The op, for TensorFlow's derivatives.
      push: The op, for forward mode.
      outputs: The outputs of the op at this point. Cotangents have the same dtypes.
      undefined: The indices of the inputs by which the op has no gradient.
      without_tangents: The indices of the inputs by which the op has no derivative in forward mode.
    """

    arrays: list[Array]
    tensors: list[tf.Tensor]
    function: Function
    call: Flat
    outputs: list[Array]
    push: Flat
    undefined: Sequence[int] = ()
    without_tangents: Sequence[int] = ()

    @classmethod
    def of(cls, check: CheckRunner, op: Op[..., Any], arguments: Arguments) -> Point:
        """Prepare an example. Reject it if the function raises, or if its outputs contain no finite number."""
        _, leaves = concrete_op_of(op, arguments)
        arrays = [widened(np.asarray(leaf)) for leaf in leaves]
        try:
            function = host_function(op, arguments)
            values = function.call(arrays)
        except Exception as error:
            check.reject(error)
        floating = [output for output in values if output.dtype.kind in "fc"]
        is_finite = not floating or any(np.isfinite(output).any() for output in floating)
        if not is_finite or not any(np.size(output) for output in values):
            reject_example("the outputs are empty or not finite")
        if not all(any(is_differentiable(array.dtype) for array in side) for side in (arrays, values)):
            check.skip_example("nothing to differentiate: the inputs or the outputs are not floating-point numbers")
        tensors, call = [tf.constant(array) for array in arrays], flat_function(op, arguments)
        return cls(
            arrays,
            tensors,
            function,
            call,
            [output.numpy() for output in call(tensors)],
            flat_function(op, arguments, Transform.JVP),
            undefined_inputs(op, arguments, Transform.VJP),
            undefined_inputs(op, arguments, Transform.JVP),
        )

    def moved(self) -> Point:
        """Return a nearby generic point."""
        moves = direction_of(self.arrays, self.wanted)
        arrays = [array if move is None else array + 0.1 * move for array, move in zip(self.arrays, moves, strict=True)]
        return replace(self, arrays=arrays, tensors=[tf.constant(array) for array in arrays])

    def has_derivative(self) -> bool:
        """Return whether the function has a derivative here along a random direction, as far as differences show it."""
        numerical = slopes(self.function, self.arrays, direction_of(self.arrays, self.wanted))
        return all(counts.all() for counts in numerical.counts)

    @property
    def wanted(self) -> list[bool]:
        """Whether the op has a gradient by each input."""
        return self._differentiable_except(self.undefined)

    @property
    def varied(self) -> list[bool]:
        """Whether the op has a derivative by each input in forward mode."""
        return self._differentiable_except(self.without_tangents)

    def _differentiable_except(self, numbers: Sequence[int]) -> list[bool]:
        return [is_differentiable(array.dtype) and number not in numbers for number, array in enumerate(self.arrays)]


def widened(array: Array) -> Array:
    kind = dtype_kind(array.dtype)
    return array.astype(np.complex128 if kind == "c" else np.float64) if kind in "fc" else array


def require_some(numerical: Slopes) -> None:
    if not any(counts.any() for counts in numerical.counts):
        reject_example("no derivative can be compared")


def agree(numerical: Slopes, weights: Vectors, gradients: Vectors, direction: Vectors, *, noise: float = NOISE) -> bool:
    """Return whether (cotangents, J direction) = (gradients, direction), up to errors and rounding.

    The arguments are as for `error_ratio`.
    """
    return error_ratio(numerical, weights, gradients, direction, noise=noise) <= 1


def error_ratio(
    numerical: Slopes, weights: Vectors, gradients: Vectors, direction: Vectors, *, noise: float = NOISE
) -> float:
    """Return the distance of (cotangents, J direction) from (gradients, direction), over the tolerance.

    Args:
      numerical: The derivatives along the direction.
      weights: The cotangents.
      gradients: The results of the rule for these cotangents.
      direction: The direction.
      noise: Precision lost by cancellation inside a rule, relative to the largest cotangents and moves.
    """
    moved = [gradient for gradient, vector in zip(gradients, direction, strict=True) if vector is not None]
    tolerance = max([tolerance_of(a) for a in [*moved, *weights] if a is not None], default=1e-6)
    apart, scale = distance(numerical, weights, gradients, direction)
    floor = noise * largest(weights) * largest(direction) + SUBNORMAL
    allowed = tolerance * scale + 4 * error_of(numerical, weights) + floor
    record_error(apart, allowed)
    return apart / allowed if np.isfinite(apart) else np.inf


def distance(numerical: Slopes, weights: Vectors, gradients: Vectors, direction: Vectors) -> tuple[float, float]:
    """Return the distance of (cotangents, J direction) from (gradients, direction), and the sum of all magnitudes."""
    scale = inner(absolute(weights), absolute(numerical.values))
    scale += inner(absolute(gradients), absolute(direction))
    return abs(inner(weights, numerical.values) - inner(gradients, direction)), scale


def counted_weights(numerical: Slopes, weights: Vectors) -> list[Array | None]:
    """Return the weights, zero for numbers that do not count, and increased for outputs that change little."""
    changes = [float(np.max(np.abs(values), initial=0.0)) for values in numerical.values]
    return [
        None
        if weight is None
        else np.where(counts, weight * _balance(change, max(changes), weight), 0).astype(weight.dtype)
        for weight, counts, change in zip(weights, numerical.counts, changes, strict=True)
    ]


def _balance(change: float, largest: float, weight: Array) -> float:
    """Return the factor for the weights of an output that changes little, so that its derivative stays visible."""
    if change == 0 or largest / change < _UNBALANCED:
        return 1.0
    return min(largest / change, 1e2 if weight.dtype.itemsize == 2 else 1e30)


def error_of(numerical: Slopes, weights: Vectors) -> float:
    """Return the estimated error of (cotangents, J direction)."""
    return inner(absolute(weights), numerical.errors)


def reject_infinite(numerical: Slopes, gradients: Vectors) -> None:
    """Reject an example with an infinite gradient if some numbers do not count: zero weight times infinity is NaN."""
    if all(counts.all() for counts in numerical.counts):
        return
    if not all(np.isfinite(gradient).all() for gradient in gradients if gradient is not None):
        reject_example("a derivative is not finite")


def largest(vectors: Vectors) -> float:
    """Return the largest magnitude in vectors."""
    return max((float(np.max(np.abs(vector), initial=0.0)) for vector in vectors if vector is not None), default=0.0)


def absolute(vectors: Vectors) -> list[Array | None]:
    """Return the magnitudes in vectors."""
    return [None if vector is None else np.abs(vector) for vector in vectors]


def compare_totals(
    check: CheckRunner,
    numerical: Slopes,
    vectors: Vectors,
    *,
    got: Vectors,
    direction: Vectors,
    noise: float,
    problem: str,
    script: Script,
) -> None:
    """Raise a failure unless (vectors, J direction) = (got, direction)."""
    reject_infinite(numerical, got)
    ratio = error_ratio(numerical, vectors, got, direction, noise=noise)
    check.aim_at(ratio, problem)
    if ratio > 1:
        raise check.failure(
            problem,
            expected=f"{inner(vectors, numerical.values):.9g} +- {error_of(numerical, vectors):.1g} by differences",
            got=f"{inner(got, direction):.9g}",
            script=script,
        )


def arrays_of(gradients: Sequence[Any]) -> list[Array | None]:
    return [None if gradient is None else tf.convert_to_tensor(gradient).numpy() for gradient in gradients]


def tolerance_of(values: Array) -> float:
    return _TOLERANCES.get(values.dtype.name, _COARSE)


def first_of(flags: Array) -> tuple[int, ...]:
    return tuple(map(int, np.argwhere(flags)[0])) if flags.ndim else ()
