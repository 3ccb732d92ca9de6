"""A function along a direction from a point: what it returns at displaced points, and how far to go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfpyop._numdiff.directional import Function, over_core
from tfpyop._spec.coercion import Array, DType, is_differentiable


class Line:
    """A function along a direction from a point. Where it raises off the point, it counts as not a number."""

    def __init__(self, function: Function, point: Sequence[Array], direction: Sequence[Array | None]) -> None:
        self.function, self.point, self.direction = function, point, direction
        self.refusal: Exception | None = None
        self._here: Sequence[Array] | None = None

    def here(self) -> Sequence[Array]:
        """The outputs at the point."""
        if self._here is None:
            self._here = self.function.call(self.point)
        return self._here

    def around(self, step: Array) -> tuple[Sequence[Array], Sequence[Array]]:
        """The outputs a step ahead and a step back."""
        return self.at(self.displaced(step)), self.at(self.displaced(-step))

    def displaced(self, step: Array) -> list[Array]:
        """The inputs a step ahead."""
        return [
            values if vector is None else values + over_core(step, rank) * vector
            for values, vector, rank in zip(self.point, self.direction, self.function.input_ranks, strict=True)
        ]

    def at(self, moved: Sequence[Array]) -> Sequence[Array]:
        """The outputs for displaced inputs; not a number where the function refuses them."""
        try:
            return self.function.call(moved)
        except Exception as error:
            here = self.here()  # raises if it is not the displacement that the function refuses
            self.refusal = error
            return [np.full(values.shape, np.nan, _inexact(values.dtype)) for values in here]


def _inexact(dtype: DType) -> DType:
    """A dtype that holds NaN: the dtype itself, or float64 for whole numbers."""
    return dtype if is_differentiable(dtype) else np.dtype(np.float64)


def relative_speed(line: Line, smallest: float | None) -> Array:
    """How fast the direction moves the inputs relative to their magnitude: the fastest of each loop element.

    Without a smallest magnitude only zero has none, and counts as one.
    """
    speed: Array = np.zeros(())
    for values, vector, rank in zip(line.point, line.direction, line.function.input_ranks, strict=True):
        if vector is not None:
            sizes = np.abs(values)
            sizes = np.where(sizes == 0, 1.0, sizes) if smallest is None else np.maximum(sizes, smallest)
            speed = np.maximum(speed, (np.abs(vector) / sizes).max(axis=tuple(range(-rank, 0)), initial=0.0))
    return np.where(speed > 0, speed, 1.0)
