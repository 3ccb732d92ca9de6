"""Reports: what was measured, as a table, as JSON and as a chart."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.groups import Group, Target

Rounds = Sequence[Mapping[str, float]]
"""What each row took, turn by turn."""
Calls = Mapping[str, tuple[int, int]]
"""How many calls of its function and of its rules a row made; empty if the group does not count."""

_PACKAGES = ("tfpyop", "tensorflow", "numpy", "scipy", "jax", "jaxopt", "torch", "autograd", "pytensor")

LEGEND = """Medians of turns, of which each is the best of three. A ratio is the median of those of each turn: below 1
the first one costs less. Spread: between what eight in ten turns lay; all of them, if there were less than ten."""


def versions() -> str:
    """Python and the packages that take part."""
    known = {distribution.name for distribution in importlib.metadata.distributions()}
    found = [f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES if package in known]
    return f"Python {platform.python_version()}, {', '.join(found)}, {os.cpu_count()} cores"


def ratio(rounds: Rounds, row: str, over: str) -> tuple[float, float, float]:
    """The median of the ratios of two rows, turn by turn, and between what most of them lie."""
    ratios = sorted(turn[row] / turn[over] for turn in rounds)
    left_out = len(ratios) // 10
    return statistics.median(ratios), ratios[left_out], ratios[-1 - left_out]


def cost(group: Group, rounds: Rounds, row: str) -> float:
    """The median of a row, in the unit of its group."""
    return statistics.median(turn[row] for turn in rounds) / group.unit[1]


def show(console: Console, group: Group, rounds: Rounds, calls: Calls) -> None:
    """Print the table of a group, and what came of its targets."""
    table = _table(group, rounds) if group.axis is None else _table_of_curves(group, rounds, calls)
    table.title = group.title
    for column in table.columns[1:]:
        column.justify = "right"
    console.print(table)
    for target in group.targets:
        line = _said_of(group, rounds, target)
        if line is not None:
            console.print(f"  {line}", markup=False, highlight=False)
    for line in _more_calls(group, calls):
        console.print(f"  {line}", markup=False, highlight=False)
    console.print()


def _table(group: Group, rounds: Rounds) -> Table:
    first, *others = rounds[0]
    if not group.compares:
        table = Table("", group.unit[0], box=SIMPLE, pad_edge=False)
        for name in rounds[0]:
            table.add_row(name, f"{cost(group, rounds, name):,.2f}")
        _add_left_out(table, group, rounds)
        return table
    table = Table("", group.unit[0], f"{first} / this", "spread", box=SIMPLE, pad_edge=False)
    table.add_row(first, f"{cost(group, rounds, first):,.2f}")
    for name in others:
        shown = ["below noise", ""]
        if min(turn[name] for turn in rounds) > 0:  # it may be the difference of two measurements
            middle, low, high = ratio(rounds, first, name)
            shown = [f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
        table.add_row(name, f"{cost(group, rounds, name):,.2f}", *shown)
    _add_left_out(table, group, rounds)
    return table


def _add_left_out(table: Table, group: Group, rounds: Rounds) -> None:
    """Add the rows that could not be measured; the reason has been printed before the table."""
    for row in group.rows:
        if row.key not in rounds[0]:
            table.add_row(row.key, "left out")


def _table_of_curves(group: Group, rounds: Rounds, calls: Calls) -> Table:
    """A line for each place on the axis, a column for each curve, and what the first curve is to the others there."""
    assert group.axis is not None
    first, *others = curves = list(dict.fromkeys(row.name for row in group.rows))
    table = Table(group.axis, box=SIMPLE, pad_edge=False)
    shown = [first] if calls else curves
    for name in curves if calls else ():
        table.add_column(f"{name}, calls")
    for name in shown:
        table.add_column(f"{name}, {group.unit[0]}")
    for name in others:
        table.add_column(f"{first} / {name}")
    table.columns[0].no_wrap = True
    for at in dict.fromkeys(row.at for row in group.rows):
        keys = {row.name: row.key for row in group.rows if row.at == at and row.key in rounds[0]}
        counts = [_written(calls.get(keys.get(name, ""))) for name in curves] if calls else []
        costs = [f"{cost(group, rounds, keys[name]):,.2f}" if name in keys else "" for name in shown]
        ratios = [ratio(rounds, keys[first], keys[name]) if name in keys else None for name in others]
        table.add_row(
            f"{at:,}" if isinstance(at, int) else at, *counts, *costs, *(_ratio_text(found, calls) for found in ratios)
        )
    return table


def _ratio_text(found: tuple[float, float, float] | None, calls: Calls) -> str:
    """Return the ratio and its spread. A table that shows calls has no column for the spread."""
    if found is None:
        return ""
    middle, low, high = found
    return f"{middle:.2f}" if calls else f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _written(calls: tuple[int, int] | None) -> str:
    return "" if calls is None else f"{calls[0]} + {calls[1]}"


def _more_calls(group: Group, calls: Calls) -> list[str]:
    """What came of the target that the first name makes no more calls than the others."""
    first = group.rows[0].name
    ours = {row.at: calls[row.key] for row in group.rows if row.name == first and row.key in calls}
    return [
        f"NOT reached: {row.at}: {first} makes {_written(ours[row.at])} calls, {row.name} {_written(calls[row.key])}"
        for row in group.rows
        if row.key in calls and sum(calls[row.key]) < sum(ours[row.at])
    ]


def _said_of(group: Group, rounds: Rounds, target: Target) -> str | None:
    """What came of a target; None if a library is missing."""
    if target.row not in rounds[0] or target.over not in (None, *rounds[0]):
        return None
    if target.over is None:
        got, unit, what = cost(group, rounds, target.row), f" {group.unit[0]}", target.row
    else:
        (got, _, _), unit, what = ratio(rounds, target.row, target.over), "", f"{target.row} / {target.over}"
    state = "reached" if got <= target.most else "NOT reached"
    return f"{state}: {what} is {got:.2f}{unit}, wanted at most {target.most:.3g}{unit}"


def as_json(group: Group, rounds: Rounds, calls: Calls) -> dict[str, Any]:
    """All that was measured in a group."""
    return {
        "key": group.key,
        "title": group.title,
        "unit": group.unit[0],
        "rows": {
            name: {
                "median": cost(group, rounds, name),
                "rounds": [turn[name] / group.unit[1] for turn in rounds],
                **({"calls": calls[name]} if calls else {}),
            }
            for name in rounds[0]
        },
        "targets": [said for said in (_said_of(group, rounds, target) for target in group.targets) if said is not None],
    }


def draw(group: Group, rounds: Rounds, path: Path) -> None:
    """Draw the medians of a group with the spread of the turns, as curves if there is something they grow with."""
    from matplotlib.figure import Figure

    size = (7, 1 + 0.32 * len(rounds[0])) if group.axis is None else (7, 9 if group.counts else 4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot(title=group.title)
    axes.spines[["top", "right"]].set_visible(False)
    if group.axis is None:
        _draw_bars(axes, group, rounds)
    else:
        _draw_curves(axes, group, rounds)
    figure.savefig(path, dpi=120)


def _draw_bars(axes: Any, group: Group, rounds: Rounds) -> None:
    names = list(rounds[0])
    values = [cost(group, rounds, name) for name in names]
    colors = ["tab:blue" if name.startswith("tfpyop") else "lightsteelblue" for name in names]
    below, above = _spreads(group, rounds, names)
    axes.barh(names, values, xerr=[below, above], color=colors, error_kw={"lw": 0.8})
    axes.set_xlabel(f"{group.unit[0]}, less is better; lines: spread of the turns")
    if min(values) > 0 and max(values) > 30 * min(values):
        axes.set_xscale("log")
    axes.invert_yaxis()
    for number, value in enumerate(values):
        axes.annotate(f" {value:,.4g}", (value + above[number], number), va="center", fontsize=8)
    axes.margins(x=0.2)


def _draw_curves(axes: Any, group: Group, rounds: Rounds) -> None:
    places = [at for at in dict.fromkeys(row.at for row in group.rows) if at is not None]
    for name in dict.fromkeys(row.name for row in group.rows):
        rows = [row for row in group.rows if row.name == name and row.key in rounds[0]]
        keys = [row.key for row in rows]
        values, spreads = [cost(group, rounds, key) for key in keys], _spreads(group, rounds, keys)
        if isinstance(places[0], str):
            axes.errorbar(values, [places.index(row.at) for row in rows], xerr=spreads, fmt="o", capsize=2, label=name)
        else:
            axes.errorbar([row.at for row in rows], values, spreads, marker="o", capsize=2, label=name)
    axes.legend(frameon=False)
    if isinstance(places[0], str):
        axes.set_yticks(range(len(places)), places)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlabel(f"{group.unit[0]}, less is better")
        return
    if places[-1] >= 10 * places[0]:
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_xticks(places)
        axes.set_ylim(bottom=0)
    axes.set_xlabel(group.axis)
    axes.set_ylabel(f"{group.unit[0]}, less is better")


def _spreads(group: Group, rounds: Rounds, keys: Sequence[str]) -> list[list[float]]:
    """How far eight in ten turns lie below and above the medians."""
    below, above = [], []
    for key in keys:
        turns = sorted(turn[key] / group.unit[1] for turn in rounds)
        value, left_out = cost(group, rounds, key), len(turns) // 10
        below.append(max(0.0, value - turns[left_out]))
        above.append(max(0.0, turns[-1 - left_out] - value))
    return [below, above]
