"""A second opinion on derivatives that are in doubt: the slope at a coarser scale, and what it would mean.

At fine steps a function that rounds its values, as single precision does, is flat or follows a part of itself. At
coarse steps a function with steps of its own looks as if it had a slope. Values along a line alone do not always tell
which of the two a function is; then this says what must be known to decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfpyop._numdiff.directional import CREDIBLE
from tfpyop._numdiff.noise import NoisySlope, Samples, flat_below, slope_of_noisy_values
from tfpyop._numdiff.singular_points import leap
from tfpyop._spec.coercion import Array

EPS = float(np.finfo(np.float64).eps)
SINGLE_EPS = float(np.finfo(np.float32).eps)
ROUNDED = 1e-6
"""Noise this small, relative to the function, may be that of a function that works in single precision."""
_FEW_PARTS = 0.03
"""How precise the slope at a coarser scale must be, relative to its distance from another one, to rival it."""
_WIDE_STEP = 1e-4
"""How wide a step must be, relative to the widest one tried, to be none of single precision."""
_NARROW_INPUT, _NARROW_OUTPUT = 8.0, 1.5
"""How wide and high a step must be to be none of the precision that the function returns, in units of it."""


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """What a coarser scale says, by number.

    Attributes:
      value: The slope there.
      error: Its error.
      step: The step it comes from.
      noise: By how much values at finer steps miss it.
      largest: The magnitude of the values.
      counts: Whether it takes the place of what was found before.
      rounded: Whether it is right only if the function rounds its values.
      flat: Whether the derivative is zero unless the function does.
      explained: Whether rounding to single precision explains the noise.
    """

    value: Array
    error: Array
    step: Array
    noise: Array
    largest: Array
    counts: Array
    rounded: Array
    flat: Array
    explained: Array


def second_opinion(
    samples: Samples, settled: Array, value: Array, *, leaps: Array, widest: Array, precision: float, is_closer: bool
) -> SecondOpinion:
    """Look for another slope at a coarser scale.

    A number that is not settled gets the slope with which the values at all finer steps are consistent. A settled
    number has a rival if the function follows another slope at a coarser scale, up to noise of the size that rounding
    to single precision has, and passes from the one to the other all at once.

    Args:
      samples: The values around the point.
      settled: Which numbers have a derivative that is precise and checked.
      value: These derivatives.
      leaps: At which step differences leave them all at once; zero if they do not.
      widest: The largest step.
      precision: The precision of the values that the function returns.
      is_closer: Whether a search over larger steps found nothing, so that a step nearby is no wide one.
    """
    is_narrow, flat = precision > EPS, flat_below(samples)
    is_split = np.zeros(settled.shape, bool)
    above = np.zeros(flat.shape) if is_narrow else np.maximum(flat, leaps)
    found = slope_of_noisy_values(samples, precision, above)
    if is_narrow:
        is_wide = flat > _NARROW_INPUT * precision * widest
        is_high = np.abs(found.value) * flat > _NARROW_OUTPUT * precision * found.largest
        flat = np.where(is_wide & is_high, flat, 0.0)
    else:
        coarser = _at_a_coarser_scale(samples, found, precision)
        is_split = ~settled & _rivals(coarser, found.value, flat)
        found = found.replaced(is_split, coarser)
    apart = np.abs(found.value - np.where(settled, value, 0.0))
    is_precise = found.error <= _FEW_PARTS * apart
    is_rival = settled & _rivals(found, value, flat) | is_split
    is_thin = settled & (flat > 0) & (flat <= _WIDE_STEP * widest)
    rounding = 2 * max(precision, SINGLE_EPS) * (found.largest + 8 * widest * np.abs(found.value))
    is_explained = found.noise <= rounding
    is_step = ~settled & (flat > 0) & ~(np.abs(found.value) == 0)
    return SecondOpinion(
        found.value,
        found.error,
        found.step,
        found.noise,
        found.largest,
        is_rival | is_thin | ~settled,
        is_rival | is_thin | is_step | (is_narrow & ~settled & ~is_explained),
        ~settled & ~is_precise & (flat > _WIDE_STEP * widest) & (not is_narrow and not is_closer),
        is_explained,
    )


def _at_a_coarser_scale(samples: Samples, found: NoisySlope, precision: float) -> NoisySlope:
    """The slope beyond the step at which differences leave another one all at once; none if they do not."""
    leaps = leap(samples, found.value, found.error, precision)
    if not np.any(leaps > 0):
        return found
    return slope_of_noisy_values(samples, precision, np.where(leaps > 0, leaps, np.inf))


def _rivals(found: NoisySlope, value: Array, flat: Array) -> Array:
    """Where a slope at a coarser scale is precise and another one, and the function follows it up to little noise."""
    apart = np.abs(found.value - value)
    is_small = (found.noise <= 10 * ROUNDED * found.size) | (flat > 0)
    return np.asarray((found.error <= _FEW_PARTS * apart) & is_small & (apart > CREDIBLE * np.abs(value)))
