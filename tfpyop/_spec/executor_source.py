"""Executors as options of ops: given, or made on first use."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

from tfpyop._locks import SafeLock
from tfpyop.errors import RegistrationError, WorkerError


class ExecutorSource:
    """The executor that an op was given, or that is made on its first use."""

    def __init__(self, given: concurrent.futures.Executor | Callable[[], Any]) -> None:
        self._made: concurrent.futures.Executor | None = None
        self._make: Callable[[], Any] | None = None
        if isinstance(given, concurrent.futures.Executor):
            self._made = given
        else:
            self._make = given
        self._lock = SafeLock()
        self._is_making = False

    def executor(self) -> concurrent.futures.Executor:
        """The executor.

        Raises:
          RegistrationError: What was to make it has made something else.
        """
        with self._lock:
            if self._made is None:
                made = self._new()
                if not isinstance(made, concurrent.futures.Executor):
                    raise RegistrationError(
                        "executor= is a function that makes no executor.",
                        expected="a concurrent.futures.Executor",
                        got=f"{made!r:.80}",
                    )
                self._made = made
            return self._made

    def _new(self) -> Any:
        assert self._make is not None
        if self._is_making:
            raise WorkerError(
                "the executor is needed while it is made.",
                remedy="The function that executor= names calls the op, or waits for one that does: make the executor "
                "without it.",
            )
        self._is_making = True
        try:
            return self._make()
        except Exception as error:
            raise WorkerError(
                "its executor could not be made.",
                got=f"{type(error).__name__}: {error}",
                remedy="executor= is a function, which raised this.",
            ) from error
        finally:
            self._is_making = False

    def forget(self) -> None:
        """Let an executor that takes no more tasks be made anew, if it was made here."""
        with self._lock:
            if self._make is not None:
                self._made = None
