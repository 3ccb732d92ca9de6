"""Detect low steps next to a slope: rounding of a part of the function, for example of 1 + x, causes them.

The slope between two steps is the derivative of the function without the part that is rounded. Values along a line show
such steps as jumps, which a kink is not.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from tfpyop._numdiff.directional import EPS, SINGLE_EPS, core_axes, least_of_cores, over_core
from tfpyop._numdiff.fine_structure import Claim
from tfpyop._numdiff.line import LineFunction
from tfpyop._numdiff.single_precision import SINGLE_DIGITS, midpoints, spacing
from tfpyop._spec.coercion import Array

HEIGHT_OF_LOW_STEPS = 90
"""The height, in units of rounding, below which steps count as rounding of numbers near one inside of the function."""
_CLOSE = 0.01
"""The magnitude of an input, relative to the magnitude assumed near zero, below which low steps are looked for."""
_MANY_STEPS = 1024
"""The distance, in units of rounding of numbers near one, over which the slope includes low steps."""
_BEYOND = 1.0, 6.0, 36.0
"""The distances at which low steps are looked for, relative to the distance where they are expected."""
_NEXT = 6.0
"""The distance up to which jumps are looked for, relative to the closest distance."""
_HALVINGS_TO_A_JUMP = 30
_PART_OF_CHANGE = 0.01
"""The minimum height of a jump, relative to the change that the slope predicts over this distance."""
_AROUND_A_STEP = 0.3, 0.15, 1e-3
"""The distances around such a distance, relative to it, between which slopes are compared."""
N_MIDPOINTS = 8
"""The number of places at which jumps are looked for. A term of single precision does not change at every place."""
_BESIDE = 2.0**-6
"""The distance from such a place at which the function is evaluated, in units of single precision."""
_JUMP = 0.25
"""The minimum height of a jump, relative to the mean height that explains the slope over wider steps."""
_FINE = 64.0
"""The step of a slope, in units of single precision, below which single precision may hide a part of the slope."""
_HALVINGS = 12
"""The number of times that the interval in which values leave a slope is halved."""
_LEFT = 0.3
"""The distance from a slope, relative to its distance at the next larger step, from which values have left the slope.

It is not a half, because steps of equal height on both sides come one after the other.
"""
_MOST_OF_IT = 0.2
"""The minimum share of a jump in the distance of the values from a slope, beyond the jump."""


def are_jumps(line: LineFunction, slopes: Sequence[Array], steps: Sequence[Array], ratio: float) -> list[Array]:
    """Return, for each output, where values leave a slope with a jump, or erratically, not with a kink.

    Args:
      line: The function along a direction.
      slopes: The slopes.
      steps: For each output, the largest step at which values have not left the slope; zero for elements to ignore.
      ratio: The ratio of these steps to the next larger steps, at which values have left the slope.
    """
    ranks = line.function.output_ranks
    near = least_of_cores([np.where(step > 0, step, np.inf) for step in steps], ranks)
    near = np.where(np.isfinite(near), near, 0.0)
    far = near / ratio
    total = _misses(line, slopes, far)
    before, after = _misses(line, slopes, near), total
    first = near
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        misses = _misses(line, slopes, middle)
        has_left = np.zeros(near.shape, bool)
        for miss, most, step, rank in zip(misses, total, steps, ranks, strict=True):
            has_left |= np.any((step > 0) & (miss > _LEFT * most), axis=core_axes(rank))
        near, far = np.where(has_left, near, middle), np.where(has_left, middle, far)
        pairs = zip(before, after, misses, ranks, strict=True)
        ends = [
            (np.where(over_core(has_left, rank), old, miss), np.where(over_core(has_left, rank), miss, new))
            for old, new, miss, rank in pairs
        ]
        before, after = map(list, zip(*ends, strict=True))
    numbers = zip(before, after, total, steps, ranks, strict=True)
    return [
        (step > 0) & (~((new - old <= _MOST_OF_IT * most) & (most > 0)) | (step != over_core(first, rank)))
        for old, new, most, step, rank in numbers
    ]


def _misses(line: LineFunction, slopes: Sequence[Array], step: Array) -> list[Array]:
    """Return how far the values on both sides are from a slope."""
    sides = zip(*line.around(step), slopes, line.function.output_ranks, strict=True)
    return [np.abs(after - before - 2 * over_core(step, rank) * slope) for after, before, slope, rank in sides]


def steps_between_narrow_numbers(
    line: LineFunction, claims: Sequence[Claim], rivals: Sequence[Array], digits: int
) -> list[Array]:
    """Return, for each output, where values jump halfway between narrow numbers, as if a part were computed in them.

    Only slopes with a rival are examined, and for single precision also slopes over steps so fine that it hides a part.

    Args:
      line: The function along a direction.
      claims: The slopes next to the point.
      rivals: The slopes over wider steps, which the jumps would explain; NaN where there are none.
      digits: The number of binary digits of the narrow numbers.
    """
    widths = [
        np.full(values.shape, np.inf)
        if vector is None
        else np.where(vector == 0, np.inf, spacing(values, digits) / np.abs(vector))
        for values, vector in zip(line.point, line.direction, strict=True)
    ]
    cell = least_of_cores(widths, line.function.input_ranks)
    step = np.ldexp(cell * _BESIDE, digits - SINGLE_DIGITS)
    found = [np.zeros(claim.slopes.shape, bool) for claim in claims]
    least = []
    for claim, rival, rank in zip(claims, rivals, line.function.output_ranks, strict=True):
        is_fine = claim.counts & ~claim.is_single & (claim.steps < _FINE * over_core(cell, rank))
        hidden = np.where(is_fine & (digits == SINGLE_DIGITS), claim.allowed, np.nan)
        least.append(np.where(np.isfinite(rival), _JUMP * np.abs(rival - claim.slopes), hidden))
    if not any(np.any(np.isfinite(change)) for change in least):
        return found
    for number in range(N_MIDPOINTS):
        point = [
            values if vector is None or values.dtype.kind != "f" else midpoints(values, digits, number)
            for values, vector in zip(line.point, line.direction, strict=True)
        ]
        middle = LineFunction(line.function, point, line.direction)
        sides = zip(*middle.around(step), *middle.around(step / 2), line.function.output_ranks, strict=True)
        for result, change, (after, before, nearer, behind, rank) in zip(found, least, sides, strict=True):
            jump = np.abs((after - before) - 2 * (nearer - behind))
            rounding = 16 * EPS * np.maximum(np.abs(after), np.abs(before))
            result |= jump > np.maximum(change * over_core(cell, rank), rounding)
    return found


def are_beside_low_steps(line: LineFunction, claims: Sequence[Claim], closest: Array, widest: Array) -> list[Array]:
    """Return where a slope found between zero and twice the point has low steps just beyond.

    The steps of `1 + x`, for example, are wider than `x` if `x` is below 1e-16. The slope inside of a step is not the
    derivative of the function that the steps follow.
    """
    ranks = line.function.output_ranks
    which = [
        claim.counts & (claim.steps <= over_core(closest, rank)) & over_core(closest < _CLOSE * widest, rank)
        for claim, rank in zip(claims, ranks, strict=True)
    ]
    found = [np.zeros(claim.slopes.shape, bool) for claim in claims]
    if not any(map(np.any, which)):
        return found
    for unit, side in itertools.product((EPS, SINGLE_EPS), (1.0, -1.0)):
        beyond = side * np.maximum(np.minimum(_MANY_STEPS * unit, widest), closest)
        expected = []
        for slope, claim, counts in zip(_slopes(line, np.zeros(()), beyond), claims, which, strict=True):
            apart = np.abs(slope - claim.slopes)
            expected.append(np.where(counts & (apart > 0), HEIGHT_OF_LOW_STEPS * unit / (4 * apart), np.inf))
        lowest = least_of_cores(expected, ranks)
        for factor in _BEYOND:
            steps = side * np.clip(factor * lowest, closest, np.abs(beyond))
            slopes = [_slopes(line, steps * (1 - part), steps * (1 + part)) for part in _AROUND_A_STEP]
            for result, counts, apart, curved, claim in zip(found, which, *_bent(*slopes), claims, strict=True):
                result |= counts & (apart > claim.allowed + 0.5 * curved)
    for side in (1.0, -1.0):
        for result, jumps in zip(found, _jumps_up_to(line, claims, which, side * _NEXT * closest), strict=True):
            result |= jumps
    return found


def _jumps_up_to(line: LineFunction, claims: Sequence[Claim], which: Sequence[Array], end: Array) -> list[Array]:
    """Return where values jump between the point and another one. The change is followed to ever smaller intervals."""
    ranks, start = line.function.output_ranks, np.zeros_like(end)
    lengths = [np.abs(claim.slopes) * over_core(np.abs(end), rank) for claim, rank in zip(claims, ranks, strict=True)]
    first, last = line.here(), line.at(line.displaced(end))
    largest = [np.maximum(np.abs(before), np.abs(after)) for before, after in zip(first, last, strict=True)]
    for _ in range(_HALVINGS_TO_A_JUMP):
        middle = (start + end) / 2
        values = line.at(line.displaced(middle))
        changes = [np.zeros(middle.shape), np.zeros(middle.shape)]
        for before, value, after, counts, length, rank in zip(first, values, last, which, lengths, ranks, strict=True):
            for number, change in enumerate((np.abs(value - before), np.abs(after - value))):
                shares = np.where(counts & (change > 0), change / length, 0.0).max(axis=core_axes(rank), initial=0.0)
                changes[number] = np.maximum(changes[number], shares)
        is_later = changes[1] > changes[0]
        start, end = np.where(is_later, middle, start), np.where(is_later, end, middle)
        pairs = [(over_core(is_later, rank), *part) for rank, *part in zip(ranks, first, values, last, strict=True)]
        first = [np.where(later, value, before) for later, before, value, _ in pairs]
        last = [np.where(later, after, value) for later, _, value, after in pairs]
    parts = zip(first, last, which, lengths, largest, strict=True)
    return [
        counts & (np.abs(after - before) > _PART_OF_CHANGE * length) & (np.abs(after - before) <= 4 * most)
        for before, after, counts, length, most in parts
    ]


def _bent(wide: list[Array], half: list[Array], narrow: list[Array]) -> tuple[list[Array], list[Array]]:
    """Return how far the slope next to a point is from the slope that wider slopes predict, and their difference."""
    curved = [first - second for first, second in zip(wide, half, strict=True)]
    predicted = [first - 4 / 3 * change for first, change in zip(wide, curved, strict=True)]
    apart = [np.abs(first - second) for first, second in zip(predicted, narrow, strict=True)]
    return apart, [np.abs(change) for change in curved]


def _slopes(line: LineFunction, start: Array, end: Array) -> list[Array]:
    """Return the slope of every output between two displacements."""
    values = zip(line.at(line.displaced(end)), line.at(line.displaced(start)), line.function.output_ranks, strict=True)
    return [(last - first) / over_core(end - start, rank) for last, first, rank in values]
