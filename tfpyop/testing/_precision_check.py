"""The check of precision: rules are as precise as the dtype of their values, in float64 and in low precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop.testing._check_runner import CheckRunner
from tfpyop.testing._comparisons import Point
from tfpyop.testing._double_precision import DoublePrecision
from tfpyop.testing._examples import Arguments
from tfpyop.testing._low_precision import LowPrecision
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._ops import spec_of, user_rules
from tfpyop.testing._property import Property, Steps, check_function
from tfpyop.testing._strategies import smooth_arguments

_USUAL = 12
"""Default number of examples. Rules in single precision are imprecise at nearly all of them."""
_LARGEST = 10.0
"""The largest magnitude drawn, so that float16 does not overflow in most functions."""


@check_function()
def check_precision(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check that rules do not compute in a lower precision than their values, and work in low precision.

    Finds rules that compute in float32 inside, or have constants in float32, so that gradients in float64 are only as
    precise as in float32: their errors at most examples are larger than the errors of numerical derivatives. If such
    errors may have another cause, such as an iterative solver, the outcome mentions them as its reason.

    The rules are also compared in float32, float16 and bfloat16, if the function accepts these dtypes, with the same
    rules in float64 for the same values. Finds rules that lose all digits at most examples, overflow although their
    result does not, or raise in float32. Errors that rounded values or a rounded function explain are ignored.

    Args:
      op: The op. Skipped if it has no derivative rule that you wrote, or is declared stateful.
      arguments: Strategy for the arguments. Default: as in `check_gradient`, with magnitudes up to 10.
      max_examples: Number of examples. Default: 12. At least four are needed.
      seed: Seed that makes every run draw the same examples.
      modes: Not used, because the check runs eagerly.

    Returns:
      The outcome. Its reason lists the dtypes in which the rules could not be compared.

    Raises:
      CheckError: A rule is not precise. The report names the input or output, the dtype and the likely cause.
    """
    checked_modes(modes)
    check = CheckRunner(op, "check_precision", max_examples=max_examples, seed=seed, usual=_USUAL)
    if not user_rules(op):
        return check.skipped("the op has no derivative rule that you wrote")
    if spec_of(op).is_stateful:
        return check.skipped("the op is declared stateful")
    double, low = DoublePrecision(check, op), LowPrecision(check, op)

    def body(arguments: Arguments) -> None:
        at = Point.of(check, op, arguments)
        double.add(at, arguments)
        low.add(arguments, at.arrays)

    yield Property(
        check, smooth_arguments(op, largest=_LARGEST) if arguments is None else arguments, body, shrinks=False
    )
    double.require()
    low.require()
    if check.has_judged and not double.has_measured and not low.has_compared:
        return check.skipped("the derivatives are not precise enough at any example, in any dtype")
    return check.passed("; ".join([*double.notes(), *low.notes()]) or None)
