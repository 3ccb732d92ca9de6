"""Compute VJPs and JVPs of functions of arrays from directional derivatives.

Defines the interface of a method that computes directional derivatives. The loop dimensions of all arrays broadcast and
are evaluated in one call, so only core elements are varied separately. Works in float64 and does not depend on ops.
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
"""The magnitude that is assumed for inputs closer to zero."""


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
        _require_credible(f"of output {number} along the tangents", values, errors, scales)
    return derivative.values


def core_maximum(values: Array, rank: int) -> Array:
    """Return the largest finite value among the core elements, with core dimensions of size one."""
    return np.asarray(np.max(values, axis=core_axes(rank), where=np.isfinite(values), initial=0.0, keepdims=True))


def precision_of(values: Array) -> float:
    """Return the relative precision of an array's dtype. Integers are exact and have the precision of float64 here."""
    return float(finfo(values.dtype).eps) if is_differentiable(values.dtype) else float(np.finfo(np.float64).eps)


def over_core(values: Array, rank: int) -> Array:
    """Append core dimensions of size one, so that one value per loop element broadcasts to all core elements."""
    return np.expand_dims(values, core_axes(rank))


def _cotangent(
    method: Method, function: Function, point: Sequence[Array], cotangents: Sequence[Array | None], number: int
) -> Array:
    """Return the cotangent of one input. Its core elements are varied separately."""
    ranks = function.input_ranks
    loop = np.broadcast_shapes(*(values.shape[: values.ndim - rank] for values, rank in zip(point, ranks, strict=True)))
    shape = loop + point[number].shape[point[number].ndim - ranks[number] :]
    result, errors, scales = np.zeros(shape, point[number].dtype), np.zeros(shape), np.zeros(shape)
    weights = [None if cotangent is None else np.abs(cotangent) for cotangent in cotangents]
    for index, unit, direction in _unit_directions(function, point, number):
        derivative = method.directional_derivative(function, point, direction)
        element: Any = (..., *index)
        result[element] += unit * contract(derivative.values, cotangents, function.output_ranks)
        errors[element] += contract(derivative.errors, weights, function.output_ranks)
        scales[element] += contract(derivative.scales, weights, function.output_ranks)
    scales = scales.max(axis=core_axes(ranks[number]), initial=0.0, keepdims=True)
    _require_credible(f"by input {number}", result, errors, scales, point[number])
    return result


def _require_credible(which: str, values: Array, errors: Array, scales: Array, point: Array | None = None) -> None:
    """Raise GradientError for the first element whose error is too large."""
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
