"""Derivatives by the complex step, for analytic functions that take complex input.

Source: W. Squire and G. Trapp, "Using complex variables to estimate derivatives of real functions", SIAM Review 40
(1998).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfpyop._coercion import Array
from tfpyop._numerical import Numerical, require_positive
from tfpyop._slopes import CREDIBLE, Derivative, Function, core_maximum
from tfpyop.errors import GradientError

_REMEDY = 'Use grad="numerical", or write a rule.'


@dataclass(frozen=True, slots=True)
class ComplexStep:
    """One evaluation at a tiny imaginary step: exact to rounding, for analytic functions that take complex input.

    Args:
      step: The step, relative to the direction.
    """

    step: float = 1e-30

    def __post_init__(self) -> None:
        require_positive("complex_step", "step", self.step)

    def along(self, function: Function, point: Sequence[Array], direction: Sequence[Array | None]) -> Derivative:
        """The derivative of every output along a direction."""
        if any(values.dtype.kind == "c" for values in point):
            raise GradientError(
                "the complex step cannot differentiate by an input that is complex already.", remedy=_REMEDY
            )
        lengths = [np.max(np.abs(vector), initial=0.0) for vector in direction if vector is not None]
        step = self.step / (max(lengths, default=0.0) or 1.0)
        moved = [
            values + 1j * step * (0.0 if vector is None else vector) if values.dtype.kind == "f" else values
            for values, vector in zip(point, direction, strict=True)
        ]
        try:
            outputs = function.call(moved)
        except TypeError as error:
            raise GradientError(
                f"the complex step calls the function with complex input, which it does not take: {error}",
                remedy=_REMEDY,
            ) from error
        for number, output in enumerate(outputs):
            if output.dtype.kind == "f":
                raise GradientError(
                    f"the complex step needs complex outputs for complex inputs, but output {number} is real.",
                    remedy=f"The function dropped the imaginary part: {_REMEDY[0].lower()}{_REMEDY[1:]}",
                )
        with np.errstate(all="ignore"):
            values = [output.imag / step for output in outputs]
        errors = [np.where(np.isfinite(value), np.finfo(np.float64).eps * np.abs(value), 0.0) for value in values]
        return Derivative(values, errors, [np.where(np.isfinite(value), np.abs(value), 0.0) for value in values])

    def check(self, function: Function, point: Sequence[Array], direction: Sequence[Array | None]) -> None:
        """Compare the derivative along one direction with a central difference, at the cost of three evaluations.

        Where they differ, a numerical derivative decides, and if that is not credible, nobody does.

        Raises:
          GradientError: The function is not analytic.
        """
        found = self.along(function, point, direction).values
        try:
            rough = Numerical().difference(function, point, direction)
            if not any(map(_differs, found, rough, function.output_ranks)):
                return
            trusted = Numerical().along(function, point, direction)
        except Exception:  # the function may not take real float64, or a step off the point: then nothing is known
            return
        outputs = zip(found, trusted.values, trusted.errors, trusted.scales, function.output_ranks, strict=True)
        for number, (by_step, value, error, scale, rank) in enumerate(outputs):
            is_wrong = _differs(by_step, value, rank) & (error <= 0.1 * CREDIBLE * scale)
            with np.errstate(all="ignore"):
                is_wrong &= np.abs(by_step - value) > CREDIBLE * scale
            if np.any(is_wrong):
                index = tuple(np.argwhere(is_wrong)[0])
                raise GradientError(
                    f"the complex step gives a wrong derivative of output {number}: the function is not analytic.",
                    expected=f"{value[index]:.6g} along a test direction, by central differences",
                    got=f"{by_step[index]:.6g} by the complex step",
                    remedy=f"Functions such as conj, abs, real and vdot have no complex derivative. {_REMEDY}",
                )


def complex_step(*, step: float = 1e-30) -> ComplexStep:
    """Derivatives by one evaluation at a tiny imaginary step, for `differentiable_op(..., grad=tfpyop.complex_step())`.

    Exact to rounding, for functions that are analytic and take complex input; others raise GradientError. The first
    derivative of an op adds three evaluations that compare one direction with a central difference.

    Args:
      step: The imaginary step, relative to the direction. It must be tiny beside the inputs and the scale on which the
        function changes; nothing cancels, so that only underflow limits it below.

    Returns:
      A value for `grad=`.

    Raises:
      RegistrationError: The step is not a positive finite number.

    Source: W. Squire and G. Trapp, SIAM Review 40 (1998).

    >>> from tfpyop import complex_step, differentiable_op
    >>> op = differentiable_op(lambda x: x**3, signature="()->()", grad=complex_step())
    """
    return ComplexStep(step)


def _differs(found: Array, expected: Array, rank: int) -> Array:
    """Where two derivatives clearly differ, or one is not a number, relative to the largest among the core elements."""
    with np.errstate(all="ignore"):
        scale = np.maximum(np.abs(found), np.abs(expected))
        tolerance = CREDIBLE * np.maximum(scale, 0.01 * core_maximum(scale, rank))
        return np.asarray(~(np.abs(found - expected) <= tolerance))
