"""The check of residuals that are Python objects: they depend on the inputs only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis.errors import UnsatisfiedAssumption
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._host.kept_objects import ignoring_objects
from tfpyop._spec.coercion import Array
from tfpyop.errors import GradientError
from tfpyop.testing._call_checks import require_equal
from tfpyop.testing._check_runner import CheckRunner, described
from tfpyop.testing._comparisons import Point
from tfpyop.testing._derivatives import direction_of, generator_of, jvp, weights_like
from tfpyop.testing._examples import Arguments
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._ops import rules_of, spec_of
from tfpyop.testing._property import Property, Steps, check_function
from tfpyop.testing._purity_check import other_arguments, raw_call
from tfpyop.testing._strategies import smooth_arguments

_USUAL = 20
"""Default number of examples. Mistakes with objects hardly depend on values."""
_CAUSE = "the object depends on more than the inputs, for example on a workspace that the next call overwrites"

Derivative = Callable[[], list[Array]]


@check_function()
def check_residuals(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check that the Python objects among the residuals depend on the inputs only.

    Proves, for the drawn examples, that the rules give the same derivatives if the function is called with other inputs
    before the rule runs, and if the objects are gone and the function creates them again.

    Args:
      op: The op. Skipped if it has no derivative rule, or no residual that is a Python object.
      arguments: Strategy for the arguments. Default: as in `check_gradient`.
      max_examples: Number of examples. Default: 20.
      seed: Seed that makes every run draw the same examples.
      modes: Not used, because a rule uses objects in the same way in all modes.

    Returns:
      The outcome, with the number of examples.

    Raises:
      CheckError: A derivative depends on another call. The report names the input or output.
    """
    checked_modes(modes)
    check = CheckRunner(op, "check_residuals", max_examples=max_examples, seed=seed, usual=_USUAL)
    rules = rules_of(op)
    if not spec_of(op).object_names:
        return check.skipped("the op has no residual that is a Python object")
    if not rules.plain():
        return check.skipped("the op has no derivative rule")

    def body(arguments: Arguments) -> None:
        at = Point.of(check, op, arguments)
        if not any(at.wanted):
            check.skip_example("the op has no floating input")
        derivatives = {"cotangent": _cotangents(at)} if rules.vjp is not None else {}
        if rules.jvp is not None:
            derivatives["tangent"] = _tangents(at)
        first = {noun: _first(check, derivative) for noun, derivative in derivatives.items()}
        with contextlib.suppress(UnsatisfiedAssumption):  # the function may reject the other arguments
            raw_call(check, op, other_arguments(arguments))
        for noun, derivative in derivatives.items():
            got = _again(check, noun, derivative)
            _compare(check, noun, first[noun], got, "a call with other inputs changes a derivative")
            with ignoring_objects():
                got = _again(check, noun, derivative)
            _compare(check, noun, first[noun], got, "an object that is created again changes a derivative")

    yield Property(check, smooth_arguments(op) if arguments is None else arguments, body)
    return check.passed()


def _cotangents(at: Point) -> Derivative:
    """Return a function that returns the cotangents of one call, whose objects it keeps."""
    sources = [tensor for tensor, is_wanted in zip(at.tensors, at.wanted, strict=True) if is_wanted]
    weights = weights_like(at.outputs, generator_of(at.arrays, 1))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(sources)
        outputs = at.call(at.tensors)
    pairs = [(output, weight) for output, weight in zip(outputs, weights, strict=True) if weight is not None]

    def cotangents() -> list[Array]:
        given = [tf.constant(weight) for _, weight in pairs]
        found = tape.gradient([output for output, _ in pairs], sources, output_gradients=given)
        return _arrays(found, sources)

    return cotangents


def _tangents(at: Point) -> Derivative:
    """Return a function that returns the tangents of a call, which it makes each time."""
    moves = direction_of(at.arrays, at.varied)

    def tangents() -> list[Array]:
        return [np.zeros(0) if tangent is None else tangent for tangent in jvp(at.push, at.tensors, moves)]

    return tangents


def _arrays(found: Sequence[Any], like: Sequence[tf.Tensor]) -> list[Array]:
    pairs = zip(found, like, strict=True)
    return [np.zeros(tensor.shape) if value is None else tf.convert_to_tensor(value).numpy() for value, tensor in pairs]


def _first(check: CheckRunner, derivative: Derivative) -> list[Array]:
    try:
        return derivative()
    except Exception as error:
        check.reject(error)


def _again(check: CheckRunner, noun: str, derivative: Derivative) -> list[Array]:
    """Return the derivative that was computed before; raise a failure if this raises now."""
    try:
        return derivative()
    except GradientError as error:
        check.reject(error)
    except Exception as error:
        problem = f"the {noun}s cannot be computed a second time."
        raise check.failure(problem, got=described(error), cause=_CAUSE) from error


def _compare(check: CheckRunner, noun: str, first: Sequence[Array], got: Sequence[Array], problem: str) -> None:
    require_equal(check, first, got, problem, is_exact=False, noun=noun, cause=_CAUSE)
