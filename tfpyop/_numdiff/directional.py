"""Derivatives of functions of arrays, along directions: what a method is asked for, and what VJP and JVP make of it.

Works in float64 on functions of arrays whose loop dimensions broadcast and go through in one call, so that only core
elements are moved one after the other. Knows nothing of ops, and not how a derivative along a direction is got.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tfpyop._spec.coercion import Array, finfo, is_differentiable
from tfpyop.errors import GradientError

CREDIBLE = 1e-3
"""The largest estimated error of a derivative that is returned, relative to its scale."""

SMALLEST = 1e-2
"""The magnitude that inputs nearer to zero count as."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function to differentiate.

    Attributes:
      call: Takes and returns arrays.
      input_ranks: How many core dimensions each input has.
      output_ranks: How many core dimensions each output has.
      values: The outputs at the point, if they are known, in whatever precision.
    """

    call: Callable[[Sequence[Array]], Sequence[Array]]
    input_ranks: Sequence[int]
    output_ranks: Sequence[int]
    values: Sequence[Array] | None = None


@dataclass(frozen=True, slots=True)
class Derivative:
    """The derivative of every output along one direction.

    Attributes:
      values: The derivatives; NaN where the function is not finite.
      errors: The estimated absolute errors; infinite where there is no estimate.
      scales: What the errors are to be compared with: the magnitude of the derivative, or of its surroundings.
    """

    values: list[Array]
    errors: list[Array]
    scales: list[Array]


class Method(Protocol):
    """A way to get a derivative along a direction. None in a direction stands for an input that stays as it is."""

    def along(self, function: Function, point: Sequence[Array], direction: Sequence[Array | None]) -> Derivative:
        """The derivative of every output along a direction."""
        ...


def pull_back(
    method: Method,
    function: Function,
    point: Sequence[Array],
    cotangents: Sequence[Array | None],
    wanted: Sequence[bool],
) -> list[Array | None]:
    """The VJP: cotangents of the inputs, in the shape the inputs' loop dimensions broadcast to.

    Complex numbers follow TensorFlow: the cotangent of z = x + iy is that of x plus i times that of y.

    Raises:
      GradientError: There is no credible estimate.
    """
    return [
        _cotangent(method, function, point, cotangents, number) if is_wanted else None
        for number, is_wanted in enumerate(wanted)
    ]


def push_forward(
    method: Method, function: Function, point: Sequence[Array], tangents: Sequence[Array | None]
) -> list[Array]:
    """The JVP: tangents of the outputs along those of the inputs, in one directional derivative.

    Raises:
      GradientError: There is no credible estimate.
    """
    derivative = method.along(function, point, tangents)
    outputs = zip(derivative.values, derivative.errors, derivative.scales, function.output_ranks, strict=True)
    for number, (values, errors, scales, rank) in enumerate(outputs):
        scales = scales.max(axis=core_axes(rank), initial=0.0, keepdims=True)
        _require_credible(f"of output {number} along the tangents", values, errors, scales)
    return derivative.values


def core_maximum(values: Array, rank: int) -> Array:
    """The largest finite number among the core elements, with core dimensions of size one."""
    return np.asarray(np.max(values, axis=core_axes(rank), where=np.isfinite(values), initial=0.0, keepdims=True))


def precision_of(values: Array) -> float:
    """The relative precision of numbers; whole numbers are exact, and count as those of double precision."""
    return float(finfo(values.dtype).eps) if is_differentiable(values.dtype) else float(np.finfo(np.float64).eps)


def over_core(values: Array, rank: int) -> Array:
    """Append dimensions of size one, so that one number a loop element meets all core elements."""
    return np.expand_dims(values, core_axes(rank))


def _cotangent(
    method: Method, function: Function, point: Sequence[Array], cotangents: Sequence[Array | None], number: int
) -> Array:
    """The cotangent of one input: its core elements are moved one after the other."""
    ranks = function.input_ranks
    loop = np.broadcast_shapes(*(values.shape[: values.ndim - rank] for values, rank in zip(point, ranks, strict=True)))
    shape = loop + point[number].shape[point[number].ndim - ranks[number] :]
    result, errors, scales = np.zeros(shape, point[number].dtype), np.zeros(shape), np.zeros(shape)
    weights = [None if cotangent is None else np.abs(cotangent) for cotangent in cotangents]
    for index, unit, direction in _unit_directions(function, point, number):
        derivative = method.along(function, point, direction)
        element: Any = (..., *index)
        result[element] += unit * contract(derivative.values, cotangents, function.output_ranks)
        errors[element] += contract(derivative.errors, weights, function.output_ranks)
        scales[element] += contract(derivative.scales, weights, function.output_ranks)
    scales = scales.max(axis=core_axes(ranks[number]), initial=0.0, keepdims=True)
    _require_credible(f"by input {number}", result, errors, scales, point[number])
    return result


def _require_credible(which: str, values: Array, errors: Array, scales: Array, point: Array | None = None) -> None:
    """Raise GradientError for the first number whose error is too large to return it."""
    with np.errstate(all="ignore"):
        failed = np.argwhere(~(errors <= CREDIBLE * scales))
    if not len(failed):
        return
    index = tuple(failed[0])
    value, error = values[index], errors[index]
    where = "" if point is None else f" at {np.broadcast_to(point, values.shape)[index]:.9g}"
    raise GradientError(
        f"the numerical derivative {which} is not reliable{where}: estimates with different step sizes do not agree.",
        expected=f"a relative error below {CREDIBLE:g}",
        got=f"{value:.3g} with an estimated error of {error:.3g}" if np.isfinite(error) else "no estimate at all",
        remedy="The function may jump, oscillate or be very noisy at this point, or its domain may end here. If it "
        "varies on a scale far from the magnitude of its inputs, set grad=tfpyop.numerical(step=..., smallest=...). "
        "Otherwise write a rule.",
    )


def _unit_directions(
    function: Function, point: Sequence[Array], number: int
) -> Iterator[tuple[tuple[int, ...], complex, list[Array | None]]]:
    """Directions that move one core element of one input, in every loop element at once."""
    values = point[number]
    core = values.shape[values.ndim - function.input_ranks[number] :]
    for index in np.ndindex(core):
        for unit in (1.0, 1j) if values.dtype.kind == "c" else (1.0,):
            vector = np.zeros(values.shape, values.dtype)
            element = (..., *index)
            vector[element] = unit
            yield index, unit, [vector if other == number else None for other in range(len(point))]


def contract(derivatives: Sequence[Array], cotangents: Sequence[Array | None], ranks: Sequence[int]) -> Array:
    """Real inner products of derivatives and cotangents over the core dimensions; one number a loop element.

    What a cotangent of zero meets does not count, be it infinite or not a number.
    """
    total: Array = np.zeros(())
    for derivative, cotangent, rank in zip(derivatives, cotangents, ranks, strict=True):
        if cotangent is not None:
            counted = np.where(cotangent == 0, 0, derivative)
            total = total + np.real(np.conj(cotangent) * counted).sum(axis=core_axes(rank))
    return total


def core_axes(rank: int) -> tuple[int, ...]:
    """The axes of the core dimensions."""
    return tuple(range(-rank, 0))
