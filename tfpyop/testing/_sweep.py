"""The sweep: compare a rule with plain differences at many points in one call, and return points that look wrong.

The comparison is fast and only approximate. The points that it returns are judged one by one with Ridders' method, like
the drawn examples.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tfpyop._numdiff.directional import Function
from tfpyop._spec.coercion import Array, is_differentiable
from tfpyop.testing._comparisons import Vectors, tolerance_of
from tfpyop.testing._derivatives import random_move, weights_like
from tfpyop.testing._failures import is_refusal
from tfpyop.testing._many_points import Batch

_STEPS = (4e-6, 1e-6)
"""Steps of the differences, relative to the inputs."""
_KINK = 1e-2
"""Difference of one-sided slopes, relative to the slope, from which a point is left out."""
_ROUNDING = 64 * float(np.finfo(np.float64).eps)
_MOST_CALLS = 48
"""Maximum number of comparisons in a sweep, among them the comparisons of halves of batches that raise."""
_MOST_SECONDS = 2.0
_FAST, _FAST_RULE = 2e-3, 2e-2
"""The times of one call of the function and of the rule, in seconds, up to which batches have all rows."""
_SECONDS_OF_BATCH = 0.5
"""The time that one batch may take if a call for all rows takes as long as a call for each row."""
_MOST_OF_A_KIND = 2

Products = Callable[[Batch, Sequence[Array], Vectors, Vectors], tuple[Array, Array]]
"""Return the derivative of each row by the rule, and the sum of the magnitudes of its terms.

The arguments are the batch, the outputs, the cotangents of the outputs, and the direction.
"""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Compare a rule with differences at many points.

    Attributes:
      function: Returns the function for a batch.
      products: The rule, as `Products`.
      generator: Draws cotangents and directions.
      n_found: Maximum number of points to return.
      tolerance: Smallest difference that looks wrong, relative to the sum of all magnitudes.
    """

    function: Callable[[Batch], Function]
    products: Products
    generator: np.random.Generator
    n_found: int = 12
    tolerance: float = 1e-5

    def suspects(self, batches: Iterable[Batch]) -> list[tuple[Batch, int]]:
        """Return points that look wrong, as pairs of batch and row, the simplest points first."""
        found: list[tuple[Batch, int]] = []
        left, start = _MOST_CALLS, time.perf_counter()
        waiting = iter(batches)
        queue: list[Batch] = []
        while left and len(found) < self.n_found and time.perf_counter() - start < _MOST_SECONDS:
            batch = queue.pop() if queue else self._affordable(next(waiting, None))
            if batch is None:
                break
            left -= 1
            rows = self._wrong_rows(batch)
            if rows is not None:
                found += [(batch, row) for row in _chosen(rows, batch)]
            elif len(batch) > 1:
                half = len(batch) // 2
                queue += [batch.take(slice(half)), batch.take(slice(half, None))]
        return found[: self.n_found]

    def _affordable(self, batch: Batch | None) -> Batch | None:
        """Return the batch, with fewer rows if the function or the rule is slow."""
        if batch is None or len(batch) == 1:
            return batch
        function, rule = self._seconds(batch.take(slice(1)))
        most = float(len(batch))
        if function >= _FAST:
            most = min(most, _SECONDS_OF_BATCH / (2 + 2 * len(_STEPS)) / function)
        if rule >= _FAST_RULE:
            most = min(most, _SECONDS_OF_BATCH / rule)
        return batch.take(slice(max(int(most), 1)))

    def _seconds(self, first: Batch) -> tuple[float, float]:
        """Return the times of one call of the function and of the rule."""
        start = middle = time.perf_counter()
        with contextlib.suppress(Exception), np.errstate(all="ignore"):  # both may refuse this point
            outputs = self.function(first).call(first.arrays)
            middle = time.perf_counter()
            self.products(first, outputs, weights_like(outputs, self.generator), self._direction(first))
        end = time.perf_counter()
        return max(middle - start, 0.0) or end - start, end - middle

    def _wrong_rows(self, batch: Batch) -> Array | None:
        """Return the rows that look wrong, the worst first; None if the function or the rule raises for the batch."""
        with np.errstate(all="ignore"):
            try:
                numerical = self._differences(batch)
            except Exception as error:
                if not is_refusal(error):
                    raise
                return None
            try:
                got, sizes = self.products(batch, numerical.outputs, numerical.weights, numerical.direction)
            except Exception as error:
                if not is_refusal(error) or len(batch) > 1:
                    return None  # a violated contract is wrong at every point, so the other examples show it
                return np.arange(1)  # the rule raises where the function does not
            scale = numerical.sizes + sizes
            tolerance = max(self.tolerance, *(tolerance_of(w) for w in numerical.weights if w is not None)) * scale
            apart = np.abs(got - numerical.values)
            wrong = ~(apart <= tolerance + 10 * numerical.errors) & numerical.counts
            ratio = np.where(np.isfinite(apart) & (scale > 0), apart / np.where(scale > 0, scale, 1), np.inf)
        rows = np.flatnonzero(wrong)
        return rows[np.argsort(-ratio[rows], kind="stable")]

    def _differences(self, batch: Batch) -> _Differences:
        function = self.function(batch)
        here = function.call(batch.arrays)
        direction = self._direction(batch)
        sides = []
        for step in _STEPS:
            for sign in (step, -step):
                moved = [
                    values if vector is None else values + sign * vector
                    for values, vector in zip(batch.arrays, direction, strict=True)
                ]
                sides.append(function.call(moved))
        finite = [
            np.logical_and.reduce([np.isfinite(values) for values in column]) if values_of(column) else None
            for column in zip(here, *sides, strict=True)
        ]
        weights = [
            None if weight is None or mask is None else np.where(mask, weight, 0).astype(weight.dtype)
            for weight, mask in zip(weights_like(here, self.generator), finite, strict=True)
        ]

        def rows(values: Sequence[Array]) -> Array:
            return _row_sums(weights, values, batch)

        slopes = [
            _over(ahead, back, 2 * step)
            for (ahead, back), step in zip(zip(sides[::2], sides[1::2], strict=True), _STEPS, strict=True)
        ]
        close = _over(sides[2], here, _STEPS[1]), _over(here, sides[3], _STEPS[1])
        noise = _row_sums(weights, here, batch, is_absolute=True) * _ROUNDING / _STEPS[1]
        values = rows(slopes[1])
        sizes = _row_sums(weights, slopes[1], batch, is_absolute=True)
        errors = np.abs(values - rows(slopes[0])) + noise
        bends = _row_sums(weights, [a - b for a, b in zip(*close, strict=True)], batch, is_absolute=True)
        counts = (bends <= _KINK * sizes + 8 * noise) & np.isfinite(values)
        return _Differences(here, weights, direction, values, sizes, errors, counts)

    def _direction(self, batch: Batch) -> Vectors:
        """Return a direction in which half of the rows move all elements, and half move a single element."""
        moves: list[Array | None] = [
            random_move(values, self.generator) if is_differentiable(values.dtype) else None for values in batch.arrays
        ]
        if not batch.has_rows:
            return moves
        sizes = [0 if move is None else move[0].size for move in moves]
        chosen = self.generator.integers(0, max(sum(sizes), 1), len(batch))
        is_whole = self.generator.uniform(size=len(batch)) < 0.5
        start = 0
        for number, (move, size) in enumerate(zip(moves, sizes, strict=True)):
            if move is None:
                continue
            is_moved = is_whole[:, None] | (chosen[:, None] == start + np.arange(size))
            moves[number] = np.where(is_moved.reshape(move.shape), move, 0)
            start += size
        return moves


@dataclass(frozen=True, slots=True)
class _Differences:
    """The derivative of each row by plain differences.

    Attributes:
      outputs: The outputs at the points.
      weights: The cotangents of the outputs, zero where outputs are not finite.
      direction: The direction.
      values: The derivatives of the weighted outputs.
      sizes: The sums of the magnitudes of their terms.
      errors: Their estimated errors.
      counts: Whether the function seems to be smooth there.
    """

    outputs: Sequence[Array]
    weights: Vectors
    direction: Vectors
    values: Array
    sizes: Array
    errors: Array
    counts: Array


def values_of(column: Sequence[Array]) -> bool:
    """Return whether arrays have derivatives."""
    return is_differentiable(column[0].dtype)


def row_products(vectors: Vectors, moves: Vectors, batch: Batch) -> tuple[Array, Array]:
    """Return the inner product of vectors for each row, and the sum of the magnitudes of its terms."""
    pairs = [(v, m) for v, m in zip(vectors, moves, strict=True) if v is not None and m is not None]
    left, right = [v for v, _ in pairs], [m for _, m in pairs]
    return _row_sums(left, right, batch), _row_sums(left, right, batch, is_absolute=True)


def _row_sums(weights: Vectors, values: Sequence[Array], batch: Batch, *, is_absolute: bool = False) -> Array:
    """Return the real inner product of each row. Terms of weight zero do not count."""
    total = np.zeros(len(batch))
    for weight, array in zip(weights, values, strict=True):
        if weight is None:
            continue
        wide = np.asarray(weight, np.result_type(weight, np.float64))
        terms = np.abs(wide) * np.abs(array) if is_absolute else np.real(np.conj(wide) * array)
        terms = np.where(weight == 0, 0, terms)
        total = total + (terms.reshape(len(batch), -1).sum(axis=1) if batch.has_rows else terms.sum())
    return total


def _over(ahead: Sequence[Array], back: Sequence[Array], width: float) -> list[Array]:
    return [
        (a - b) / width if is_differentiable(a.dtype) else np.zeros(np.shape(a))
        for a, b in zip(ahead, back, strict=True)
    ]


def _chosen(rows: Array, batch: Batch) -> list[int]:
    """Return a few of the rows, of different kinds."""
    chosen: list[int] = []
    for kind in dict.fromkeys(batch.kinds[rows].tolist()):
        chosen += [int(row) for row in rows if batch.kinds[row] == kind][:_MOST_OF_A_KIND]
    return chosen
