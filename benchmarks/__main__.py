"""Measure tfpyop beside its peers: `python -m benchmarks`.

Every library has a process of its own; the rows of a group take turns, and ratios are taken of each turn, so that a
drift of the machine cancels. Peers that are not installed are left out: `pip install -e ".[bench]"` brings them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks.groups import GROUPS, Group
from benchmarks.libraries import FOREIGN
from benchmarks.measuring import Library, is_installed
from benchmarks.report import LEGEND, Calls, Rounds, as_json, draw, show, versions


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the selected groups."""
    keys = [group.key for group in GROUPS]
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(keys)}; default: all")
    parser.add_argument("--rounds", type=_positive, help="how many turns; default: as the group says")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    parser.add_argument("--charts", type=Path, metavar="DIRECTORY", help="draw a chart for each group")
    options = parser.parse_args(arguments)
    unknown = [key for key in options.groups if key not in keys]
    if unknown:
        parser.error(f"there is no group {unknown[0]!r}; there are {', '.join(keys)}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    chosen = [group for group in GROUPS if not options.groups or group.key in options.groups]
    console = Console(width=None if sys.stdout.isatty() else 110)
    try:
        if options.json is not None:
            options.json.open("ab").close()
        if options.charts is not None:
            options.charts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"the results cannot be written: {error}")
    console.print(versions(), highlight=False)
    console.print(LEGEND, highlight=False)
    measured = []
    with contextlib.ExitStack() as stack, Progress(console=Console(stderr=True), transient=True) as progress:
        libraries = _start({row.library for group in chosen for row in group.rows}, stack, console)
        for group in chosen:
            turns = _measure(group, libraries, options.rounds or group.rounds, progress)
            calls = _count(group, libraries, turns)
            show(console, group, turns, calls)
            measured.append(as_json(group, turns, calls))
            if options.json is not None:
                options.json.write_text(json.dumps({"versions": versions(), "groups": measured}, indent=1))
            if options.charts is not None:
                draw(group, turns, options.charts / f"{group.key}.png")
    return 0


def _start(names: Iterable[str], stack: contextlib.ExitStack, console: Console) -> Mapping[str, Library]:
    """Start the processes, all of which have imported before anything is measured; tells which are left out."""
    libraries = {name: stack.enter_context(Library(name)) for name in sorted(names) if is_installed(name)}
    problems = {name: "not installed" for name in sorted(names) if name not in libraries}
    problems |= {name: problem for name, library in libraries.items() if (problem := library.ready())}
    for name, problem in problems.items():
        if name not in FOREIGN:
            raise RuntimeError(f"{name}: {problem}")
        console.print(f"left out: {name}: {problem}", markup=False, highlight=False)
    return {name: library for name, library in libraries.items() if name not in problems}


def _measure(group: Group, libraries: Mapping[str, Library], rounds: int, progress: Progress) -> Rounds:
    rows = [row for row in group.rows if row.library in libraries]
    task = progress.add_task(group.title, total=(rounds + 1) * len(rows))
    for row in list(rows):
        try:
            libraries[row.library].measure(row.case)  # sets it up
        except RuntimeError as error:
            if row.library not in FOREIGN:
                raise
            rows.remove(row)
            progress.console.print(f"left out: {error}", markup=False, highlight=False)
        progress.advance(task)
    turns = []
    for number in range(rounds):
        begin = number % len(rows)  # so that none always comes after the same one
        costs = {}
        for row in rows[begin:] + rows[:begin]:
            costs[row.key] = libraries[row.library].measure(row.case)
            progress.advance(task)
        turns.append({row.key: costs[row.key] for row in rows})
    progress.remove_task(task)
    return turns


def _count(group: Group, libraries: Mapping[str, Library], turns: Rounds) -> Calls:
    """Count the calls of the rows that could be measured, if the group counts."""
    if not group.counts:
        return {}
    return {row.key: libraries[row.library].count(row.case) for row in group.rows if row.key in turns[0]}


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least one turn is needed")
    return number


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
