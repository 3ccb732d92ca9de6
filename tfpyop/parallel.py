"""Parallel: pools of processes for slow functions, to be given to ops as `executor=`."""

from __future__ import annotations

import concurrent.futures
import numbers
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from tfpyop._locks import SafeLock
from tfpyop.errors import RegistrationError, UnsupportedError

__all__ = ["ProcessPool", "process_pool"]

_WATCH_SECONDS = 1.0
_IS_WORKER = threading.Event()


class ProcessPool(concurrent.futures.Executor):
    """A pool of processes that starts on first use, and anew after one of them has ended or it was shut down.

    Its workers import the module of an op, and no TensorFlow unless the module does. Make one with `process_pool`.

    Attributes:
      n_workers: How many processes.
      timeout: How long the function of an op may take for one example, in seconds; None if it may take any time.
    """

    def __init__(self, n_workers: int, timeout: float | None) -> None:
        self.n_workers = n_workers
        self.timeout = timeout
        self._workers: concurrent.futures.Executor | None = None
        self._process = os.getpid()
        self._futures: weakref.WeakSet[concurrent.futures.Future[Any]] = weakref.WeakSet()
        self._lock = SafeLock()

    def workers(self) -> concurrent.futures.Executor:
        """The processes at present, started if there are none."""
        with self._lock:
            if self._process != os.getpid():  # a fork has none of the parent's
                self._process, self._workers = os.getpid(), None
            if self._workers is None:
                made = _loky().ProcessPoolExecutor(self.n_workers, initializer=_begin_worker, initargs=(self._process,))
                self._workers = self._workers or made  # a finalizer may have come first
            return self._workers

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Run a function in a worker."""
        future: concurrent.futures.Future[Any] = self.workers().submit(function, *args, **kwargs)
        self._futures.add(future)
        return future

    def end(self, workers: concurrent.futures.Executor) -> None:
        """End these workers now, unless others have taken their place; the next use starts new ones."""
        with self._lock:
            if workers is not self._workers:
                return
            self._workers = None
        workers.shutdown(wait=True, kill_workers=True)  # type: ignore[call-arg]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the workers end when they have done what was submitted; the next use starts new ones.

        Args:
          wait: Whether to wait for that.
          cancel_futures: Whether what has not begun is left undone.
        """
        with self._lock:
            workers, self._workers = self._workers, None
        if cancel_futures:
            for future in list(self._futures):
                future.cancel()
        if workers is not None:
            workers.shutdown(wait=wait)


def process_pool(workers: int | None = None, *, timeout: float | None = None) -> ProcessPool:
    """Make a pool of processes for the `executor=` of ops.

    Args:
      workers: How many processes. Default: as many as this one may use cores.
      timeout: How long the function may take for one example, in seconds, once a worker has begun it. Default: as long
        as it takes.

    Returns:
      A `concurrent.futures.Executor`. Nothing is started before its first use, so that a module may make one.

    Raises:
      RegistrationError: One of them is no such number.
      UnsupportedError: The package loky is missing.
    """
    if workers is not None and not (_is_number(workers, numbers.Integral) and workers > 0):
        raise RegistrationError("workers= is not a number of processes.", expected="1 or more", got=f"{workers!r:.80}")
    if timeout is not None and not (_is_number(timeout, numbers.Real) and timeout > 0):
        raise RegistrationError(
            "timeout= is not a number of seconds.", expected="more than 0 seconds, or None", got=f"{timeout!r:.80}"
        )
    return ProcessPool(int(workers or _loky().cpu_count()), None if timeout is None else float(timeout))


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def is_worker_process() -> bool:
    """Whether this process is a worker of a pool."""
    return _IS_WORKER.is_set()


def _begin_worker(parent: int) -> None:
    """In a worker: mark it, and end it when the process that started it has ended, also if that was killed."""
    _IS_WORKER.set()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="tfpyop watch", daemon=True).start()


def _loky() -> Any:
    try:
        import loky
    except ImportError:
        raise UnsupportedError(
            "a process pool requires the package loky.", remedy="Install it: pip install 'tfpyop[parallel]'."
        ) from None
    return loky
