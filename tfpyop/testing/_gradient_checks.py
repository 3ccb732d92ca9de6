"""Checks of derivatives: rules against numerical derivatives of the function, and against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis
import numpy as np
import tensorflow as tf
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._coercion import Array, is_differentiable
from tfpyop._slopes import Function
from tfpyop.errors import GradientError
from tfpyop.testing._derivatives import (
    Slopes,
    direction_of,
    host_function,
    inner,
    jvp,
    slopes,
    unit_direction,
    vjp,
    weights_like,
    whole_function,
)
from tfpyop.testing._diagnosis import likely_cause
from tfpyop.testing._examples import Arguments
from tfpyop.testing._ops import host_op_of, rules_of
from tfpyop.testing._outcomes import Outcome, Property
from tfpyop.testing._strategies import smooth_arguments

_IN_GRAPHS = 5
"""How many examples are differentiated in a graph too."""
_MOST_LOCATED = 64
"""Up to how many elements of an input are moved one by one to locate a failure."""
_TOLERANCES = {"float64": 1e-6, "complex128": 1e-6, "float32": 2e-3, "complex64": 2e-3}
_COARSE = 5e-2
"""The relative tolerance for dtypes of two bytes."""

Vectors = Sequence[Array | None]


def check_gradient(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Outcome:
    """Check the gradient rule against numerical derivatives of the function in float64.

    Proves, for the examples drawn, that the cotangent of every floating input agrees along a random direction with
    Ridders' extrapolation of central differences, for random cotangents of all outputs; and that inputs for which the
    rule returns None do not matter. Numbers at which the function is not smooth, or differences are not precise, do not
    count; an example of such numbers alone is rejected.

    Args:
      op: The op. Skipped if it has no gradient rule, or nothing to differentiate.
      arguments: Draws the arguments. Default: float64 ones of moderate magnitude, as `arguments(op)` draws them.
      max_examples: How many to draw. Default: as the Hypothesis profile says; a few of them in a graph too.
      seed: Makes the examples the same in every run.
      modes: Of "eager" and "graph". Default: both.

    Returns:
      The outcome, with the numbers of examples judged and rejected.

    Raises:
      CheckError: A cotangent is wrong; the report names input, element, both values and the likely cause.

    Source: C. J. F. Ridders, Accurate computation of F'(x) and F'(x)F''(x), Advances in Engineering Software 4 (1982).
    """
    check = Property(op, "check_gradient", max_examples=max_examples, seed=seed)
    if rules_of(op).gradient is None:
        return check.skipped("the op has no gradient rule")
    strategy = smooth_arguments(op) if arguments is None else arguments
    for mode in ("eager", "graph"):
        if modes is None or mode in modes:
            judge = _GradientJudge(check, op, mode)
            at_most = None if mode == "eager" else _IN_GRAPHS
            check.run(strategy, judge, shrinks=mode == "eager", at_most=at_most)
    return check.passed()


def check_jvp(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Outcome:
    """Check forward mode against numerical derivatives, and against the gradient rule.

    Proves, for the examples drawn, that the tangent of every output agrees with numerical derivatives along a random
    direction, and that the JVP J v and the VJP u J satisfy (u, J v) = (u J, v).

    Args:
      op: The op. Skipped if it has no JVP rule.
      arguments: Draws the arguments. Default: as for `check_gradient`.
      max_examples: How many to draw. Default: as the Hypothesis profile says.
      seed: Makes the examples the same in every run.
      modes: Not used; forward mode is run eagerly.

    Returns:
      The outcome, with the numbers of examples judged and rejected.

    Raises:
      CheckError: A tangent is wrong; the report names output and element.
    """
    del modes
    check = Property(op, "check_jvp", max_examples=max_examples, seed=seed)
    if rules_of(op).jvp is None:
        return check.skipped("the op has no JVP rule")

    def body(arguments: Arguments) -> None:
        point, tensors, function = _prepared(check, op, arguments)
        direction = direction_of(point, [is_differentiable(values.dtype) for values in point])
        numerical = slopes(function, point, direction)
        tangents = jvp(op, arguments.static, tensors, direction)
        _require_some(numerical)
        for number, tangent in enumerate(tangents):
            values, counts = numerical.values[number], numerical.counts[number]
            got = np.zeros(values.shape) if tangent is None else tangent
            tolerance = (
                _tolerance(got) * (np.abs(values) + np.max(np.abs(values), initial=0.0)) + 4 * numerical.errors[number]
            )
            wrong = counts & ~(np.abs(got - values) <= tolerance)
            if wrong.any():
                index = _first(wrong)
                raise check.failure(
                    f"the tangent of output {number} is wrong at element {list(index)}.",
                    expected=f"{values[index]:.9g} by differences, +- {numerical.errors[number][index]:.1g}",
                    got=f"{got[index]:.9g}",
                    cause=likely_cause(got, values, others=[], doubled=None, number=number),
                )
        if rules_of(op).gradient is not None:
            _require_adjoint(check, op, arguments, tensors=tensors, direction=direction, tangents=tangents)

    check.run(smooth_arguments(op) if arguments is None else arguments, body)
    return check.passed()


def check_second_order(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Outcome:
    """Check the gradient of the gradient against numerical derivatives of the gradient.

    Proves, for the examples drawn, that a tape around a tape agrees along a random direction with differences of the
    first gradient, whatever that is; `check_gradient` says whether it is right.

    Args:
      op: The op. Skipped if it has no second derivative.
      arguments: Draws the arguments. Default: as for `check_gradient`.
      max_examples: How many to draw. Default: a fifth of what the Hypothesis profile says, as each costs much.
      seed: Makes the examples the same in every run.
      modes: Not used; it is run eagerly.

    Returns:
      The outcome, with the numbers of examples judged and rejected.

    Raises:
      CheckError: A second derivative is wrong.
    """
    del modes
    default = hypothesis.settings.default
    most = max_examples or (default.max_examples if default else 100) // 5
    check = Property(op, "check_second_order", max_examples=most, seed=seed)
    if rules_of(op).gradient is None:
        return check.skipped("the op has no gradient rule")

    def body(arguments: Arguments) -> None:
        point, tensors, _ = _prepared(check, op, arguments)
        weights = weights_like(_outputs(op, arguments), np.random.default_rng(1))
        cotangents = [None if weight is None else tf.constant(weight) for weight in weights]

        def first(arrays: Sequence[Array]) -> Sequence[Array]:
            gradients = vjp(op, arguments.static, [tf.constant(array) for array in arrays], cotangents)
            return [
                np.zeros(array.shape) if gradient is None else gradient.numpy()
                for array, gradient in zip(arrays, gradients, strict=True)
                if is_differentiable(array.dtype)
            ]

        direction = direction_of(point, [is_differentiable(values.dtype) for values in point])
        numerical = slopes(whole_function(first, point), point, direction)
        _require_some(numerical)
        vectors = [
            vector * counts
            for vector, counts in zip(
                weights_like(numerical.values, np.random.default_rng(2)), numerical.counts, strict=True
            )
            if vector is not None
        ]
        with tf.GradientTape() as tape:
            tape.watch([tensor for tensor in tensors if tensor.dtype.is_floating or tensor.dtype.is_complex])
            gradients = vjp(op, arguments.static, tensors, cotangents)
            kept = [g for g, t in zip(gradients, tensors, strict=True) if t.dtype.is_floating or t.dtype.is_complex]
            pairs = [(g, tf.constant(v, g.dtype)) for g, v in zip(kept, vectors, strict=True) if g is not None]
        second = tape.gradient([g for g, _ in pairs], tensors, output_gradients=[v for _, v in pairs]) if pairs else []
        got = _arrays(second) if pairs else [None] * len(tensors)
        _compare_totals(
            check,
            numerical,
            vectors,
            got=got,
            direction=direction,
            problem="the second derivative is wrong along a random direction.",
        )

    try:
        check.run(smooth_arguments(op) if arguments is None else arguments, body)
    except AssertionError as error:
        if isinstance(error.__cause__, GradientError):
            return check.skipped("the op has no second derivative")
        raise
    return check.passed()


class _GradientJudge:
    """Judges the gradient of an op at one example after the other."""

    def __init__(self, check: Property, op: Op[..., Any], mode: str) -> None:
        self._check, self._op, self._mode = check, op, mode

    def __call__(self, arguments: Arguments) -> None:
        """Raise CheckError if a cotangent is wrong."""
        op, check = self._op, self._check
        point, tensors, function = _prepared(check, op, arguments)
        weights = weights_like(_outputs(op, arguments), np.random.default_rng(1))
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
            if _agree(numerical, counted, gradients, direction):
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
            return _arrays(tf.function(differentiate, autograph=False).get_concrete_function()())
        return _arrays(differentiate())

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
        wrong = ~(np.abs(got - expected) <= 10 * _tolerance(got) * (np.abs(expected) + scale))
        if not wrong.any():
            return
        index = _first(wrong)
        tensors = [tf.constant(value) for value in point]
        doubled = self._gradients(arguments, tensors, [None if w is None else 2 * w for w in weights])[number]
        raise self._check.failure(
            f"the cotangent of input {number} is wrong at element {list(index)}.",
            mode=self._mode,
            expected=f"{expected[index]:.9g} by differences, for cotangents {_text(weights)}",
            got=f"{got[index]:.9g}" if gradients[number] is not None else "None: no dependence",
            cause=likely_cause(got, expected, others=right, doubled=doubled, number=number),
        )


def _prepared(check: Property, op: Op[..., Any], arguments: Arguments) -> tuple[list[Array], list[tf.Tensor], Function]:
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


def _outputs(op: Op[..., Any], arguments: Arguments) -> list[Array]:
    """The op's outputs, whose dtypes their cotangents have."""
    return [tensor.numpy() for tensor in tf.nest.flatten(op(*arguments.tensors, **arguments.static))]


def _require_some(numerical: Slopes) -> None:
    if not any(counts.any() for counts in numerical.counts):
        hypothesis.reject()


def _agree(numerical: Slopes, weights: Vectors, gradients: Vectors, direction: Vectors) -> bool:
    """Whether (cotangents, J direction) = (gradients, direction), up to errors and rounding."""
    moved = [gradient for gradient, vector in zip(gradients, direction, strict=True) if vector is not None]
    tolerance = max([_tolerance(a) for a in [*moved, *weights] if a is not None], default=1e-6)
    absolute = [None if weight is None else np.abs(weight) for weight in weights]
    scale = inner(absolute, [np.abs(values) for values in numerical.values])
    scale += inner(
        [None if gradient is None else np.abs(gradient) for gradient in gradients],
        [None if vector is None else np.abs(vector) for vector in direction],
    )
    error = inner(absolute, numerical.errors)
    apart = abs(inner(weights, numerical.values) - inner(gradients, direction))
    return apart <= tolerance * scale + 4 * error


def _compare_totals(
    check: Property, numerical: Slopes, vectors: Vectors, *, got: Vectors, direction: Vectors, problem: str
) -> None:
    if not _agree(numerical, vectors, got, direction):
        raise check.failure(
            problem,
            expected=f"{inner(vectors, numerical.values):.9g} by differences",
            got=f"{inner(got, direction):.9g}",
        )


def _require_adjoint(
    check: Property,
    op: Op[..., Any],
    arguments: Arguments,
    *,
    tensors: Sequence[tf.Tensor],
    direction: Vectors,
    tangents: Vectors,
) -> None:
    """Hold JVP and VJP to (u, J v) = (u J, v)."""
    weights = weights_like(_outputs(op, arguments), np.random.default_rng(1))
    cotangents = [None if weight is None else tf.constant(weight) for weight in weights]
    gradients = _arrays(vjp(op, arguments.static, tensors, cotangents))
    forward, backward = inner(weights, tangents), inner(gradients, direction)
    scale = inner(*([None if v is None else np.abs(v) for v in vectors] for vectors in (weights, tangents)))
    scale += inner(*([None if v is None else np.abs(v) for v in vectors] for vectors in (gradients, direction)))
    tolerance = max(_tolerance(array) for array in [*weights, *gradients] if array is not None)
    if np.isfinite(forward) and np.isfinite(backward) and abs(forward - backward) > tolerance * scale:
        raise check.failure(
            "JVP and VJP contradict each other: (u, J v) is not (u J, v).",
            expected=f"(u J, v) = {backward:.9g}, by the gradient rule",
            got=f"(u, J v) = {forward:.9g}, by the JVP rule",
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


def _arrays(gradients: Sequence[Any]) -> list[Array | None]:
    return [None if gradient is None else tf.convert_to_tensor(gradient).numpy() for gradient in gradients]


def _tolerance(values: Array) -> float:
    return _TOLERANCES.get(values.dtype.name, _COARSE)


def _first(flags: Array) -> tuple[int, ...]:
    return tuple(map(int, np.argwhere(flags)[0])) if flags.ndim else ()


def _text(weights: Vectors) -> str:
    return ", ".join(
        "none" if weight is None else np.array2string(weight, precision=3, threshold=6) for weight in weights
    )
