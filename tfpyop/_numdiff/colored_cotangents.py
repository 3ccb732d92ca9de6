"""Compute cotangents with a sparsity pattern: move all columns of one color at once, and verify the pattern.

The elements of a direction are as long as the magnitudes of the inputs, rounded to powers of two. So elements of
different magnitude move by the same relative step, and their derivatives are scaled back exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tfpyop._numdiff.coloring import Coloring
from tfpyop._numdiff.excluded_elements import ExcludedElements
from tfpyop._spec.coercion import Array, finfo

_COMPARABLE = 1e-2
"""The minimum scale of a row in `Slopes`, relative to the largest row. Rows of different columns do not share it."""


class Slopes(Protocol):
    """Declare the part of the interface of `directional.Derivative` that this module uses."""

    @property
    def values(self) -> list[Array]:
        """The derivatives of the outputs."""
        ...

    @property
    def errors(self) -> list[Array]:
        """The estimated absolute errors."""
        ...

    @property
    def scales(self) -> list[Array]:
        """The reference magnitudes of the errors."""
        ...

    @property
    def contradicted(self) -> list[Array]:
        """Where values contradict a derivative that is otherwise credible; empty if the method does not check this."""
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """Store arrays of all outputs with their core elements in one last dimension.

    Attributes:
      ranks: The numbers of core dimensions of the outputs.
      loop: The loop dimensions of the call.
      cotangents: The cotangents of the rows; zero where there is none.
      is_finite: Which rows are finite at the point.
    """

    ranks: Sequence[int]
    loop: tuple[int, ...]
    cotangents: Array
    is_finite: Array

    @classmethod
    def of(cls, cotangents: Sequence[Array | None], like: Sequence[Array], ranks: Sequence[int], loop: Any) -> Rows:
        """Return the rows of outputs like these."""
        given = [np.zeros(array.shape) if c is None else c for c, array in zip(cotangents, like, strict=True)]
        return cls(ranks, loop, _flat(given, ranks, loop), np.isfinite(_flat(like, ranks, loop)))

    def flat(self, arrays: Sequence[Array]) -> Array:
        """Return arrays of the outputs as rows."""
        return _flat(arrays, self.ranks, self.loop)

    def weighted(self, values: Array) -> Array:
        """Return the terms of the real inner product with the cotangents. Rows without a cotangent are zero."""
        return np.asarray(np.real(np.conj(self.cotangents) * np.where(self.cotangents == 0, 0, values)))

    def sizes(self, values: Array) -> Array:
        """Return the absolute terms of the inner product."""
        return np.asarray(np.abs(self.cotangents) * np.where(self.cotangents == 0, 0, values))


def _flat(arrays: Sequence[Array], ranks: Sequence[int], loop: tuple[int, ...]) -> Array:
    parts = []
    for array, rank in zip(arrays, ranks, strict=True):
        core = array.shape[array.ndim - rank :]
        parts.append(np.broadcast_to(array, loop + core).reshape((*loop, math.prod(core))))
    return np.concatenate(parts, -1) if parts else np.zeros((*loop, 0))


def _sizes(values: Array) -> Array:
    return np.where(np.isfinite(values), np.abs(values), 0.0)


class ColoredCotangent:
    """Collect the cotangent of one input from the derivatives along its colors.

    Args:
      differentiate: Returns the derivatives of all outputs along a direction of the input.
      values: The input, with its core dimensions flattened.
      coloring: The colors of its core elements.
      rows: The rows of the outputs.
      smallest: The magnitude that is assumed for elements closer to zero.

    Attributes:
      values: The cotangent, with loop dimensions and one core dimension.
      errors: The estimated absolute errors.
      scales: The reference magnitudes of the errors.
      contradicted: Where values contradict a derivative that is otherwise credible.
    """

    def __init__(
        self, differentiate: Callable[[Array], Slopes], values: Array, coloring: Coloring, rows: Rows, smallest: float
    ) -> None:
        self._differentiate, self._coloring, self._rows = differentiate, coloring, rows
        self._is_finite = np.isfinite(values)
        sizes = np.maximum(np.abs(np.where(self._is_finite, values, 1.0)), smallest)
        self._lengths = np.exp2(np.rint(np.log2(sizes)))
        self._units = (1.0, 1j) if values.dtype.kind == "c" else (1.0,)
        whole = (*rows.loop, coloring.n_columns)
        self.values: Array = np.zeros(whole, values.dtype)
        self.errors, self.scales, self.contradicted = np.zeros(whole), np.zeros(whole), np.zeros(whole, bool)
        self._changes: Array = np.zeros(())
        with np.errstate(all="ignore"):
            for color, members in enumerate(coloring.members):
                for number, unit in enumerate(self._units):
                    self._add(color, members, number, unit)

    def _add(self, color: int, members: Array, number: int, unit: complex) -> None:
        """Differentiate along one color. Add the rows to their columns."""
        is_member = np.isin(np.arange(self._coloring.n_columns), members)
        found = self._differentiate(np.where(is_member & self._is_finite, unit * self._lengths, 0))
        rows = self._rows
        values, errors, scales = rows.flat(found.values), rows.flat(found.errors), self._own_scales(found)
        moved = self._by_column(color, rows.weighted(values))
        self.values = self.values + (moved if unit == 1.0 else unit * moved)
        self.errors += self._by_column(color, rows.sizes(errors))
        self.scales += self._by_column(color, rows.sizes(scales))
        if found.contradicted:
            self.contradicted |= self._by_column(color, rows.sizes(rows.flat(found.contradicted))) > 0
        self._changes = self._changes + _sizes(values)

    def _own_scales(self, found: Slopes) -> Array:
        """Return the scales of rows without the part that depends on other rows, which belong to other columns."""
        values, scales = self._rows.flat([*map(_sizes, found.values)]), self._rows.flat(found.scales)
        shared = [
            np.broadcast_to(np.max(_sizes(value), axis=tuple(range(-rank, 0)), initial=0.0, keepdims=True), value.shape)
            for value, rank in zip(found.values, self._rows.ranks, strict=True)
        ]
        excess = scales - np.maximum(values, _COMPARABLE * self._rows.flat(shared))
        return np.asarray(values + np.maximum(excess, 0.0))

    def _by_column(self, color: int, rows: Array) -> Array:
        columns = np.zeros((*self._rows.loop, self._coloring.n_columns))
        self._coloring.add(color, rows, columns)
        return np.asarray(columns / self._lengths)

    def verify(self, evaluate: Callable[[Array], Sequence[Array] | None], what: str) -> None:
        """Verify that no row depends on elements that the pattern excludes.

        Args:
          evaluate: Returns the outputs after a move of the input; None where the function raises.
          what: The input in error messages.

        Raises:
          GradientError: The pattern is wrong, or cannot be verified at this point.
        """

        def rows_after(move: Array) -> tuple[Array, Array] | None:
            outputs = evaluate(move)
            if outputs is None:
                return None
            return self._rows.flat(outputs), self._rows.flat([np.full(o.shape, finfo(o.dtype).eps) for o in outputs])

        with np.errstate(all="ignore"):
            excluded = ExcludedElements(
                rows_after, self._coloring, self._lengths * self._is_finite, is_complex=len(self._units) > 1
            )
            weights = np.abs(self._rows.cotangents)
            largest = np.max(np.abs(self.values), axis=-1, where=np.isfinite(self.values), initial=0.0, keepdims=True)
            excluded.require(what, self._rows.is_finite & (weights > 0), self._changes, weights, largest)
