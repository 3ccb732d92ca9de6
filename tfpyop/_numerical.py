"""Derivatives by central differences at shrinking steps, extrapolated, and checked at a much smaller step.

Source: C. J. F. Ridders, "Accurate computation of F'(x) and F'(x) F''(x)", Advances in Engineering Software 4 (1982);
the scale of a function is searched for, and the check at another scale added, because nobody says where it changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from tfpyop._coercion import Array
from tfpyop._extrapolation import Extrapolation
from tfpyop._slopes import CREDIBLE, Derivative, Function, over_core
from tfpyop.errors import RegistrationError, annotate

MOST_STEPS = 40
_RATIO = 0.53
"""Each step to the one before: no simple fraction, so that no period fits all steps."""
_CHECK_RATIO = _RATIO**10
"""The step of the check to the smallest so far."""
_BITS = 12
"""How many bits steps have, so that a number plus a step is mostly exact."""


@dataclass(frozen=True, slots=True)
class Numerical:
    """Central differences at shrinking steps, extrapolated to step zero by Ridders' method.

    Args:
      step: The largest step, relative to the magnitude of what is moved.
      order: How many steps are tried at least, each about half of the one before and at the cost of two evaluations.
      smallest: The magnitude that inputs nearer to zero count as.
    """

    step: float = 0.125
    order: int = 8
    smallest: float = 1e-2

    def __post_init__(self) -> None:
        require_positive("numerical", "step", self.step)
        require_positive("numerical", "smallest", self.smallest)
        is_whole = isinstance(self.order, Integral) and not isinstance(self.order, bool)
        if not is_whole or not 1 <= self.order <= MOST_STEPS:
            raise RegistrationError(
                "numerical(order=...) is not a number of steps.",
                expected=f"a whole number from 1 to {MOST_STEPS}",
                got=repr(self.order),
            )

    def along(self, function: Function, point: Sequence[Array], direction: Sequence[Array | None]) -> Derivative:
        """The derivative of every output along a direction, each number from the steps that suit it best.

        Raises:
          Exception: What the function raised at the point itself; or at every step, with a note.
        """
        line = _Line(function, point, direction)
        with np.errstate(all="ignore"):  # the largest steps may leave the domain; the smaller ones count then
            result = self._search(line, self.step / _relative_speed(line, self.smallest))
            if not _is_credible(result) and _is_near_zero(line, self.smallest):
                result = _joined(result, self._search(line, self.step / _relative_speed(line, None)))
        if line.refusal is not None and any(np.any(np.isinf(errors)) for errors in result.errors):
            _explain(line.refusal)
            raise line.refusal
        return result

    def check(self, function: Function, point: Sequence[Array], direction: Sequence[Array | None]) -> None:
        """Nothing: every derivative is checked as it is made."""

    def difference(
        self, function: Function, point: Sequence[Array], direction: Sequence[Array | None]
    ) -> Sequence[Array]:
        """One central difference of every output, at a small step: two evaluations, and nothing known of its error."""
        line = _Line(function, point, direction)
        with np.errstate(all="ignore"):
            step = 1e-5 / _relative_speed(line, None)
            pairs = zip(*line.around(step), function.output_ranks, strict=True)
            return [(after - before) / (2 * over_core(step, rank)) for after, before, rank in pairs]

    def _search(self, line: _Line, first: Array) -> Derivative:
        """Try ever smaller steps until every number is precise and checked, or no step is left."""
        outputs: list[Extrapolation] = []
        ranks = line.function.output_ranks
        for tried in range(1, MOST_STEPS + 1):
            step = _rounded(first * _RATIO ** (tried - 1))
            ahead, back = line.around(step)
            outputs = outputs or [
                Extrapolation(rank, first, like=like, order=self.order) for rank, like in zip(ranks, ahead, strict=True)
            ]
            for output, after, before in zip(outputs, ahead, back, strict=True):
                output.add(after, before, step)
            if tried < self.order:
                continue
            if tried == self.order and any(output.has_gaps() for output in outputs):
                for output, here in zip(outputs, line.here(), strict=True):
                    output.leave(~np.isfinite(here))
            if any(np.any(output.precise()) for output in outputs):
                finer = _rounded(np.maximum(step * _CHECK_RATIO, first * _RATIO**MOST_STEPS))
                for output, after, before in zip(outputs, *line.around(finer), strict=True):
                    output.check(after, before, finer)
            if all(output.is_settled() for output in outputs):
                break
        results = [output.result() for output in outputs]
        return Derivative(*([result[part] for result in results] for part in range(3)))


class _Line:
    """A function along a direction from a point. Where it raises off the point, it counts as not a number."""

    def __init__(self, function: Function, point: Sequence[Array], direction: Sequence[Array | None]) -> None:
        self.function, self.point, self.direction = function, point, direction
        self.refusal: Exception | None = None
        self._here: Sequence[Array] | None = None

    def here(self) -> Sequence[Array]:
        """The outputs at the point."""
        if self._here is None:
            self._here = self.function.call(self.point)
        return self._here

    def around(self, step: Array) -> tuple[Sequence[Array], Sequence[Array]]:
        """The outputs a step ahead and a step back."""
        return self._at(step), self._at(-step)

    def _at(self, step: Array) -> Sequence[Array]:
        moved = [
            values if vector is None else values + over_core(step, rank) * vector
            for values, vector, rank in zip(self.point, self.direction, self.function.input_ranks, strict=True)
        ]
        try:
            return self.function.call(moved)
        except Exception as error:
            here = self.here()  # raises if it is not the displacement that the function refuses
            self.refusal = error
            return [np.full(values.shape, np.nan) for values in here]


def numerical(*, step: float = 0.125, order: int = 8, smallest: float = 1e-2) -> Numerical:
    """Derivatives by central differences in float64, for `differentiable_op(..., grad=tfpyop.numerical(...))`.

    Use it for functions without a rule; it is opt-in and never silent. A smooth op that works element by element costs
    `2 * order + 2` evaluations for each input, the last two as a check at a much smaller step; core dimensions multiply
    that by their number of elements. Where the result is not precise or fails the check, smaller steps are tried, up to
    150 evaluations; where none is credible, the gradient raises GradientError.

    Args:
      step: The largest step, relative to the magnitude of what is moved. Larger ones help noisy functions, smaller
        ones those that change fast or end nearby.
      order: How many steps are tried at least, each about half of the one before. More cost more and help where
        extrapolation converges slowly.
      smallest: The magnitude that inputs nearer to zero count as, in their units, because zero has none.

    Returns:
      A value for `grad=`. Typical relative errors of smooth functions are below 1e-10.

    Raises:
      RegistrationError: An option is not a positive finite number, or `order` is not a whole number from 1 to 40.

    Source: Ridders' method, Advances in Engineering Software 4 (1982).

    >>> from tfpyop import differentiable_op, numerical
    >>> op = differentiable_op(lambda x: x**3, signature="()->()", grad=numerical(order=6))
    """
    return Numerical(step, order, smallest)


def require_positive(maker: str, option: str, value: Any) -> None:
    """Raise RegistrationError unless an option is a positive finite number."""
    if isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf:
        return
    raise RegistrationError(
        f"{maker}({option}=...) is not a magnitude.", expected="a positive finite number", got=repr(value)
    )


def _relative_speed(line: _Line, smallest: float | None) -> Array:
    """How fast the direction moves the inputs relative to their magnitude: the fastest of each loop element.

    Without a smallest magnitude only zero has none, and counts as one.
    """
    speed: Array = np.zeros(())
    for values, vector, rank in zip(line.point, line.direction, line.function.input_ranks, strict=True):
        if vector is not None:
            sizes = np.abs(values)
            sizes = np.where(sizes == 0, 1.0, sizes) if smallest is None else np.maximum(sizes, smallest)
            speed = np.maximum(speed, (np.abs(vector) / sizes).max(axis=tuple(range(-rank, 0)), initial=0.0))
    return np.where(speed > 0, speed, 1.0)


def _is_near_zero(line: _Line, smallest: float) -> bool:
    """Whether some input that moves counts as larger than it is."""
    moved = zip(line.point, line.direction, strict=True)
    return any(
        np.any((vector != 0) & (values != 0) & (np.abs(values) < smallest))
        for values, vector in moved
        if vector is not None
    )


def _is_credible(result: Derivative) -> bool:
    return all(np.all(errors <= CREDIBLE * scales) for errors, scales in zip(result.errors, result.scales, strict=True))


def _joined(first: Derivative, second: Derivative) -> Derivative:
    """The first derivative where it is credible, the second elsewhere."""
    is_good = [errors <= CREDIBLE * scales for errors, scales in zip(first.errors, first.scales, strict=True)]
    parts = zip((first.values, first.errors, first.scales), (second.values, second.errors, second.scales), strict=True)
    return Derivative(*([*map(np.where, is_good, ours, theirs)] for ours, theirs in parts))


def _rounded(step: Array) -> Array:
    """A step cut to a few bits."""
    mantissa, exponent = np.frexp(step)
    return np.asarray(np.ldexp(np.rint(mantissa * 2.0**_BITS), exponent - _BITS))


def _explain(error: Exception) -> None:
    annotate(
        error,
        "Raised at a point displaced for a numerical derivative; the function was not defined at any step tried. "
        "Choose a smaller one with grad=tfpyop.numerical(step=...), or write a rule.",
    )
