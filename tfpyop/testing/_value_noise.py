"""Noise of values: measure along a direction how much rounding changes the results of a function.

The values are sampled at equal distances. Third differences of a smooth function vanish there, so the remainder is
noise. Source: J. J. Moré and S. M. Wild, Estimating computational noise, SIAM J. Sci. Comput. 33 (2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfpyop._numdiff.directional import Function, precision_of
from tfpyop._spec.coercion import Array, finfo
from tfpyop.testing._comparisons import Vectors
from tfpyop.testing._derivatives import Slopes
from tfpyop.testing._failures import is_refusal

_SPACINGS = (2.0**-10, 2.0**-20)
"""Sample distances, relative to the direction: coarse rounding shows at the first, steep functions suit the second."""
_POSITIONS = (-3, -2, -1, 0, 1, 2, 3)
_ORDER = 3
_ROUGHEST = 1e6
"""Maximum roughness, in units of rounding."""
_SURE = 4.0
"""Factor for the estimated error of a derivative."""
_OVER_WIDEST_STEP = 64.0
"""Factor from value noise to derivative error, along a direction as long as the inputs. The widest step is 1/8."""
_RULE = 64.0
"""Error of a rule, in units of rounding of its largest result."""
_AMPLIFIED = 20**0.5
"""Factor by which third differences amplify noise."""


@dataclass(frozen=True, slots=True)
class Noise:
    """The amount by which rounding changes the outputs of a function.

    Attributes:
      values: The noise of every output number, at least one unit of rounding.
      roughness: The noise in units of rounding.
    """

    values: list[Array]
    roughness: list[Array]

    @classmethod
    def directional_derivative(cls, function: Function, point: Sequence[Array], direction: Vectors) -> Noise:
        """Measure noise along a direction. Distances at which the function refuses a point do not count."""
        with np.errstate(all="ignore"):
            units = [precision_of(values) * np.abs(values) for values in function.call(point)]
            noise = list(units)
            for spacing in _SPACINGS:
                samples = _samples(function, point, direction, spacing)
                for number, values in enumerate(zip(*samples, strict=True)):
                    rest = np.abs(np.diff(np.array(values), n=_ORDER, axis=0)).max(axis=0) / _AMPLIFIED
                    noise[number] = np.where(np.isfinite(rest), np.maximum(noise[number], rest), noise[number])
            ratios = [np.where(own > unit, own / unit, 1.0) for own, unit in zip(noise, units, strict=True)]
        return cls(noise, [np.minimum(ratio, _ROUGHEST) for ratio in ratios])

    def errors_of(self, numerical: Slopes) -> list[Array]:
        """Return the errors of numerical derivatives, including the effect of noise."""
        return [
            _SURE * error * ratio + _OVER_WIDEST_STEP * own
            for error, ratio, own in zip(numerical.errors, self.roughness, self.values, strict=True)
        ]

    def of_rule(self, weights: Vectors, results: Vectors) -> float:
        """Return the rounding error of a rule's results, relative to the largest, for a rule of the same roughness.

        Args:
          weights: The cotangents of the outputs; zero for outputs that do not count.
          results: The results of the rule.
        """
        ratios = [
            float(np.max(ratio, where=weight != 0, initial=1.0))
            for ratio, weight in zip(self.roughness, weights, strict=True)
            if weight is not None
        ]
        dtypes = {array.dtype for array in [*weights, *results] if array is not None}
        return _RULE * max(ratios, default=1.0) * max((float(finfo(dtype).eps) for dtype in dtypes), default=0.0)


def _samples(function: Function, point: Sequence[Array], direction: Vectors, spacing: float) -> list[Sequence[Array]]:
    samples = []
    for position in _POSITIONS:
        moved = [
            values if vector is None else values + position * spacing * vector
            for values, vector in zip(point, direction, strict=True)
        ]
        try:
            samples.append(function.call(moved))
        except Exception as error:
            if not is_refusal(error):
                raise
            return []
    return samples
