"""Evaluate a function along a direction from a point, and choose the scale of the steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfpyop._numdiff.directional import Function, core_axes, over_core
from tfpyop._spec.coercion import Array, DType, is_differentiable


class LineFunction:
    """Evaluate a function along a direction from a point. Where the function raises off the point, its value is NaN."""

    def __init__(self, function: Function, point: Sequence[Array], direction: Sequence[Array | None]) -> None:
        self.function, self.point, self.direction = function, point, direction
        self.refusal: Exception | None = None
        self._here: Sequence[Array] | None = None

    def here(self) -> Sequence[Array]:
        """Return the outputs at the point."""
        if self._here is None:
            self._here = self.function.call(self.point)
        return self._here

    def around(self, step: Array) -> tuple[Sequence[Array], Sequence[Array]]:
        """Return the outputs one step ahead and one step back."""
        return self.at(self.displaced(step)), self.at(self.displaced(-step))

    def displaced(self, step: Array) -> list[Array]:
        """Return the inputs one step ahead."""
        return [
            values if vector is None else values + over_core(step, rank) * vector
            for values, vector, rank in zip(self.point, self.direction, self.function.input_ranks, strict=True)
        ]

    def at(self, moved: Sequence[Array]) -> Sequence[Array]:
        """Return the outputs for displaced inputs; NaN where the function raises."""
        try:
            return self.function.call(moved)
        except Exception as error:
            here = self.here()  # raises if the function also fails at the point
            self.refusal = error
            return [np.full(values.shape, np.nan, _inexact(values.dtype)) for values in here]


def _inexact(dtype: DType) -> DType:
    """Return a dtype that can hold NaN: the dtype itself, or float64 for integers."""
    return dtype if is_differentiable(dtype) else np.dtype(np.float64)


def relative_speed(line: LineFunction, smallest: float | None) -> Array:
    """Return how fast the direction moves the inputs relative to their magnitude: the maximum in each loop element.

    If `smallest` is None, there is no minimum magnitude, and zero counts as one.
    """
    speed: Array = np.zeros(())
    for values, vector, rank in zip(line.point, line.direction, line.function.input_ranks, strict=True):
        if vector is not None:
            sizes = np.abs(values)
            sizes = np.where(sizes == 0, 1.0, sizes) if smallest is None else np.maximum(sizes, smallest)
            speeds = np.where(vector == 0, 0.0, np.abs(vector) / sizes)  # an input that is NaN does not move
            speed = np.maximum(speed, speeds.max(axis=core_axes(rank), initial=0.0))
    return np.where(speed > 0, speed, 1.0)
