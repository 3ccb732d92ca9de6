"""Compute VJPs and JVPs of functions of arrays from directional derivatives.

Defines the interface of a method that computes directional derivatives. The loop dimensions of all arrays broadcast and
are evaluated in one call, so only core elements are varied separately. Works in float64 and does not depend on ops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from tfpyop._numdiff.causes import CONTRADICTED, find_cause
from tfpyop._numdiff.colored_cotangents import ColoredCotangent, Rows
from tfpyop._numdiff.coloring import Coloring
from tfpyop._spec.coercion import Array, finfo, is_differentiable
from tfpyop.errors import GradientError

EPS = float(np.finfo(np.float64).eps)
SINGLE_EPS = float(np.finfo(np.float32).eps)
"""The relative precision of float64 and of float32."""

CREDIBLE = 1e-3
"""The largest estimated error of a derivative that is returned, relative to its scale."""

SMALLEST = 1e-2
"""The magnitude that is assumed for inputs closer to zero."""

_UNKNOWN = (
    "The function may jump, oscillate or be very noisy at this point, or its domain may end here. If it varies on a "
    "scale far from the magnitude of its inputs, set grad=tfpyop.numerical(step=..., smallest=...). Otherwise write a "
    "rule."
)


@dataclass(frozen=True, slots=True)
class Function:
    """Describe a function to differentiate.

    Attributes:
      call: Takes and returns arrays.
      input_ranks: The number of core dimensions of each input.
      output_ranks: The number of core dimensions of each output.
      values: The outputs at the point in any precision; None if they are unknown.
    """

    call: Callable[[Sequence[Array]], Sequence[Array]]
    input_ranks: Sequence[int]
    output_ranks: Sequence[int]
    values: Sequence[Array] | None = None
    colorings: Sequence[Coloring] | None = None
    """The colors of the core elements of each input, from the sparsity pattern, if the user declared one."""


@dataclass(frozen=True, slots=True)
class Derivative:
    """Store the derivative of every output along one direction.

    Attributes:
      values: The derivatives; NaN where the function is not finite.
      errors: The estimated absolute errors; infinite where there is no estimate.
      scales: The reference magnitudes for the errors: the magnitude of the derivative or of its surroundings.
    """

    values: list[Array]
    errors: list[Array]
    scales: list[Array]
    contradicted: list[Array] = field(default_factory=list)
    """Where values next to the point contradict a slope that is otherwise credible, if the method looks for that."""


class Method(Protocol):
    """Declare the interface of methods for directional derivatives. None in a direction stands for a fixed input."""

    def directional_derivative(
        self, function: Function, point: Sequence[Array], direction: Sequence[Array | None]
    ) -> Derivative:
        """Return the derivative of every output along a direction."""
        ...


def vjp_from_values(
    method: Method,
    function: Function,
    point: Sequence[Array],
    cotangents: Sequence[Array | None],
    wanted: Sequence[bool],
) -> list[Array | None]:
    """Return the VJP: cotangents of the inputs, in the shape to which the inputs' loop dimensions broadcast.

    Complex numbers follow TensorFlow: the cotangent of x + iy is the cotangent of x plus i times the cotangent of y.

    Raises:
      GradientError: There is no credible estimate.
    """
    return [
        _cotangent(method, function, point, cotangents, number) if is_wanted else None
        for number, is_wanted in enumerate(wanted)
    ]


def jvp_from_values(
    method: Method, function: Function, point: Sequence[Array], tangents: Sequence[Array | None]
) -> list[Array]:
    """Return the JVP: tangents of the outputs along the tangents of the inputs, from one directional derivative.

    Raises:
      GradientError: There is no credible estimate.
    """
    derivative = method.directional_derivative(function, point, tangents)
    outputs = zip(derivative.values, derivative.errors, derivative.scales, function.output_ranks, strict=True)
    for number, (values, errors, scales, rank) in enumerate(outputs):
        scales = scales.max(axis=core_axes(rank), initial=0.0, keepdims=True)
        failed = _first_failure(errors, scales)
        if failed is None:
            continue
        element = f"element {list(failed)} of " if failed else ""
        raise _unreliable(
            f"of {element}output {number} along the tangents",
            values[failed],
            errors[failed],
            directions=[tangents],
            select=partial(_element, number=number, index=failed),
            is_contradicted=any(where[failed] for where in derivative.contradicted[number : number + 1]),
            function=function,
            point=point,
        )
    return derivative.values


def core_maximum(values: Array, rank: int) -> Array:
    """Return the largest finite value among the core elements, with core dimensions of size one."""
    return np.asarray(np.max(values, axis=core_axes(rank), where=np.isfinite(values), initial=0.0, keepdims=True))


def precision_of(values: Array) -> float:
    """Return the relative precision of an array's dtype. Integers are exact and have the precision of float64 here."""
    return float(finfo(values.dtype).eps) if is_differentiable(values.dtype) else EPS


def least_of_cores(arrays: Sequence[Array], ranks: Sequence[int]) -> Array:
    """Return the smallest value among the core elements of several arrays, for each loop element."""
    least: Array = np.full((), np.inf)
    for values, rank in zip(arrays, ranks, strict=True):
        least = np.minimum(least, values.min(axis=core_axes(rank), initial=np.inf))
    return least


def over_core(values: Array, rank: int) -> Array:
    """Append core dimensions of size one, so that one value per loop element broadcasts to all core elements."""
    return np.expand_dims(values, core_axes(rank))


def _cotangent(
    method: Method, function: Function, point: Sequence[Array], cotangents: Sequence[Array | None], number: int
) -> Array:
    """Return the cotangent of one input. Its core elements are varied separately, or by the colors of a pattern."""
    ranks = function.input_ranks
    loop = np.broadcast_shapes(*(values.shape[: values.ndim - rank] for values, rank in zip(point, ranks, strict=True)))
    shape = loop + point[number].shape[point[number].ndim - ranks[number] :]
    result, errors, scales = np.zeros(shape, point[number].dtype), np.zeros(shape), np.zeros(shape)
    contradicted = np.zeros(shape, bool)
    weights = [None if cotangent is None else np.abs(cotangent) for cotangent in cotangents]
    colored = _colored(method, function, point, cotangents, number, loop) if result.size else None
    if colored is not None:
        parts = (colored.values, colored.errors, colored.scales)
        result, errors, scales = (part.reshape(shape) for part in parts)
        contradicted = colored.contradicted.reshape(shape)
    for index, unit, direction in () if colored is not None else _unit_directions(function, point, number):
        derivative = method.directional_derivative(function, point, direction)
        element: Any = (..., *index)
        result[element] += unit * contract(derivative.values, cotangents, function.output_ranks)
        errors[element] += contract(derivative.errors, weights, function.output_ranks)
        scales[element] += contract(derivative.scales, weights, function.output_ranks)
        if derivative.contradicted:
            contradicted[element] |= contract(derivative.contradicted, weights, function.output_ranks) > 0
    scales = scales.max(axis=core_axes(ranks[number]), initial=0.0, keepdims=True)
    failed = _first_failure(errors, scales)
    if failed is None:
        if colored is not None:
            colored.verify(partial(_outputs_after, function, point, number), f"input {number}")
        return result
    raise _unreliable(
        f"by input {number}",
        result[failed],
        errors[failed],
        where=_described_element(point[number], failed, shape),
        directions=[
            direction
            for index, _, direction in _unit_directions(function, point, number)
            if index == failed[len(loop) :]
        ],
        select=lambda outputs: _elements(outputs, cotangents, function.output_ranks, failed[: len(loop)]),
        is_contradicted=bool(contradicted[failed]),
        function=function,
        point=point,
    )


def _colored(
    method: Method,
    function: Function,
    point: Sequence[Array],
    cotangents: Sequence[Array | None],
    number: int,
    loop: tuple[int, ...],
) -> ColoredCotangent | None:
    """Return the cotangent of one input from its sparsity pattern; None without a pattern that saves evaluations."""
    coloring = None if function.colorings is None else function.colorings[number]
    if coloring is None or coloring.is_dense or function.values is None:
        return None
    values, rank = point[number], function.input_ranks[number]
    flat = values.reshape((*values.shape[: values.ndim - rank], coloring.n_columns))

    def differentiate(direction: Array) -> Derivative:
        moved = direction.reshape(values.shape)
        directions = [moved if other == number else None for other in range(len(point))]
        return method.directional_derivative(function, point, directions)

    rows = Rows.of(cotangents, function.values, function.output_ranks, loop)
    return ColoredCotangent(differentiate, flat, coloring, rows, SMALLEST)


def _outputs_after(function: Function, point: Sequence[Array], number: int, move: Array) -> Sequence[Array] | None:
    """Return the outputs after a move of one input; None where the function raises."""
    moved = [values + move.reshape(values.shape) if other == number else values for other, values in enumerate(point)]
    try:
        return function.call(moved)
    except Exception:  # of the user's function
        return None


def _first_failure(errors: Array, scales: Array) -> tuple[int, ...] | None:
    """Return the index of the first element whose error is too large."""
    with np.errstate(all="ignore"):
        failed = np.argwhere(~(errors <= CREDIBLE * scales))
    return tuple(map(int, failed[0])) if len(failed) else None


def _described_element(values: Array, index: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """Which element of an input an index of its cotangent stands for, with all digits of its value."""
    own = index[len(shape) - values.ndim :]
    own = tuple(0 if size == 1 else number for number, size in zip(own, values.shape, strict=True))
    return f" at {f'element {list(own)} = ' if own else ''}{values[own].item()!r}"


def _element(outputs: Sequence[Array], *, number: int, index: tuple[int, ...]) -> Array:
    return np.atleast_1d(outputs[number][index])


def _elements(
    outputs: Sequence[Array], cotangents: Sequence[Array | None], ranks: Sequence[int], loop: tuple[int, ...]
) -> Array:
    """The output elements of one loop element that have cotangents other than zero."""
    parts = [
        output[loop][np.broadcast_to(cotangent, output.shape)[loop] != 0]
        for output, cotangent, rank in zip(outputs, cotangents, ranks, strict=True)
        if cotangent is not None and output.ndim - rank == len(loop)
    ]
    return np.concatenate([np.ravel(part) for part in parts]) if parts else np.zeros(0)


def _unreliable(
    which: str,
    value: Any,
    error: Any,
    *,
    where: str = "",
    directions: Sequence[Sequence[Array | None]],
    select: Callable[[Sequence[Array]], Array],
    is_contradicted: bool,
    function: Function,
    point: Sequence[Array],
) -> GradientError:
    """The error for a derivative without a credible estimate, with its cause if the values show it."""
    cause = None
    with np.errstate(all="ignore"):
        for direction in directions:
            cause = cause or find_cause(_along(function, point, direction, select))
        narrow = _narrow_dtype(function, point)
    if cause is None and is_contradicted:
        cause = CONTRADICTED
    has_estimate = bool(np.isfinite(error))
    if cause is not None:
        problem, remedy = cause.problem, cause.remedy
    elif has_estimate:
        problem, remedy = "estimates with different step sizes do not agree.", _UNKNOWN
    else:
        problem, remedy = "no step size gives a stable estimate.", _UNKNOWN
    if narrow is not None:
        remedy = (
            f"The function returns {narrow} for float64 inputs, which limits the accuracy: compute in float64. {remedy}"
        )
    return GradientError(
        f"the numerical derivative {which} is not reliable{where}: {problem}",
        expected=f"a relative error below {CREDIBLE:g}" if has_estimate else None,
        got=f"{value:.3g} with an estimated error of {error:.3g}" if has_estimate else None,
        remedy=remedy,
    )


def _along(
    function: Function,
    point: Sequence[Array],
    direction: Sequence[Array | None],
    select: Callable[[Sequence[Array]], Array],
) -> Callable[[float], Array | None]:
    """Values along a direction by relative step; None where the function raises."""
    moving = [(values, vector) for values, vector in zip(point, direction, strict=True) if vector is not None]
    lengths = [
        np.min(np.maximum(np.abs(values), SMALLEST) / np.abs(vector), where=vector != 0, initial=np.inf)
        for values, vector in moving
    ]
    length = min(lengths, default=np.inf)

    def at(step: float) -> Array | None:
        moved = [
            values if vector is None else values + step * length * vector
            for values, vector in zip(point, direction, strict=True)
        ]
        try:
            return select(function.call(moved))
        except Exception:  # of the user's function
            return None

    return at


def _narrow_dtype(function: Function, point: Sequence[Array]) -> Any:
    """The dtype of an output that the function returns in less than double precision."""
    try:
        outputs = function.call(point)
    except Exception:  # of the user's function
        return None
    narrow = (values.dtype for values in outputs if precision_of(values) > EPS)
    return next(narrow, None)


def _unit_directions(
    function: Function, point: Sequence[Array], number: int
) -> Iterator[tuple[tuple[int, ...], complex, list[Array | None]]]:
    """Yield the directions that move one core element of one input, in all loop elements at once."""
    values = point[number]
    core = values.shape[values.ndim - function.input_ranks[number] :]
    for index in np.ndindex(core):
        for unit in (1.0, 1j) if values.dtype.kind == "c" else (1.0,):
            vector = np.zeros(values.shape, values.dtype)
            element = (..., *index)
            vector[element] = unit
            yield index, unit, [vector if other == number else None for other in range(len(point))]


def contract(derivatives: Sequence[Array], cotangents: Sequence[Array | None], ranks: Sequence[int]) -> Array:
    """Return the real inner products of derivatives and cotangents over the core dimensions, one for each loop element.

    Derivatives with a cotangent of zero do not count, even if they are infinite or NaN.
    """
    total: Array = np.zeros(())
    for derivative, cotangent, rank in zip(derivatives, cotangents, ranks, strict=True):
        if cotangent is not None:
            counted = np.where(cotangent == 0, 0, derivative)
            total = total + np.real(np.conj(cotangent) * counted).sum(axis=core_axes(rank))
    return total


def core_axes(rank: int) -> tuple[int, ...]:
    """Return the axes of the core dimensions."""
    return tuple(range(-rank, 0))
