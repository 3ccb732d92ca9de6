"""Tests for pytest: each runs a property of a check as a test that `@given` has made.

Test classes and the pytest plugin use this module. It imports pytest when tests run, because pytest is not required.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tfpyop import Op
from tfpyop.errors import TfpyopError
from tfpyop.testing._check_runner import Outcome, thoroughly
from tfpyop.testing._modes import is_applicable
from tfpyop.testing._property import CheckFunction, Property, finished


def cases(op: Op[..., Any], check: CheckFunction, modes: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield a name and the modes for each test of a check: one test for each mode in which the check differs."""
    name = check.__name__
    own = [mode for mode in check.modes if mode in modes and is_applicable(op, mode)]
    if not own:
        yield name, modes
    for mode in own:
        yield f"{name}-{mode}", [mode]


def given_test(
    op: Op[..., Any], check: CheckFunction, options: Mapping[str, Any], *, thorough: bool = False
) -> Callable[..., None]:
    """Return a test function for pytest.

    The function is a test of Hypothesis: decorators of Hypothesis such as `reproduce_failure` and `seed` can be applied
    to it. If the check does not apply to the op, the test is skipped when it runs.

    Args:
      op: The op.
      check: The check.
      options: The options of the check. They select one mode if the check has a property for each mode.
      thorough: Whether the check is thorough.
    """

    def start() -> Any:
        return check.steps(op, **options)

    def unprepared(*_: Any) -> None:  # rules may be attached before it runs
        __tracebackhide__ = True
        with thoroughly(thorough):
            _report(lambda: finished(start(), _run_new))

    running: list[Property[Any]] = []
    try:
        first: Property[Any] = next(start())
    except (StopIteration, TfpyopError):
        return unprepared
    with thoroughly(thorough):
        made = first.test(lambda example: running[-1].judge(example), is_quiet=False)

    def run(subject: Property[Any]) -> None:
        vars(made).update({name: value for name, value in vars(test).items() if name != "__wrapped__"})
        running.append(subject)
        subject.run(made)

    @functools.wraps(made)
    def test(*_: Any) -> None:
        __tracebackhide__ = True
        with thoroughly(thorough):
            _report(lambda: finished(start(), run))

    return test


def _run_new(subject: Property[Any]) -> None:
    subject.run(subject.test(subject.judge, is_quiet=False))


def _report(run: Callable[[], Outcome]) -> None:
    """Turn the outcome of a check into an outcome of pytest. Reports are complete, so they have no stack frames."""
    __tracebackhide__ = True
    import pytest

    try:
        outcome: Outcome | TfpyopError = run()
    except TfpyopError as error:
        outcome = error
    if isinstance(outcome, TfpyopError):
        notes = [line for note in getattr(outcome, "__notes__", ()) for line in note.splitlines()]
        pytest.fail("\n".join([str(outcome), *(f"  {line}" for line in notes)]), pytrace=False)
    if outcome.status == "skipped":
        pytest.skip(str(outcome.reason))


def identifier(name: str) -> str:
    """Return a name in which other characters than letters, digits and underscores are replaced."""
    return re.sub(r"\W", "_", name)
