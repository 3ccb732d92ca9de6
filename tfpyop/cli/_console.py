"""Where results are printed: names are shown as they are, and tables whole where they go into files and pipes."""

from __future__ import annotations

from rich.console import Console

_WIDEST = 1000


def make_console(*, is_error: bool = False, is_wide: bool = False) -> Console:
    """A console on standard output.

    Args:
      is_error: On standard error instead.
      is_wide: As wide as a table wants to be, if it is no terminal.
    """
    console = Console(stderr=is_error, emoji=False)
    return Console(width=_WIDEST, emoji=False) if is_wide and not console.is_terminal else console
