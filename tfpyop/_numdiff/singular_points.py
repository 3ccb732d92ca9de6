"""Detect singular points from the values around them: jumps, and approaches as at a root, a logarithm or a pole."""

from __future__ import annotations

import numpy as np

from tfpyop._numdiff.noise import Samples
from tfpyop._spec.coercion import Array

_ROWS = 6
"""The number of steps at which the approach to the point is observed."""
_SLOW = 0.95
"""The maximum power of the step with which values approach the point at a cusp. At a kink, the power is one."""
_STEADY = 0.15
"""The maximum variation of this power. A larger variation is noise."""
_LEFT = 1e-3
"""The minimum distance of a difference from a slope, relative to the larger of both, to have left the slope."""


def is_cusp(samples: Samples, limit: Array, precision: float) -> Array:
    """Return where, at the finest steps, values approach their limit more slowly than at a kink."""
    if len(samples.steps) < _ROWS:
        return np.zeros(limit.shape, bool)
    is_clear, is_slow = _approach(samples.last(_ROWS), limit, 64 * precision, np.zeros(()))
    return np.asarray(is_clear & is_slow)


def is_cusp_anywhere(samples: Samples, limit: Array, precision: float, noise: Array) -> Array:
    """Return the result of `is_cusp` at the finest steps at which noise does not hide the approach."""
    found, decided = np.zeros(limit.shape, bool), np.zeros(limit.shape, bool)
    for end in range(len(samples.steps), _ROWS - 1, -1):
        is_clear, is_slow = _approach(samples.upto(end).last(_ROWS), limit, 64 * precision, 8 * noise)
        found = found | (is_clear & ~decided & is_slow)
        decided = decided | is_clear
    return found


def _approach(samples: Samples, limit: Array, precision: float, noise: Array) -> tuple[Array, Array]:
    """Return where the mean of both sides differs from its limit at every step, and where it approaches it slowly."""
    gaps = (samples.after + samples.before) / 2 - limit
    powers = np.diff(np.log(np.abs(gaps)), axis=0) / np.diff(np.log(samples.steps), axis=0)
    is_clear = np.all(np.abs(gaps) > precision * samples.sizes + noise, axis=0)
    return is_clear, np.all(powers < _SLOW, axis=0) & (np.ptp(powers, axis=0) < _STEADY)


def leap(samples: Samples, value: Array, error: Array, precision: float) -> Array:
    """Return the step at which differences leave a slope abruptly, as for a function with jumps; zero if they do not.

    For a smooth function, the differences leave its slope gradually as the step grows.
    """
    found: Array = np.zeros(value.shape)
    apart = np.abs((samples.after - samples.before) / (2 * samples.steps) - value)
    for far, near, step, size in zip(apart, apart[1:], samples.steps[1:], samples.sizes[1:], strict=False):
        largest = np.maximum(np.abs(value), far)
        explained = 1e-6 * largest + 16 * precision * size / step + 4 * error
        leaps = (far > _LEFT * largest) & (far > 4 * explained) & (near <= explained)
        found = np.where(leaps, step, found)
    return found


def leap_height(samples: Samples, value: Array, leaps: Array) -> tuple[Array, Array]:
    """Return by how much values leave a slope at the step of a leap's far side, and their magnitude there."""
    height, size = np.zeros(value.shape), np.zeros(value.shape)
    misses = np.abs(samples.after - samples.before - 2 * samples.steps * value)
    for far, step, magnitude in zip(misses, samples.steps[1:], samples.sizes, strict=False):
        is_there = step == leaps
        height, size = np.where(is_there, far, height), np.where(is_there, magnitude, size)
    return height, size
