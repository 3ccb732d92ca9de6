"""`tfpyop required`: show the ops that a saved model needs, and whether each is available in this process."""

from __future__ import annotations

import argparse

from tfpyop._discovery import import_module
from tfpyop.cli._console import make_console, make_table, printing_aside
from tfpyop.export import required_ops


def run(options: argparse.Namespace) -> int:
    """Print a table of the ops of a saved model; return 1 if an op is not available."""
    with printing_aside():
        for module in options.modules:
            import_module(module)
    found = required_ops(options.path)
    table = make_table("op", "module", "available")
    for op in found:
        is_gone = op.is_local or op.is_of_main
        state = "[green]yes[/]" if op.is_available else "[bold red]never[/]" if is_gone else "[bold red]no[/]"
        table.add_row(op.name, op.module, state)
    console = make_console()
    if found:
        console.print(table)
    else:
        console.print("The model needs no ops.")
    return int(not all(op.is_available for op in found))
