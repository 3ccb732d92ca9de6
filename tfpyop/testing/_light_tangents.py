"""Light tangents: compare a JVP rule with differences where parts of a tangent are hidden by larger parts.

The core elements of inputs are moved one by one, in all loop elements at once, to measure the contribution of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfpyop._numdiff.directional import Function
from tfpyop._spec.coercion import Array, is_differentiable
from tfpyop.testing._comparisons import SUBNORMAL, Vectors, first_of, tolerance_of
from tfpyop.testing._derivatives import Slopes, confirmed, generator_of, random_moves, slopes
from tfpyop.testing._magnitude_groups import Masks, spread_for
from tfpyop.testing._value_noise import Noise

_N_AGREEING = 3
"""Number of directions along which a rule must be wrong."""
_N_CONFIRMING = 2
_MOST_PARTS = 16
"""Maximum number of parts of a direction."""


@dataclass(frozen=True, slots=True)
class TangentMismatch:
    """A tangent that is wrong at one element of an output."""

    output: int
    index: tuple[int, ...]
    expected: complex
    error: float
    got: complex
    direction: Vectors


@dataclass(frozen=True, slots=True)
class LightTangents:
    """Compare a JVP rule with differences where tangents, or parts of them, are much smaller than other parts.

    Attributes:
      function: The function.
      point: The point.
      push: The rule, as a function from tangents of the inputs to tangents of the outputs.
      undefined: The indices of the inputs that have no derivative.
    """

    function: Function
    point: Sequence[Array]
    push: Callable[[Vectors], Vectors]
    undefined: Sequence[int] = ()

    def mismatch(self, direction: Vectors, numerical: Slopes) -> TangentMismatch | None:
        """Return a wrong element of a tangent, although the tangent as a whole is correct, or None.

        Args:
          direction: A direction along which the rule is correct as a whole.
          numerical: The derivatives along this direction.
        """
        masks = list(self._parts())
        with np.errstate(all="ignore"):
            whole = [np.abs(tangent) for tangent in self._tangents(direction, numerical)]
            parts = [whole] if len(masks) == 1 else [self._claimed(direction, mask, numerical) for mask in masks]
            totals = [np.asarray(sum(sizes)) for sizes in zip(*parts, strict=True)]
            if not all(np.isfinite(total).all() for total in totals):
                return None
            spread = spread_for(_tolerance(whole))
            heaviest = max((float(np.max(total, initial=0.0)) for total in totals), default=0.0)
            rows = [(total < heaviest / spread) for total in totals]
            everything = [np.logical_or.reduce(same) for same in zip(*masks, strict=True)]
            found = self._confirmed(everything, rows, totals, totals)
            for mask, sizes in self._light_parts(masks, parts, totals, spread):
                if found is not None:
                    return found
                where = [size < total / spread for size, total in zip(sizes, totals, strict=True)]
                found = self._confirmed(mask, where, sizes, totals)
        return found

    def _light_parts(
        self, masks: Sequence[Masks], parts: Sequence[Sequence[Array]], totals: Sequence[Array], spread: float
    ) -> Iterator[tuple[Masks, Sequence[Array]]]:
        """Yield parts that contribute little to a tangent. Parts that contribute nothing are merged into one part."""
        idle: Masks | None = None
        for mask, sizes in zip(masks, parts, strict=True):
            if not any(size.any() for size in sizes):
                idle = mask if idle is None else [a | b for a, b in zip(idle, mask, strict=True)]
            elif any(np.any(size < total / spread) for size, total in zip(sizes, totals, strict=True)):
                yield mask, sizes
        if idle is not None and any(total.any() for total in totals):
            yield idle, [np.zeros(total.shape) for total in totals]

    def _confirmed(
        self, mask: Masks, where: Masks, sizes: Sequence[Array], totals: Sequence[Array]
    ) -> TangentMismatch | None:
        """Return an element that is wrong along each of several directions in a mask, or None."""
        if not any(flags.any() for flags in where):
            return None
        generator = generator_of(self.point, 5)
        wrong = where
        for _ in range(_N_AGREEING):
            direction = random_moves(self.point, mask, generator)
            numerical = slopes(self.function, self.point, direction)
            wrong, errors, tangents = self._wrong(direction, numerical, wrong, sizes, totals)
            if not any(flags.any() for flags in wrong):
                return None
        moves = [random_moves(self.point, mask, generator) for _ in range(_N_CONFIRMING)]
        counts = confirmed(self.function, self.point, direction, numerical, others=moves).counts
        for number, (flags, counted) in enumerate(zip(wrong, counts, strict=True)):
            if np.any(flags & counted):
                index = first_of(flags & counted)
                values = (numerical.values, errors, tangents)
                expected, error, got = (side[number][index] for side in values)
                return TangentMismatch(number, index, expected, float(error), got, direction)
        return None

    def _wrong(
        self, direction: Vectors, numerical: Slopes, where: Masks, sizes: Sequence[Array], totals: Sequence[Array]
    ) -> tuple[Masks, list[Array], list[Array]]:
        """Return where tangents are wrong, their errors, and the tangents by the rule."""
        tangents = self._tangents(direction, numerical)
        tolerance = _tolerance(tangents)

        def beyond(where: Masks, errors: Sequence[Array], rounding: float) -> Masks:
            found = []
            for number, (values, got) in enumerate(zip(numerical.values, tangents, strict=True)):
                scale = np.abs(values) + np.maximum(sizes[number], np.abs(got))
                allowed = tolerance * scale + rounding * totals[number] + errors[number] + SUBNORMAL
                found.append(where[number] & ~(np.abs(got - values) <= allowed))
            return found

        counts = [counted & flags for counted, flags in zip(numerical.counts, where, strict=True)]
        wrong = beyond(counts, numerical.errors, 0.0)
        if not any(flags.any() for flags in wrong):
            return wrong, numerical.errors, tangents
        noise = Noise.directional_derivative(self.function, self.point, direction)
        errors, rounding = noise.errors_of(numerical), noise.of_rule([flags * 1.0 for flags in wrong], tangents)
        return beyond(wrong, errors, rounding), errors, tangents

    def _tangents(self, direction: Vectors, numerical: Slopes) -> list[Array]:
        tangents = zip(self.push(direction), numerical.values, strict=True)
        return [np.zeros(values.shape) if tangent is None else tangent for tangent, values in tangents]

    def _claimed(self, direction: Vectors, mask: Masks, numerical: Slopes) -> list[Array]:
        """Return the magnitudes of the contributions of a part of the direction to every tangent, by the rule."""
        part = [
            None if vector is None or not own.any() else np.where(own, vector, 0)
            for vector, own in zip(direction, mask, strict=True)
        ]
        return [np.abs(tangent) for tangent in self._tangents(part, numerical)]

    def _parts(self) -> Iterator[Masks]:
        """Yield one core element of one input at a time, in all loop elements. Many elements are grouped."""
        elements = [
            (number, index)
            for number, (values, rank) in enumerate(zip(self.point, self.function.input_ranks, strict=True))
            if is_differentiable(values.dtype) and values.size and number not in self.undefined
            for index in np.ndindex(values.shape[values.ndim - rank :])
        ]
        stride = math.ceil(len(elements) / _MOST_PARTS)
        for start in range(0, len(elements), max(stride, 1)):
            masks = [np.zeros(values.shape, bool) for values in self.point]
            for number, index in elements[start : start + stride]:
                element: Any = (..., *index)
                masks[number][element] = True
            yield masks


def _tolerance(tangents: Sequence[Array]) -> float:
    return max((tolerance_of(tangent) for tangent in tangents), default=1e-6)
