"""`tfpyop list`: print a table of ops, without importing TensorFlow."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from tfpyop._discovery import find_all
from tfpyop._op import Op, op_def_of
from tfpyop.cli._console import make_console, make_table, printing_aside


def run(options: argparse.Namespace) -> int:
    """Print a table of the ops that the targets name."""
    with printing_aside():
        ops = find_all(options.targets)
    table = make_table("op", "signature", "dtypes", "rules", "defined at")
    for name, op in ops.items():
        table.add_row(name, *_described(op))
    make_console().print(table)
    return 0


def _described(op: Op[..., Any]) -> Iterable[str]:
    definition, rules = op_def_of(op).spec, op_def_of(op).rules
    yield op.signature or ("shape=" if definition.shape is not None else "unknown")
    yield ", ".join("as inputs" if dtype is None else str(dtype) for dtype in definition.dtypes)
    found = [f"{rule.defines}: {rule.kind}" for rule in op.rules]
    yield ", ".join(dict.fromkeys(found)) or ("non-differentiable" if rules.non_differentiable else "none")
    yield str(op_def_of(op).site)
