"""Detect structure of a function that is visible only at displacements of a few units in the last place.

Differences over wide steps do not see low steps, small fast waves, or a kink next to the point. At displacements of a
few units in the last place, this structure has a pattern that rounding does not have: values are exactly equal, lie on
a line with another slope, or miss the expected line by the same amount at many displacements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfpyop._numdiff.directional import EPS, SINGLE_EPS, core_maximum, least_of_cores, over_core
from tfpyop._numdiff.line import LineFunction, relative_speed
from tfpyop._numdiff.single_precision import single_neighbours
from tfpyop._spec.coercion import Array

_QUICK = (46811.0, 823.0)
"""The displacements of the quick check, in units of double precision."""
_CLEAR = 16.0
"""The minimum distance of the values from a line, in units, to be suspicious."""
_LADDER = 20
"""The number of displacements at which the structure is examined in double precision."""
_FARTHEST = 2.0**24
_NEIGHBOURS = 24
"""The number of single-precision numbers that are compared with other numbers that round to them."""
_WINDOW = 16
"""The number of neighbors on each side at which the structure is examined in single precision."""
_BEYOND = (32.0, 64.0, 128.0, 256.0, 512.0)
_STEP_UNITS, _SINGLE_STEP_UNITS = 512.0, 6.0
"""The minimum heights of steps that rounding does not explain, in units of double and of single precision."""
_ON_THE_LINE = 4.0
_ON_IT = 6
_FIRST = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
_CURVED, _CLEARER = 0.1, 8.0
_FEWEST_FLAT = 3
_LAST = 5
_SAME = 0.25
_NARROWER, _NARROWER_IN_SINGLE = 2.0**-11, 2.0**-6
"""The largest displacements, relative to the step of the slope's estimate. Within them, the function is straight."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Store the derivatives that were found for one output.

    Attributes:
      slopes: The derivatives.
      steps: The step of each derivative's estimate.
      counts: Which derivatives would be returned, and are not zero by definition.
      allowed: The tolerances of the derivatives.
      is_lucky: Where a check passed only because the values may be noisy.
      is_single: Where the function works in single precision, or seems to.
      is_narrow: Whether the function returns single precision.
    """

    slopes: Array
    steps: Array
    counts: Array
    allowed: Array
    is_lucky: Array
    is_single: Array
    is_narrow: bool


def contradicted(line: LineFunction, claims: Sequence[Claim], magnitude: Array) -> list[Array]:
    """Return, for each output, where values next to the point contradict a derivative.

    Args:
      line: The function along a direction.
      claims: The derivatives that were found.
      magnitude: The magnitude of the inputs that vary, as a step.
    """
    result = [np.zeros(claim.slopes.shape, bool) for claim in claims]
    is_single = _casts(line, claims)
    double = [claim.counts & ~where for claim, where in zip(claims, is_single, strict=True)]
    if any(np.any(which) for which in double):
        for found, part in zip(result, _in_double(line, claims, double, magnitude), strict=True):
            found |= part
    single = [claim.counts & where for claim, where in zip(claims, is_single, strict=True)]
    if any(np.any(which) for which in single):
        for found, part in zip(result, _in_single(line, claims, single, magnitude), strict=True):
            found |= part
    return result


@dataclass(frozen=True, slots=True)
class _Probes:
    """Store the values of one output at small displacements.

    Attributes:
      steps: The displacements, from the smallest to the largest.
      after: The values ahead of the point.
      before: The values behind the point.
      slope: The derivative for the comparison.
      unit: The resolution of the values.
      allowed: The tolerance of the derivative.
    """

    steps: Array
    after: Array
    before: Array
    slope: Array
    unit: Array
    allowed: Array

    @property
    def misses(self) -> Array:
        """The distances of the values from the expected line, in units."""
        return np.asarray((self.after - self.before - 2 * self.slope * self.steps) / self.unit)

    def is_suspicious(self) -> Array:
        """Return where values miss the line by more than rounding explains."""
        return np.asarray(np.any(np.abs(self.misses) > _CLEAR, axis=0))

    def is_flat(self) -> Array:
        """Return where values on each side stay equal, although the line rises by more than rounding explains."""
        runs = []
        for values in (self.after, self.before):
            same = np.logical_and.accumulate(values == values[0], axis=0)
            runs.append(np.where(same.sum(axis=0) >= _FEWEST_FLAT, np.where(same, self.steps, 0.0).max(axis=0), np.nan))
        height = np.abs(self.slope) * (runs[0] + runs[1])
        is_high = height > np.maximum(_STEP_UNITS / 2 * self.unit, EPS)
        return np.asarray(is_high & (np.abs(self.slope) > self.allowed))

    def has_steps(self) -> Array:
        """Return where neighboring values change less often than the line requires if only rounding causes steps."""
        window = np.concatenate([self.before[:_WINDOW][::-1], self.after[:_WINDOW]])
        n_changes = (window[1:] != window[:-1]).sum(axis=0)
        rise = np.abs(self.slope) * 2 * self.steps[_WINDOW - 1]
        height = rise / np.maximum(n_changes, 1)
        return np.asarray(height > np.maximum(_SINGLE_STEP_UNITS * self.unit, SINGLE_EPS))

    def is_another_line(self) -> Array:
        """Return where values next to the point lie on a line with another slope."""
        found: Array = np.zeros(self.slope.shape, bool)
        for start in range(len(self.steps) - _ON_IT + 1):
            which = slice(start, start + _ON_IT)
            steps, after, before = (part[which] - part[start] for part in (self.steps, self.after, self.before))
            change = (after[-1] - before[-1]) / 2
            slope = change / steps[-1]
            off = np.maximum(np.abs(after - slope * steps), np.abs(before + slope * steps)).max(axis=0)
            apart = 2 * np.abs(slope - self.slope) * steps[-1]
            is_line = (off <= _ON_THE_LINE * self.unit + _CURVED * np.abs(change)) & (slope != 0)
            is_line = is_line & (np.abs(slope - self.slope) > self.allowed)
            found = found | (is_line & (apart > np.maximum(_CLEAR * self.unit + 4 * EPS, _CLEARER * off)))
        return found

    def is_biased(self, jump: float) -> Array:
        """Return where values miss the line by the same amount at several displacements."""
        misses = self.misses[-_LAST:]
        spread = np.abs(misses - misses[-1]).max(axis=0)
        size = np.abs(misses[-1])
        least = np.where(np.abs(self.misses[0]) > size / 2, jump, _CLEAR)
        return np.asarray((size > least) & (spread <= _ON_THE_LINE + _SAME * size))


def _casts(line: LineFunction, claims: Sequence[Claim]) -> list[Array]:
    """Return, for each output, where the function works in single precision, so that smaller changes have no effect."""
    found = [claim.is_single for claim in claims]
    if not any(np.any(claim.is_single & claim.counts) and not claim.is_narrow for claim in claims):
        return found
    for moved in single_neighbours(line, _NEIGHBOURS):
        values = [line.at(part) for part in moved]
        found = [
            where & (claim.is_narrow | np.all([other[number] == values[0][number] for other in values], axis=0))
            for number, (where, claim) in enumerate(zip(found, claims, strict=True))
        ]
    return found


def _in_double(line: LineFunction, claims: Sequence[Claim], counts: Sequence[Array], magnitude: Array) -> list[Array]:
    farthest = _farthest(line, claims, counts) * _NARROWER
    cell = _power_of_two(EPS * magnitude)
    quick = [np.minimum(number * cell, farthest) for number in sorted(_QUICK)]
    probes = _probed(line, claims, quick, magnitude, EPS)
    suspects = [
        which & (claim.is_lucky | probe.is_suspicious())
        for claim, probe, which in zip(claims, probes, counts, strict=True)
    ]
    if not any(np.any(suspect) for suspect in suspects):
        return suspects
    least = _power_of_two(EPS / relative_speed(line, None))
    least = np.minimum(np.where(least > 0, least, cell), cell)
    most = np.minimum(_FARTHEST * cell, farthest)
    ratio = np.maximum(most / least, 1.0)
    steps = [least * number for number in _FIRST]
    steps += [np.maximum(least * np.rint(ratio ** (number / _LADDER)), steps[-1]) for number in range(1, _LADDER + 1)]
    probes = _probed(line, claims, steps, magnitude, EPS)
    return [
        suspect & (probe.is_flat() | probe.is_another_line() | probe.is_biased(_STEP_UNITS))
        for suspect, probe in zip(suspects, probes, strict=True)
    ]


def _in_single(line: LineFunction, claims: Sequence[Claim], counts: Sequence[Array], magnitude: Array) -> list[Array]:
    farthest = _farthest(line, claims, counts) * _NARROWER_IN_SINGLE
    cell = _power_of_two(SINGLE_EPS * magnitude)
    steps = [cell * float(number) for number in range(1, _WINDOW + 1)]
    steps += [np.maximum(np.minimum(cell * number, farthest), steps[-1]) for number in _BEYOND]
    probes = _probed(line, claims, steps, magnitude, SINGLE_EPS)
    return [
        which & (probe.has_steps() | probe.is_another_line() | probe.is_biased(_SINGLE_STEP_UNITS))
        for which, probe in zip(counts, probes, strict=True)
    ]


def _probed(
    line: LineFunction, claims: Sequence[Claim], steps: Sequence[Array], magnitude: Array, precision: float
) -> list[_Probes]:
    sides = [line.around(step) for step in steps]
    found = []
    for number, (claim, rank) in enumerate(zip(claims, line.function.output_ranks, strict=True)):
        after, before = (np.array([side[place][number] for side in sides]) for place in (0, 1))
        kind = np.complex128 if after.dtype.kind == "c" else np.float64
        after, before = after.astype(kind), before.astype(kind)
        slope = np.where(np.isfinite(claim.slopes), claim.slopes, 0.0)
        lengths = np.array([np.broadcast_to(over_core(step, rank), slope.shape) for step in steps])
        size = np.maximum(np.abs(after), np.abs(before)).max(axis=0)
        steepest = np.maximum(np.abs(slope), np.abs(after - before)[-1] / (2 * lengths[-1]))
        unit = precision * np.maximum(size, over_core(magnitude, rank) * steepest)
        unit = np.maximum(unit, core_maximum(unit, rank))
        found.append(_Probes(lengths, after, before, slope, np.maximum(unit, np.finfo(np.float64).tiny), claim.allowed))
    return found


def _farthest(line: LineFunction, claims: Sequence[Claim], counts: Sequence[Array]) -> Array:
    """Return the smallest step of a slope's estimate in each loop element."""
    steps = [
        np.where(which & (claim.steps > 0) & (claim.slopes != 0), claim.steps, np.inf)
        for claim, which in zip(claims, counts, strict=True)
    ]
    return least_of_cores(steps, line.function.output_ranks)


def _power_of_two(size: Array) -> Array:
    return np.asarray(np.exp2(np.floor(np.log2(size))))
