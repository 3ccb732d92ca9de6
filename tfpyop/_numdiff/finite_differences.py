"""Compute derivatives by central differences at shrinking steps, extrapolated, and checked at a much smaller step.

Source: C. J. F. Ridders, "Accurate computation of F'(x) and F'(x) F''(x)", Advances in Engineering Software 4 (1982).
The search for the scale of a function and the check at another scale are additions, because the user does not specify
the scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from tfpyop._numdiff.coloring import Sparsity
from tfpyop._numdiff.directional import CREDIBLE, SMALLEST, Derivative, Function, over_core
from tfpyop._numdiff.fine_structure import contradicted
from tfpyop._numdiff.line import LineFunction, relative_speed
from tfpyop._numdiff.low_steps import are_beside_low_steps, are_jumps, steps_between_narrow_numbers
from tfpyop._numdiff.ridders import Ambiguities, RiddersTable, Tiniest
from tfpyop._numdiff.single_precision import HALF_DIGITS, SINGLE_DIGITS, casts_to_single, scatters
from tfpyop._spec.coercion import Array
from tfpyop.errors import RegistrationError, annotate

MOST_STEPS = 40
_RATIO = 0.53
"""The ratio of each step to the previous step. It is not a simple fraction, so that no period fits all steps."""
_CHECK_AFTER = 18
_CHECK_RATIO = _RATIO**_CHECK_AFTER
"""The ratio of the check's step to the smallest step so far."""
_BITS = 12
"""The number of significant bits of steps, so that a number plus a step is mostly exact."""
_NEAREST = 2.0**-4
"""The step of a check that does not cross zero, relative to the magnitude of the inputs that vary."""
_LEAST = 1e-290
"""The minimum step. Shorter steps are not precise."""
_AGREED = 0.1
"""The maximum relative difference of slopes at the finest steps that agree."""
_TINIEST = (2.0**-42, 2.0**-43, 2.0**-44, 2.0**-45)
"""The ratios of the finest steps to the largest step. Slopes that agree at these steps are not noise."""


@dataclass(frozen=True, slots=True)
class Numerical:
    """Compute central differences at shrinking steps, extrapolated to step zero by Ridders' method.

    Args:
      step: The largest step, relative to the magnitude of the inputs that vary.
      order: The minimum number of steps. Each step is about half of the previous step and costs two evaluations.
      smallest: The magnitude that is assumed for inputs closer to zero.
      sparsity: The sparsity pattern, if there is one.
    """

    step: float = 0.125
    order: int = 8
    smallest: float = SMALLEST
    sparsity: Sparsity | None = None

    def __post_init__(self) -> None:
        require_positive("numerical", "step", self.step)
        require_positive("numerical", "smallest", self.smallest)
        is_whole = isinstance(self.order, Integral) and not isinstance(self.order, bool)
        if not is_whole or not 1 <= self.order <= MOST_STEPS:
            raise RegistrationError(
                "numerical(order=...) is invalid.",
                expected=f"a whole number from 1 to {MOST_STEPS}",
                got=repr(self.order),
            )

    def directional_derivative(
        self, function: Function, point: Sequence[Array], direction: Sequence[Array | None]
    ) -> Derivative:
        """Return the derivative of every output along a direction. Each element uses the steps that suit it best.

        Raises:
          Exception: The exception of the function at the point itself, or at every step. The latter has a note.
        """
        line = LineFunction(function, point, direction)
        with np.errstate(all="ignore"):  # the largest steps may leave the domain
            widest = self.step / relative_speed(line, self.smallest)
            result, is_final = self._search(line, widest, widest)
            if not _is_credible(result) and _is_near_zero(line, self.smallest):
                closer, _ = self._search(line, self.step / relative_speed(line, None), widest)
                result = _joined(result, closer, is_final)
        if line.refusal is not None and any(np.any(np.isinf(errors)) for errors in result.errors):
            _explain(line.refusal)
            raise line.refusal
        return result

    def _search(self, line: LineFunction, first: Array, widest: Array) -> tuple[Derivative, list[Array]]:
        """Try ever smaller steps until every element is precise and checked, or no step is left."""
        outputs: list[RiddersTable] = []
        ranks, here = line.function.output_ranks, line.function.values
        for tried in range(1, MOST_STEPS + 1):
            step = rounded_step(first * _RATIO ** (tried - 1))
            ahead, back = line.around(step)
            outputs = outputs or [
                RiddersTable(rank, first, widest=widest, like=like, order=self.order)
                for rank, like in zip(ranks, ahead, strict=True)
            ]
            for output, after, before in zip(outputs, ahead, back, strict=True):
                output.add(after, before, step)
            if tried == 1 and here is not None:
                _leave_undefined(outputs, here)
            if tried < self.order:
                continue
            if any(np.any(output.precise()) for output in outputs):
                finer = rounded_step(np.maximum(step * _CHECK_RATIO, first * _RATIO**MOST_STEPS))
                ahead, back = line.around(finer)
                meets = _meets(outputs, ahead, back, finer, line)
                limits = [None] * len(outputs) if tried <= MOST_STEPS - _CHECK_AFTER else line.here()
                for output, after, before, met, limit in zip(outputs, ahead, back, meets, limits, strict=True):
                    output.check(after, before, finer, meets=met, here=limit)
            if tried == self.order and here is None and any(output.has_gaps() for output in outputs):
                _leave_undefined(outputs, line.here())
            if all(output.is_done() for output in outputs):
                break
        return _judged(line, outputs, first, widest, self)


def _leave_undefined(outputs: Sequence[RiddersTable], here: Sequence[Array]) -> None:
    for output, values in zip(outputs, here, strict=True):
        output.leave(~np.isfinite(values))


def _meets(
    outputs: Sequence[RiddersTable], ahead: Sequence[Array], back: Sequence[Array], step: Array, line: LineFunction
) -> list[Array | None]:
    """Return where the mean of both sides agrees with the value at the point; None if this is unknown.

    The known values may come from a call in single precision and be inaccurate. Then the function is called once more.
    """

    def meet(here: Sequence[Array]) -> list[Array | None]:
        sides = zip(outputs, ahead, back, here, strict=True)
        return [output.meets(after, before, step, values) for output, after, before, values in sides]

    if line.function.values is None:
        return [None] * len(outputs)
    met = meet(line.function.values)
    return met if all(np.all(where) for where in met) else meet(line.here())


def _judged(
    line: LineFunction, outputs: Sequence[RiddersTable], first: Array, widest: Array, method: Numerical
) -> tuple[Derivative, list[Array]]:
    """Choose between the slopes of different scales, and reject elements whose slope the values do not determine.

    Also return where the result is final, so that no other search must decide.
    """
    here: Sequence[Array | None] = [None] * len(outputs)
    if not all(np.all(output.settled) for output in outputs):
        here = line.here()
        _leave_undefined(outputs, line.here())
    ambiguities = [output.ambiguities(values) for output, values in zip(outputs, here, strict=True)]
    is_single = _rounds(line, ambiguities, first)
    ambiguities = _without_flat_sides(line, outputs, ambiguities)
    for output, doubt, single in zip(outputs, ambiguities, is_single, strict=True):
        output.decide(doubt, single)
    if any(output.has_noise() for output in outputs):
        for output, tiniest in zip(outputs, _tiniest_slopes(line, first), strict=True):
            output.refuse_noise(tiniest)
    nearest = _NEAREST / relative_speed(line, None)
    nearest = np.where(nearest > _LEAST, nearest, first)
    if np.any(nearest < first * _RATIO ** (method.order - 1) * _CHECK_RATIO):
        step = rounded_step(nearest)
        for output, after, before in zip(outputs, *line.around(step), strict=True):
            output.check_nearest(after, before, step)
    unresolved = [output.refuse_unresolved() for output in outputs]
    for output in outputs:
        output.distrust_finer_values()
    _refuse_low_steps(line, outputs)
    claims = [output.claim() for output in outputs]
    refuted = contradicted(line, claims, first / method.step)
    low = are_beside_low_steps(line, claims, method.step / relative_speed(line, None), widest)
    refuted = [where | also for where, also in zip(refuted, low, strict=True)]
    for output, where in zip(outputs, refuted, strict=True):
        output.refuse(where)
    values, errors, scales = map(list, zip(*[output.result() for output in outputs], strict=True))
    final = [
        (doubt.rounded & ~single & (not output.is_narrow)) | where
        for output, doubt, single, where in zip(outputs, ambiguities, is_single, unresolved, strict=True)
    ]
    return Derivative(values, errors, scales, refuted), final


def _without_flat_sides(
    line: LineFunction, outputs: Sequence[RiddersTable], ambiguities: list[Ambiguities]
) -> list[Ambiguities]:
    """Settle elements as zero if values around the point are equal up to a kink. Rounding would make them jump.

    Return what is still ambiguous.
    """
    pairs = zip(outputs, ambiguities, strict=True)
    widths = [np.where(doubt.rounded, output.width_up_to_kink(), 0.0) for output, doubt in pairs]
    if not any(map(np.any, widths)):
        return ambiguities
    jumps = are_jumps(line, [np.zeros(width.shape) for width in widths], widths, _RATIO)
    is_flat = [(width > 0) & ~jump for width, jump in zip(widths, jumps, strict=True)]
    for output, where in zip(outputs, is_flat, strict=True):
        output.flatten(where)
    return [replace(doubt, rounded=doubt.rounded & ~where) for doubt, where in zip(ambiguities, is_flat, strict=True)]


def _refuse_low_steps(line: LineFunction, outputs: Sequence[RiddersTable]) -> None:
    """Discard slopes between steps that are low enough to be due to rounding inside of the function."""
    steps = [output.low_steps() for output in outputs]
    if any(map(np.any, steps)):
        jumps = are_jumps(line, [output.claim().slopes for output in outputs], steps, _RATIO)
        for output, where in zip(outputs, jumps, strict=True):
            output.refuse(where)
    for digits in (SINGLE_DIGITS, HALF_DIGITS):
        claims, rivals = [output.claim() for output in outputs], [output.rival() for output in outputs]
        for output, where in zip(outputs, steps_between_narrow_numbers(line, claims, rivals, digits), strict=True):
            output.refuse(where)


def _rounds(line: LineFunction, ambiguities: Sequence[Ambiguities], first: Array) -> list[Array]:
    """Return, for each output, where the doubtful elements belong to a function that rounds its values."""
    if not any(np.any(doubt.rounded) for doubt in ambiguities):
        return [np.zeros(doubt.rounded.shape, bool) for doubt in ambiguities]
    scattered = scatters(line, [(doubt.rounded, doubt.noise, doubt.spacing) for doubt in ambiguities])
    left = [doubt.rounded & doubt.explained & ~known for doubt, known in zip(ambiguities, scattered, strict=True)]
    if not any(np.any(which) for which in left):
        return scattered
    cast = casts_to_single(line, first)
    return [known | (which & single) for known, which, single in zip(scattered, left, cast, strict=True)]


def numerical(*, step: float = 0.125, order: int = 8, smallest: float = SMALLEST, sparsity: Any = None) -> Numerical:
    """Return the central-difference method for `differentiable_op(..., grad=tfpyop.numerical(...))`.

    It works in float64. Use it for functions without a rule. tfpyop never uses it unless you request it. A smooth
    elementwise op costs `2 * order + 6` evaluations for each input; the last six are checks at much smaller steps. Core
    dimensions multiply this by their number of elements. Where the result is not precise or fails a check, smaller
    steps are tried, up to about 600 evaluations. Where no result is credible, the gradient raises GradientError.

    Args:
      step: The largest step, relative to the magnitude of the inputs that vary. Larger steps help with noisy functions.
        Smaller steps help with functions that change fast or whose domain ends nearby.
      order: The minimum number of steps. Each step is about half of the previous step. More steps cost more, and help
        where extrapolation converges slowly.
      smallest: The magnitude that is assumed for inputs closer to zero, in the units of the inputs, because a step
        cannot be relative to zero.
      sparsity: Which core elements of an output may depend on which core elements of an input, as a matrix that is not
        zero there: a `scipy.sparse` matrix or an array, with the core dimensions of the output by the core dimensions
        of the input, both flattened. For several inputs pass a tuple of matrices, for several outputs a tuple of these
        tuples. True stands for all elements, None for no element. If the sizes vary, pass a function of the sizes in
        the signature: `lambda n: scipy.sparse.eye(n)`. A gradient then costs one directional derivative for
        each color of the columns, and a few evaluations that verify the pattern. Default: each core
        element is varied separately.

    Returns:
      A value for `grad=`. Typical relative errors for smooth functions are below 1e-10.

    Raises:
      RegistrationError: An option is not a positive finite number, `order` is not a whole number from 1 to 40, or
        `sparsity` is not a pattern.

    Source: Ridders' method, Advances in Engineering Software 4 (1982).

    >>> from tfpyop import differentiable_op, numerical
    >>> op = differentiable_op(lambda x: x**3, signature="()->()", grad=numerical(order=6))
    """
    return Numerical(step, order, smallest, None if sparsity is None else Sparsity(sparsity, "numerical"))


def require_positive(maker: str, option: str, value: Any) -> None:
    """Raise RegistrationError unless an option is a positive finite number."""
    if isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf:
        return
    raise RegistrationError(
        f"{maker}({option}=...) is not a positive finite number.", expected="a positive finite number", got=repr(value)
    )


def _is_near_zero(line: LineFunction, smallest: float) -> bool:
    """Return whether an input that varies has a smaller magnitude than the assumed minimum."""
    moved = zip(line.point, line.direction, strict=True)
    return any(
        np.any((vector != 0) & (values != 0) & (np.abs(values) < smallest))
        for values, vector in moved
        if vector is not None
    )


def _is_credible(result: Derivative) -> bool:
    return all(np.all(errors <= CREDIBLE * scales) for errors, scales in zip(result.errors, result.scales, strict=True))


def _joined(first: Derivative, second: Derivative, is_final: Sequence[Array]) -> Derivative:
    """Return the first derivative where it is credible or final, and the second derivative elsewhere."""
    errors = zip(first.errors, first.scales, is_final, strict=True)
    is_good = [(error <= CREDIBLE * scale) | final for error, scale, final in errors]
    return Derivative(
        [*map(np.where, is_good, first.values, second.values)],
        [*map(np.where, is_good, first.errors, second.errors)],
        [*map(np.where, is_good, first.scales, second.scales)],
        [*map(np.where, is_good, first.contradicted, second.contradicted)],
    )


def rounded_step(step: Array) -> Array:
    """Return a step rounded to a few significant bits."""
    mantissa, exponent = np.frexp(step)
    return np.asarray(np.ldexp(np.rint(mantissa * 2.0**_BITS), exponent - _BITS))


def _explain(error: Exception) -> None:
    annotate(
        error,
        "Raised at a point that is displaced for a numerical derivative. The function raised at every step that was "
        "tried. One element that raises there makes the call raise for all elements: return NaN for such elements "
        "instead of raising, choose a smaller step with grad=tfpyop.numerical(step=...), or write a rule.",
    )


def _tiniest_slopes(line: LineFunction, first: Array) -> list[Tiniest]:
    """Return, for each output, the slopes at the finest steps of double precision, and where these steps agree."""
    found = []
    sides = [(step, line.around(step)) for step in (rounded_step(first * ratio) for ratio in _TINIEST)]
    for number, rank in enumerate(line.function.output_ranks):
        gaps = np.array([ahead[number] - back[number] for _, (ahead, back) in sides])
        slopes = np.array([gap / (2 * over_core(step, rank)) for gap, (step, _) in zip(gaps, sides, strict=True)])
        spread = np.max(np.abs(slopes - slopes[0]), axis=0)
        agrees = np.all(gaps != 0, axis=0) & (spread <= _AGREED * np.abs(slopes[0]))
        found.append(Tiniest(slopes[0], agrees, np.all(gaps == 0, axis=0), over_core(sides[0][0], rank)))
    return found
