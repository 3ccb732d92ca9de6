"""Scripts that show a failure by running the check that found it on the failing calls alone."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfpyop import Op
from tfpyop.testing._examples import Arguments, Rows, array_code, value_code
from tfpyop.testing._modes import MODES
from tfpyop.testing._scripts import importable_name

_N_DRAWN = 20
"""Number of examples that draw every pair of two calls, in either order."""


def check_script(op: Op[..., Any], check: str, example: Arguments | Rows, mode: str | None) -> str:
    """Return a script that runs a check on the failing calls, and prints what the check expected and what it got.

    Args:
      op: The op.
      check: The name of the check.
      example: The failing calls.
      mode: The mode in which they fail, if not in all modes.
    """
    name, where = importable_name(op)
    calls = example.arguments if isinstance(example, Rows) else (example,)
    in_mode = f", modes={[mode]}" if mode in MODES else ""
    n_drawn = 1 if len(calls) == 1 else _N_DRAWN
    lines = [
        "import numpy as np",
        "from hypothesis import strategies as st",
        f"from tfpyop.testing import Arguments, CheckError, {check}",
        *_imports_of_enums(calls),
        where,
        "",
        "calls = [",
        *(f"    Arguments({_arrays_code(call.args)}, {value_code(dict(call.static))})," for call in calls),
        "]",
        "try:",
        f"    {check}({name}, arguments=st.sampled_from(calls), max_examples={n_drawn}, seed=0{in_mode})",
        "except CheckError as failure:",
        "    print(failure.problem)",
        '    print("expected", failure.expected or "no failure")',
        '    print("got", failure.got or "this failure")',
    ]
    return "\n".join(lines)


def _arrays_code(value: Any) -> str:
    """Return nested arguments as code, in which arrays keep their dtypes as arrays."""
    if isinstance(value, np.ndarray):
        return array_code(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_arrays_code(item)}' for key, item in value.items())}}}"
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        items = ", ".join(map(_arrays_code, value))
        return f"[{items}]" if isinstance(value, list) else f"({items}{',' * (len(value) == 1)})"
    return value_code(value)


def _imports_of_enums(calls: tuple[Arguments, ...]) -> Iterator[str]:
    """Yield the lines that import the enums of static values."""
    kinds = {type(value) for call in calls for value in call.static.values() if isinstance(value, enum.Enum)}
    for kind in sorted(kinds, key=lambda kind: kind.__name__):
        yield f"from {kind.__module__} import {kind.__name__}"
