"""The output of the command line: names are printed unchanged, and tables in files and pipes are not wrapped."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

_WIDEST = 1000


def make_console(*, is_error: bool = False) -> Console:
    """Return a console on standard output or standard error. If it is not a terminal, tables get their full width."""
    console = Console(stderr=is_error, emoji=False)
    return console if console.is_terminal else Console(stderr=is_error, emoji=False, width=_WIDEST)


def make_table(*columns: str, **options: Any) -> Table:
    """Return a table that wraps text that is too wide for a terminal, instead of truncating it."""
    table = Table(*columns, box=SIMPLE, pad_edge=False, **options)
    for column in table.columns:
        column.overflow = "fold"
    return table


def printing_aside() -> contextlib.AbstractContextManager[Any]:
    """Redirect to standard error everything that modules and functions print, because it is not a result."""
    return contextlib.redirect_stdout(sys.stderr)
