"""Verify a sparsity pattern at a point: no output changes while input elements that the pattern excludes move.

The columns of a color are moved in sets such that, for any two of them, one set has the first column and not the
second. So every element outside the pattern moves at least once while the elements inside stay, and a dependence on it
is visible alone, even if it is small compared to the rest of its row. Each row is compared with its own rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from tfpyop._numdiff.coloring import Coloring
from tfpyop._spec.coercion import Array
from tfpyop.errors import GradientError

_MOVES = tuple(2.0**-exponent for exponent in (3, 9, 15, 21, 27, 33))
"""The moves, relative to the inputs. The next one is tried for rows that are not finite after the last one."""
_TINY = tuple(2.0**-exponent for exponent in (51, 49, 22, 20))
"""The moves that show the noise of a row: they change it by rounding only, in double or in single precision."""
_ROUNDING = 16.0
"""The change of a row that counts as rounding, in units of its value and of the changes by its elements."""
_NOISE = 8.0
"""The change of a row that counts as noise, relative to the largest change by tiny moves."""
_UNVERIFIED = 1e-3
"""The largest derivative, relative to the largest one by the input, that may remain hidden after a shorter move."""

Evaluate = Callable[[Array], "tuple[Array, Array] | None"]


def sets_of(n_columns: int) -> list[Array]:
    """Return sets of columns, as few as possible, so that none of the columns is in all sets of another one.

    Each column gets its own combination of half of the sets, as in Sperner's theorem: 8 sets suffice for 70 columns.
    """
    n_sets = 1
    while math.comb(n_sets, (n_sets + 1) // 2) < n_columns:
        n_sets += 1
    words = itertools.combinations(range(n_sets), (n_sets + 1) // 2)
    is_in = np.zeros((n_sets, n_columns), bool)
    for column, word in zip(range(n_columns), words, strict=False):
        is_in[list(word), column] = True
    return [np.flatnonzero(row) for row in is_in if row.any()]


class ExcludedElements:
    """Verify the pattern of one input. Each set of columns costs two evaluations.

    Args:
      evaluate: Returns the rows of the outputs after a move of the input, and their precision; None where the function
        raises.
      coloring: The colors of the input.
      lengths: The magnitudes of the input elements, by which they move; zero for elements that are not finite.
      is_complex: Whether the input is complex.
    """

    def __init__(self, evaluate: Evaluate, coloring: Coloring, lengths: Array, *, is_complex: bool) -> None:
        self._evaluate, self._coloring, self._lengths = evaluate, coloring, lengths
        generator = np.random.default_rng(0)
        self._phases = generator.uniform(0.5, 1.0, coloring.n_columns) * generator.choice(
            [-1.0, 1.0], coloring.n_columns
        )
        if is_complex:
            self._phases = self._phases * np.exp(1j * generator.uniform(0.5, 1.0, coloring.n_columns))

    def require(self, what: str, counts: Array, changes: Array, weights: Array, largest: Array) -> None:
        """Raise GradientError if a row depends on an excluded element, or if the values cannot show that it does not.

        Args:
          what: The input in error messages.
          counts: Which rows count.
          changes: By how much each row changes if the elements inside the pattern move by their magnitudes.
          weights: The magnitudes of the cotangents.
          largest: The largest magnitude of the cotangent of the input, for each loop element.
        """
        for columns, is_outside in self._sets():
            direction = np.zeros(self._lengths.shape, self._phases.dtype)
            direction[..., columns] = (self._lengths * self._phases)[..., columns]
            lengths = self._lengths[..., columns]
            shortest = np.min(lengths, axis=-1, where=lengths > 0, initial=np.inf, keepdims=True)
            pending = counts & is_outside
            for move in _MOVES:
                if not pending.any():
                    break
                sides = self._around(move * direction)
                if sides is None:
                    continue
                moved, sizes, precision = sides
                bound = precision * np.where(moved == 0, sizes, _ROUNDING * (sizes + changes))
                is_known = pending & np.isfinite(moved)
                if np.any(is_known & (moved > bound)):
                    bound = np.maximum(bound, np.where(moved == 0, 0.0, _NOISE * self._noise(direction)))
                    _require_constant(what, is_known & (moved > bound), moved)
                if move < _MOVES[0]:
                    hidden = weights * bound / (move * shortest)
                    is_known &= hidden <= _UNVERIFIED * largest
                pending &= ~is_known
            if pending.any():
                raise _unverified(what, pending)

    def _sets(self) -> Iterator[tuple[Array, Array]]:
        """Yield sets of columns, and the rows that do not depend on any of them."""
        for members, owner in zip(self._coloring.members, self._coloring.owners, strict=True):
            for chosen in sets_of(len(members)):
                yield members[chosen], ~np.isin(owner, members[chosen])

    def _around(self, direction: Array) -> tuple[Array, Array, Array] | None:
        """Return how far both sides of each row are apart, their magnitude, and their precision."""
        ahead = self._evaluate(direction)
        back = None if ahead is None else self._evaluate(-direction)
        if ahead is None or back is None:
            return None
        (after, precision), (before, _) = ahead, back
        return np.abs(after - before), np.maximum(np.abs(after), np.abs(before)), precision

    def _noise(self, direction: Array) -> Array:
        """Return by how much each row changes at most if the elements move by rounding only."""
        noise: Array = np.zeros(())
        for move in _TINY:
            sides = self._around(move * direction)
            if sides is not None:
                noise = np.fmax(noise, sides[0])
        return noise


def _require_constant(what: str, changed: Array, moved: Array) -> None:
    """Raise GradientError if a row has changed."""
    if not changed.any():
        return
    index = tuple(map(int, np.argwhere(changed)[0]))
    raise GradientError(
        f"the sparsity pattern of {what} is wrong at this point: core element {index[-1]} of the outputs depends on "
        "further elements of the input.",
        expected="no change while elements that the pattern excludes move",
        got=f"a change by {moved[index]:.3g}",
        remedy="Mark all elements on which the output may depend: tfpyop.testing.check_sparsity names them.",
    )


def _unverified(what: str, pending: Array) -> GradientError:
    row = int(np.argwhere(pending)[0][-1])
    return GradientError(
        f"cannot verify the sparsity pattern of {what}: the function raises or is not finite while elements that the "
        f"pattern excludes for core element {row} of the outputs move.",
        remedy="The function's domain may end at this point. Remove sparsity=, or write a rule.",
    )
