"""The check of implicit and stationary rules: the outputs solve the equation that the rule states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._spec.coercion import Array
from tfpyop.errors import GradientError
from tfpyop.testing._check_runner import CheckRunner
from tfpyop.testing._comparisons import Point, first_of
from tfpyop.testing._events import reject_example
from tfpyop.testing._examples import Arguments
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._ops import context_of, equations_of
from tfpyop.testing._property import Property, Steps, check_function
from tfpyop.testing._strategies import smooth_arguments

_TOLERANCES = {4: 1e-3, 8: 1e-5}
"""The largest step of Newton's method, relative to the largest element of the output, by the bytes of a real number."""
_SMALLEST = 1e-12
"""The largest step where the output is zero."""
_COARSE = 5e-2
"""The relative tolerance for dtypes of two bytes."""


@check_function()
def check_implicit(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check that the outputs solve the equation of an implicit rule, or are stationary for the objective.

    Proves, for the drawn examples, that one step of Newton's method on the equation hardly moves the value that the
    function returned. This finds the residual of another equation, and solvers that did not converge. It does not
    depend on the units of the residual. `check_gradient` finds a residual that is zero, but has wrong derivatives.

    Args:
      op: The op. Skipped if it has no implicit or stationary rule.
      arguments: Strategy for the arguments. Default: as in `check_gradient`.
      max_examples: Number of examples. Default: set by the Hypothesis profile.
      seed: Seed that makes every run draw the same examples.
      modes: Not used, because the check runs eagerly.

    Returns:
      The outcome, with the numbers of judged and rejected examples. Examples at which the Jacobian of the residual is
      singular are rejected.

    Raises:
      CheckError: The residual is not zero. The report names the output, the element and both values.
    """
    checked_modes(modes)
    check = CheckRunner(op, "check_implicit", max_examples=max_examples, seed=seed)
    equations = equations_of(op)
    if not equations:
        return check.skipped("the op has no implicit or stationary rule")

    def body(arguments: Arguments) -> None:
        at = Point.of(check, op, arguments)
        context = context_of(op, arguments, at.arrays)
        for newton_step in equations:
            try:
                steps = newton_step(context)
            except GradientError as error:
                check.reject(error)
            for number, step in enumerate(steps):
                if step is not None:
                    _require_small(check, number, np.asarray(context.outputs[number]), np.asarray(step))

    yield Property(check, smooth_arguments(op) if arguments is None else arguments, body)
    return check.passed()


def _require_small(check: CheckRunner, number: int, output: Array, step: Array) -> None:
    """Raise CheckError if a step of Newton's method moves an output."""
    if not np.isfinite(output).all():
        reject_example("an output is not finite")
    n_bytes = output.dtype.itemsize // (2 if np.iscomplexobj(output) else 1)
    tolerance = _TOLERANCES.get(n_bytes, _COARSE) * float(np.max(np.abs(output), initial=0.0)) + _SMALLEST
    is_wrong = ~(np.abs(step) <= tolerance)
    if is_wrong.any():
        index = first_of(is_wrong)
        raise check.failure(
            f"the residual is not zero at the value of output {number}, at element {list(index)}.",
            expected=f"{output[index] + step[index]:.9g}, after a step of Newton's method on the equation",
            got=f"{output[index]:.9g}, which the function returned",
            cause="this is the residual of another equation, or the tolerance of the solver is too large",
        )
