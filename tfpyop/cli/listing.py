"""`tfpyop list`: a table of ops. Loads no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tfpyop._discovery import find_all
from tfpyop._op import Op


def list_ops(targets: Sequence[str]) -> int:
    """Print a table of the ops that targets name."""
    table = Table("op", "signature", "dtypes", "rules", "defined at", title=None, header_style="bold")
    for name, op in find_all(targets).items():
        table.add_row(name, *_described(op))
    for column in table.columns:
        column.overflow = "fold"  # rather than cut it off
    console = Console()
    console.print(table if console.is_terminal else _wide(table), soft_wrap=not console.is_terminal)
    return 0


def _described(op: Op[..., Any]) -> Iterable[str]:
    definition, rules = op._self_entry.definition, op._self_entry.rules
    yield op.signature or ("shape=" if definition.shape is not None else "unknown")
    yield ", ".join("as inputs" if dtype is None else str(dtype) for dtype in definition.dtypes)
    found = {
        "gradient": rules.gradient,
        "JVP": rules.jvp,
        "native": rules.native,
        "non-differentiable": rules.non_differentiable or None,
    }
    yield ", ".join(name for name, rule in found.items() if rule is not None) or "none"
    yield str(op._self_entry.site)


def _wide(table: Table) -> Table:
    """The table as wide as it wants to be, for files and pipes, in which nothing is to be cut."""
    for column in table.columns:
        column.no_wrap = True
        column.overflow = "ignore"
    return table
