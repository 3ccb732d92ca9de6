"""Light elements: compare derivatives that are hidden by larger derivatives when all elements move at once.

Outputs that change little get separate cotangents, and inputs with a small claimed derivative are moved separately.
Rounding of the function's values limits what these small moves can show. Differences within rounding are not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tfpyop._numdiff.directional import Function
from tfpyop._spec.coercion import Array
from tfpyop.testing._comparisons import Vectors, absolute, distance, error_of, largest, tolerance_of
from tfpyop.testing._derivatives import Slopes, confirmed, generator_of, inner, random_moves, slopes
from tfpyop.testing._diagnosis import likely_causes
from tfpyop.testing._magnitude_groups import Masks, magnitude_groups, reached_elements, spread_for
from tfpyop.testing._value_noise import Noise

_N_AGREEING = 3
"""Number of directions along which a rule must be wrong."""
_N_CONFIRMING = 2


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A wrong derivative along a direction: the derivative by differences and the derivative by the rule.

    Attributes:
      expected: The derivative of the weighted outputs along the direction, by differences.
      error: The error of `expected`.
      got: The derivative by the rule.
      weights: The cotangents of the outputs.
      direction: The direction.
    """

    expected: float
    error: float
    got: float
    weights: Vectors
    direction: Vectors

    @property
    def place(self) -> str:
        """The place where the rule is wrong, as the end of a sentence."""
        indices = [index for vector in self.direction if vector is not None for index in np.argwhere(vector)]
        if len(indices) == 1:
            return f"at element {list(map(int, indices[0]))}"
        return "along a random direction in which derivatives are small"

    @property
    def causes(self) -> list[str]:
        """The likely causes of the mismatch, the most likely cause first."""
        return likely_causes(np.array(self.got), np.array(self.expected))


@dataclass(frozen=True, slots=True)
class LightElements:
    """Compare a rule with differences where derivatives are much smaller than other derivatives.

    Attributes:
      function: The function.
      point: The point.
      direction: A direction along which the rule is correct as a whole. None for inputs that do not move.
      pull: The rule, as a function from cotangents of the outputs to cotangents of the inputs.
      noise: Precision lost by cancellation inside a rule, relative to the largest cotangents and moves.
    """

    function: Function
    point: Sequence[Array]
    direction: Vectors
    pull: Callable[[Vectors], Vectors]
    noise: float

    def mismatch(self, numerical: Slopes, weights: Vectors, gradients: Vectors) -> Mismatch | None:
        """Return a wrong derivative, although the sum of all derivatives is correct, or None.

        Args:
          numerical: The derivatives along the direction.
          weights: The cotangents of the outputs, zero where the derivatives do not count.
          gradients: The results of the rule for these cotangents.
        """
        with np.errstate(all="ignore"):
            rows = list(self._row_groups(numerical, weights, gradients))
            for number, group in enumerate(rows):
                if len(rows) > 1:
                    gradients = self.pull(group)
                    if not _are_finite(gradients):
                        continue
                    if number and not self._compare(self.direction, numerical, group, gradients).agrees:
                        everything = self._all_moved()
                        found = self._confirmed(everything, group, gradients)
                        if found is not None:
                            return self._located(everything, found, gradients)
                found = self._mismatch_of_elements(group, gradients)
                if found is not None:
                    return found
        return None

    def _row_groups(self, numerical: Slopes, weights: Vectors, gradients: Vectors) -> Iterator[Vectors]:
        """Yield the cotangents of outputs that change by similar amounts, with zeros for all other outputs."""
        sizes = [
            np.zeros(values.shape) if weight is None else np.abs(weight * values)
            for weight, values in zip(weights, numerical.values, strict=True)
        ]
        wanted = [
            np.zeros(values.shape, bool) if weight is None else weight != 0
            for weight, values in zip(weights, numerical.values, strict=True)
        ]
        for group in magnitude_groups(sizes, wanted, self._spread(weights, gradients)):
            yield _masked(weights, group)

    def _mismatch_of_elements(self, weights: Vectors, gradients: Vectors) -> Mismatch | None:
        """Compare along directions that move only elements with a small claimed derivative."""
        sizes = [
            np.zeros(values.shape) if vector is None else _size_of(gradient, vector)
            for values, vector, gradient in zip(self.point, self.direction, gradients, strict=True)
        ]
        reached = reached_elements(self.function, self.point, weights)
        wanted = [
            np.zeros(values.shape, bool) if vector is None else mask & (vector != 0)
            for values, vector, mask in zip(self.point, self.direction, reached, strict=True)
        ]
        groups = list(magnitude_groups(sizes, wanted, self._spread(weights, gradients)))
        heaviest = max((float(np.max(size, where=np.isfinite(size), initial=0.0)) for size in sizes), default=0.0)
        for group in groups[1:]:
            found = self._confirmed(group, weights, gradients, heaviest=heaviest)
            if found is not None:
                return self._located(group, found, gradients, heaviest=heaviest)
        return None

    def _confirmed(
        self, group: Masks, weights: Vectors, gradients: Vectors, *, heaviest: float = 0.0
    ) -> Mismatch | None:
        """Return a mismatch along a direction in a group, if there is a mismatch along each of several directions."""
        generator = generator_of(self.point, 4)
        for _ in range(_N_AGREEING):
            direction = random_moves(self.point, group, generator)
            numerical = slopes(self.function, self.point, direction)
            result = self._compare(direction, numerical, weights, gradients, heaviest=heaviest)
            if result.agrees:
                return None
        moves = [random_moves(self.point, group, generator) for _ in range(_N_CONFIRMING)]
        numerical = confirmed(self.function, self.point, direction, numerical, others=moves)
        result = self._compare(direction, numerical, weights, gradients, heaviest=heaviest)
        return None if result.agrees else result.mismatch

    def _located(self, group: Masks, found: Mismatch, gradients: Vectors, *, heaviest: float = 0.0) -> Mismatch:
        """Return the mismatch for a single element if there is one, else the mismatch that was found."""
        for number, mask in enumerate(group):
            for index in np.argwhere(mask):
                single = [np.zeros_like(other) for other in group]
                single[number][tuple(index)] = True
                of_one = self._confirmed(single, found.weights, gradients, heaviest=heaviest)
                if of_one is not None:
                    return of_one
        return found

    def _compare(
        self,
        direction: Vectors,
        numerical: Slopes,
        weights: Vectors,
        gradients: Vectors,
        *,
        heaviest: float = 0.0,
    ) -> _Comparison:
        weights = [
            None if weight is None else np.where(counts, weight, 0).astype(weight.dtype)
            for weight, counts in zip(weights, numerical.counts, strict=True)
        ]
        if not any(np.any(weight) for weight in weights if weight is not None):
            return _Comparison(True, None)
        if not all(counts.all() for counts in numerical.counts):
            gradients = self.pull(weights)
            if not _are_finite(gradients):
                return _Comparison(True, None)
        apart, scale = distance(numerical, weights, gradients, direction)
        tolerance = self._tolerance(weights, gradients) * scale
        if apart <= tolerance + error_of(numerical, weights):
            return _Comparison(True, None)
        noise = Noise.directional_derivative(self.function, self.point, direction)
        error = inner(absolute(weights), noise.errors_of(numerical))
        floor = self.noise * largest(weights) * largest(direction)
        floor += noise.of_rule(weights, gradients) * heaviest
        found = Mismatch(inner(weights, numerical.values), error, inner(gradients, direction), weights, direction)
        return _Comparison(bool(apart <= tolerance + error + floor), found)

    def _all_moved(self) -> Masks:
        return [
            np.full(values.shape, vector is not None) for values, vector in zip(self.point, self.direction, strict=True)
        ]

    def _tolerance(self, weights: Vectors, gradients: Vectors) -> float:
        moved = [gradient for gradient, vector in zip(gradients, self.direction, strict=True) if vector is not None]
        return max([tolerance_of(array) for array in [*moved, *weights] if array is not None], default=1e-6)

    def _spread(self, weights: Vectors, gradients: Vectors) -> float:
        return spread_for(self._tolerance(weights, gradients))


@dataclass(frozen=True, slots=True)
class _Comparison:
    """The verdict whether a rule agrees with differences, as far as they show it, and the mismatch if not."""

    agrees: bool
    mismatch: Mismatch | None


def _masked(weights: Vectors, masks: Masks) -> Vectors:
    return [
        None if weight is None else np.where(mask, weight, 0).astype(weight.dtype)
        for weight, mask in zip(weights, masks, strict=True)
    ]


def _size_of(gradient: Array | None, vector: Array) -> Array:
    return np.zeros(vector.shape) if gradient is None else np.abs(gradient * vector)


def _are_finite(gradients: Vectors) -> bool:
    return all(np.isfinite(gradient).all() for gradient in gradients if gradient is not None)
