"""Reference derivatives for checks: numerical derivatives along a direction, with errors, and TensorFlow's.

A number counts if its error is small relative to it and the function is smooth there. One-sided slopes that differ at
every step show a kink or a jump, which central differences alone would not show.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop import Op, numerical
from tfpyop._numdiff.directional import Derivative, Function
from tfpyop._spec.coercion import Array, is_differentiable
from tfpyop.testing._examples import Arguments
from tfpyop.testing._failures import is_refusal
from tfpyop.testing._ops import Flat, concrete_op_of, spec_of

_METHOD = numerical()
_CREDIBLE = 1e-5
"""The largest error, relative to the scale of a derivative, at which it counts."""
_ROUNDING = 800 * float(np.finfo(np.float64).eps)
"""Rounding error of a derivative along a direction as long as the inputs, relative to the values."""
_STEPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8)
"""Relative steps at which one-sided slopes are compared. At the last two, a plain difference must confirm the value."""
_KINK = 1e-3
"""Difference of one-sided slopes, relative to the slope, from which they show a kink."""


@dataclass(frozen=True, slots=True)
class Slopes:
    """The derivative of every output along one direction.

    Attributes:
      values: The derivatives; zero where they do not count.
      errors: Their estimated absolute errors.
      counts: Whether each derivative is precise enough to count.
    """

    values: list[Array]
    errors: list[Array]
    counts: list[Array]

    @classmethod
    def counted(cls, values: Sequence[Array], errors: Sequence[Array], counts: list[Array]) -> Slopes:
        """Return derivatives and errors, with zeros where they do not count."""
        return cls(
            [np.where(counted, array, 0) for counted, array in zip(counts, values, strict=True)],
            [np.where(counted, array, 0) for counted, array in zip(counts, errors, strict=True)],
            counts,
        )


class _Watched:
    """A function that remembers its exceptions, to distinguish them from errors of the numerical method."""

    def __init__(self, call: Callable[[Sequence[Array]], Sequence[Array]]) -> None:
        self._call = call
        self._refusals: list[Exception] = []

    def __call__(self, arrays: Sequence[Array]) -> Sequence[Array]:
        try:
            return self._call(arrays)
        except Exception as error:
            self._refusals.append(error)
            raise

    def has_refused(self, error: Exception) -> bool:
        """Return whether an exception means that the function has no value at a displaced point."""
        return is_refusal(error) and any(error is refusal for refusal in self._refusals)


def host_function(op: Op[..., Any], arguments: Arguments) -> Function:
    """Return the op's function in float64, as the numerical method needs it, without residuals."""
    concrete_op, leaves = concrete_op_of(op, arguments)
    n_residuals = len(concrete_op.residual_names)

    def call(arrays: Sequence[Array]) -> Sequence[Array]:
        outputs = concrete_op.host.evaluate(arrays)
        return outputs[: len(outputs) - n_residuals]

    shapes = [np.shape(leaf) for leaf in leaves]
    signature = concrete_op.signature
    if signature is None or not spec_of(op).is_vectorized:
        return whole_function(call, leaves)
    output_ranks = [len(core) for core in signature.outputs][: len(signature.outputs) - n_residuals]
    missing = signature.bind(shapes).missing
    if missing:
        return whole_function(call, leaves)
    return Function(call, signature.core_ranks(shapes), output_ranks)


def whole_function(call: Callable[[Sequence[Array]], Sequence[Array]], point: Sequence[Any]) -> Function:
    """Return a function whose inputs and outputs are moved and compared as wholes, without loop dimensions."""
    outputs = call([np.asarray(values) for values in point])
    return Function(call, [np.ndim(values) for values in point], [np.ndim(values) for values in outputs])


def slopes(function: Function, point: Sequence[Array], direction: Sequence[Array | None]) -> Slopes:
    """Return the derivative along a direction that moves every number in proportion to its magnitude."""
    with np.errstate(all="ignore"):
        here = function.call(point)
        watched = _Watched(function.call)
        try:
            derivative = _METHOD.directional_derivative(replace(function, call=watched), point, direction)
        except Exception as error:
            if not watched.has_refused(error):
                raise
            zeros = [np.zeros(np.shape(values)) for values in here]
            return Slopes(zeros, zeros, [np.zeros(np.shape(values), bool) for values in here])
        counts = [
            np.isfinite(values) & (errors <= _CREDIBLE * scales + _ROUNDING * np.abs(values_here))
            for values, errors, scales, values_here in zip(
                derivative.values, derivative.errors, derivative.scales, here, strict=True
            )
        ]
        if any(counted.any() for counted in counts):
            smooth = _smooth(function, point, direction, here, derivative)
            counts = [counted & is_smooth for counted, is_smooth in zip(counts, smooth, strict=True)]
    return Slopes.counted(derivative.values, derivative.errors, counts)


def confirmed(
    function: Function,
    point: Sequence[Array],
    direction: Sequence[Array | None],
    found: Slopes,
    *,
    n_others: int = 1,
    others: Sequence[Sequence[Array | None]] | None = None,
) -> Slopes:
    """Return the derivatives; numbers for which they are not linear in the direction do not count.

    These numbers are at kinks that seem smooth along some directions, for example the middle of equal numbers that are
    sorted, or points where several inputs meet.

    Args:
      function: The function.
      point: The point.
      direction: The direction.
      found: The derivatives along the direction.
      n_others: Number of other directions to add to it. If only one input moves, one other direction is not enough.
      others: The other directions. Default: random directions that move all numbers.
    """
    generator = generator_of(point, 3)
    counts = list(found.counts)
    if others is None:
        others = [_whole_move(point, generator) for _ in range(n_others)]
    for other in others:
        if not any(counted.any() for counted in counts):
            break
        both = [b if a is None or b is None else a + b for a, b in zip(direction, other, strict=True)]
        apart = slopes(function, point, other)
        if not any(np.any(counted & own) for counted, own in zip(counts, apart.counts, strict=True)):
            counts = [np.zeros_like(counted) for counted in counts]
            break
        sums = slopes(function, point, both)
        for number, counted in enumerate(counts):
            parts = [found.values[number], apart.values[number], -sums.values[number]]
            errors = found.errors[number] + apart.errors[number] + sums.errors[number]
            is_linear = np.abs(sum(parts)) <= _KINK * sum(map(np.abs, parts)) + errors
            counts[number] = counted & apart.counts[number] & sums.counts[number] & is_linear
    return Slopes.counted(found.values, found.errors, counts)


def _whole_move(point: Sequence[Array], generator: np.random.Generator) -> list[Array | None]:
    return [random_move(values, generator) if is_differentiable(values.dtype) else None for values in point]


def _smooth(
    function: Function,
    point: Sequence[Array],
    direction: Sequence[Array | None],
    here: Sequence[Array],
    derivative: Derivative,
) -> list[Array]:
    """Return where slopes on both sides converge, a plain difference confirms them, and precision is double."""
    sides = [_sides(function, point, direction, here, step) for step in _STEPS]
    smooth = []
    for number, values in enumerate(here):
        size = np.abs(derivative.values[number])
        rounding = 16 * _eps(values) * np.abs(values)
        apart = [
            np.abs(ahead[number] - 2 * values + back[number]) / step
            for (ahead, back), step in zip(sides, _STEPS, strict=True)
        ]
        is_smooth = np.isfinite(values) & ~_is_single([side[number] for pair in sides[:2] for side in pair])
        for wide, close, step in zip(apart, apart[1:], _STEPS[1:], strict=False):
            is_smooth = is_smooth & ~((close > 0.5 * wide) & (close > _KINK * size + rounding / step))
        for (ahead, back), step in zip(sides[-2:], _STEPS[-2:], strict=True):
            difference = (ahead[number] - back[number]) / (2 * step)
            off = np.abs(difference - derivative.values[number])
            is_smooth = is_smooth & (off <= _KINK * size + rounding / step)
        smooth.append(is_smooth)
    return smooth


def _sides(
    function: Function,
    point: Sequence[Array],
    direction: Sequence[Array | None],
    here: Sequence[Array],
    step: float,
) -> tuple[Sequence[Array], Sequence[Array]]:
    """Return the outputs one step ahead and one step back, with NaN where the function raises."""

    def at(signed: float) -> Sequence[Array]:
        moved = [
            values if vector is None else values + signed * vector
            for values, vector in zip(point, direction, strict=True)
        ]
        try:
            return function.call(moved)
        except Exception as error:
            if not is_refusal(error):
                raise
            return [np.full(np.shape(values), np.nan) for values in here]  # the function may raise next to the point

    return at(step), at(-step)


def _is_single(nearby: Sequence[Array]) -> Array:
    """Return where double-precision values change between points, but are all single-precision numbers.

    There the function computes in single precision, and its differences are noise.
    """
    first = nearby[0]
    if first.dtype not in (np.float64, np.complex128):
        return np.zeros(first.shape, bool)
    single = np.complex64 if first.dtype.kind == "c" else np.float32
    changes = np.logical_or.reduce([values != first for values in nearby[1:]])
    rounded = np.logical_and.reduce([values.astype(single) == values for values in nearby])
    return np.asarray(changes & rounded)


def _eps(values: Array) -> float:
    return float(np.finfo(values.dtype).eps) if values.dtype.kind in "fc" else 0.0


def generator_of(point: Sequence[Array], purpose: int) -> np.random.Generator:
    """Return a random generator for one purpose at one point. The same point always gives the same numbers."""
    return np.random.default_rng([purpose, *(zlib.crc32(values.tobytes()) for values in point)])


def direction_of(point: Sequence[Array], wanted: Sequence[bool]) -> list[Array | None]:
    """Return a direction that moves every number of the wanted inputs in proportion to its magnitude.

    Imaginary parts are moved too.
    """
    generator = generator_of(point, 0)
    moves = [random_move(values, generator) for values in point]
    return [move if is_wanted else None for move, is_wanted in zip(moves, wanted, strict=True)]


def random_moves(point: Sequence[Array], masks: Sequence[Array], generator: np.random.Generator) -> list[Array | None]:
    """Return random moves of the elements in masks; None for inputs of which no element moves."""
    return [
        np.where(mask, random_move(values, generator), 0).astype(values.dtype) if mask.any() else None
        for values, mask in zip(point, masks, strict=True)
    ]


def random_move(values: Array, generator: np.random.Generator) -> Array:
    """Return a random move of every number, in proportion to its magnitude."""
    return np.asarray(np.where(values == 0, 1.0, np.abs(values)) * _vector(values, generator))


def unit_direction(point: Sequence[Array], number: int, index: tuple[int, ...]) -> list[Array | None]:
    """Return a direction that moves one number of one input, in proportion to its magnitude."""
    vector = np.zeros(point[number].shape, point[number].dtype)
    vector[index] = abs(point[number][index]) or 1.0
    return [vector if other == number else None for other in range(len(point))]


def weights_like(arrays: Sequence[Array], generator: np.random.Generator) -> list[Array | None]:
    """Return random vectors of small, moderate or large size for arrays; None for arrays without derivatives."""
    size = generator.choice([1e-2, 1.0, 1.0, 1e3])
    return [_weight(array, size, generator) if is_differentiable(array.dtype) else None for array in arrays]


def _weight(array: Array, size: float, generator: np.random.Generator) -> Array:
    is_half = array.dtype.itemsize == 2
    return np.asarray((1.0 if is_half else size) * _vector(array, generator)).astype(array.dtype)


def _vector(like: Array, generator: np.random.Generator) -> Array:
    """Return random numbers of any sign or phase, away from zero."""
    magnitudes = generator.uniform(0.5, 1.5, like.shape)
    if like.dtype.kind == "c":
        return np.asarray(magnitudes * np.exp(1j * generator.uniform(0, 2 * np.pi, like.shape)))
    return np.asarray(magnitudes * generator.choice([-1.0, 1.0], like.shape))


def inner(left: Sequence[Array | None], right: Sequence[Array | None]) -> float:
    """Return the real inner product of vectors over all arrays. None counts as zero."""
    with np.errstate(all="ignore"):
        return float(
            sum(
                np.sum(np.real(np.conj(np.asarray(a, np.result_type(a, np.float64))) * b))
                for a, b in zip(left, right, strict=True)
                if a is not None and b is not None
            )
        )


# -- TensorFlow's derivatives


def vjp(call: Flat, tensors: Sequence[tf.Tensor], cotangents: Sequence[Any]) -> list[tf.Tensor | None]:
    """Return the cotangents of the inputs, by a tape, for arrays, tensors or None as cotangents of the outputs."""
    with tf.GradientTape() as tape:
        tape.watch([tensor for tensor in tensors if tensor.dtype.is_floating or tensor.dtype.is_complex])
        outputs = call(tensors)
    pairs = [
        (output, tf.convert_to_tensor(cotangent))
        for output, cotangent in zip(outputs, cotangents, strict=True)
        if cotangent is not None and (output.dtype.is_floating or output.dtype.is_complex)
    ]
    gradients: list[Any] = tape.gradient(
        [output for output, _ in pairs], list(tensors), output_gradients=[cotangent for _, cotangent in pairs]
    )
    return [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]  # may be slices


def jvp(call: Flat, tensors: Sequence[tf.Tensor], direction: Sequence[Array | None]) -> list[Array | None]:
    """Return the tangents of the outputs, by forward mode."""
    moved = [
        (tensor, tf.constant(vector, tensor.dtype))
        for tensor, vector in zip(tensors, direction, strict=True)
        if vector is not None
    ]
    with tf.autodiff.ForwardAccumulator(
        [tensor for tensor, _ in moved], [vector for _, vector in moved]
    ) as accumulator:
        outputs = call(tensors)
    tangents = [accumulator.jvp(output) for output in outputs]
    return [None if tangent is None else tangent.numpy() for tangent in tangents]
