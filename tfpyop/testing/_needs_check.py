"""The check of `op.needs`: rules give the same derivatives for all values of `op.needs`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._spec.coercion import Array, finfo
from tfpyop.errors import GradientError
from tfpyop.testing._check_runner import CheckRunner, Script
from tfpyop.testing._comparisons import Point
from tfpyop.testing._derivatives import direction_of, generator_of, jvp, weights_like
from tfpyop.testing._examples import Arguments
from tfpyop.testing._failures import CheckError
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._ops import rules_of, spec_of
from tfpyop.testing._property import Property, Steps, check_function
from tfpyop.testing._rule_scripts import needs_script
from tfpyop.testing._strategies import smooth_arguments

_USUAL = 20
"""Default number of examples. Mistakes with `op.needs` hardly depend on values."""
_MOST_INPUTS = 4
"""Maximum number of floating inputs of which all combinations are checked. With more, one or all but one are needed."""
_CAUSE = "the rule uses op.needs wrongly: op.needs[i] belongs to op.inputs[i]. Compute every value that is needed"


@check_function()
def check_needs(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check that the rules give the same derivatives for all values of `op.needs`.

    Proves, for the drawn examples, that the cotangents of some inputs do not change if the tape does not use the
    cotangents of other inputs, and that tangents do not change if inputs do not vary instead of having tangents of
    zero. All combinations are checked for up to four floating inputs. With more inputs, one or all but one are needed.

    Args:
      op: The op. Skipped if it has no derivative rule, or less than two floating inputs.
      arguments: Strategy for the arguments. Default: as in `check_gradient`.
      max_examples: Number of examples. Default: 20.
      seed: Seed that makes every run draw the same examples.
      modes: Not used, because `op.needs` has the same values in all modes in which a tape is inside the function.

    Returns:
      The outcome, with the number of examples.

    Raises:
      CheckError: A derivative depends on what else is needed. The report names the input or output, and the needs.
    """
    checked_modes(modes)
    check = CheckRunner(op, "check_needs", max_examples=max_examples, seed=seed, usual=_USUAL)
    rules = rules_of(op)
    if not rules.plain():
        return check.skipped("the op has no derivative rule")
    if spec_of(op).is_stateful:
        return check.skipped("the op is declared stateful")

    def body(arguments: Arguments) -> None:
        at = Point.of(check, op, arguments)
        if max(sum(at.wanted), sum(at.varied)) < 2:
            check.skip_example("the op has less than two floating inputs")
        if rules.vjp is not None:
            _check_cotangents(check, at)
        if rules.jvp is not None:
            _check_tangents(check, at)

    yield Property(check, smooth_arguments(op) if arguments is None else arguments, body)
    return check.passed()


def _check_cotangents(check: CheckRunner, at: Point) -> None:
    weights = weights_like(at.outputs, generator_of(at.arrays, 1))
    try:
        whole = _cotangents(at, at.wanted, weights)
    except Exception as error:
        check.reject(error)
    for needs in _combinations(at.wanted):
        found = _with_error(check, at, needs, weights)
        for number, is_needed in enumerate(needs):
            if is_needed:
                script = needs_script(at.arrays, weights, number, needs, at.wanted)
                pair = found[number], whole[number]
                _require_equal(check, f"the cotangent of input {number}", needs, *pair, script=script)


def _with_error(
    check: CheckRunner, at: Point, needs: Sequence[bool], weights: Sequence[Array | None]
) -> list[Array | None]:
    try:
        return _cotangents(at, needs, weights)
    except GradientError as error:
        check.reject(error)
    except Exception as error:
        raise _failure(check, "the gradient rule raised an exception.", needs, None, repr(error)) from error


def _cotangents(at: Point, needs: Sequence[bool], weights: Sequence[Array | None]) -> list[Array | None]:
    """Return the cotangents of the inputs that are needed, by a tape that watches these inputs only."""
    with tf.GradientTape() as tape:
        tape.watch([tensor for tensor, is_needed in zip(at.tensors, needs, strict=True) if is_needed])
        outputs = at.call(at.tensors)
    pairs = [
        (output, tf.constant(weight)) for output, weight in zip(outputs, weights, strict=True) if weight is not None
    ]
    sources = [tensor if is_needed else None for tensor, is_needed in zip(at.tensors, needs, strict=True)]
    results = iter(
        tape.gradient(
            [output for output, _ in pairs],
            [source for source in sources if source is not None],
            output_gradients=[weight for _, weight in pairs],
        )
    )
    found = [None if source is None else next(results) for source in sources]
    return [None if gradient is None else gradient.numpy() for gradient in found]


def _check_tangents(check: CheckRunner, at: Point) -> None:
    moves = direction_of(at.arrays, at.varied)
    for needs in _combinations(at.varied):
        directions = zip(moves, needs, strict=True)
        moved = [None if move is None else move if varies else np.zeros_like(move) for move, varies in directions]
        try:
            whole = jvp(at.push, at.tensors, moved)
            found = jvp(
                at.push, at.tensors, [move if varies else None for move, varies in zip(moved, needs, strict=True)]
            )
        except GradientError as error:
            check.reject(error)
        for number, pair in enumerate(zip(found, whole, strict=True)):
            _require_equal(check, f"the tangent of output {number}", needs, *pair)


def _combinations(wanted: Sequence[bool]) -> Iterator[tuple[bool, ...]]:
    """Yield all needs that can occur, except the needs in which everything is needed."""
    numbers = [number for number, is_wanted in enumerate(wanted) if is_wanted]
    sizes = range(1, len(numbers)) if len(numbers) <= _MOST_INPUTS else (1, len(numbers) - 1)
    for size in sizes:
        for chosen in itertools.combinations(numbers, size):
            yield tuple(number in chosen for number in range(len(wanted)))


def _require_equal(
    check: CheckRunner,
    what: str,
    needs: Sequence[bool],
    found: Array | None,
    whole: Array | None,
    *,
    script: Script | None = None,
) -> None:
    """Raise a failure unless two derivatives are equal, up to the rounding of another order of operations."""
    like = whole if whole is not None else found
    if like is None:
        return
    got, expected = (np.zeros_like(like) if value is None else value for value in (found, whole))
    largest = np.max(np.abs(expected), where=np.isfinite(expected), initial=0.0)
    tolerance = float(finfo(like.dtype).eps) ** 0.5 * float(largest)
    if not np.all(np.isclose(got, expected, rtol=0, atol=tolerance, equal_nan=True)):
        shown = "None" if found is None else _shown(got)
        raise _failure(check, f"{what} changes with op.needs.", needs, _shown(expected), shown, script)


def _failure(
    check: CheckRunner,
    problem: str,
    needs: Sequence[bool],
    expected: str | None,
    got: str,
    script: Script | None = None,
) -> CheckError:
    return check.failure(
        problem,
        expected=None if expected is None else f"{expected}, as where everything is needed",
        got=f"{got} for op.needs = {tuple(needs)}",
        cause=_CAUSE,
        script=script,
    )


def _shown(array: Array) -> str:
    return np.array2string(array, precision=6, threshold=6)
