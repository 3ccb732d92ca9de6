"""`tfpyop ghostwrite`: a test file for the ops of modules, which runs as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tfpyop._discovery import find_ops
from tfpyop._op import Op
from tfpyop.errors import TfpyopError
from tfpyop.testing import arguments
from tfpyop.testing._ops import is_unbound_method


def ghostwrite(targets: Sequence[str]) -> int:
    """Print a test file for the ops that targets name."""
    found = [(target.partition(":")[0], find_ops(target)) for target in targets]
    tests = [line for module, ops in found for name, op in ops.items() for line in _test(module, name, op)]
    lines = ['"""Property-based checks of ops, begun by `tfpyop ghostwrite`."""', ""]
    if any("pytest." in line for line in tests):
        lines += ["import pytest", ""]
    lines += [f"import {module}" for module in dict.fromkeys(module for module, _ in found)]
    lines += ["from tfpyop.testing import check_op"]
    print("\n".join([*lines, *tests]))  # noqa: T201 - it is what was asked for
    return 0


def _test(module: str, name: str, op: Op[..., Any]) -> Iterator[str]:
    """The lines of one test; one that cannot run as it is says what is missing, and is skipped."""
    expression = f"{module}.{name.replace(':', '.')}"
    missing, comment = _advice(op)
    yield from ("", "")
    if missing is not None:
        yield f"@pytest.mark.skip(reason={missing!r})"
    yield f"def test_{name.replace('.', '_').replace(':', '_')}():"
    if comment is not None:
        yield f"    # {comment}"
    yield f"    check_op({expression})"


def _advice(op: Op[..., Any]) -> tuple[str | None, str | None]:
    """What is missing to check an op, and what its author could say."""
    if is_unbound_method(op):
        return "it is a method", "Make an instance, and check its op: check_op(instance.method)."
    try:
        arguments(op)
    except TfpyopError as error:
        return (
            error.problem,
            f"{error.remedy} See tfpyop.testing.arguments, whose strategies check_op takes as arguments=.",
        )
    if op._self_entry.definition.domain.is_everywhere:
        return None, 'Inputs may be any numbers. If they may not, say so where the op is made, as domain="(0, inf)".'
    return None, None
