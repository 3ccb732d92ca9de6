"""Properties: what a check lets Hypothesis test, as tests made by `@given`.

A check is a generator. It yields properties and returns an outcome. `check_*` functions run the properties in quiet
tests; the tests for pytest run the same properties with the settings and the output of Hypothesis.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, cast

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis.database import ExampleDatabase
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop.testing._check_runner import CheckRunner, ExampleT, Outcome, is_quick
from tfpyop.testing._examples import Arguments
from tfpyop.testing._validation import require_strategy

Steps = Generator["Property[Any]", None, Outcome]
"""The properties of a check, one after the other, and at last its outcome."""


@dataclass(frozen=True, slots=True)
class Property(Generic[ExampleT]):
    """A property of an op: the body is right for all examples that the strategy draws.

    Attributes:
      check: The check, which counts the examples.
      strategy: Strategy for the arguments of one call, or of several calls.
      body: The check of one example. It raises an error if the example fails, and calls `reject_example` where the
        check does not apply.
      shrinks: Whether to search for the simplest example. Use False if examples are slow.
      at_most: Maximum number of examples if they are slow. It also limits `max_examples`.
    """

    check: CheckRunner
    strategy: SearchStrategy[ExampleT]
    body: Callable[[ExampleT], None]
    shrinks: bool = True
    at_most: int | None = None

    def __post_init__(self) -> None:
        """Raise an error unless the strategy is a strategy."""
        require_strategy(self.check.op, "arguments", self.strategy)

    def test(self, judge: Callable[[ExampleT], None], *, is_quiet: bool) -> Callable[[], None]:
        """Return a test that calls a function with the examples of this property.

        Args:
          judge: The function, usually `judge` of this property.
          is_quiet: Whether a failure is only raised. Otherwise Hypothesis also explains and prints it, as the current
            profile says.
        """

        def test(example: ExampleT) -> None:
            judge(example)

        test.__name__ = test.__qualname__ = re.sub(r"\W", "_", f"test_{self.check.title}")
        made = hypothesis.given(self.strategy)(test)
        made = hypothesis.settings(**self._settings(is_quiet=is_quiet))(made)
        return made if self.check.seed is None else hypothesis.seed(self.check.seed)(made)

    def judge(self, example: ExampleT) -> None:
        """Judge one example."""
        self.check.judge(example, self.body)

    def run(self, test: Callable[[], None]) -> None:
        """Run a test of this property.

        Raises:
          CheckError: The body raised this failure for the simplest example, or too few examples were judged.
        """
        with self.check.judging():
            test()

    def _settings(self, *, is_quiet: bool) -> dict[str, Any]:
        default = hypothesis.settings()
        most = default.max_examples if self.check.max_examples is None else self.check.max_examples
        left_out = set() if self.shrinks and not is_quick() else {Phase.shrink, Phase.explain}
        quiet = {Phase.explain} if is_quiet else set()
        phases = [phase for phase in (Phase if is_quiet else default.phases) if phase not in left_out | quiet]
        options: dict[str, Any] = {"verbosity": Verbosity.quiet, "print_blob": False} if is_quiet else {}
        return {
            "max_examples": most if self.at_most is None else min(most, self.at_most),
            "phases": phases,
            "deadline": None,
            "suppress_health_check": list(HealthCheck),
            "report_multiple_bugs": False,
            "database": None if is_quick() else KeyedDatabase.of(default.database, self.check.title),
            **options,
        }


class KeyedDatabase(ExampleDatabase):
    """A database of examples in which tests with the same code do not share examples.

    Hypothesis finds stored examples by the code of the test, which is the same for all ops and checks.

    Args:
      database: The database that stores the examples.
      name: The name of the test.
    """

    def __init__(self, database: ExampleDatabase, name: str) -> None:
        super().__init__()
        self._database, self._prefix = database, name.encode() + b"\0"

    @classmethod
    def of(cls, database: ExampleDatabase | None, name: str) -> KeyedDatabase | None:
        """Return the database for one test; None if nothing is stored."""
        return None if database is None else cls(database, name)

    def save(self, key: bytes, value: bytes) -> None:
        """Store an example."""
        self._database.save(self._prefix + key, value)

    def fetch(self, key: bytes) -> Iterable[bytes]:
        """Return the stored examples."""
        return self._database.fetch(self._prefix + key)

    def delete(self, key: bytes, value: bytes) -> None:
        """Delete an example."""
        self._database.delete(self._prefix + key, value)


class CheckFunction(Protocol):
    """A check of an op, as users call it.

    Attributes:
      steps: The check as a generator of properties.
      modes: The modes in which the check tests a property each. Empty if it has the same property in all modes.
    """

    __name__: str
    steps: Callable[..., Steps]
    modes: Sequence[str]

    def __call__(
        self,
        op: Op[..., Any],
        /,
        *,
        arguments: SearchStrategy[Arguments] | None = None,
        max_examples: int | None = None,
        seed: int | None = None,
        modes: Sequence[str] | None = None,
    ) -> Outcome:
        """Run the check."""


def check_function(*, modes: Sequence[str] = ()) -> Callable[[Callable[..., Steps]], CheckFunction]:
    """Return a decorator that makes a check from a generator of properties.

    Args:
      modes: The modes in which the check tests a property each.
    """

    def made(steps: Callable[..., Steps]) -> CheckFunction:
        @functools.wraps(steps)
        def check(*args: Any, **options: Any) -> Outcome:
            return finished(
                steps(*args, **options), lambda subject: subject.run(subject.test(subject.judge, is_quiet=True))
            )

        function = cast(Any, check)
        function.__signature__ = inspect.signature(steps).replace(return_annotation="Outcome")
        function.steps, function.modes = steps, tuple(modes)
        return cast(CheckFunction, function)

    return made


def finished(steps: Steps, run: Callable[[Property[Any]], None]) -> Outcome:
    """Run all properties of a check and return its outcome. The check sees the errors of its properties."""
    try:
        subject = next(steps)
        while True:
            subject = _next_property(steps, subject, run)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome
    finally:
        steps.close()


def _next_property(steps: Steps, subject: Property[Any], run: Callable[[Property[Any]], None]) -> Property[Any]:
    try:
        run(subject)
    except Exception as error:
        return steps.throw(error)
    return next(steps)
