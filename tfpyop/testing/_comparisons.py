"""Comparisons of derivatives: TensorFlow's against numerical ones, at one example, and where they part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis
import numpy as np
import tensorflow as tf

from tfpyop import Op
from tfpyop._coercion import Array, is_differentiable
from tfpyop._slopes import Function
from tfpyop.testing._derivatives import (
    Slopes,
    direction_of,
    host_function,
    inner,
    slopes,
    unit_direction,
    vjp,
    weights_like,
    whole_function,
)
from tfpyop.testing._diagnosis import likely_cause
from tfpyop.testing._examples import Arguments
from tfpyop.testing._ops import host_op_of
from tfpyop.testing._outcomes import Property

_MOST_LOCATED = 64
"""Up to how many elements of an input are moved one by one to locate a failure."""


_TOLERANCES = {"float64": 1e-6, "complex128": 1e-6, "float32": 2e-3, "complex64": 2e-3}


_COARSE = 5e-2
"""The relative tolerance for dtypes of two bytes."""


Vectors = Sequence[Array | None]


class GradientJudge:
    """Judges the gradient of an op at one example after the other."""

    def __init__(self, check: Property, op: Op[..., Any], mode: str) -> None:
        self._check, self._op, self._mode = check, op, mode

    def __call__(self, arguments: Arguments) -> None:
        """Raise CheckError if a cotangent is wrong."""
        op, check = self._op, self._check
        point, tensors, function = prepared(check, op, arguments)
        weights = weights_like(outputs_of(op, arguments), np.random.default_rng(1))
        wanted = [number for number, values in enumerate(point) if is_differentiable(values.dtype)]
        n_judged = 0
        for number in wanted:
            direction = direction_of(point, [other == number for other in range(len(point))])
            numerical = slopes(function, point, direction)
            if not any(counts.any() for counts in numerical.counts):
                continue
            n_judged += 1
            counted = [
                None if weight is None else np.where(counts, weight, 0).astype(weight.dtype)
                for weight, counts in zip(weights, numerical.counts, strict=True)
            ]
            gradients = self._gradients(arguments, tensors, counted)
            if agree(numerical, counted, gradients, direction):
                continue
            self._locate(arguments, function, point, number=number, weights=counted, gradients=gradients)
            raise check.failure(
                f"the cotangent of input {number} is wrong along a random direction.",
                mode=self._mode,
                expected=f"{inner(counted, numerical.values):.9g} by differences",
                got=f"{inner(gradients, direction):.9g}",
            )
        if not n_judged:
            hypothesis.reject()

    def _gradients(self, arguments: Arguments, tensors: Sequence[tf.Tensor], weights: Vectors) -> Vectors:
        def differentiate() -> Any:
            cotangents = [None if weight is None else tf.constant(weight) for weight in weights]
            return vjp(self._op, arguments.static, tensors, cotangents)

        if self._mode == "graph":
            return arrays_of(tf.function(differentiate, autograph=False).get_concrete_function()())
        return arrays_of(differentiate())

    def _locate(
        self,
        arguments: Arguments,
        function: Function,
        point: Sequence[Array],
        *,
        number: int,
        weights: Vectors,
        gradients: Vectors,
    ) -> None:
        """Raise a failure that names the first wrong element."""
        if sum(values.size for values in point) > _MOST_LOCATED:
            return
        whole = whole_function(function.call, point)
        right = [_by_elements(whole, point, other, weights) for other in range(len(point))]
        expected, got = right[number], gradients[number]
        if expected is None:
            return
        got = np.zeros(expected.shape) if got is None else got
        scale = np.max(np.abs(expected), initial=0.0)
        wrong = ~(np.abs(got - expected) <= 10 * tolerance_of(got) * (np.abs(expected) + scale))
        if not wrong.any():
            return
        index = first_of(wrong)
        tensors = [tf.constant(value) for value in point]
        doubled = self._gradients(arguments, tensors, [None if w is None else 2 * w for w in weights])[number]
        raise self._check.failure(
            f"the cotangent of input {number} is wrong at element {list(index)}.",
            mode=self._mode,
            expected=f"{expected[index]:.9g} by differences, for cotangents {_text(weights)}",
            got=f"{got[index]:.9g}" if gradients[number] is not None else "None: no dependence",
            cause=likely_cause(got, expected, others=right, doubled=doubled, number=number),
        )


def prepared(check: Property, op: Op[..., Any], arguments: Arguments) -> tuple[list[Array], list[tf.Tensor], Function]:
    """The point as arrays and as tensors, and the function; examples that the function refuses are rejected."""
    _, leaves = host_op_of(op, arguments)
    point = [np.asarray(leaf) for leaf in leaves]
    try:
        function = host_function(op, arguments)
        outputs = function.call(point)
    except Exception as error:
        check.reject(error)
    is_finite = all(np.isfinite(output).all() for output in outputs if output.dtype.kind in "fc")
    if (
        not is_finite
        or not any(np.size(output) for output in outputs)
        or not any(is_differentiable(values.dtype) for values in point)
    ):
        hypothesis.reject()
    return point, [tf.constant(values) for values in point], function


def outputs_of(op: Op[..., Any], arguments: Arguments) -> list[Array]:
    """The op's outputs, whose dtypes their cotangents have."""
    return [tensor.numpy() for tensor in tf.nest.flatten(op(*arguments.tensors, **arguments.static))]


def require_some(numerical: Slopes) -> None:
    if not any(counts.any() for counts in numerical.counts):
        hypothesis.reject()


def agree(numerical: Slopes, weights: Vectors, gradients: Vectors, direction: Vectors) -> bool:
    """Whether (cotangents, J direction) = (gradients, direction), up to errors and rounding."""
    moved = [gradient for gradient, vector in zip(gradients, direction, strict=True) if vector is not None]
    tolerance = max([tolerance_of(a) for a in [*moved, *weights] if a is not None], default=1e-6)
    absolute = [None if weight is None else np.abs(weight) for weight in weights]
    scale = inner(absolute, [np.abs(values) for values in numerical.values])
    scale += inner(
        [None if gradient is None else np.abs(gradient) for gradient in gradients],
        [None if vector is None else np.abs(vector) for vector in direction],
    )
    error = inner(absolute, numerical.errors)
    apart = abs(inner(weights, numerical.values) - inner(gradients, direction))
    return apart <= tolerance * scale + 4 * error


def compare_totals(
    check: Property, numerical: Slopes, vectors: Vectors, *, got: Vectors, direction: Vectors, problem: str
) -> None:
    if not agree(numerical, vectors, got, direction):
        raise check.failure(
            problem,
            expected=f"{inner(vectors, numerical.values):.9g} by differences",
            got=f"{inner(got, direction):.9g}",
        )


def _by_elements(function: Function, point: Sequence[Array], number: int, weights: Vectors) -> Array | None:
    """The cotangent of one input, by moving its elements one after the other."""
    if not is_differentiable(point[number].dtype):
        return None
    result = np.zeros(point[number].shape, point[number].dtype)
    for index in np.ndindex(point[number].shape):
        direction = unit_direction(point, number, index)
        size = np.asarray(direction[number])[index]
        for unit in (1, 1j) if result.dtype.kind == "c" else (1,):
            turned = [None if vector is None else unit * vector for vector in direction]
            result[index] += unit * inner(weights, slopes(function, point, turned).values) / np.real(size)
    return result


def arrays_of(gradients: Sequence[Any]) -> list[Array | None]:
    return [None if gradient is None else tf.convert_to_tensor(gradient).numpy() for gradient in gradients]


def tolerance_of(values: Array) -> float:
    return _TOLERANCES.get(values.dtype.name, _COARSE)


def first_of(flags: Array) -> tuple[int, ...]:
    return tuple(map(int, np.argwhere(flags)[0])) if flags.ndim else ()


def _text(weights: Vectors) -> str:
    return ", ".join(
        "none" if weight is None else np.array2string(weight, precision=3, threshold=6) for weight in weights
    )
