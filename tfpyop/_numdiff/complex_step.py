"""Compute derivatives with the complex step, for analytic functions that accept complex inputs.

Source: W. Squire and G. Trapp, "Using complex variables to estimate derivatives of real functions", SIAM Review 40
(1998).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfpyop._numdiff.coloring import Sparsity
from tfpyop._numdiff.confirmation import DirectionalEstimate
from tfpyop._numdiff.directional import CREDIBLE, EPS, SMALLEST, Derivative, Function, over_core, precision_of
from tfpyop._numdiff.finite_differences import Numerical, require_positive, rounded_step
from tfpyop._numdiff.line import LineFunction, relative_speed
from tfpyop._numdiff.low_steps import N_MIDPOINTS
from tfpyop._numdiff.single_precision import SINGLE_DIGITS, midpoints
from tfpyop._spec.coercion import Array
from tfpyop.errors import GradientError

_REMEDY = 'Use grad="numerical", or write a rule.'
_WIDEST = 2.0**-7
"""The largest step of the comparison, relative to the magnitude of the inputs that vary."""
_CONTINUOUS = 2.0**-9
"""The tolerance for the gap between values around the point and the value at it, relative to the slope tolerance."""
_TINY = 1e-3
"""The largest step relative to an input that is small enough: its square is the relative error."""
_SHRINK = 2.0**-4
_WIDE_STEPS = 1.0, 0.25
"""The first steps to try, relative to the largest step. They are wide compared with half precision."""
_FINER_STEPS = tuple(2.0 ** -(4 * number) for number in range(1, 10))
"""The steps to try next."""
_FINEST_STEPS = tuple(2.0 ** -(4 * number) for number in range(4))
"""The steps to try last, where inputs near zero have no minimum magnitude."""
_STEADY = 0.35
"""The maximum difference of slopes over wide steps, relative to their distance from the derivative, that agree."""
_PART = 0.25
"""The maximum distance of a mean slope from the derivative, relative to the promised error."""
_SINGLE = 2.0**-16
"""The step, relative to the largest step, below which steps are not wide compared with single-precision numbers."""


@dataclass(frozen=True, slots=True)
class ComplexStep:
    """Differentiate with one evaluation at a tiny imaginary step.

    The result is exact to rounding for analytic functions. The function must accept complex inputs.

    Args:
      step: The step, relative to the direction.
      sparsity: The sparsity pattern, if there is one.
    """

    step: float = 1e-30
    sparsity: Sparsity | None = None

    def __post_init__(self) -> None:
        require_positive("complex_step", "step", self.step)

    def directional_derivative(
        self, function: Function, point: Sequence[Array], direction: Sequence[Array | None]
    ) -> Derivative:
        """Return the derivative of every output along a direction.

        Raises:
          GradientError: An input is complex, or the function does not accept complex inputs or returns real outputs for
            them.
        """
        if any(values.dtype.kind == "c" for values in point):
            raise GradientError(
                "the complex step cannot differentiate with respect to a complex input.", remedy=_REMEDY
            )
        lengths = [np.max(np.abs(vector), initial=0.0) for vector in direction if vector is not None]
        step = self.step / (max(lengths, default=0.0) or 1.0)
        moved = [
            values + 1j * step * (0.0 if vector is None else vector) if values.dtype.kind == "f" else values
            for values, vector in zip(point, direction, strict=True)
        ]
        try:
            with np.errstate(all="ignore"):
                outputs = function.call(moved)
        except TypeError as error:
            raise GradientError(
                "the complex step calls the function with complex inputs, but the function does not accept them: "
                f"{error}",
                remedy=_REMEDY,
            ) from error
        for number, output in enumerate(outputs):
            if output.dtype.kind == "f":
                raise GradientError(
                    f"the complex step requires complex outputs for complex inputs, but output {number} is real.",
                    remedy=f"The function dropped the imaginary part: {_REMEDY[0].lower()}{_REMEDY[1:]}",
                )
        known = [output.real for output in outputs] if function.values is None else function.values
        with np.errstate(all="ignore"):
            values = [
                np.where(np.isfinite(here), output.imag / step, np.nan)
                for output, here in zip(outputs, known, strict=True)
            ]
        rounding = [float(np.finfo(output.dtype).eps) for output in outputs]
        sizes = [np.where(np.isfinite(value), np.abs(value), 0.0) for value in values]
        errors = [
            np.where(np.isfinite(here) & ~np.isfinite(value), np.inf, eps * size)
            for here, value, eps, size in zip(known, values, rounding, sizes, strict=True)
        ]
        return Derivative(values, errors, sizes)

    def confirm(self, function: Function, found: DirectionalEstimate) -> None:
        """Compare a derivative along one direction with the function's values. Each step costs three evaluations.

        For an analytic function, a central difference and a complex step of the same length have equal and opposite
        errors. If their mean does not confirm the derivative, shorter steps are tried, and finally a numerical
        derivative.

        Raises:
          GradientError: The function is not analytic, or no step can confirm that it is.
        """
        line = LineFunction(function, found.point, found.direction)
        doubtful = [~np.isnan(values) for values in found.values]  # NaN where the function is not finite
        with np.errstate(all="ignore"):
            undecided = _confirm_at(line, found, doubtful, _WIDE_STEPS, SMALLEST)
            doubtful, rivals = _without_rivals(line, found, undecided)
            doubtful = _confirm_at(line, found, doubtful, _FINER_STEPS, SMALLEST)
            doubtful = _confirm_at(line, found, doubtful, _FINEST_STEPS, None)
            doubtful = [doubt | rival for doubt, rival in zip(doubtful, rivals, strict=True)]
            if not any(map(np.any, doubtful)):
                return
            try:
                _require_agreement(function, found, doubtful)
            except GradientError as error:
                small = _smallest_moved(found)
                if self.step <= _TINY * small:
                    raise
                raise GradientError(
                    f"the complex step is not reliable at this point: the step {self.step:g} is not tiny compared with "
                    f"an input of {small:g}.",
                    remedy="Pass a step far below the inputs with grad=tfpyop.complex_step(step=...), use "
                    'grad="numerical", or write a rule.',
                ) from error


def _confirm_at(
    line: LineFunction,
    found: DirectionalEstimate,
    doubtful: list[Array],
    parts: Sequence[float],
    smallest: float | None,
) -> list[Array]:
    """Return where no difference over one of these steps, relative to the largest step, confirms a derivative."""
    widest = _WIDEST / relative_speed(line, smallest)
    for part in parts:
        if not any(map(np.any, doubtful)):
            break
        step = rounded_step(widest * part)
        confirmed = _confirmed(line, found, step)
        if part <= _SINGLE and any(map(np.any, confirmed)):
            smooth = _are_smooth_between_singles(line, found, step)
            confirmed = [sure & where for sure, where in zip(confirmed, smooth, strict=True)]
        doubtful = [doubt & ~sure for doubt, sure in zip(doubtful, confirmed, strict=True)]
    return doubtful


def _without_rivals(
    line: LineFunction, found: DirectionalEstimate, doubtful: list[Array]
) -> tuple[list[Array], list[Array]]:
    """Return where doubtful derivatives have no rival and where they have one: another slope over all wide steps.

    The function may drop a part of itself for complex numbers, and round this part. Finer steps do not see it. A slope
    so steep that the values do not follow it over a wide step has no rival: the function changes fast.
    """
    if not any(map(np.any, doubtful)):
        return doubtful, doubtful
    step = rounded_step(_WIDEST / relative_speed(line, SMALLEST) * _WIDE_STEPS[-1])
    slopes, ranks = [], line.function.output_ranks
    for length in (4 * step, 2 * step, step):
        sides = list(zip(*line.around(length), ranks, strict=True))
        slopes.append(
            found.project([(after - before) / (2 * over_core(length, rank)) for after, before, rank in sides])
        )
    largest = [np.maximum(np.abs(after), np.abs(before)) / over_core(step, rank) for after, before, rank in sides]
    numbers = zip(
        doubtful,
        found.values,
        found.scales,
        found.project_bounds(largest),
        zip(*slopes, strict=True),
        strict=True,
    )
    rivals = []
    for doubt, value, scale, possible, own in numbers:
        apart = np.abs(own[-1] - value)
        spread = np.max([np.abs(slope - own[-1]) for slope in own], axis=0)
        rivals.append(doubt & (spread <= _STEADY * apart) & (apart > CREDIBLE * scale) & (np.abs(value) <= possible))
    return [doubt & ~rival for doubt, rival in zip(doubtful, rivals, strict=True)], rivals


def complex_step(*, step: float = 1e-30, sparsity: Any = None) -> ComplexStep:
    """Return the complex-step method for `differentiable_op(..., grad=tfpyop.complex_step())`.

    It computes derivatives with one evaluation at a tiny imaginary step. They are exact to rounding for analytic
    functions that accept complex inputs. Other functions raise GradientError. At every new point, three more
    evaluations for each group of inputs of similar weight compare the derivative with the function's values.

    Args:
      step: The imaginary step, relative to the direction. It must be tiny compared with the inputs and with the scale
        on which the function changes. There is no cancellation, so only underflow limits the step.
      sparsity: The sparsity pattern of the Jacobian, as in `tfpyop.numerical`. A gradient then costs one
        evaluation for each color of the columns, and a few that verify the pattern.

    Returns:
      A value for `grad=`.

    Raises:
      RegistrationError: The step is not a positive finite number, or `sparsity` is not a pattern.

    Source: W. Squire and G. Trapp, SIAM Review 40 (1998).

    >>> from tfpyop import complex_step, differentiable_op
    >>> op = differentiable_op(lambda x: x**3, signature="()->()", grad=complex_step())
    """
    return ComplexStep(step, None if sparsity is None else Sparsity(sparsity, "complex_step"))


def _confirmed(line: LineFunction, found: DirectionalEstimate, step: Array) -> list[Array]:
    """Return where differences over one step confirm a derivative to the required precision."""
    sides = _Sides.of(line, step)
    numbers = zip(
        found.values,
        found.scales,
        found.project(sides.slopes),
        found.project_bounds(sides.roundings),
        found.project_bounds(sides.resolutions),
        found.project(sides.gaps),
        found.project_bounds(sides.gap_roundings),
        strict=True,
    )
    confirmed = []
    for value, scale, slope, rounding, resolution, gap, gap_rounding in numbers:
        tolerance = _PART * CREDIBLE * scale / found.n_parts  # the mean has half of an error of the complex step
        is_telling = rounding <= np.maximum(tolerance / 2, 1.1 * resolution)
        is_close = np.abs(slope - value) <= tolerance + rounding
        confirmed.append(is_telling & is_close & (np.abs(gap) <= _CONTINUOUS * tolerance + gap_rounding))
    return confirmed


def _are_smooth_between_singles(line: LineFunction, found: DirectionalEstimate, step: Array) -> list[Array]:
    """Return where the function has no steps between numbers of single precision, as if it cast a part of itself.

    The comparison with the values does not see such steps if its own steps are smaller.
    """
    step = rounded_step(step * _SHRINK)
    displaced = EPS / relative_speed(line, SMALLEST) / step
    function = Function(line.function.call, line.function.input_ranks, line.function.output_ranks)
    smooth = [np.ones(values.shape, bool) for values in found.values]
    for number in range(N_MIDPOINTS):
        point = [
            values if vector is None else midpoints(values, SINGLE_DIGITS, number)
            for values, vector in zip(line.point, line.direction, strict=True)
        ]
        sides = _Sides.of(LineFunction(function, point, line.direction), step)
        numbers = zip(
            found.scales,
            found.project(sides.slopes),
            found.project(sides.differences),
            found.project_bounds(sides.roundings),
            strict=True,
        )
        for where, (scale, slope, difference, rounding) in zip(smooth, numbers, strict=True):
            size = np.maximum(scale / found.n_parts, np.abs(slope))
            where &= np.abs(difference - slope) <= 2 * rounding + (CREDIBLE / 2 + displaced) * size
    return smooth


@dataclass(frozen=True, slots=True)
class _Sides:
    """Store estimates from the function's values around a point, for each output.

    Attributes:
      slopes: The means of a central difference and a complex step, in which their leading errors cancel.
      differences: The central differences.
      roundings: The possible rounding errors of the slopes.
      resolutions: The same rounding errors over the largest step.
      gaps: The differences between the values around the point and the value at the point, divided by the step; zero if
        the value at the point is unknown.
      gap_roundings: The possible rounding errors of the gaps.
    """

    slopes: list[Array]
    differences: list[Array]
    roundings: list[Array]
    resolutions: list[Array]
    gaps: list[Array]
    gap_roundings: list[Array]

    @classmethod
    def of(cls, line: LineFunction, step: Array) -> _Sides:
        """Evaluate the function at three points and return the estimates."""
        function, sides = line.function, cls([], [], [], [], [], [])
        speed = relative_speed(line, SMALLEST)
        widest = _WIDEST / speed
        ahead, back = line.around(step)
        turned = line.at(line.displaced(1j * step))
        known = [None] * len(ahead) if function.values is None else function.values
        for after, before, aside, here, rank in zip(ahead, back, turned, known, function.output_ranks, strict=True):
            length = over_core(step, rank)
            units = 4 * max(precision_of(after), precision_of(aside)) * np.maximum(np.abs(after), np.abs(before))
            sides.differences.append((after - before) / (2 * length))
            sides.slopes.append((sides.differences[-1] + aside.imag / length) / 2)
            sides.roundings.append(units / length)
            sides.resolutions.append(units / over_core(widest, rank))
            gap = np.zeros(after.shape) if here is None else (after + before) / 2 + aside.real - 2 * here
            own = 0.0 if here is None else 8 * precision_of(here) * np.abs(here)
            displaced = 8 * EPS * np.abs(sides.slopes[-1]) / over_core(speed, rank)
            sides.gaps.append(gap / length)
            sides.gap_roundings.append((2 * units + own + displaced) / length)
        return sides


def _require_agreement(function: Function, found: DirectionalEstimate, doubtful: Sequence[Array]) -> None:
    """Raise GradientError unless a credible numerical derivative agrees with the doubtful elements."""
    try:
        trusted = Numerical().directional_derivative(function, found.point, found.direction)
    except Exception as error:
        raise _unconfirmed(
            "the function raises near this point, so finite differences cannot confirm the derivative."
        ) from error
    numbers = zip(
        doubtful,
        found.values,
        found.project(trusted.values),
        found.project_bounds(trusted.errors),
        found.project_bounds(trusted.scales),
        strict=True,
    )
    for number, (doubt, value, slope, own_error, scale) in enumerate(numbers):
        is_credible = own_error <= CREDIBLE * scale
        failed = np.argwhere(doubt & ~(is_credible & (np.abs(value - slope) <= CREDIBLE * scale + own_error)))
        if not len(failed):
            continue
        index = tuple(failed[0])
        if not is_credible[index]:
            raise _unconfirmed(f"finite differences do not confirm the derivative {value[index] / found.length:.6g}.")
        n_outputs = len(function.output_ranks)
        where = f"output {number}" if len(found.values) == n_outputs else f"outputs 0 to {n_outputs - 1}"
        raise GradientError(
            f"the complex step computes a wrong derivative of {where}: the function is not analytic.",
            expected=f"{slope[index] / found.length:.6g} along a test direction, by central differences",
            got=f"{value[index] / found.length:.6g} by the complex step",
            remedy=f"Functions that use conj, abs, real or vdot have no complex derivative. {_REMEDY}",
        )


def _smallest_moved(found: DirectionalEstimate) -> float:
    """The smallest magnitude of an input that moves, other than zero; infinite if there is none."""
    sizes = [
        np.min(np.abs(values), where=(vector != 0) & (values != 0), initial=np.inf)
        for values, vector in zip(found.point, found.direction, strict=True)
        if vector is not None
    ]
    return float(min(sizes, default=np.inf))


def _unconfirmed(problem: str) -> GradientError:
    return GradientError(
        "the complex step is not reliable at this point: " + problem,
        remedy="The function may not be analytic, or may have no derivative at this point, such as sqrt at zero or "
        f"the edge of a domain. {_REMEDY}",
    )
