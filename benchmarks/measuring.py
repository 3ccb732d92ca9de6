"""Measuring: how long a call takes, and processes that each hold one library and measure when they are asked."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, TypeVar

from benchmarks.libraries import FOREIGN

T = TypeVar("T")
Run = Callable[[], Any]
Measure = Callable[[], float]
"""Measures once; seconds, or whatever the group is about."""
Count = Callable[[], tuple[int, int]]
"""Counts the calls of a function and of its rules."""
Case = Callable[[], Measure | Count]
"""Sets a case up."""

_BEST_OF = 3
_STOP = ""
_LONGEST_END = 10
"""How many seconds a process has to end by itself, with the workers it has started."""


def seconds(run: Run, repeat: int) -> float:
    """How long one call takes, the best of a few."""
    best = float("inf")
    for _ in range(_BEST_OF):
        start = time.perf_counter()
        for _ in range(repeat):
            run()
        best = min(best, (time.perf_counter() - start) / repeat)
    return best


def timed(run: Run, repeat: int) -> Measure:
    """Measures how long a call takes."""
    return lambda: seconds(run, repeat)


def marginal(build: Callable[[int], Run], count: int, repeat: int) -> Measure:
    """Measures what one call more costs in a chain: `build` makes a run of a chain of so many."""
    long, short = build(count + 1), build(1)
    return lambda: (seconds(long, repeat) - seconds(short, repeat)) / count


class Library:
    """A process that has imported one of `benchmarks.libraries`, and measures its cases by name."""

    def __init__(self, name: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, name))
        self._process.start()
        other.close()

    def ready(self) -> str:
        """Wait until it has imported; returns what went wrong, empty if nothing did."""
        return str(self._connection.recv())

    def __enter__(self) -> Library:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # it may have ended by itself
            self._connection.send(_STOP)
        self._process.join(_LONGEST_END)
        self._process.kill()
        self._process.join()

    def measure(self, case: str) -> float:
        """Set a case up, if that has not been done, and measure it once.

        Raises:
          RuntimeError: It failed, with the text of that.
        """
        return float(self._ask(case))

    def count(self, case: str) -> tuple[int, int]:
        """Count the calls of the function of a case, and of its rules.

        Raises:
          RuntimeError: It failed, with the text of that.
        """
        function, rules = self._ask(f"calls {case}")
        return function, rules

    def _ask(self, case: str) -> Any:
        self._connection.send(case)
        answer = self._connection.recv()
        if isinstance(answer, str):
            raise RuntimeError(f"{case}: {answer}")
        return answer


def is_installed(library: str) -> bool:
    """Whether the cases of a library can be measured here."""
    return library not in FOREIGN or importlib.util.find_spec(library) is not None


def _serve(connection: Connection, library: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that measures
    cases = _answer(_cases_of, library)
    if isinstance(cases, str):
        connection.send(cases)
        return
    connection.send("")
    measures: dict[str, Measure | Count] = {}

    def measured(name: str) -> float | tuple[int, int]:
        if name not in measures:
            measures[name] = cases[name]()
        return measures[name]()

    with contextlib.suppress(EOFError):  # the program has ended
        for name in iter(connection.recv, _STOP):
            connection.send(_answer(measured, name))


def _cases_of(library: str) -> Mapping[str, Case]:
    cases: Mapping[str, Case] = importlib.import_module(f"benchmarks.libraries.{library}_cases").cases()
    return cases


def _answer(function: Callable[[str], T], argument: str) -> T | str:
    try:
        return function(argument)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
