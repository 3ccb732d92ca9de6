"""`tfpyop ghostwrite`: a test file for the ops of modules, which runs as it is."""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tfpyop._discovery import find_ops
from tfpyop._op import Op, op_def_of
from tfpyop.cli._console import printing_aside
from tfpyop.errors import TfpyopError
from tfpyop.testing import arguments
from tfpyop.testing._ops import is_unbound_method


def ghostwrite(targets: Sequence[str]) -> int:
    """Print a test file for the ops that targets name."""
    with printing_aside():
        ops = [(target, find_ops(target)) for target in targets]
    found = {(target.partition(":")[0], name): op for target, named in ops for name, op in named.items()}
    titles = _titles(list(found))
    tests = [line for (module, name), op in found.items() for line in _test(titles[module, name], module, name, op)]
    lines = ['"""Property-based checks of ops, begun by `tfpyop ghostwrite`."""', ""]
    if any("pytest." in line for line in tests):
        lines += ["import pytest", ""]
    lines += [f"import {module}" for module in dict.fromkeys(module for module, _ in found)]
    lines += ["import tfpyop"] * any("tfpyop.registered_ops()[" in line for line in tests)
    lines += ["from tfpyop.testing import check_op"]
    print("\n".join([*lines, *tests]))  # noqa: T201 - it is what was asked for
    return 0


def _titles(found: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """A name for the test of each op, with that of its module where two modules have an op of the same name."""
    names = [name for _, name in found]
    titles = {(module, name): f"{module}.{name}" if names.count(name) > 1 else name for module, name in found}
    unique: dict[tuple[str, str], str] = {}
    for key, title in titles.items():
        name = f"test_{re.sub(r'[^0-9A-Za-z_]', '_', title)}"
        unique[key] = f"{name}_{len(unique)}" if name in unique.values() else name
    return unique


def _test(title: str, module: str, name: str, op: Op[..., Any]) -> Iterator[str]:
    """The lines of one test; one that cannot run as it is says what is missing, and is skipped."""
    missing, comment = _advice(op)
    yield from ("", "")
    if missing is not None:
        yield f"@pytest.mark.skip(reason={missing!r})"
    yield f"def {title}():"
    if comment is not None:
        yield f"    # {comment}"
    yield f"    check_op({_expression(module, name, op)})"


def _expression(module: str, name: str, op: Op[..., Any]) -> str:
    """How a test names an op: as an attribute of its module, or by its registered name if it is none."""
    path = name.replace(":", ".")
    try:
        is_attribute = operator.attrgetter(path)(sys.modules[module]).name == op.name
    except AttributeError:  # the op is in a container, or was deleted: its registered name finds it
        is_attribute = False
    return f"{module}.{path}" if is_attribute else f"tfpyop.registered_ops()[{op.name!r}]"


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
    if op_def_of(op).spec.domain.is_everywhere:
        return None, 'Inputs may be any numbers. If they may not, say so where the op is made, as domain="(0, inf)".'
    return None, None
