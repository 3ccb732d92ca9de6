"""Data of derivative plots: an op's derivatives and numerical derivatives, at many points and along one line."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop import Op
from tfpyop._spec.coercion import Array, is_differentiable
from tfpyop._spec.domain import Interval
from tfpyop.testing._check_runner import CheckRunner, quietly
from tfpyop.testing._comparisons import Point, arrays_of, counted_weights, distance
from tfpyop.testing._derivatives import direction_of, generator_of, inner, slopes, unit_direction, vjp, weights_like
from tfpyop.testing._drawing import draw_each
from tfpyop.testing._examples import Arguments
from tfpyop.testing._ops import rules_of, spec_of
from tfpyop.testing._strategies import smooth_arguments

_N_SAMPLES = 60
_N_POSITIONS = 61
_HALF_WIDTH = 3.0
"""Half the length of a line in an unbounded domain."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A derivative along a line through one example, on which one element of one input varies.

    Attributes:
      name: The name of the input.
      index: The index of the element.
      positions: The values of the element.
      analytic: The derivative by the gradient rule. NaN where the function or the rule fails.
      numerical: The derivative by differences. NaN where it is not precise.
    """

    name: str
    index: tuple[int, ...]
    positions: Array
    analytic: Array
    numerical: Array


@dataclass(frozen=True, slots=True)
class GradientProfile:
    """A comparison of the gradient of an op with differences.

    Attributes:
      magnitudes: The largest magnitude among the inputs of each example.
      errors: The distance of the gradient from differences, relative to the sum of all magnitudes.
      slice: A line through one example, or None if no example has derivatives.
    """

    magnitudes: Array
    errors: Array
    slice: Slice | None


def gradient_profile(op: Op[..., Any], *, seed: int = 0) -> GradientProfile | None:
    """Draw examples and compare the gradient of an op with differences; None if it has no gradient rule.

    Args:
      op: The op.
      seed: Seed that makes every run draw the same examples.
    """
    if rules_of(op).vjp is None:
        return None
    check = CheckRunner(op, "gradient_profile", max_examples=_N_SAMPLES, seed=seed)
    samples: list[tuple[float, float, Point]] = []

    def draw(arguments: Arguments) -> None:
        with contextlib.suppress(Exception):  # the checks report exceptions of a rule
            samples.append(_sample(Point.of(check, op, arguments)))

    draw_each(smooth_arguments(op), draw, at_most=_N_SAMPLES, seed=seed)
    known = [sample for sample in samples if np.isfinite(sample[1])]
    with quietly():
        line = _slice(op, min(known, key=lambda sample: abs(np.log(sample[0] or 1e-9)))[2]) if known else None
    return GradientProfile(np.array([s[0] for s in known]), np.array([s[1] for s in known]), line)


def _sample(at: Point) -> tuple[float, float, Point]:
    """Return the magnitude of the inputs, the relative gradient error along a random direction, and the point."""
    direction = direction_of(at.arrays, at.wanted)
    numerical = slopes(at.function, at.arrays, direction)
    weights = counted_weights(numerical, weights_like(at.outputs, generator_of(at.arrays, 1)))
    apart, scale = distance(numerical, weights, _gradients(at, weights), direction)
    magnitude = max(float(np.max(np.abs(array), initial=0.0)) for array in at.arrays)
    return magnitude, apart / scale if scale else np.nan, at


def _slice(op: Op[..., Any], at: Point) -> Slice | None:
    number = next((n for n, array in enumerate(at.arrays) if is_differentiable(array.dtype) and array.size), None)
    if number is None:
        return None
    names = spec_of(op).parameters.input_names
    name = names[min(number, len(names) - 1)] if names else f"input {number}"
    index = (0,) * at.arrays[number].ndim
    here = float(np.real(at.arrays[number][index]))
    positions = _positions(spec_of(op).domain.of(name), here)
    pairs = [_derivatives_at(at, number, index, position) for position in positions]
    analytic, numerical = np.array(pairs).T
    return Slice(name, index, positions, analytic, numerical)


def _positions(interval: Interval, here: float) -> Array:
    low, high = max(interval.low, here - _HALF_WIDTH), min(interval.high, here + _HALF_WIDTH)
    margin = 0.01 * (high - low)
    return np.linspace(low + margin, high - margin, _N_POSITIONS)


def _derivatives_at(at: Point, number: int, index: tuple[int, ...], position: float) -> tuple[float, float]:
    """Return the derivative of the sum of all outputs, by the rule and by differences."""
    arrays = [array.copy() for array in at.arrays]
    arrays[number][index] = position
    ones = [np.ones_like(output) if is_differentiable(output.dtype) else None for output in at.outputs]
    analytic = numerical = np.nan
    with contextlib.suppress(Exception):  # the plot has a gap where the function raises
        moved = slopes(at.function, arrays, unit_direction(arrays, number, index))
        if all(counts.all() for counts, one in zip(moved.counts, ones, strict=True) if one is not None):
            numerical = inner(ones, moved.values) / (abs(position) or 1.0)
    with contextlib.suppress(Exception):  # and where the rule raises; the checks report the error
        [gradient] = _gradients(at, ones, arrays)[number : number + 1]
        analytic = 0.0 if gradient is None else float(np.real(gradient[index]))
    return analytic, numerical


def _gradients(at: Point, weights: Sequence[Array | None], arrays: Sequence[Array] | None = None) -> list[Array | None]:
    tensors = at.tensors if arrays is None else [tf.constant(array) for array in arrays]
    return arrays_of(vjp(at.call, tensors, weights))
