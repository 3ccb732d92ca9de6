"""Where results are printed: names are shown as they are, and tables whole where they go into files and pipes."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

_WIDEST = 1000


def make_console(*, is_error: bool = False) -> Console:
    """A console on standard output, or on standard error; as wide as a table wants to be, if it is not a terminal."""
    console = Console(stderr=is_error, emoji=False)
    return console if console.is_terminal else Console(stderr=is_error, emoji=False, width=_WIDEST)


def make_table(*columns: str, **options: Any) -> Table:
    """A table that breaks what is too long for a terminal, rather than cut it off."""
    table = Table(*columns, box=SIMPLE, pad_edge=False, **options)
    for column in table.columns:
        column.overflow = "fold"
    return table


def printing_aside() -> contextlib.AbstractContextManager[Any]:
    """Within, what modules and functions print goes to standard error: it is not a result."""
    return contextlib.redirect_stdout(sys.stderr)
