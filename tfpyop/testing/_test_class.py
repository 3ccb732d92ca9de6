"""A test class with a test for each op and check, for use in a test file."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._discovery import ops_of
from tfpyop.errors import RegistrationError, nearest
from tfpyop.testing._check_op import CHECKS, Check, checked_names
from tfpyop.testing._examples import Arguments
from tfpyop.testing._given_tests import cases, given_test, identifier
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._ops import is_unbound_method, subject_of
from tfpyop.testing._validation import require_count, require_seed


def make_test_class(
    ops: ModuleType | Op[..., Any] | Iterable[Op[..., Any]],
    /,
    *,
    checks: Iterable[Check] | Check | None = None,
    arguments: Mapping[str, SearchStrategy[Arguments]] | None = None,
    max_examples: int | None = None,
    modes: Sequence[str] | None = None,
    seed: int | None = None,
    thorough: bool = False,
) -> type:
    """Return a test class for pytest: one test for each op, check and mode, marked `tfpyop`.

    Each test is a test of Hypothesis, made by `@given`. Statistics, profiles, the example database, blobs and
    observability work as for other tests. The name of a test is `test_{op}_{check}`, or `test_{op}_{check}_{mode}` for
    checks with a property for each mode.

    Args:
      ops: A module, whose ops are used except for methods; or one op, or several ops.
      checks: Names from `CHECKS`, or the check functions; one or several. Default: all.
      arguments: Strategies for the arguments, by op name (`"solve"` for `my_ops.solve`). Default: the default of each
        check.
      max_examples: Number of examples for each check. Default: the default of each check.
      modes: A selection of "eager", "graph", "XLA" and "native". Default: all that apply.
      seed: Seed that makes every run draw the same examples.
      thorough: Whether to draw more examples and to search for larger errors, as in `check_op`.

    Returns:
      The class. Give it a name that pytest collects: `TestMyOps = make_test_class(my_ops)`.

    Raises:
      RegistrationError: There are no ops, an op is an unbound method, a name in `arguments` is not the name of an op,
        or a check does not exist.

    >>> from tfpyop import differentiable_op
    >>> from tfpyop.testing import make_test_class
    >>> TestNegative = make_test_class(differentiable_op(lambda x: -x, signature="()->()"), max_examples=10)
    """
    import pytest

    named = _named(ops)
    names = checked_names(checks)
    checked_modes(modes)
    for op in named.values():
        require_count(op, max_examples)
        require_seed(op, seed)
    if arguments is not None and not isinstance(arguments, Mapping):
        raise RegistrationError(
            "arguments= is not a dict.",
            got=f"{arguments!r:.80}",
            remedy=f"Pass a dict with a strategy for each op name: {{{next(iter(named))!r}: ...}}.",
        )
    drawn = {} if arguments is None else dict(arguments)
    options = {"max_examples": max_examples, "modes": modes, "seed": seed}
    for name in drawn:
        if name not in named:
            raise RegistrationError(
                f"arguments= contains {name!r}, which is not the name of an op.", remedy=nearest(name, named)
            )
    tests: dict[str, Any] = {}
    for name, op in named.items():
        for check in names:
            for case, own in cases(op, CHECKS[check], checked_modes(modes)):
                chosen = {**options, "arguments": drawn.get(name), "modes": own}
                test = given_test(op, CHECKS[check], chosen, thorough=thorough)
                tests[_unused(f"test_{identifier(f'{name}_{case}')}", tests)] = pytest.mark.tfpyop(test)
    return type("TestOps", (), {"__doc__": "Run every check on every op.", **tests})


def _unused(name: str, used: Container[str]) -> str:
    """Return a name that is not used yet: with a number if op names differ only in punctuation."""
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return name if name not in used else next(other for other in numbered if other not in used)


def _named(ops: ModuleType | Op[..., Any] | Iterable[Op[..., Any]]) -> dict[str, Op[..., Any]]:
    if isinstance(ops, ModuleType):
        named = {name: op for name, op in ops_of(ops).items() if not is_unbound_method(op)}
    else:
        # an op looks iterable
        listed: list[Any] = [ops] if isinstance(ops, str | Op) or not isinstance(ops, Iterable) else [*ops]
        for op in listed:
            subject = subject_of(op)
            if is_unbound_method(op):
                raise RegistrationError(
                    "the op is an unbound method.",
                    subject=subject,
                    remedy="Pass the op of an instance: make_test_class(instance.method).",
                )
        named = {op.name.rpartition(":")[2]: op for op in listed}
        if len(named) < len(listed):  # for example for several lambdas
            named = {f"{op.name.partition(':')[2]}-{number}": op for number, op in enumerate(listed)}
    if not named:
        raise RegistrationError(f"{ops!r:.80} contains no ops.", remedy="Import the module that defines the ops.")
    return named
