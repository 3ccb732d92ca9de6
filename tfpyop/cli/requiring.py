"""`tfpyop required`: the ops that a saved model needs, and whether each is available here."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable

from rich.box import SIMPLE
from rich.table import Table

from tfpyop._discovery import import_module
from tfpyop.cli._console import make_console
from tfpyop.export import required_ops


def show_required(path: str, modules: Iterable[str]) -> int:
    """Print a table of the ops of a saved model; returns 1 if one of them is not available."""
    with contextlib.redirect_stdout(sys.stderr):  # what modules print is no result
        for module in modules:
            import_module(module)
    found = required_ops(path)
    table = Table("op", "module", "available", box=SIMPLE, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for op in found:
        state = "[green]yes[/]" if op.is_available else "[bold red]never[/]" if op.is_local else "[bold red]no[/]"
        table.add_row(op.name, op.module, state)
    console = make_console()
    if found:
        console.print(table)
    else:
        console.print("The model needs no ops.")
    return int(not all(op.is_available for op in found))
