"""The check of linearity: properties that every derivative rule has, without differences of the function.

It also judges rules of noisy functions and of functions that compute in single precision.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._spec.coercion import Array
from tfpyop.testing._check_runner import CheckRunner
from tfpyop.testing._comparisons import Point, Vectors, arrays_of, largest
from tfpyop.testing._derivatives import generator_of, jvp, random_move, vjp, weights_like
from tfpyop.testing._examples import Arguments
from tfpyop.testing._linearity import NOISE, contradiction, require_close, require_linear, require_transposed
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._ops import concrete_op_of, flat_function, rules_of, spec_of
from tfpyop.testing._property import Property, Steps, check_function
from tfpyop.testing._rule_scripts import linearity_script, transposed_script
from tfpyop.testing._strategies import smooth_arguments

_USUAL = 20
"""Default number of examples. Rules that are not linear are wrong for nearly all of them."""
_TOLERANCE = 1e-3
"""Largest relative difference: rules may compute in single precision."""
_NONLINEAR = (
    "the rule multiplies a cotangent by itself, has a term without a cotangent, uses the sign or magnitude of a "
    "cotangent, or compares a cotangent with a number"
)
_MIXED = "the rule mixes rows: it sums or takes a maximum over all dimensions instead of the core dimensions"


@check_function()
def check_linearity(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
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

    yield Property(check, smooth_arguments(op) if arguments is None else arguments, body)
    return check.passed()


def _require_linear_gradient(check: CheckRunner, at: Point) -> None:
    """Raise a failure unless the gradient of a combination of cotangents is the combination of the gradients."""
    generator = generator_of(at.arrays, 1)
    vectors = [weights_like(at.outputs, generator) for _ in range(2)]
    require_linear(
        check,
        lambda weights: _gradients(check, at, weights),
        vectors,
        lambda number: f"the cotangent of input {number} is not linear in the cotangents of the outputs",
        tolerance=_TOLERANCE,
        script=functools.partial(linearity_script, at.arrays, vectors, is_forward=False),
        cause=_NONLINEAR,
    )


def _require_linear_tangents(check: CheckRunner, at: Point) -> None:
    """Raise a failure unless the tangents of a combination are the combination of the tangents."""
    generator = generator_of(at.arrays, 2)
    vectors = [_moves(at, at.varied, generator) for _ in range(2)]
    require_linear(
        check,
        lambda moves: _tangents(check, at, moves),
        vectors,
        lambda number: f"the tangent of output {number} is not linear in the tangents of the inputs",
        tolerance=_TOLERANCE,
        script=functools.partial(linearity_script, at.arrays, vectors, is_forward=True),
        cause=_NONLINEAR.replace("cotangent", "tangent"),
    )


def _require_transposed(check: CheckRunner, at: Point) -> None:
    """Raise a failure unless (u, J v) = (u J, v)."""
    weights, moves = _vectors_of_both(at)
    products = weights, _tangents(check, at, moves), _gradients(check, at, weights), moves
    script = transposed_script(at.arrays, weights, moves)
    require_transposed(check, products, tolerance=_TOLERANCE, is_kink=lambda: _is_kink(at), script=script)


def _is_kink(at: Point) -> bool:
    """Return whether a nearby point has other products, as at kinks, where the rules may use other conventions."""
    moved = at.moved()
    weights, moves = _vectors_of_both(at)
    tangents = jvp(moved.push, moved.tensors, moves)
    gradients = arrays_of(vjp(moved.call, moved.tensors, weights))
    return contradiction(weights, tangents, gradients, moves, tolerance=_TOLERANCE) is None


def _require_separate_rows(check: CheckRunner, op: Op[..., Any], at: Point, arguments: Arguments) -> None:
    """Raise a failure unless the gradient of two rows together is the gradient of each row."""
    signature = concrete_op_of(op, arguments)[0].signature
    if signature is None:
        return
    shapes = [array.shape for array in at.arrays]
    if signature.bind(shapes).missing:
        return  # the dimension of the rows would count as the missing core dimension
    ranks = signature.core_ranks(shapes)
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
        like = rows[0] if rows is not None else row
        if like is None:
            continue
        expected = np.zeros_like(like) if row is None else row
        found = np.zeros_like(like) if rows is None else rows[0]
        require_close(
            check,
            f"the cotangent of input {number} in one row depends on other rows",
            found,
            expected,
            scale=np.abs(expected),
            tolerance=_TOLERANCE,
            noise=NOISE * largest(scaled),
            cause=_MIXED,
        )


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
