"""Estimate the slope of rounded or noisy values, and the error of this slope.

The result is the estimate that is consistent with the values at all finer steps. For a smooth function, a derivative
explains the nearby values up to rounding. For noisy values, this module measures the noise: the distances of the values
at smaller steps from the line that an estimate predicts. The noise, divided by the step of the estimate, is the error
of the estimate. The functions take the relevant elements of one output on the last axis.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from tfpyop._spec.coercion import Array

_MOST_COLUMNS = 6
_FEWEST_FINER = 3
"""The minimum number of finer steps from which the noise is estimated."""
_AMPLIFIED = 2.5
"""The factor by which extrapolation amplifies the noise of the values."""
_CLEAR = 1 / 3
"""The minimum size of a miss, relative to the noise, for its sign to count."""
_FEWEST_SIGNS = 5
_LAST_STEPS = 4
_SAME = 0.2
_FLAT_STEPS = 2
"""The minimum number of finest steps without a change, for a function to have steps."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Store values on both sides of a point.

    Attributes:
      steps: The steps from the largest to the smallest, for each element.
      after: The values one step ahead.
      before: The values one step back.
    """

    steps: Array
    after: Array
    before: Array

    @property
    def sizes(self) -> Array:
        """The magnitudes of the values."""
        return np.maximum(np.abs(self.after), np.abs(self.before))

    def last(self, number: int) -> Samples:
        """Return the samples at the smallest steps."""
        return Samples(self.steps[-number:], self.after[-number:], self.before[-number:])

    def upto(self, end: int) -> Samples:
        """Return the samples at the largest steps."""
        return Samples(self.steps[:end], self.after[:end], self.before[:end])

    def only(self, which: Array) -> Samples:
        """Return the samples of some elements."""
        return Samples(self.steps[:, which], self.after[:, which], self.before[:, which])


@dataclass(frozen=True, slots=True)
class NoisySlope:
    """Store the slopes of noisy values.

    Attributes:
      value: The slopes; NaN where there is no slope.
      error: The errors of the slopes, as far as they follow from the noise; infinite where there is no slope.
      noise: The noise of the values.
      size: The magnitude of the values nearest to the point.
      largest: The magnitude of the largest values.
      step: The step of the estimate.
    """

    value: Array
    error: Array
    noise: Array
    size: Array
    largest: Array
    step: Array

    def replaced(self, where: Array, other: NoisySlope) -> NoisySlope:
        """Return these slopes, replaced by other slopes where the mask is True."""
        pairs = ((getattr(other, part.name), getattr(self, part.name)) for part in fields(self))
        return NoisySlope(*(np.where(where, theirs, ours) for theirs, ours in pairs))


def slope_of_noisy_values(samples: Samples, precision: float, above: Array) -> NoisySlope:
    """Return the slope with the smallest error, if noise explains how far the values at finer steps miss it.

    Args:
      samples: The values.
      precision: The relative precision of the values, at best.
      above: A lower limit for the steps of the estimate, for each element.
    """
    steps, after, before = samples.steps, samples.after, samples.before
    n_steps, n = steps.shape
    differences = (after - before) / (2 * steps)
    sizes = samples.sizes
    value, error = np.full(n, np.nan, differences.dtype), np.full(n, np.inf)
    noise, finest = np.full(n, np.inf), np.zeros(n)
    row: list[Array] = []
    for number in range(n_steps):
        entries = [differences[number]]
        for column, coarser in enumerate(row[:_MOST_COLUMNS]):
            factor = (steps[number - 1 - column] / steps[number]) ** 2
            entries.append(entries[-1] + (entries[-1] - coarser) / (factor - 1))
        if number and n_steps - 1 - number >= _FEWEST_FINER:
            for column, entry in enumerate(entries):
                others = [row[max(column - 1, 0)], *entries[max(column - 1, 0) : column]]
                missed = np.abs(differences[number + 1 :] - entry) * steps[number + 1 :]
                misses = np.where(np.isnan(missed), np.inf, missed).max(axis=0)
                floor = np.maximum(misses, precision * sizes[number])
                found = np.maximum(
                    np.max([np.abs(entry - other) for other in others], axis=0), _AMPLIFIED * floor / steps[number]
                )
                better = (found < error) & (steps[number] > above)
                value, error = np.where(better, entry, value), np.where(better, found, error)
                noise, finest = np.where(better, misses, noise), np.where(better, steps[number], finest)
        row = entries
    is_one_sided = _is_one_sided(samples, value, finest, noise, precision)
    error = np.where(is_one_sided, np.inf, error)
    return NoisySlope(value, error, noise, sizes[-1], np.where(np.isfinite(sizes), sizes, 0.0).max(axis=0), finest)


def flat_below(samples: Samples) -> Array:
    """Return the largest step such that the values do not change at it and at all finer steps; zero if they change."""
    is_flat = np.logical_and.accumulate((samples.after == samples.before)[::-1], axis=0)[::-1]
    largest = np.where(is_flat, samples.steps, 0.0).max(axis=0)
    return np.where(is_flat.sum(axis=0) >= _FLAT_STEPS, largest, 0.0)


def _is_one_sided(samples: Samples, value: Array, finest: Array, noise: Array, precision: float) -> Array:
    """Return where all values miss the line on the same side. They jump at the point, so the misses are not noise."""
    misses = (samples.after - samples.before) / 2 - value * samples.steps
    rounding = 16 * precision * samples.sizes
    counts = (samples.steps < finest) & (np.abs(misses) >= _CLEAR * noise) & (np.abs(misses) > rounding)
    reference = np.take_along_axis(misses, np.argmax(counts, axis=0)[None], axis=0)
    same = np.real(misses * np.conj(reference)) > 0
    is_biased = (counts.sum(axis=0) >= _FEWEST_SIGNS) & np.all(same | ~counts, axis=0)
    return np.asarray(is_biased | _jumps(samples, precision))


def _jumps(samples: Samples, precision: float) -> Array:
    """Return where the distance between both sides stays the same while the last steps shrink."""
    gaps = (samples.after - samples.before)[-_LAST_STEPS:]
    spread = np.max(np.abs(gaps - gaps[-1]), axis=0)
    return np.asarray((np.abs(gaps[-1]) > 4 * precision * samples.sizes[-1]) & (spread < _SAME * np.abs(gaps[-1])))
