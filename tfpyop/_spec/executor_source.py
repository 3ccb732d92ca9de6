"""Provide the executors of ops: an existing executor, or a factory that creates an executor on first use."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable
from typing import Any

from tfpyop._locks import SafeLock
from tfpyop.errors import RegistrationError, WorkerError

_PATIENCE = 1.0
"""The maximum time, in seconds, to wait for another thread that is creating the executor."""


class ExecutorSource:
    """Provide the executor that was passed to an op, or create the executor with a factory on first use.

    Args:
      given: An executor, or a factory that creates an executor.
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
        """The approximate number of threads that are creating an executor. Threads change it without a lock."""

    def executor(self) -> concurrent.futures.Executor:
        """Return the executor.

        No lock is held while the user's factory runs, because it may start threads that call the op. While one thread
        creates the executor, other threads wait for up to one second. After that they create executors too. All threads
        then use the first executor, and the surplus executors are shut down.

        Raises:
          RegistrationError: The factory did not return an executor.
          WorkerError: The factory raised an exception, or called the op.
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
        """Return whether this thread is creating the executor."""
        return getattr(self._thread, "is_making", False)

    def forget(self) -> None:
        """Discard an executor that accepts no more tasks, if the factory can create another executor."""
        with self._lock:
            if self._make is not None:
                self._executor = None
