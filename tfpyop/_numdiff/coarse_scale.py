"""Estimate doubtful derivatives a second time, at a coarser scale, and determine what the estimate depends on.

At fine steps, a function that rounds its values, for example to single precision, is flat or follows a part of itself.
At coarse steps, a step function seems to have a slope. Values along a line do not always show which kind a function
is. This module then determines what must be known to decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfpyop._numdiff.directional import CREDIBLE, EPS, SINGLE_EPS
from tfpyop._numdiff.noise import NoisySlope, Samples, flat_below, slope_of_noisy_values
from tfpyop._numdiff.singular_points import leap
from tfpyop._spec.coercion import Array

ROUNDED = 1e-6
"""The maximum noise, relative to the function, of a function that may work in single precision."""
_FEW_PARTS = 0.03
"""The maximum error of a slope at a coarser scale, relative to its distance from another slope, to be a rival."""
_WIDE_STEP = 1e-4
"""The minimum width of a step, relative to the widest step tried, that single precision does not explain."""
_NARROW_INPUT, _NARROW_OUTPUT = 8.0, 1.5
"""The minimum width and height of a step, in units of the returned precision, that this precision does not explain."""


@dataclass(frozen=True, slots=True)
class CoarseEstimate:
    """Store the estimates at a coarser scale, for each element.

    Attributes:
      value: The slope at this scale.
      error: The error of the slope.
      step: The step of the estimate.
      noise: The distance of the values at finer steps from the slope.
      largest: The magnitude of the values.
      counts: Whether the estimate replaces the earlier estimate.
      rounded: Whether the estimate is right only if the function rounds its values.
      flat: Whether the derivative is zero unless the function rounds its values.
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


def coarse_scale(
    samples: Samples, settled: Array, value: Array, *, leaps: Array, widest: Array, precision: float, is_closer: bool
) -> CoarseEstimate:
    """Look for another slope at a coarser scale.

    An element that is not settled gets the slope that is consistent with the values at all finer steps. A settled
    element has a rival if the function follows another slope at a coarser scale, and changes from one slope to the
    other abruptly. The noise of the rival must be no larger than rounding to single precision causes.

    Args:
      samples: The values around the point.
      settled: Which elements have a precise and checked derivative.
      value: The derivatives of these elements.
      leaps: The step at which differences leave the derivative abruptly; zero if they do not.
      widest: The largest step.
      precision: The precision of the values that the function returns.
      is_closer: Whether a search over larger steps found nothing, so that a step nearby does not count as wide.
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
    return CoarseEstimate(
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
    """Return the slope beyond the step at which differences leave the found slope abruptly.

    If they do not leave it, the result is not a rival of the found slope.
    """
    leaps = leap(samples, found.value, found.error, precision)
    if not np.any(leaps > 0):
        return found
    return slope_of_noisy_values(samples, precision, np.where(leaps > 0, leaps, np.inf))


def _rivals(found: NoisySlope, value: Array, flat: Array) -> Array:
    """Return where a slope at a coarser scale is precise, differs from a value, and has little noise."""
    apart = np.abs(found.value - value)
    is_small = (found.noise <= 10 * ROUNDED * found.size) | (flat > 0)
    return np.asarray((found.error <= _FEW_PARTS * apart) & is_small & (apart > CREDIBLE * np.abs(value)))
