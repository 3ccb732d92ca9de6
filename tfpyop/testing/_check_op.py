"""All checks of an op in one call, and the report of their outcomes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop.errors import RegistrationError, nearest
from tfpyop.testing._adjoint_check import check_adjoint
from tfpyop.testing._call_checks import check_batching, check_contract, check_parity
from tfpyop.testing._check_runner import Outcome
from tfpyop.testing._examples import Arguments
from tfpyop.testing._export_check import check_export
from tfpyop.testing._failures import CheckError
from tfpyop.testing._gradient_checks import check_gradient, check_jvp, check_second_order
from tfpyop.testing._linearity_check import check_linearity
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._needs_check import check_needs
from tfpyop.testing._order_check import check_order
from tfpyop.testing._purity_check import check_purity
from tfpyop.testing._sparsity_check import check_sparsity
from tfpyop.testing._threads_check import check_threads

Check = str | Callable[..., Outcome]
"""A check, or the name of a check."""

CHECKS = MappingProxyType[str, Callable[..., Outcome]](
    {
        check.__name__: check
        for check in (
            check_contract,
            check_parity,
            check_purity,
            check_order,
            check_gradient,
            check_jvp,
            check_adjoint,
            check_sparsity,
            check_linearity,
            check_needs,
            check_second_order,
            check_batching,
            check_threads,
            check_export,
        )
    }
)
"""Every check by name, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class Report:
    """The outcomes of the checks of an op.

    Attributes:
      outcomes: One outcome for each check, in order.
    """

    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> list[CheckError]:
        """The failures of all failed checks."""
        return [outcome.failure for outcome in self.outcomes if outcome.failure is not None]

    def __str__(self) -> str:
        """Return one line for each check, then every failure."""
        return "\n".join([*map(_line, self.outcomes), *(f"\n{failure}" for failure in self.failures)])


class ChecksError(CheckError):
    """One or more checks of an op failed.

    Args:
      report: The report of all checks.
    """

    def __init__(self, report: Report) -> None:
        first = report.failures[0]
        super().__init__(first.problem, check="check_op", subject=first.subject)
        self.report = report

    def __str__(self) -> str:
        """Return the whole report."""
        failures = self.report.failures
        return f"{len(failures)} of {len(self.report.outcomes)} checks failed.\n{self.report}"


def check_op(
    op: Op[..., Any],
    /,
    *,
    checks: Iterable[Check] | Check | None = None,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    modes: Sequence[str] | None = None,
    seed: int | None = None,
) -> Report:
    """Run all checks that apply to an op, and report all failures, not only the first failure.

    Args:
      op: The op.
      checks: Names from `CHECKS`, or the check functions; one or several. Default: all.
      arguments: Strategy for the arguments, such as `arguments(op)`. Default: the default of each check.
      max_examples: Number of examples for each check. Default: the default of each check.
      modes: A selection of "eager", "graph", "XLA" and "native". Default: all that apply.
      seed: Seed that makes every run draw the same examples. Default: runs differ, and failures are stored in
        Hypothesis' example database.

    Returns:
      The report, if no check failed.

    Raises:
      ChecksError: A check failed. The error contains the report of all checks.
      RegistrationError: A check or mode does not exist.

    >>> from tfpyop import differentiable_op
    >>> from tfpyop.testing import check_op
    >>> square = differentiable_op(lambda x: x * x, signature="()->()")
    >>> @square.gradient
    ... def square_gradient(op, cotangent):
    ...     return 2 * op.inputs[0] * cotangent
    >>> report = check_op(square, max_examples=5)
    """
    chosen = checked_names(checks)
    checked_modes(modes)
    options = {"arguments": arguments, "max_examples": max_examples, "modes": modes, "seed": seed}
    report = Report(tuple(outcome_of(op, name, options) for name in chosen))
    if report.failures:
        raise ChecksError(report)
    return report


def checked_names(checks: Iterable[Check] | Check | None) -> list[str]:
    """Return the names of the requested checks, or of all checks; raise RegistrationError for unknown names."""
    if checks is None:
        return list(CHECKS)
    listed: list[Any] = list(checks) if isinstance(checks, Iterable) and not isinstance(checks, str) else [checks]
    names = [getattr(check, "__name__", check) for check in listed]
    if not names:
        raise RegistrationError("checks= is empty.", remedy=f"Pass some of {', '.join(CHECKS)}, or omit checks=.")
    for name in names:
        if name not in CHECKS:
            raise RegistrationError(f"unknown check {name!r:.80}.", remedy=nearest(str(name), CHECKS))
    return list(dict.fromkeys(names))


def outcome_of(op: Op[..., Any], name: str, options: dict[str, Any]) -> Outcome:
    """Run one check; return its outcome, also if it failed."""
    start = time.perf_counter()
    try:
        return CHECKS[name](op, **options)
    except CheckError as failure:
        return Outcome(name, op.name, "failed", failure=failure, seconds=time.perf_counter() - start)


def _line(outcome: Outcome) -> str:
    if outcome.status == "skipped":
        return f"{outcome.check:20}skipped: {outcome.reason}"
    if outcome.status == "failed":
        return f"{outcome.check:20}FAILED, {outcome.seconds:.1f} s"
    rejected = f", {outcome.n_rejected} rejected" if outcome.n_rejected else ""
    note = f" ({outcome.reason})" if outcome.reason else ""
    return f"{outcome.check:20}passed: {outcome.n_examples} examples{rejected}, {outcome.seconds:.1f} s{note}"
