"""Compute cotangents with a sparsity pattern: move all columns of one color at once, and confirm the pattern.

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
from tfpyop._spec.coercion import Array
from tfpyop.errors import GradientError

_AGREED = 1e-4
"""The maximum difference of the derivative along all columns from the sum over the colors, relative to its scale."""
_CREDIBLE = 1e-3
"""The maximum error of the comparison, relative to the largest scale of a row."""


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
    """

    ranks: Sequence[int]
    loop: tuple[int, ...]
    cotangents: Array

    @classmethod
    def of(cls, cotangents: Sequence[Array | None], like: Sequence[Array], ranks: Sequence[int], loop: Any) -> Rows:
        """Return the rows of outputs like these."""
        given = [np.zeros(array.shape) if c is None else c for c, array in zip(cotangents, like, strict=True)]
        return cls(ranks, loop, _flat(given, ranks, loop))

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
        self._lengths = np.exp2(np.rint(np.log2(np.maximum(np.abs(values), smallest))))
        self._units = (1.0, 1j) if values.dtype.kind == "c" else (1.0,)
        whole = (*rows.loop, coloring.n_columns)
        self.values: Array = np.zeros(whole, values.dtype)
        self.errors, self.scales, self.contradicted = np.zeros(whole), np.zeros(whole), np.zeros(whole, bool)
        generator = np.random.default_rng(0)
        shape = (len(self._units), coloring.n_columns)
        self._moves = generator.uniform(0.5, 1.0, shape) * generator.choice([-1.0, 1.0], shape)
        self._sum: Array = np.zeros(())
        self._error: Array = np.zeros(())
        self._scale: Array = np.zeros(())
        with np.errstate(all="ignore"):
            for color, members in enumerate(coloring.members):
                for number, unit in enumerate(self._units):
                    self._add(color, members, number, unit)

    def _add(self, color: int, members: Array, number: int, unit: complex) -> None:
        """Differentiate along one color. Add the rows to their columns, and to the derivative along all columns."""
        is_member = np.isin(np.arange(self._coloring.n_columns), members)
        found = self._differentiate(np.where(is_member, unit * self._lengths, 0))
        rows = self._rows
        values, errors, scales = rows.flat(found.values), rows.flat(found.errors), rows.flat(found.scales)
        moved = self._by_column(color, rows.weighted(values))
        self.values = self.values + (moved if unit == 1.0 else unit * moved)
        self.errors += self._by_column(color, rows.sizes(errors))
        self.scales += self._by_column(color, rows.sizes(scales))
        if found.contradicted:
            self.contradicted |= self._by_column(color, rows.sizes(rows.flat(found.contradicted))) > 0
        owner = self._coloring.owners[color]
        moves = np.where(owner < 0, 0.0, self._moves[number][owner])
        self._sum = self._sum + np.where(moves == 0, 0, values * moves)
        self._error = self._error + np.where(moves == 0, 0, errors * np.abs(moves))
        self._scale = self._scale + np.where(moves == 0, 0, scales * np.abs(moves))

    def _by_column(self, color: int, rows: Array) -> Array:
        columns = np.zeros((*self._rows.loop, self._coloring.n_columns))
        self._coloring.add(color, rows, columns)
        return np.asarray(columns / self._lengths)

    def confirm(self, what: str) -> None:
        """Compare the derivative along all columns together with the sum over the colors.

        Args:
          what: The input in error messages.

        Raises:
          GradientError: They differ, so that the pattern is wrong, or the comparison is not precise.
        """
        direction = sum(unit * moves for unit, moves in zip(self._units, self._moves, strict=True)) * self._lengths
        found, rows = self._differentiate(np.asarray(direction)), self._rows
        values = rows.flat(found.values)
        with np.errstate(all="ignore"):
            distance = rows.sizes(np.abs(values - self._sum))
            bound = rows.sizes(rows.flat(found.errors) + self._error)
            scale = rows.sizes(np.maximum(rows.flat(found.scales), self._scale))
            is_precise = bound <= _CREDIBLE * scale.max(axis=-1, initial=0.0, keepdims=True)
            is_right = (is_precise & (distance <= bound + _AGREED * scale)) | np.isnan(values)
        failed = np.argwhere(~is_right & (rows.cotangents != 0))
        if not len(failed):
            return
        index = tuple(map(int, failed[0]))
        expected = np.broadcast_to(self._sum, values.shape)[index]
        if not is_precise[index]:
            raise GradientError(
                f"cannot confirm the sparsity pattern of {what}: differences along a test direction are not precise.",
                remedy="The function may have a kink or be noisy at this point. Remove sparsity=, or write a rule.",
            )
        raise GradientError(
            f"the sparsity pattern of {what} is wrong at this point: core element {index[-1]} of the outputs depends "
            "on further elements of the input.",
            expected=f"{expected:.6g} along a test direction, by the pattern",
            got=f"{values[index]:.6g}, by differences that move all elements",
            remedy="Mark all elements on which the output may depend: tfpyop.testing.check_sparsity names them. At a "
            "kink, where derivatives do not add up, write a rule.",
        )
