"""Comparisons of derivatives: TensorFlow's against numerical ones, at one example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import hypothesis
import numpy as np
import tensorflow as tf

from tfpyop import Op
from tfpyop._numdiff.directional import Function
from tfpyop._spec.coercion import Array, dtype_kind, is_differentiable
from tfpyop.testing._derivatives import (
    Slopes,
    direction_of,
    host_function,
    inner,
    slopes,
)
from tfpyop.testing._examples import Arguments
from tfpyop.testing._ops import Flat, concrete_op_of, flat_function
from tfpyop.testing._outcomes import Property

_TOLERANCES = {"float64": 1e-6, "complex128": 1e-6, "float32": 2e-3, "complex64": 2e-3}
NOISE = 1e-14
"""What is lost in cancellation inside of a rule, relative to the largest cotangents and moves."""
SUBNORMAL = 1e-290
"""What smaller numbers may lose: TensorFlow takes zero for subnormal ones."""
_UNBALANCED = 1e3
"""How many times more one output may change than another."""
_COARSE = 5e-2
"""The relative tolerance for dtypes of two bytes."""
Vectors = Sequence[Array | None]


@dataclass(frozen=True, slots=True)
class Point:
    """Where derivatives are taken: an example in double precision.

    Attributes:
      arrays: The flat inputs.
      tensors: The same as tensors.
      function: The function of the host, for numerical derivatives.
      call: The op, for TensorFlow's.
      outputs: What the op returns here; cotangents have these dtypes.
    """

    arrays: list[Array]
    tensors: list[tf.Tensor]
    function: Function
    call: Flat
    outputs: list[Array]

    @classmethod
    def of(cls, check: Property, op: Op[..., Any], arguments: Arguments) -> Point:
        """Prepare an example; one that the function refuses, or at which no number is finite, is rejected."""
        _, leaves = concrete_op_of(op, arguments)
        arrays = [_widened(np.asarray(leaf)) for leaf in leaves]
        try:
            function = host_function(op, arguments)
            values = function.call(arrays)
        except Exception as error:
            check.reject(error)
        floating = [output for output in values if output.dtype.kind in "fc"]
        is_finite = not floating or any(np.isfinite(output).any() for output in floating)
        if not is_finite or not any(np.size(output) for output in values):
            hypothesis.reject()
        if not all(any(is_differentiable(array.dtype) for array in side) for side in (arrays, values)):
            check.pass_over("nothing to differentiate: the inputs or the outputs are not floating-point numbers")
        tensors, call = [tf.constant(array) for array in arrays], flat_function(op, arguments)
        return cls(arrays, tensors, function, call, [output.numpy() for output in call(tensors)])

    def moved(self) -> Point:
        """A point nearby at which nothing is special."""
        moves = direction_of(self.arrays, self.wanted)
        arrays = [array if move is None else array + 0.1 * move for array, move in zip(self.arrays, moves, strict=True)]
        return replace(self, arrays=arrays, tensors=[tf.constant(array) for array in arrays])

    def has_derivative(self) -> bool:
        """Whether the function has a derivative here along a random direction, as far as differences tell."""
        numerical = slopes(self.function, self.arrays, direction_of(self.arrays, self.wanted))
        return all(counts.all() for counts in numerical.counts)

    @property
    def wanted(self) -> list[bool]:
        """Which inputs have derivatives."""
        return [is_differentiable(array.dtype) for array in self.arrays]


def _widened(array: Array) -> Array:
    kind = dtype_kind(array.dtype)
    return array.astype(np.complex128 if kind == "c" else np.float64) if kind in "fc" else array


def require_some(numerical: Slopes) -> None:
    if not any(counts.any() for counts in numerical.counts):
        hypothesis.reject()


def agree(numerical: Slopes, weights: Vectors, gradients: Vectors, direction: Vectors, *, noise: float = NOISE) -> bool:
    """Whether (cotangents, J direction) = (gradients, direction), up to errors and rounding.

    Args:
      numerical: The derivatives along the direction.
      weights: The cotangents.
      gradients: What a rule makes of them.
      direction: The direction.
      noise: What is lost in cancellation inside of a rule, relative to the largest cotangents and moves.
    """
    moved = [gradient for gradient, vector in zip(gradients, direction, strict=True) if vector is not None]
    tolerance = max([tolerance_of(a) for a in [*moved, *weights] if a is not None], default=1e-6)
    apart, scale = distance(numerical, weights, gradients, direction)
    floor = noise * largest(weights) * largest(direction) + SUBNORMAL
    return bool(np.isfinite(apart)) and apart <= tolerance * scale + 4 * error_of(numerical, weights) + floor


def distance(numerical: Slopes, weights: Vectors, gradients: Vectors, direction: Vectors) -> tuple[float, float]:
    """How far (cotangents, J direction) is from (gradients, direction), and the sum of what cancels in both."""
    scale = inner(_absolute(weights), _absolute(numerical.values))
    scale += inner(_absolute(gradients), _absolute(direction))
    return abs(inner(weights, numerical.values) - inner(gradients, direction)), scale


def counted_weights(numerical: Slopes, weights: Vectors) -> list[Array | None]:
    """The weights of the numbers that count, zero for the others; larger for outputs that change less than others."""
    changes = [float(np.max(np.abs(values), initial=0.0)) for values in numerical.values]
    return [
        None
        if weight is None
        else np.where(counts, weight * _balance(change, max(changes), weight), 0).astype(weight.dtype)
        for weight, counts, change in zip(weights, numerical.counts, changes, strict=True)
    ]


def _balance(change: float, largest: float, weight: Array) -> float:
    """What to multiply weights by, so that an output that changes little is not lost beside one that changes much."""
    if change == 0 or largest / change < _UNBALANCED:
        return 1.0
    return min(largest / change, 1e2 if weight.dtype.itemsize == 2 else 1e30)


def error_of(numerical: Slopes, weights: Vectors) -> float:
    """The estimated error of (cotangents, J direction)."""
    return inner(_absolute(weights), numerical.errors)


def reject_infinite(numerical: Slopes, gradients: Vectors) -> None:
    """Reject an example at which what does not count spoils a gradient: its weight is zero, but times infinity."""
    if all(counts.all() for counts in numerical.counts):
        return
    if not all(np.isfinite(gradient).all() for gradient in gradients if gradient is not None):
        hypothesis.reject()


def largest(vectors: Vectors) -> float:
    """The largest magnitude in vectors."""
    return max((float(np.max(np.abs(vector), initial=0.0)) for vector in vectors if vector is not None), default=0.0)


def _absolute(vectors: Vectors) -> list[Array | None]:
    return [None if vector is None else np.abs(vector) for vector in vectors]


def compare_totals(
    check: Property,
    numerical: Slopes,
    vectors: Vectors,
    *,
    got: Vectors,
    direction: Vectors,
    noise: float,
    problem: str,
) -> None:
    """Raise a failure unless (vectors, J direction) = (got, direction)."""
    reject_infinite(numerical, got)
    if not agree(numerical, vectors, got, direction, noise=noise):
        raise check.failure(
            problem,
            expected=f"{inner(vectors, numerical.values):.9g} +- {error_of(numerical, vectors):.1g} by differences",
            got=f"{inner(got, direction):.9g}",
        )


def arrays_of(gradients: Sequence[Any]) -> list[Array | None]:
    return [None if gradient is None else tf.convert_to_tensor(gradient).numpy() for gradient in gradients]


def tolerance_of(values: Array) -> float:
    return _TOLERANCES.get(values.dtype.name, _COARSE)


def first_of(flags: Array) -> tuple[int, ...]:
    return tuple(map(int, np.argwhere(flags)[0])) if flags.ndim else ()
