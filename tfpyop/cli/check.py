"""`tfpyop check`: run checks of ops with a progress bar, and show the results as a table, as JSON or as HTML."""

from __future__ import annotations

import argparse
import dataclasses
import json
import warnings
from collections.abc import Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tfpyop._discovery import find_all
from tfpyop._op import Op, op_def_of
from tfpyop.cli._console import make_console, make_table, printing_aside
from tfpyop.cli._output import require_writable
from tfpyop.errors import TfpyopError
from tfpyop.testing import CheckError, Outcome, Report
from tfpyop.testing._check_op import checked_names, not_tested_lines, outcome_line, outcome_of, report_of
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._ops import UNBOUND, is_unbound_method
from tfpyop.testing._other_process import sharing_processes

_CELLS = {"passed": "[green]ok[/]", "failed": "[bold red]FAIL[/]", "skipped": "[dim]-[/]"}
_MOST_NAMED = 3


def run(options: argparse.Namespace) -> int:
    """Check the ops that the targets name; return 1 if a check failed."""
    names = checked_names(options.checks)
    checked_modes(options.modes)
    if options.html is not None:
        require_writable(options.html)
    with printing_aside():
        ops = find_all(options.targets)
        given = {"max_examples": options.max_examples, "modes": options.modes, "seed": options.seed}
        reports = _run(ops, names, {"arguments": None, **given}, mutate=options.mutate, thorough=options.thorough)
        if options.html is not None:
            from tfpyop.cli.html import write_page

            write_page(options.html, ops, reports)
    if options.json:
        print(json.dumps(_as_json(ops, reports), indent=2))  # noqa: T201 - the requested output
    else:
        _print(reports, names)
    return int(any(report.failures for report in reports.values()))


def _run(
    ops: dict[str, Op[..., Any]], names: Sequence[str], options: dict[str, Any], *, mutate: bool, thorough: bool
) -> dict[str, Report]:
    """Run every check of every op. Progress is printed to standard error, not to the results."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    reports = {}
    console = make_console(is_error=True)
    showing = Progress(*columns, console=console, transient=True)
    with showing as progress, warnings.catch_warnings(), sharing_processes():
        warnings.simplefilter("ignore")
        task = progress.add_task("", total=len(ops) * len(names))
        for name, op in ops.items():

            def run(op: Op[..., Any], check: str, options: dict[str, Any], name: str = name) -> Outcome:
                progress.update(task, description=f"{name} {check}")
                outcome = _outcome(op, check, options)
                progress.advance(task)
                if outcome.status != "skipped":
                    console.print(f"{name} {outcome_line(outcome)}", markup=False, highlight=False, soft_wrap=True)
                if mutate and check == names[-1]:
                    progress.update(task, description=f"{name} mutants")
                return outcome

            reports[name] = report_of(op, names, options, mutate=mutate, thorough=thorough, run=run)
            if not console.is_terminal:  # without a progress bar, as in a build log
                console.print(f"{len(reports)}/{len(ops)} {name}: {_counts(reports[name].outcomes)}", highlight=False)
    return reports


def _outcome(op: Op[..., Any], check: str, options: dict[str, Any]) -> Outcome:
    """Return the outcome of a check. A check that cannot run, for example without a strategy, counts as failed."""
    if is_unbound_method(op):
        return Outcome(check, op.name, "skipped", reason=UNBOUND)
    try:
        return outcome_of(op, check, options)
    except TfpyopError as error:
        failure = CheckError(error.problem, check=check, got=error.got, cause=error.remedy, subject=error.subject)
        return Outcome(check, op.name, "failed", failure=failure)


def _print(reports: dict[str, Report], names: Sequence[str]) -> None:
    console = make_console()
    table = make_table("op", *(name.removeprefix("check_").replace("_", " ") for name in names))
    for name, report in reports.items():
        table.add_row(
            f"{name} [yellow](!)[/]" if report.warnings else name,
            *(_CELLS[outcome.status] for outcome in report.outcomes),
        )
    console.print(table)
    for line in _skipped(reports):
        console.print(line, markup=False, highlight=False, soft_wrap=True, style="dim")
    for name, report in reports.items():
        mutation = [] if report.mutation is None else str(report.mutation).splitlines()
        lines = [*not_tested_lines(report), *mutation]
        for line in [f"\n{name}", *(f"  {line}" for line in lines)] if lines else []:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for report in reports.values():
        for failure in report.failures:
            console.print(f"\n{failure}", markup=False, highlight=False, soft_wrap=True)
    outcomes = [outcome for report in reports.values() for outcome in report.outcomes]
    n_warnings = sum(len(report.warnings) for report in reports.values())
    warned = f"; {n_warnings} warning{'s' * (n_warnings > 1)}" * bool(n_warnings)
    console.print(f"\n{len(reports)} op{'s' * (len(reports) != 1)}: {_counts(outcomes)}{warned}", highlight=False)


def _skipped(reports: dict[str, Report]) -> list[str]:
    """Return the reasons why checks were skipped: one line for each check and reason, with the ops."""
    ops: dict[tuple[str, str | None], list[str]] = {}
    for name, report in reports.items():
        for outcome in report.outcomes:
            if outcome.status == "skipped":
                ops.setdefault((outcome.check, outcome.reason), []).append(name)
    lines = []
    for (check, reason), names in sorted(ops.items(), key=str):
        which = ", ".join(names[:_MOST_NAMED]) + f" and {len(names) - _MOST_NAMED} more" * (len(names) > _MOST_NAMED)
        lines.append(f"- {check}: {reason} ({which})")
    return lines


def _counts(outcomes: Sequence[Outcome]) -> str:
    counts = {status: sum(outcome.status == status for outcome in outcomes) for status in _CELLS}
    text = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"{text}; {sum(outcome.seconds for outcome in outcomes):.1f} s"


def _as_json(ops: dict[str, Op[..., Any]], reports: dict[str, Report]) -> dict[str, Any]:
    return {
        "passed": not any(report.failures for report in reports.values()),
        "ops": [
            {
                "op": name,
                "name": ops[name].name,
                "signature": ops[name].signature,
                "defined_at": str(op_def_of(ops[name]).site),
                "checks": [_outcome_as_json(outcome) for outcome in report.outcomes],
                "not_tested": [dataclasses.asdict(part) for part in report.not_tested],
                "mutation": None if report.mutation is None else dataclasses.asdict(report.mutation),
            }
            for name, report in reports.items()
        ],
    }


def _outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    failure = outcome.failure
    return {
        "check": outcome.check,
        "status": outcome.status,
        "examples": outcome.n_examples,
        "rejected": outcome.n_rejected,
        "seconds": round(outcome.seconds, 3),
        "reason": outcome.reason,
        "not_tested": [str(part) for part in outcome.not_tested],
        "failure": None
        if failure is None
        else {
            "problem": failure.problem,
            "mode": failure.mode,
            "expected": failure.expected,
            "got": failure.got,
            "cause": failure.cause,
            "code": failure.code,
            "text": str(failure),
        },
    }
