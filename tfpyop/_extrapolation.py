"""Extrapolation of central differences to step zero: which entry of the table to believe, and how far.

Source: C. J. F. Ridders, Advances in Engineering Software 4 (1982), with Neville's scheme for steps of any ratio.
"""

from __future__ import annotations

import numpy as np

from tfpyop._coercion import Array
from tfpyop._slopes import CREDIBLE, core_maximum, over_core

_MOST_COLUMNS = 8
_PRECISE = 1e-8
"""The relative error that ends the search."""
_COMPARABLE = 1e-2
"""Numbers this much smaller than the largest among the core elements, or than nearby slopes, count as that large."""
_EPS = float(np.finfo(np.float64).eps)
_SINGLE = 1e-6
"""Changes this small, relative to the function, may be the rounding of one that works in single precision."""
_FAR_BETTER = 0.01
"""How much smaller an error must be not to be mere chance where rounding prevails."""
_FAR = 20.0
"""How much smaller a step must be for its difference to be free of truncation."""


class Extrapolation:
    """The table of one output: of every number it keeps the entry with the smallest error, until that is disproved.

    Args:
      rank: How many core dimensions the output has.
      first: The largest step of each loop element.
      like: Values of the output.
      order: After how many steps a credible estimate gives way only to a far better one, because of chance.
    """

    def __init__(self, rank: int, first: Array, *, like: Array, order: int) -> None:
        self._rank, self._first = rank, over_core(first, rank)
        self._row: list[Array] = []
        self._steps: list[Array] = []
        self._differences: list[Array] = []
        self._sides: tuple[Array, Array] | None = None
        self._order = order
        self._value: Array = np.full(like.shape, np.nan, like.dtype if like.dtype.kind == "c" else np.float64)
        self._error: Array = np.full(like.shape, np.inf)
        self._slope: Array = np.zeros(like.shape)
        self._finest: Array = np.zeros(like.shape)
        self._size: Array = np.zeros(like.shape)
        self._first_slope: Array = np.full(like.shape, np.nan)
        self._least_change: Array = np.full(like.shape, np.inf)
        self._settled: Array = np.zeros(like.shape, bool)

    def add(self, after: Array, before: Array, step: Array) -> None:
        """Add the values a step ahead and a step back."""
        step = over_core(step, self._rank)
        difference = self._resolved(after, before) / (2 * step)
        slope = self._slope_nearby(after, before, step)
        rounding = _EPS * self._size / step
        row = [difference]
        is_enough = (len(self._steps) >= self._order) & (self._error <= CREDIBLE * self._scale())
        bound = np.where(is_enough, _FAR_BETTER, 1.0) * self._error
        for column, coarser in enumerate(self._row[:_MOST_COLUMNS]):
            factor = (self._steps[-1 - column] / step) ** 2
            entry = row[-1] + (row[-1] - coarser) / (factor - 1)
            error = np.maximum(np.maximum(np.abs(entry - row[-1]), np.abs(entry - coarser)), rounding)
            better = ~self._settled & (error < np.fmax(bound, _PRECISE * np.abs(entry))) & (error < self._error)
            self._value, self._error = np.where(better, entry, self._value), np.where(better, error, self._error)
            self._slope, self._finest = np.where(better, slope, self._slope), np.where(better, step, self._finest)
            row.append(entry)
        self._row, self._sides = row, (after, before)
        self._steps.append(step)
        self._differences.append(difference)

    def precise(self) -> Array:
        """Which numbers are precise and wait for a check: to many digits, or as far as rounding allows."""
        rounding = 64 * _EPS * self._size / self._first
        return ~self._settled & (self._error <= _PRECISE * self._scale() + rounding)

    def check(self, after: Array, before: Array, step: Array) -> None:
        """Settle precise numbers that a difference at a much smaller step confirms within its rounding.

        Others are dropped, or if the rounding of single precision explains it, get the error that this implies.
        """
        step = over_core(step, self._rank)
        waiting = self.precise()
        rounding = (16 * _EPS * np.maximum(np.abs(after), np.abs(before)) + 10 * self._error * self._finest) / step
        apart = np.abs((after - before) / (2 * step) - self._value)
        agrees = apart <= CREDIBLE * self._scale() + rounding
        self._settled = self._settled | (waiting & agrees)
        is_noise = waiting & ~agrees & (apart * step <= _SINGLE * self._size)
        self._error = np.where(is_noise, np.fmax(self._error, apart * step / self._finest), self._error)
        self._drop(waiting & ~agrees & ~is_noise)

    def has_gaps(self) -> bool:
        """Whether some number has no estimate."""
        return bool(np.any(~self._settled & np.isinf(self._error)))

    def leave(self, undefined: Array) -> None:
        """Settle numbers where the function is not finite: they have no derivative."""
        undefined = undefined & ~self._settled & np.isinf(self._error)
        self._drop(undefined)
        self._settled = self._settled | undefined
        self._error = np.where(undefined, 0.0, self._error)

    def is_settled(self) -> bool:
        """Whether every number is precise and checked."""
        return bool(np.all(self._settled))

    def result(self) -> tuple[Array, Array, Array]:
        """Values, errors and the scales to compare these with."""
        self._drop(~self._settled & self._is_disproved())
        first_slope = np.where(np.isfinite(self._first_slope), self._first_slope, 0.0)
        rounding = 1e7 * _EPS * np.where(np.isfinite(self._size), self._size, 0.0) / self._first
        scale = np.maximum(self._scale(), np.where(self._settled, 0.0, _COMPARABLE * first_slope)) + rounding
        return self._value, self._error, np.where(np.isfinite(scale), scale, 0.0)

    def _resolved(self, after: Array, before: Array) -> Array:
        """How the values differ; NaN where they do not, because of rounding to less than double precision."""
        change = after - before
        self._size = np.maximum(np.abs(after), np.abs(before))
        is_lost = (
            (change == 0) & (self._least_change > 4 * _EPS * self._size) & (self._least_change < _SINGLE * self._size)
        )
        self._least_change = np.fmin(self._least_change, np.where(change == 0, np.inf, np.abs(change)))
        return np.where(is_lost, np.nan, change)

    def _slope_nearby(self, after: Array, before: Array, step: Array) -> Array:
        """The smaller of the slopes between this step and the last, ahead and back: what a derivative may vanish to."""
        if self._sides is None:
            return np.zeros(after.shape)
        sides = [
            np.abs(old - new) / (self._steps[-1] - step) for old, new in zip(self._sides, (after, before), strict=True)
        ]
        self._first_slope = np.where(np.isnan(self._first_slope), np.maximum(*sides), self._first_slope)
        return np.asarray(np.minimum(*sides))

    def _scale(self) -> Array:
        sizes = np.where(np.isfinite(self._value), np.abs(self._value), 0.0)
        nearby = np.maximum(core_maximum(sizes, self._rank), self._slope)
        return np.maximum(sizes, _COMPARABLE * nearby)

    def _is_disproved(self) -> Array:
        """Where differences at far smaller steps leave the value by more than single precision explains."""
        disproved: Array = np.zeros(self._value.shape, bool)
        for step, difference in zip(self._steps, self._differences, strict=True):
            apart = np.abs(difference - self._value)
            is_far = (step * _FAR < self._finest) & (apart > 0.05 * self._scale())
            disproved = disproved | (is_far & (apart * step > _SINGLE * self._size))
        return disproved

    def _drop(self, where: Array) -> None:
        self._value, self._error = np.where(where, np.nan, self._value), np.where(where, np.inf, self._error)
        self._slope = np.where(where, 0.0, self._slope)
