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

_PACKAGES = ("tfpyop", "tensorflow", "numpy", "jax", "torch", "autograd", "pytensor")


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


def show(console: Console, group: Group, rounds: Rounds) -> None:
    """Print the table of a group, and what came of its targets."""
    names = list(rounds[0])
    first = names[0]
    table = Table("", group.unit[0], f"{first} / this", "spread", box=SIMPLE, pad_edge=False, title=group.title)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in names:
        middle, low, high = ratio(rounds, first, name)
        compared = ("", "") if name == first else (f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
        table.add_row(name, f"{cost(group, rounds, name):,.2f}", *compared)
    console.print(table)
    for target in group.targets:
        line = _said_of(group, rounds, target)
        if line is not None:
            console.print(f"  {line}", markup=False, highlight=False)
    console.print()


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


def as_json(group: Group, rounds: Rounds) -> dict[str, Any]:
    """All that was measured in a group."""
    return {
        "key": group.key,
        "title": group.title,
        "unit": group.unit[0],
        "rows": {
            name: {
                "median": cost(group, rounds, name),
                "rounds": [turn[name] / group.unit[1] for turn in rounds],
            }
            for name in rounds[0]
        },
        "targets": [said for said in (_said_of(group, rounds, target) for target in group.targets) if said is not None],
    }


def draw(group: Group, rounds: Rounds, path: Path) -> None:
    """Draw the medians of a group as bars, with the spread of the turns."""
    from matplotlib.figure import Figure

    names = list(rounds[0])
    values = [cost(group, rounds, name) for name in names]
    spreads = [sorted(turn[name] / group.unit[1] for turn in rounds) for name in names]
    errors = [
        [max(0.0, value - spread[len(spread) // 10]) for value, spread in zip(values, spreads, strict=True)],
        [max(0.0, spread[-1 - len(spread) // 10] - value) for value, spread in zip(values, spreads, strict=True)],
    ]
    figure = Figure(figsize=(7, 1 + 0.32 * len(names)), layout="constrained")
    axes = figure.add_subplot(title=group.title, xlabel=group.unit[0])
    colors = ["tab:blue" if name.startswith("tfpyop") else "lightsteelblue" for name in names]
    axes.barh(names, values, xerr=errors, color=colors, error_kw={"lw": 0.8})
    if min(values) > 0 and max(values) > 30 * min(values):
        axes.set_xscale("log")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    for number, value in enumerate(values):
        axes.annotate(f" {value:,.3g}", (value, number), va="center", fontsize=8)
    figure.savefig(path, dpi=120)
