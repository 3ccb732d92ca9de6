"""Derivatives from values: central differences with extrapolation, and the complex step.

Works in float64 on functions of arrays whose loop dimensions broadcast and go through in one call, so that only core
elements are moved one after the other. Knows nothing of ops.

Sources: C. J. F. Ridders, "Accurate computation of F'(x) and F'(x) F''(x)", Advances in Engineering Software 4 (1982);
W. Squire and G. Trapp, "Using complex variables to estimate derivatives of real functions", SIAM Review 40 (1998).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from tfpyop._coercion import Array
from tfpyop.errors import GradientError, RegistrationError, nearest


@dataclass(frozen=True, slots=True)
class Function:
    """A function to differentiate, and how many core dimensions its inputs and outputs have."""

    call: Callable[[Sequence[Array]], Sequence[Array]]
    input_ranks: Sequence[int]
    output_ranks: Sequence[int]


@dataclass(frozen=True, slots=True)
class Derivative:
    """The derivative of every output along one direction, and the estimated absolute error of each number."""

    values: list[Array]
    errors: list[Array]


_MOST_HALVINGS = 32
_MOST_COLUMNS = 8
_CREDIBLE, _NEGLIGIBLE = 1e-3, 1e-9
"""Relative errors: smaller steps than `order` asks for are tried if the first is not reached, until the second is."""
_STEADY = 0.03
"""How much the last two steps may differ, relatively, for an error to be believed."""
_NEAR_ZERO = 1e-6
"""Numbers this much smaller than the largest among the core elements count as that large."""
_PATIENCE = 12
"""How many steps without a better estimate end the search."""


class Method(Protocol):
    """A way to get a derivative along a direction. None in a direction stands for an input that stays as it is."""

    def along(self, function: Function, point: Sequence[Array], direction: Sequence[Array | None]) -> Derivative:
        """The derivative of every output along a direction."""
        ...


@dataclass(frozen=True, slots=True)
class Numerical:
    """Central differences at shrinking steps, extrapolated to step zero by Ridders' method.

    Args:
      step: The largest step, relative to the magnitude of what is moved.
      order: How many steps are tried, each half of the one before and at the cost of two evaluations. More are tried if
        the estimated error of some number is not credible by then, as where the function changes on a smaller scale.
      smallest: The magnitude that inputs nearer to zero count as.
    """

    step: float = 0.125
    order: int = 8
    smallest: float = 1e-2

    def along(self, function: Function, point: Sequence[Array], direction: Sequence[Array | None]) -> Derivative:
        """The derivative of every output along a direction, each number from the steps that suit it best."""
        step = self.step / self._relative_speed(function, point, direction)
        tables: list[_Table] = []
        for halvings in range(_MOST_HALVINGS):
            estimates = _central_difference(function, point, direction, step / 2**halvings)
            tables = tables or [
                _Table(estimate, rank) for estimate, rank in zip(estimates, function.output_ranks, strict=True)
            ]
            for table, estimate in zip(tables, estimates, strict=True):
                table.add(estimate)
            tried = halvings + 1
            tolerance = _CREDIBLE if tried == self.order else _NEGLIGIBLE
            are_settled = [table.settle(tolerance) for table in tables] if tried >= self.order else [False]
            if all(are_settled):
                break
        return Derivative([table.best for table in tables], [table.error for table in tables])

    def _relative_speed(self, function: Function, point: Sequence[Array], direction: Sequence[Array | None]) -> Array:
        """How fast the direction moves the inputs relative to their magnitude: the fastest of each loop element."""
        speed: Array = np.zeros(())
        for values, vector, rank in zip(point, direction, function.input_ranks, strict=True):
            if vector is not None:
                relative = np.abs(vector) / np.maximum(np.abs(values), self.smallest)
                speed = np.maximum(speed, relative.max(axis=_core_axes(rank), initial=0.0))
        return np.where(speed > 0, speed, 1.0)


@dataclass(frozen=True, slots=True)
class ComplexStep:
    """One evaluation at a tiny imaginary step: exact to rounding, for analytic functions that take complex input.

    Args:
      step: The step, relative to the direction.
    """

    step: float = 1e-30

    def along(self, function: Function, point: Sequence[Array], direction: Sequence[Array | None]) -> Derivative:
        """The derivative of every output along a direction."""
        if any(values.dtype.kind == "c" for values in point):
            raise GradientError(
                "the complex step cannot differentiate by an input that is complex already.",
                remedy='Use grad="numerical", or write a rule.',
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
                remedy='Use grad="numerical", or write a rule.',
            ) from error
        for number, output in enumerate(outputs):
            if output.dtype.kind == "f":
                raise GradientError(
                    f"the complex step needs complex outputs for complex inputs, but output {number} is real.",
                    remedy='The function dropped the imaginary part: use grad="numerical", or write a rule.',
                )
        values = [output.imag / step for output in outputs]
        return Derivative(values, [np.finfo(np.float64).eps * np.abs(value) for value in values])


METHODS: Mapping[str, Method] = MappingProxyType({"numerical": Numerical(), "complex-step": ComplexStep()})
"""What `grad=` takes as text."""


def numerical(*, step: float = 0.125, order: int = 8, smallest: float = 1e-2) -> Numerical:
    """Derivatives by central differences in float64, for `differentiable_op(..., grad=tfpyop.numerical(...))`.

    Use it for functions without a rule; it is opt-in and never silent. An op that works element by element costs
    `2 * order` evaluations for each input; core dimensions multiply that by their number of elements.

    Args:
      step: The largest step, relative to the magnitude of what is moved. A function must be defined that far around.
      order: How many steps are tried, each half of the one before.
      smallest: The magnitude that inputs nearer to zero count as, in their units.

    Returns:
      A value for `grad=`. Typical relative errors of smooth functions are below 1e-10.

    Source: Ridders' method, Advances in Engineering Software 4 (1982).

    >>> from tfpyop import differentiable_op, numerical
    >>> op = differentiable_op(lambda x: x**3, signature="()->()", grad=numerical(order=6))
    """
    return Numerical(step, order, smallest)


def complex_step(*, step: float = 1e-30) -> ComplexStep:
    """Derivatives by one evaluation at a tiny imaginary step, for `differentiable_op(..., grad=tfpyop.complex_step())`.

    Exact to rounding, for functions that are analytic and take complex input; others raise GradientError.

    Args:
      step: The imaginary step, relative to the direction.

    Returns:
      A value for `grad=`.

    Source: W. Squire and G. Trapp, SIAM Review 40 (1998).

    >>> from tfpyop import complex_step, differentiable_op
    >>> op = differentiable_op(lambda x: x**3, signature="()->()", grad=complex_step())
    """
    return ComplexStep(step)


def read_method(grad: Any) -> Method | None:
    """The method that `grad=` asks for; None if it is a rule, or nothing."""
    if isinstance(grad, Numerical | ComplexStep):
        return grad
    if grad is numerical or grad is complex_step:
        written = f"grad=tfpyop.{grad.__name__}"
        raise RegistrationError(f"{written} is neither a rule nor a method.", remedy=f"Call it: {written}().")
    if not isinstance(grad, str):
        return None
    if grad not in METHODS:
        raise RegistrationError(f"grad={grad!r} is neither a rule nor a method.", remedy=nearest(grad, METHODS))
    return METHODS[grad]


def pull_back(
    method: Method,
    function: Function,
    point: Sequence[Array],
    cotangents: Sequence[Array | None],
    wanted: Sequence[bool],
) -> list[Array | None]:
    """The VJP: cotangents of the inputs, in the shape the inputs' loop dimensions broadcast to.

    Complex numbers follow TensorFlow: the cotangent of z = x + iy is that of x plus i times that of y.
    """
    results: list[Array | None] = []
    ranks = function.input_ranks
    loop = np.broadcast_shapes(*(values.shape[: values.ndim - rank] for values, rank in zip(point, ranks, strict=True)))
    for number, is_wanted in enumerate(wanted):
        if not is_wanted:
            results.append(None)
            continue
        parts = [
            (index, unit, _contract(method.along(function, point, direction).values, cotangents, function.output_ranks))
            for index, unit, direction in _unit_directions(function, point, number)
        ]
        core = point[number].shape[point[number].ndim - ranks[number] :]
        result = np.zeros(loop + core, point[number].dtype)
        for index, unit, part in parts:
            result[_core_element(index)] += unit * part
        results.append(result)
    return results


def push_forward(
    method: Method, function: Function, point: Sequence[Array], tangents: Sequence[Array | None]
) -> list[Array]:
    """The JVP: tangents of the outputs along those of the inputs, in one directional derivative."""
    return method.along(function, point, tangents).values


def _unit_directions(
    function: Function, point: Sequence[Array], number: int
) -> Iterator[tuple[tuple[int, ...], complex, list[Array | None]]]:
    """Directions that move one core element of one input, in every loop element at once."""
    values = point[number]
    core = values.shape[values.ndim - function.input_ranks[number] :]
    for index in np.ndindex(core):
        for unit in (1.0, 1j) if values.dtype.kind == "c" else (1.0,):
            vector = np.zeros(values.shape, values.dtype)
            vector[_core_element(index)] = unit
            yield index, unit, [vector if other == number else None for other in range(len(point))]


def _contract(derivatives: Sequence[Array], cotangents: Sequence[Array | None], ranks: Sequence[int]) -> Array:
    """Real inner products of derivatives and cotangents over the core dimensions; one number a loop element."""
    return sum(
        (
            np.real(np.conj(cotangent) * derivative).sum(axis=_core_axes(rank))
            for derivative, cotangent, rank in zip(derivatives, cotangents, ranks, strict=True)
            if cotangent is not None
        ),
        start=np.zeros(()),
    )


def _central_difference(
    function: Function, point: Sequence[Array], direction: Sequence[Array | None], step: Array
) -> list[Array]:
    def at(sign: float) -> Sequence[Array]:
        return function.call(
            [
                values if vector is None else values + sign * _over_core(step, rank) * vector
                for values, vector, rank in zip(point, direction, function.input_ranks, strict=True)
            ]
        )

    with np.errstate(all="ignore"):  # the largest steps may leave the domain; the smaller ones count then
        pairs = zip(at(1.0), at(-1.0), function.output_ranks, strict=True)
        return [(after - before) / (2 * _over_core(step, rank)) for after, before, rank in pairs]


class _Table:
    """Richardson's table of estimates at halved steps; of every number it keeps the entry with the smallest error."""

    def __init__(self, first: Array, rank: int) -> None:
        self.best: Array = first
        self.error: Array = np.full(first.shape, np.inf)
        self._rank = rank
        self._row: list[Array] = []
        self._last_change: Array = np.full(first.shape, np.inf)
        self._since_better: Array = np.zeros(first.shape, int)
        self._is_settled: Array = np.zeros(first.shape, bool)

    def settle(self, tolerance: float) -> bool:
        """Leave the numbers alone whose error is below a tolerance, or has stalled; returns whether these are all.

        Where rounding prevails, a small difference of two estimates would be mere chance.
        """
        magnitudes = np.abs(self.best)
        axes = _core_axes(self._rank)
        largest = np.max(magnitudes, axis=axes, where=np.isfinite(magnitudes), initial=0.0, keepdims=True)
        scale = np.maximum(magnitudes, _NEAR_ZERO * largest)
        is_small = (self.error <= tolerance * scale) & (np.abs(self._last_change) <= _STEADY * scale)
        has_stalled = np.isfinite(self.error) & (self._since_better >= _PATIENCE)
        self._is_settled = self._is_settled | is_small | has_stalled
        return bool(np.all(self._is_settled))

    def add(self, estimate: Array) -> None:
        """Add the estimate at the next step."""
        row = [estimate]
        better_somewhere = np.zeros(estimate.shape, bool)
        for column, coarser in enumerate(self._row[:_MOST_COLUMNS]):
            factor = 4.0 ** (column + 1)
            entry = (factor * row[column] - coarser) / (factor - 1)
            apart = np.maximum(np.abs(entry - row[column]), np.abs(entry - coarser))
            better = ~self._is_settled & ((apart < self.error) | (np.isnan(self.best) & ~np.isnan(entry)))
            self.best, self.error = np.where(better, entry, self.best), np.where(better, apart, self.error)
            better_somewhere |= better
            row.append(entry)
        self._since_better = np.where(better_somewhere, 0, self._since_better + 1)
        self._last_change = estimate - self._row[0] if self._row else np.full(estimate.shape, np.inf)
        self._row = row


def _core_element(index: tuple[int, ...]) -> Any:
    """The index of one core element in every loop element."""
    return (..., *index)


def _core_axes(rank: int) -> tuple[int, ...]:
    return tuple(range(-rank, 0))


def _over_core(values: Array, rank: int) -> Array:
    """Append dimensions of size one, so that one number a loop element meets all core elements."""
    return np.expand_dims(values, _core_axes(rank))
