"""The check of linearity: properties that every derivative rule has, without differences of the function.

It also judges rules of noisy functions and of functions that compute in single precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis
import numpy as np
import tensorflow as tf
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._spec.coercion import Array
from tfpyop.testing._check_runner import CheckRunner, Outcome
from tfpyop.testing._comparisons import SUBNORMAL, Point, Vectors, absolute, arrays_of, first_of, largest
from tfpyop.testing._derivatives import generator_of, inner, jvp, random_move, vjp, weights_like
from tfpyop.testing._examples import Arguments
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._ops import flat_function, rules_of, spec_of
from tfpyop.testing._strategies import smooth_arguments

_USUAL = 20
"""Default number of examples. Rules that are not linear are wrong for nearly all of them."""
_TOLERANCE = 1e-3
"""Largest relative difference: rules may compute in single precision."""
_NOISE = 1e-12
"""Precision lost by cancellation inside a rule, relative to the largest cotangents and tangents."""
_NONLINEAR = (
    "the rule multiplies a cotangent by itself, has a term without a cotangent, uses the sign or magnitude of a "
    "cotangent, or compares a cotangent with a number"
)
_MIXED = "the rule mixes rows: it sums or takes a maximum over all dimensions instead of the core dimensions"


def check_linearity(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Outcome:
    """Check properties of derivative rules that need no differences of the function.

    Proves, for the drawn examples, that the gradient rule is linear in the cotangents of all outputs together, that
    gradients of rows do not depend on other rows, that the JVP rule is linear in the tangents, and that both rules
    satisfy (u, J v) = (u J, v), up to a relative difference of 1e-3. It also judges noisy functions and functions that
    compute in single precision. A rule for another function may have all these properties.

    For an op with `surrogate=True`, the two rules need not satisfy (u, J v) = (u J, v).

    Args:
      op: The op. Skipped if it has no derivative rule, or is declared stateful.
      arguments: Strategy for the arguments. Default: as in `check_gradient`.
      max_examples: Number of examples. Default: 20.
      seed: Seed that makes every run draw the same examples.
      modes: Not used, because the check runs eagerly.

    Returns:
      The outcome, with the number of examples.

    Raises:
      CheckError: A rule does not have one of the properties. The report names the input or output.
    """
    checked_modes(modes)
    check = CheckRunner(op, "check_linearity", max_examples=max_examples, seed=seed, usual=_USUAL)
    rules = rules_of(op)
    if rules.vjp is None and rules.jvp is None:
        return check.skipped("the op has no derivative rule")
    if spec_of(op).is_stateful:
        return check.skipped("the op is declared stateful")

    is_surrogate = spec_of(op).is_surrogate

    def body(arguments: Arguments) -> None:
        at = Point.of(check, op, arguments)
        if rules.vjp is not None:
            _require_linear_gradient(check, at)
            _require_separate_rows(check, op, at, arguments)
        if rules.jvp is not None:
            _require_linear_tangents(check, at)
        if rules.vjp is not None and rules.jvp is not None and not is_surrogate:
            _require_transposed(check, at)

    check.run(smooth_arguments(op) if arguments is None else arguments, body)
    return check.passed()


def _require_linear_gradient(check: CheckRunner, at: Point) -> None:
    """Raise a failure unless the gradient of a combination of cotangents is the combination of the gradients."""
    generator = generator_of(at.arrays, 1)
    first, second = weights_like(at.outputs, generator), weights_like(at.outputs, generator)
    a, b = generator.uniform(0.5, 2, 2) * generator.choice([-1.0, 1.0], 2)
    whole = _gradients(check, at, _combined(a, first, b, second))
    parts = _gradients(check, at, first), _gradients(check, at, second)
    expected = _combined(a, parts[0], b, parts[1])
    for number in range(len(at.arrays)):
        what = f"the cotangent of input {number} is not linear in the cotangents of the outputs"
        _require_close(check, what, whole[number], expected[number], vectors=[*first, *second], cause=_NONLINEAR)


def _require_linear_tangents(check: CheckRunner, at: Point) -> None:
    """Raise a failure unless the tangents of a combination are the combination of the tangents."""
    generator = generator_of(at.arrays, 2)
    first, second = _moves(at, at.varied, generator), _moves(at, at.varied, generator)
    a, b = generator.uniform(0.5, 2, 2) * generator.choice([-1.0, 1.0], 2)
    whole = _tangents(check, at, _combined(a, first, b, second))
    expected = _combined(a, _tangents(check, at, first), b, _tangents(check, at, second))
    for number in range(len(at.outputs)):
        what = f"the tangent of output {number} is not linear in the tangents of the inputs"
        cause = _NONLINEAR.replace("cotangent", "tangent")
        _require_close(check, what, whole[number], expected[number], vectors=[*first, *second], cause=cause)


def _require_transposed(check: CheckRunner, at: Point) -> None:
    """Raise a failure unless (u, J v) = (u J, v)."""
    weights, moves = _vectors_of_both(at)
    tangents, gradients = _tangents(check, at, moves), _gradients(check, at, weights)
    forward, backward = inner(weights, tangents), inner(gradients, moves)
    scale = inner(absolute(weights), absolute(tangents)) + inner(absolute(gradients), absolute(moves))
    floor = _NOISE * largest(weights) * largest(moves) + SUBNORMAL
    if not abs(forward - backward) <= _TOLERANCE * scale + floor and not _is_kink(at):
        raise check.failure(
            "the JVP rule and the gradient rule contradict each other: (u, J v) is not equal to (u J, v).",
            expected=f"(u J, v) = {backward:.9g}, by the gradient rule",
            got=f"(u, J v) = {forward:.9g}, by the JVP rule",
        )


def _is_kink(at: Point) -> bool:
    """Return whether a nearby point has other products, as at kinks, where the rules may use other conventions."""
    moved = at.moved()
    weights, moves = _vectors_of_both(at)
    tangents = jvp(moved.push, moved.tensors, moves)
    gradients = arrays_of(vjp(moved.call, moved.tensors, weights))
    forward, backward = inner(weights, tangents), inner(gradients, moves)
    scale = inner(absolute(weights), absolute(tangents)) + inner(absolute(gradients), absolute(moves))
    return bool(not np.isfinite(forward - backward) or abs(forward - backward) <= _TOLERANCE * scale + SUBNORMAL)


def _require_separate_rows(check: CheckRunner, op: Op[..., Any], at: Point, arguments: Arguments) -> None:
    """Raise a failure unless the gradient of two rows together is the gradient of each row."""
    spec = spec_of(op)
    if spec.signature is None:
        return
    shapes = [array.shape for array in at.arrays]
    if spec.signature.bind(shapes).missing:
        return  # the dimension of the rows would count as the missing core dimension
    ranks = spec.signature.core_ranks(shapes)
    loop = np.broadcast_shapes(*(shape[: len(shape) - rank] for shape, rank in zip(shapes, ranks, strict=True)))
    alone = [
        np.array(np.broadcast_to(array, (*loop, *array.shape[array.ndim - rank :])))
        for array, rank in zip(at.arrays, ranks, strict=True)
    ]
    weights = weights_like(at.outputs, generator_of(at.arrays, 1))
    scaled = [None if weight is None else -3 * weight for weight in weights]
    call = flat_function(op, arguments)
    try:
        separate = arrays_of(vjp(call, [tf.constant(array) for array in alone], weights))
        stacked = [tf.constant(np.stack([array, array])) for array in alone]
        both: Vectors = [
            None if w is None or s is None else np.stack([w, s]) for w, s in zip(weights, scaled, strict=True)
        ]
        together = arrays_of(vjp(call, stacked, both))
    except Exception as error:
        check.reject(error)
    for number, (row, rows) in enumerate(zip(separate, together, strict=True)):
        _require_close(
            check,
            f"the cotangent of input {number} in one row depends on other rows",
            None if rows is None else rows[0],
            row,
            vectors=scaled,
            cause=_MIXED,
        )


def _require_close(
    check: CheckRunner, what: str, got: Array | None, expected: Array | None, *, vectors: Vectors, cause: str
) -> None:
    """Raise a failure unless results of a rule for these vectors are equal, up to rounding and cancellation."""
    like = expected if expected is not None else got
    if like is None:
        return
    found, right = (np.zeros_like(like) if array is None else array for array in (got, expected))
    if not (np.isfinite(found).all() and np.isfinite(right).all()):
        hypothesis.reject()
    size = max(float(np.max(np.abs(array), initial=0.0)) for array in (found, right))
    wrong = ~(np.abs(found - right) <= _TOLERANCE * size + _NOISE * largest(vectors) + SUBNORMAL)
    if wrong.any():
        index = first_of(wrong)
        raise check.failure(
            f"{what}, at element {list(index)}.",
            expected=f"{right[index]:.9g}",
            got=f"{found[index]:.9g}",
            cause=cause,
        )


def _combined(a: float, first: Vectors, b: float, second: Vectors) -> list[Array | None]:
    return [
        None if x is None or y is None else np.asarray(a * x + b * y, x.dtype)
        for x, y in zip(first, second, strict=True)
    ]


def _moves(at: Point, moved: Sequence[bool], generator: np.random.Generator) -> list[Array | None]:
    return [
        random_move(array, generator) if is_moved else None for array, is_moved in zip(at.arrays, moved, strict=True)
    ]


def _vectors_of_both(at: Point) -> tuple[list[Array | None], list[Array | None]]:
    """Return cotangents, and tangents of the inputs that have a derivative in both directions."""
    moved = [is_wanted and is_varied for is_wanted, is_varied in zip(at.wanted, at.varied, strict=True)]
    return weights_like(at.outputs, generator_of(at.arrays, 3)), _moves(at, moved, generator_of(at.arrays, 4))


def _gradients(check: CheckRunner, at: Point, weights: Vectors) -> list[Array | None]:
    try:
        return arrays_of(vjp(at.call, at.tensors, weights))
    except Exception as error:
        check.reject(error)


def _tangents(check: CheckRunner, at: Point, moves: Vectors) -> list[Array | None]:
    try:
        return jvp(at.push, at.tensors, moves)
    except Exception as error:
        check.reject(error)
