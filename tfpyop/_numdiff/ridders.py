"""Extrapolate central differences to step zero, and choose the most reliable estimate for each element of an output.

Source: C. J. F. Ridders, Advances in Engineering Software 4 (1982), with Neville's scheme for steps of any ratio.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfpyop._numdiff.coarse_scale import ROUNDED, coarse_scale
from tfpyop._numdiff.directional import CREDIBLE, EPS, SINGLE_EPS, core_maximum, over_core, precision_of
from tfpyop._numdiff.fine_structure import Claim
from tfpyop._numdiff.low_steps import HEIGHT_OF_LOW_STEPS
from tfpyop._numdiff.noise import Samples, flat_below
from tfpyop._numdiff.single_precision import HALF_DIGITS, SINGLE_DIGITS, are_narrow
from tfpyop._numdiff.singular_points import is_cusp, is_cusp_anywhere, leap, leap_height
from tfpyop._spec.coercion import Array

RESOLVED = 64.0
"""The error allowed for any derivative, however small, in rounding units over the widest step."""
_MOST_COLUMNS = 8
_PRECISE = 1e-8
"""The relative error that ends the search."""
_COMPARABLE = 1e-2
"""The minimum scale of an element, relative to the largest core element and to nearby slopes."""
_CONFIRMED = 1e-4
"""The maximum difference of a slope over a small step, relative to the scale, that confirms a derivative."""
_CHANCE = 0.02
"""The maximum difference in a check, relative to the scale, that noise within the estimated error may cause."""
_FAR_BETTER = 0.01
"""The maximum ratio of a new error to the current error that chance does not explain where rounding prevails."""
_NEARBY = 1e-9
"""The error allowed for any derivative, however small, relative to the slopes over the widest step."""
_FEWEST_UNITS = {SINGLE_DIGITS: 4096, HALF_DIGITS: 4}
"""The change over the largest step, in units of numbers of so many digits, that shows whether there is a slope."""
_LOW, _LOW_WITH_PLATEAU = 16.0, 16384.0
"""The maximum height of steps, in units of single precision, that rounding inside of a function may cause.

The second number holds where wider steps agree on another slope."""
_UNITS_OF_ONE = (EPS, HEIGHT_OF_LOW_STEPS), (SINGLE_EPS, 2.0)
"""The units in which numbers near one are rounded, and the heights of steps, in these units, that count as rounding."""
_PLATEAU, _STEADY = 4, 0.1
"""The number of steps that agree on another slope, and their maximum differences, relative to its distance."""
_RATIO_OF_FEW = 0.1
_NOISY = 16.0
"""The distance of values from a slope, in units of their precision, that is not due to the last rounding."""
_MOST_ROUNDED = 1e-4
"""The maximum noise, relative to the function, where the function is known to round its values."""


@dataclass(frozen=True, slots=True)
class Ambiguities:
    """Store what the values at the steps tried do not decide.

    Attributes:
      rounded: Which elements count only if the function rounds its values, for example to single precision.
      flat: Which elements are zero unless the function rounds its values.
      explained: Where rounding to single precision explains all of the noise.
      noise: The noise of the values.
      spacing: The distance between points at which the noise is visible.
    """

    rounded: Array
    flat: Array
    explained: Array
    noise: Array
    spacing: Array


@dataclass(frozen=True, slots=True)
class Tiniest:
    """Store the differences at the finest steps of double precision.

    Attributes:
      slopes: The slopes at these steps.
      agree: Where all of these steps agree on a slope other than zero.
      flat: Where the values do not change at any of these steps.
      step: The largest of these steps.
    """

    slopes: Array
    agree: Array
    flat: Array
    step: Array


class RiddersTable:
    """Build the extrapolation table of one output.

    For every element, the table keeps the entry with the smallest error until a check rejects it.

    Args:
      rank: The number of core dimensions of the output.
      first: The largest step of each loop element.
      widest: The step that defines the resolution of the values.
      like: Values of the output.
      order: The number of steps after which only a far better estimate replaces a credible estimate, because of chance.
    """

    def __init__(self, rank: int, first: Array, *, widest: Array, like: Array, order: int) -> None:
        self._rank = rank
        self._first, self._widest = over_core(first, rank), over_core(widest, rank)
        self._row: list[Array] = []
        self._rows: list[tuple[Array, Array, Array]] = []
        self._stacked: Samples | None = None
        self._checks: list[tuple[Array, Array, Array, Array]] = []
        self._order = order
        self._precision = EPS
        self._value: Array = np.full(like.shape, np.nan, np.complex128 if like.dtype.kind == "c" else np.float64)
        self._error: Array = np.full(like.shape, np.inf)
        self._slope: Array = np.zeros(like.shape)
        self._steepest: Array = np.zeros(like.shape)
        self._finest: Array = np.zeros(like.shape)
        self._size: Array = np.zeros(like.shape)
        self._first_slope: Array = np.zeros(like.shape)
        self._settled: Array = np.zeros(like.shape, bool)
        self._undefined: Array = np.zeros(like.shape, bool)
        self._noise: Array = np.zeros(like.shape)
        self._largest: Array = np.zeros(like.shape)
        self._rounds: Array = np.zeros(like.shape, bool)
        self._refuted: Array = np.zeros(like.shape, bool)
        self._lucky: Array = np.zeros(like.shape, bool)

    @property
    def settled(self) -> Array:
        """Which elements are precise and checked, or have no derivative because the function is not finite."""
        return self._settled

    def is_done(self) -> bool:
        """Return whether further steps add no information."""
        if np.all(self._settled):
            return True
        return self.is_narrow and bool(np.all(self._rows[-1][0] <= 8 * self._precision * self._first))

    @property
    def is_narrow(self) -> bool:
        """Whether the function returns less than double precision."""
        return self._precision > EPS

    def add(self, after: Array, before: Array, step: Array) -> None:
        """Add the values one step ahead and one step back."""
        self._precision = max(self._precision, *(precision_of(values) for values in (after, before)))
        after, before, step = _wide(after), _wide(before), over_core(step, self._rank)
        difference = (after - before) / (2 * step)
        self._size = np.maximum(np.abs(after), np.abs(before))
        slope, steepest = self._slopes_nearby(after, before, step)
        rounding = self._precision * self._size / step
        row = [difference]
        is_enough = (len(self._rows) >= self._order) & (self._error <= CREDIBLE * self._scale())
        bound = np.where(is_enough, _FAR_BETTER, 1.0) * self._error
        for column, coarser in enumerate(self._row[:_MOST_COLUMNS]):
            factor = (self._rows[-1 - column][0] / step) ** 2
            entry = row[-1] + (row[-1] - coarser) / (factor - 1)
            error = np.maximum(np.maximum(np.abs(entry - row[-1]), np.abs(entry - coarser)), rounding)
            better = ~self._settled & (error < np.fmax(bound, _PRECISE * np.abs(entry))) & (error < self._error)
            self._value, self._error = np.where(better, entry, self._value), np.where(better, error, self._error)
            self._slope, self._finest = np.where(better, slope, self._slope), np.where(better, step, self._finest)
            self._steepest = np.where(better, steepest, self._steepest)
            row.append(entry)
        self._row, self._stacked = row, None
        self._rows.append((np.broadcast_to(step, difference.shape), after, before))

    def precise(self) -> Array:
        """Return which elements are precise and await a check: to many digits, or as far as rounding allows.

        For a function that returns less than double precision, there are none, because no smaller step could confirm
        them.
        """
        if self.is_narrow:
            return np.zeros(self._settled.shape, bool)
        rounding = 64 * EPS * self._size / self._first
        return ~self._settled & (self._error <= _PRECISE * self._scale() + rounding)

    def check(self, after: Array, before: Array, step: Array, *, meets: Array | None, here: Array | None) -> None:
        """Settle precise elements that a difference at a much smaller step confirms. Drop all other precise elements.

        Args:
          after: The values a small step ahead.
          before: The values a small step back.
          step: The small step of each loop element.
          meets: Where the mean of both sides agrees with the value at the point; None if this is unknown.
          here: The values at the point in double precision; None if they are unknown.
        """
        after, before = _wide(after), _wide(before)
        self._checks.append((after, before, over_core(step, self._rank), 8 * self._first))
        waiting = self.precise()
        limit = (after + before) / 2 if here is None else _wide(here)
        agrees = ~is_cusp(self._samples, limit, EPS) & (True if meets is None else meets)
        for check in self._checks:
            agrees = agrees & self._agrees(*check)
        self._settled = self._settled | (waiting & agrees)
        self._drop(waiting & ~agrees)

    def check_nearest(self, after: Array, before: Array, step: Array) -> None:
        """Reject elements that a difference over a step shorter than the distance from zero contradicts."""
        step = over_core(step, self._rank)
        self._checks.append((_wide(after), _wide(before), step, step))
        self._refuted = self._refuted | (~self._undefined & ~self._agrees(*self._checks[-1]))
        self.refuse(self._refuted)

    def _agrees(self, after: Array, before: Array, step: Array, magnitude: Array) -> Array:
        """Return where a difference over a much smaller step confirms the value, or where the step is too large.

        Steps are precise to the rounding of `magnitude`, the magnitude of the inputs that vary.
        """
        rounding = 16 * self._precision * np.maximum(np.abs(after), np.abs(before)) / step
        chance = np.minimum(10 * self._error * self._finest / step, _CHANCE * self._scale())
        apart = np.abs((after - before) / (2 * step) - self._value)
        tolerance = (_CONFIRMED + 4 * EPS * magnitude / step) * self._scale()
        is_coarse = step > 0.1 * self._finest
        self._lucky = self._lucky | (~is_coarse & (apart > tolerance + rounding))
        return np.asarray((apart <= tolerance + rounding + chance) | is_coarse)

    def meets(self, after: Array, before: Array, step: Array, here: Array) -> Array:
        """Return where the mean of both sides agrees with the value at the point, up to kinks and precision."""
        middle, step = (_wide(after) + _wide(before)) / 2, over_core(step, self._rank)
        rounding = 16 * max(precision_of(here), 4 * EPS) * np.maximum(np.abs(here), np.abs(middle))
        reach = 4 * step * np.maximum(np.abs(self._value), self._steepest)
        is_near = np.abs(middle - _wide(here)) <= reach + rounding
        return np.asarray(is_near | ~self.precise())

    def leave(self, undefined: Array) -> None:
        """Settle elements where the function is not finite. They have no derivative."""
        self._drop(undefined)
        self._settled, self._undefined = self._settled | undefined, self._undefined | undefined
        self._error = np.where(undefined, 0.0, self._error)

    def has_gaps(self) -> bool:
        """Return whether an element has no estimate."""
        return bool(np.any(~self._settled & np.isinf(self._error)))

    def ambiguities(self, here: Array | None) -> Ambiguities:
        """Get a second opinion on elements that are not settled, or whose slope the differences leave abruptly.

        Args:
          here: The values at the point; None if all elements are settled.
        """
        rounded, flat, explained = (np.zeros(self._value.shape, bool) for _ in range(3))
        leaps = np.where(self._settled & ~self._undefined, leap(self._samples, self._value, self._error, EPS), 0.0)
        which = ~self._undefined & (~self._settled | (leaps > 0))
        if not np.any(which):
            return Ambiguities(rounded, flat, explained, self._noise, self._noise)
        opinion = coarse_scale(
            self._samples.only(which),
            self._settled[which],
            self._value[which],
            leaps=leaps[which],
            widest=np.broadcast_to(self._widest, which.shape)[which],
            precision=self._precision,
            is_closer=bool(np.any(self._first < self._widest)),
        )
        self._value[which] = np.where(opinion.counts, opinion.value, self._value[which])
        self._error[which] = np.where(opinion.counts, opinion.error, self._error[which])
        self._finest[which] = np.where(opinion.counts, opinion.step, self._finest[which])
        self._noise[which] = np.where(opinion.counts, opinion.noise, 0.0)
        self._largest[which] = opinion.largest
        rounded[which], flat[which], explained[which] = opinion.rounded, opinion.flat, opinion.explained
        if here is not None:
            is_broken = ~self._settled & self._is_broken(_wide(here), flat)
            self._drop(is_broken)
            flat[is_broken] = False
        return Ambiguities(rounded, flat, explained, self._noise, self._spacing())

    def _is_low(self, value: Array, leaps: Array) -> Array:
        """Return where values leave a slope by so little that rounding inside of the function may be the cause."""
        samples = self._samples
        height, size = leap_height(samples, value, leaps)
        misses = np.abs(samples.after - samples.before - 2 * samples.steps * value)
        is_resolved = np.any(misses > RESOLVED * self._precision * samples.sizes, axis=0)
        is_of_one = [(unit / 16 <= height) & (height <= most * unit) for unit, most in _UNITS_OF_ONE]
        low = np.where(np.isfinite(self._slope_of_plateau(self._finest)), _LOW_WITH_PLATEAU, _LOW)
        size = np.maximum(size, np.where(np.isfinite(samples.sizes[0]), samples.sizes[0], 0.0))
        return np.asarray(is_resolved & np.any([height <= low * SINGLE_EPS * size, *is_of_one], axis=0))

    def _is_broken(self, here: Array, flat: Array) -> Array:
        """Return where the values around the point do not tend to the value at it, or tend to it too slowly."""
        samples, noise = self._samples, np.where(np.isfinite(self._noise), self._noise, 0.0)
        middle = (samples.after[-1] + samples.before[-1]) / 2
        rounding = 64 * self._precision * np.maximum(np.abs(here), samples.sizes[-1])
        reach = 4 * samples.steps[-1] * np.maximum(np.abs(self._value), self._steepest)
        is_apart = np.abs(middle - here) > 4 * noise + rounding + reach
        return np.asarray(is_cusp_anywhere(samples, here, self._precision, noise) | (is_apart & ~flat))

    def _spacing(self) -> Array:
        """Return the distance between points at which noise is large compared with the change due to the slope."""
        cell = 8 * max(self._precision, SINGLE_EPS) * self._widest
        drifting = np.maximum(self._noise / (4 * np.abs(self._value)), cell)
        return np.where(drifting <= 8 * cell, drifting, 2 * cell)

    def flatten(self, where: Array) -> None:
        """Settle elements as zero, because the point lies inside a wide step."""
        self._value, self._error = np.where(where, 0.0, self._value), np.where(where, 0.0, self._error)
        self._noise, self._settled = np.where(where, 0.0, self._noise), self._settled | where

    def refuse_unresolved(self) -> Array:
        """Discard estimates of zero of functions that return double precision, but only narrower numbers.

        A cast may have rounded them. Over the largest step, the values change by too few units to show a slope. Return
        which elements are discarded.
        """
        found: Array = np.zeros(self._value.shape, bool)
        if self.is_narrow:
            return found
        step, after, before = self._rows[0]
        change, size = np.abs(after - before), np.maximum(np.abs(after), np.abs(before))
        is_zero = (change > 0) & (2 * np.abs(self._value) * step < change / 2)
        for digits, fewest in _FEWEST_UNITS.items():
            is_small = is_zero & (change < fewest * 2.0 ** (1 - digits) * size)
            if np.any(is_small):
                found |= is_small & np.all([are_narrow(part, digits) for row in self._rows for part in row[1:]], axis=0)
        self.refuse(found)
        return found

    def rival(self) -> Array:
        """Return the slope on which several steps coarser than the estimate or a flat part agree; else NaN."""
        return self._slope_of_plateau(np.where(self._value == 0, self.flat_width(), self._finest))

    def _slope_of_plateau(self, above: Array) -> Array:
        """Return the slope on which several coarser steps agree, where it differs from the estimate; else NaN."""
        samples, value = self._samples, self._value
        differences = (samples.after - samples.before) / (2 * samples.steps)
        found = np.full(value.shape, np.nan, value.dtype)
        allowed = CREDIBLE * self.result()[2]
        for start in range(len(differences) - _PLATEAU + 1):
            window = differences[start : start + _PLATEAU]
            apart = np.abs(window[-1] - value)
            spread = np.abs(window - window[-1]).max(axis=0)
            is_coarser = samples.steps[start + _PLATEAU - 1] > above
            is_rival = is_coarser & np.isfinite(self._error) & (apart > allowed) & (spread <= _STEADY * apart)
            found = np.where(is_rival, window[-1], found)
        return found

    def refuse(self, where: Array) -> None:
        """Discard the estimates of elements."""
        self._drop(where)
        self._settled = self._settled & ~where

    def has_noise(self) -> bool:
        """Return whether an estimate counts only because its differences are considered noise in double precision."""
        return not self.is_narrow and bool(np.any(self._is_noise()))

    def refuse_noise(self, tiniest: Tiniest) -> None:
        """Discard estimates where the finest steps show another slope or no slope, because this is not noise."""
        other = tiniest.agree & (np.abs(tiniest.slopes - self._value) > 0.5 * np.abs(tiniest.slopes))
        flat = tiniest.flat & (np.abs(self._value) * tiniest.step > 4 * EPS * self._size)
        self.refuse(self._is_noise() & (other | (flat & ~self._rounds)))

    def decide(self, ambiguities: Ambiguities, rounds: Array) -> None:
        """Keep or discard doubtful elements, now that it is known where the function rounds its values."""
        self._rounds = rounds
        self.refuse(ambiguities.rounded & ~rounds)
        flat = ambiguities.flat & ~rounds
        self.flatten(flat)

    def flat_width(self) -> Array:
        """Return the step up to which values on both sides are equal; zero if they always or never are."""
        width = flat_below(self._samples)
        return np.where(width < self._samples.steps[0], width, 0.0)

    def width_up_to_kink(self) -> Array:
        """Return the step up to which both sides are equal, if they change clearly beyond it; else zero."""
        width = self.flat_width()
        height, size = leap_height(self._samples, np.zeros(width.shape), width)
        return np.where(height > _FEWEST_UNITS[SINGLE_DIGITS] * self._precision * size, width, 0.0)

    def low_steps(self) -> Array:
        """Return the step at which values leave the slope by so little that rounding may be the cause; else zero."""
        samples, value = self._samples, self._value
        leaps = leap(samples, value, self._error, self._precision)
        width = np.where(value == 0, self.flat_width(), 0.0)
        step = np.where(leaps >= self._finest, np.maximum(leaps, width), width)
        is_candidate = (step > 0) & np.isfinite(self._error) & ~self._rounds
        if not np.any(is_candidate):
            return np.zeros(value.shape)
        return np.where(is_candidate & self._is_low(value, step), step, 0.0)

    def distrust_finer_values(self) -> None:
        """Raise the errors of estimates that the values at finer steps do not confirm."""
        samples = self._samples
        misses = np.abs((samples.after - samples.before) / 2 - samples.steps * self._value)
        curved = np.where(samples.steps >= self._finest, misses / samples.steps**3, 0.0)
        curved = np.where(samples.steps <= self._finest / _RATIO_OF_FEW, curved, 0.0).max(axis=0)
        misses = np.where(samples.steps < self._finest, misses - 2 * curved * samples.steps**3, 0.0)
        finer = np.where(np.isfinite(misses), misses, 0.0).max(axis=0)
        found = np.where(finer > _NOISY * self._precision * self._size, finer / self._finest, 0.0)
        self._error = np.where(self._undefined | (self._value == 0), self._error, np.fmax(self._error, found))

    def claim(self) -> Claim:
        """Return the derivatives that values next to the point must not contradict."""
        _, error, scale = self.result()
        counts = (error <= CREDIBLE * scale) & np.isfinite(self._value)
        return Claim(
            self._value,
            self._finest,
            counts,
            CREDIBLE * scale,
            self._lucky,
            self._rounds | self.is_narrow,
            self.is_narrow,
        )

    def result(self) -> tuple[Array, Array, Array]:
        """Return the values, their errors, and the scales for the errors."""
        precision = np.where(self._rounds, max(self._precision, SINGLE_EPS), self._precision)
        most = np.where(precision > EPS, _MOST_ROUNDED, ROUNDED) * self._largest
        error = np.where(self._noise > most, np.inf, self._error)
        noise = np.minimum(self._noise, precision * self._largest)
        size = np.maximum(precision * np.where(np.isfinite(self._size), self._size, 0.0), noise)
        sizes = np.where(np.isfinite(self._value), np.abs(self._value), 0.0)
        scale = np.maximum(sizes, _COMPARABLE * core_maximum(sizes, self._rank))
        first_slope = np.where(np.isfinite(self._first_slope), self._first_slope, 0.0)
        scale = scale + (RESOLVED * size / self._widest + _NEARBY * first_slope) / CREDIBLE
        return self._value, error, np.where(np.isfinite(scale), scale, 0.0)

    @property
    def _samples(self) -> Samples:
        if self._stacked is None:
            self._stacked = Samples(*(np.array(part) for part in zip(*self._rows, strict=True)))
        return self._stacked

    def _is_noise(self) -> Array:
        return ~self._settled & np.isfinite(self._error)

    def _slopes_nearby(self, after: Array, before: Array, step: Array) -> tuple[Array, Array]:
        """Return the smaller and the larger of the slopes between this step and the last, ahead and back."""
        if not self._rows:
            return np.zeros(after.shape), np.zeros(after.shape)
        last, *values = self._rows[-1]
        sides = [np.abs(old - new) / (last - step) for old, new in zip(values, (after, before), strict=True)]
        steepest = np.maximum(*sides)
        if len(self._rows) == 1:
            self._first_slope = steepest
        return np.minimum(*sides), steepest

    def _scale(self) -> Array:
        sizes = np.where(np.isfinite(self._value), np.abs(self._value), 0.0)
        nearby = np.maximum(core_maximum(sizes, self._rank), self._slope)
        return np.maximum(sizes, _COMPARABLE * nearby)

    def _drop(self, where: Array) -> None:
        self._value, self._error = np.where(where, np.nan, self._value), np.where(where, np.inf, self._error)
        self._slope = np.where(where, 0.0, self._slope)


def _wide(values: Array) -> Array:
    return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64, copy=False)
