"""All checks of an op in one call, and the report of their outcomes."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop.errors import RegistrationError, nearest
from tfpyop.testing._adjoint_check import check_adjoint
from tfpyop.testing._call_checks import check_batching, check_contract, check_parity
from tfpyop.testing._check_runner import Outcome, thoroughly
from tfpyop.testing._cost_check import check_cost
from tfpyop.testing._drawn import Drawn, NotTested, UntestedWarning
from tfpyop.testing._examples import Arguments
from tfpyop.testing._export_check import check_export, start_for_export
from tfpyop.testing._failures import CheckError
from tfpyop.testing._gradient_checks import check_gradient, check_jvp, check_second_order
from tfpyop.testing._implicit_check import check_implicit
from tfpyop.testing._linearity_check import check_linearity
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._mutation import Lines, MutationReport, RuleSources, lines_text, run_mutants
from tfpyop.testing._needs_check import check_needs
from tfpyop.testing._order_check import check_order
from tfpyop.testing._other_process import sharing_processes
from tfpyop.testing._precision_check import check_precision
from tfpyop.testing._property import CheckFunction
from tfpyop.testing._purity_check import check_purity
from tfpyop.testing._residuals_check import check_residuals
from tfpyop.testing._sparsity_check import check_sparsity
from tfpyop.testing._threads_check import check_threads

Check = str | Callable[..., Outcome]
"""A check, or the name of a check."""

CHECKS = MappingProxyType[str, CheckFunction](
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
            check_implicit,
            check_needs,
            check_precision,
            check_cost,
            check_residuals,
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
      not_tested: What no check tested, warnings first.
      mutation: The results of mutants of the rules, if they were requested.
    """

    outcomes: tuple[Outcome, ...]
    not_tested: tuple[NotTested, ...] = ()
    mutation: MutationReport | None = None

    @property
    def failures(self) -> list[CheckError]:
        """The failures of all failed checks."""
        return [outcome.failure for outcome in self.outcomes if outcome.failure is not None]

    @property
    def warnings(self) -> list[NotTested]:
        """The static parameters that had one value in all examples, and the lines of rules that never ran."""
        return [part for part in self.not_tested if part.is_warning]

    def __str__(self) -> str:
        """Return one line for each check, what was not tested, the survivors among mutants, and every failure."""
        mutation = [] if self.mutation is None else [str(self.mutation)]
        failures = [f"\n{failure}" for failure in self.failures]
        return "\n".join([*map(outcome_line, self.outcomes), *not_tested_lines(self), *mutation, *failures])


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
    mutate: bool = False,
    verbose: bool = False,
    thorough: bool = False,
) -> Report:
    """Run all checks that apply to an op, and report all failures, not only the first failure.

    The report also lists what was not tested. If a static parameter had one value in all examples, `check_op` issues an
    `UntestedWarning`.

    Args:
      op: The op.
      checks: Names from `CHECKS`, or the check functions; one or several. Default: all.
      arguments: Strategy for the arguments, such as `arguments(op)`. Default: the default of each check.
      max_examples: Number of examples for each check. Default: the default of each check.
      modes: A selection of "eager", "graph", "XLA" and "native". Default: all that apply.
      seed: Seed that makes every run draw the same examples. Default: runs differ, and failures are stored in
        Hypothesis' example database.
      mutate: Whether to run mutants, after all checks have passed: wrong variants of the op's rules with another sign,
        factor, axis or input, or without a term, a transposition or a conjugate. The report lists the mutants that no
        check found, with their lines. Default: False, because it takes longer than the checks.
      verbose: Whether to print the line of each check, with its time, when the check ends. Default: False.
      thorough: Whether to draw ten times the default number of examples, and to search near the examples with the
        largest errors of derivatives for larger errors, until one exceeds the tolerance. Default: False, because it
        takes several times as long.

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
    report = report_of(op, chosen, options, mutate=mutate, run=_printed if verbose else None, thorough=thorough)
    if report.failures:
        raise ChecksError(report)
    for part in report.warnings:
        if part.option is not None:
            warnings.warn(f"{op.name}: {part}", UntestedWarning, stacklevel=2)
    return report


def report_of(
    op: Op[..., Any],
    names: Sequence[str],
    options: dict[str, Any],
    *,
    mutate: bool = False,
    thorough: bool = False,
    run: Callable[[Op[..., Any], str, dict[str, Any]], Outcome] | None = None,
) -> Report:
    """Run checks of an op and return the report.

    Args:
      op: The op.
      names: The names of the checks.
      options: The options of every check.
      mutate: Whether to run mutants if no check failed.
      thorough: Whether the checks draw more examples and search for larger errors. Mutants run as usual.
      run: Runs a check of an op with options. Default: `outcome_of`.
    """
    sources = RuleSources.of(op)
    lines = Lines(sources.sources)
    with lines.recording(), sharing_processes(), thoroughly(thorough):
        if check_export.__name__ in names:
            start_for_export(op)
        outcomes = tuple((run or outcome_of)(op, name, options) for name in names)
    not_tested = tuple(_not_tested(op, outcomes, lines, names))
    has_failed = any(outcome.failure is not None for outcome in outcomes)
    if not mutate:
        return Report(outcomes, not_tested)
    if has_failed:
        return Report(outcomes, not_tested, MutationReport(unavailable=("a check failed; correct the op first",)))
    quick = {**options, "seed": 0 if options["seed"] is None else options["seed"], "modes": _quick_modes(options)}
    judge = functools.partial(_judged, op, quick)
    mutation = run_mutants(op, sources, lines, outcomes=outcomes, judge=judge, options=options)
    return Report(outcomes, not_tested, mutation)


def _judged(op: Op[..., Any], options: dict[str, Any], name: str) -> Outcome:
    return outcome_of(op, name, options)


def _quick_modes(options: dict[str, Any]) -> Sequence[str]:
    """Return the modes for mutants: eager, which is enough to find a wrong rule, unless it was left out."""
    modes = checked_modes(options["modes"])
    return ("eager",) if "eager" in modes else modes


def _not_tested(
    op: Op[..., Any], outcomes: Sequence[Outcome], lines: Lines, names: Sequence[str]
) -> Iterator[NotTested]:
    """Yield what none of the checks tested."""
    parts = list(functools.reduce(Drawn.joined, [outcome.drawn for outcome in outcomes], Drawn()).not_tested(op))
    yield from (part for part in parts if part.is_warning)
    for source, numbers, is_whole in lines.not_run():
        if not is_whole or set(names) == set(CHECKS):
            yield NotTested(
                f"{lines_text(source, numbers)} never ran, in the rule {source.function.__name__}",
                f"Pass domain= or arguments= that reach {'them' if numbers[1:] else 'it'}.",
                is_warning=not is_whole,
            )
    yield from (part for part in parts if not part.is_warning)


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


def _printed(op: Op[..., Any], name: str, options: dict[str, Any]) -> Outcome:
    """Run one check and print its line."""
    outcome = outcome_of(op, name, options)
    print(outcome_line(outcome), flush=True)  # noqa: T201 - the requested output
    return outcome


def not_tested_lines(report: Report) -> list[str]:
    """Return what no check tested: one line for each warning, then one line for everything else."""
    notes = "; ".join(str(part) for part in report.not_tested if not part.is_warning)
    return [f"WARNING: {part}" for part in report.warnings] + [f"Not tested: {notes}."] * bool(notes)


def outcome_line(outcome: Outcome) -> str:
    """Return the line that shows the outcome of a check."""
    if outcome.status == "skipped":
        return f"{outcome.check:20}skipped: {outcome.reason}"
    if outcome.status == "failed":
        return f"{outcome.check:20}FAILED, {outcome.seconds:.1f} s"
    rejected = f", {outcome.n_rejected} rejected" if outcome.n_rejected else ""
    note = f" ({outcome.reason})" if outcome.reason else ""
    return f"{outcome.check:20}passed: {outcome.n_examples} examples{rejected}, {outcome.seconds:.1f} s{note}"
