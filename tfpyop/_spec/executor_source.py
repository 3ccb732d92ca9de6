"""Executors as options of ops: given, or made on first use."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable
from typing import Any

from tfpyop._locks import SafeLock
from tfpyop.errors import RegistrationError, WorkerError

_PATIENCE = 1.0
"""How long to wait, in seconds, for another thread that makes the executor."""


class ExecutorSource:
    """The executor that an op was given, or that its function makes on first use.

    Args:
      given: An executor, or a function that makes one.
    """

    def __init__(self, given: concurrent.futures.Executor | Callable[[], Any]) -> None:
        self._executor: concurrent.futures.Executor | None = None
        self._make: Callable[[], Any] | None = None
        if isinstance(given, concurrent.futures.Executor):
            self._executor = given
        else:
            self._make = given
        self._lock = SafeLock()
        self._thread = threading.local()
        self._n_makers = 0
        """Only a hint: threads change it without a lock."""

    def executor(self) -> concurrent.futures.Executor:
        """Return the executor.

        No lock is held while the user's function runs: it may start threads that call the op. While one thread makes
        the executor, others wait for a second. After that they make one too; all take the first, and the others are
        shut down.

        Raises:
          RegistrationError: The function did not return an executor.
          WorkerError: The function raised, or called the op.
        """
        end = time.monotonic() + _PATIENCE
        while self._executor is None and self._n_makers and not self._is_maker() and time.monotonic() < end:
            time.sleep(0.001)
        executor = self._executor
        if executor is not None:
            return executor
        made = self._new()
        if not isinstance(made, concurrent.futures.Executor):
            raise RegistrationError(
                "the executor= factory did not return an Executor.",
                expected="a concurrent.futures.Executor",
                got=f"{made!r:.80}",
            )
        with self._lock:
            first = self._executor = self._executor or made
        if first is not made:
            made.shutdown(wait=False)
        return first

    def _new(self) -> Any:
        assert self._make is not None
        if self._is_maker():
            raise WorkerError(
                "the executor= factory needs the executor that it is creating.",
                remedy="Do not call the op in the executor= factory.",
            )
        self._thread.is_making = True
        self._n_makers += 1
        try:
            return self._make()
        except Exception as error:
            raise WorkerError(
                "the executor= factory raised an exception.",
                got=f"{type(error).__name__}: {error}",
                remedy="Fix the function that was passed as executor=.",
            ) from error
        finally:
            self._n_makers -= 1
            self._thread.is_making = False

    def _is_maker(self) -> bool:
        """Return whether this thread is making the executor."""
        return getattr(self._thread, "is_making", False)

    def forget(self) -> None:
        """Drop an executor that takes no more tasks, if the function can make another one."""
        with self._lock:
            if self._make is not None:
                self._executor = None
