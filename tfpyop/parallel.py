"""Provide process pools for slow functions, to pass to ops as `executor=`."""

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
    """Run functions in a pool of worker processes. Create a pool with `process_pool`.

    The pool starts its workers on first use. After a worker terminates, or after `shutdown`, the next use starts new
    workers. Workers import the module of an op. They import TensorFlow only if the module does.

    Attributes:
      n_workers: The number of processes.
      timeout: The time limit for one example of an op's function, in seconds; None for no limit.
    """

    def __init__(self, n_workers: int, timeout: float | None) -> None:
        self.n_workers = n_workers
        self.timeout = timeout
        self._workers: concurrent.futures.Executor | None = None
        self._process = os.getpid()
        self._futures: weakref.WeakSet[concurrent.futures.Future[Any]] = weakref.WeakSet()
        self._lock = SafeLock()

    def workers(self) -> concurrent.futures.Executor:
        """Return the current worker processes. Start them if none exist."""
        with self._lock:
            if self._process != os.getpid():  # a forked child does not have its parent's workers
                self._process, self._workers = os.getpid(), None
            if self._workers is None:
                made = _loky().ProcessPoolExecutor(self.n_workers, initializer=_begin_worker, initargs=(self._process,))
                self._workers = self._workers or made  # a finalizer may have created workers meanwhile
            return self._workers

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Run a function in a worker."""
        future: concurrent.futures.Future[Any] = self.workers().submit(function, *args, **kwargs)
        self._futures.add(future)
        return future

    def end(self, workers: concurrent.futures.Executor) -> None:
        """Terminate these workers now, unless the pool has already replaced them. The next use starts new workers."""
        with self._lock:
            if workers is not self._workers:
                return
            self._workers = None
        workers.shutdown(wait=True, kill_workers=True)  # type: ignore[call-arg]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the workers exit after they have finished the submitted work. The next use starts new workers.

        Args:
          wait: Whether to wait until the workers have exited.
          cancel_futures: Whether to cancel work that has not started.
        """
        with self._lock:
            workers, self._workers = self._workers, None
        if cancel_futures:
            for future in list(self._futures):
                future.cancel()
        if workers is not None:
            workers.shutdown(wait=wait)


def process_pool(workers: int | None = None, *, timeout: float | None = None) -> ProcessPool:
    """Create a pool of processes for the `executor=` option of ops.

    Args:
      workers: The number of processes. Default: the number of CPU cores available to this process.
      timeout: The time limit for one example of the function, in seconds, from the moment when a worker starts it.
        Default: no limit.

    Returns:
      A `concurrent.futures.Executor`. It starts processes on first use, so a module can create a pool when it is
      imported.

    Raises:
      RegistrationError: `workers` is not a positive integer, or `timeout` is not a positive number.
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
    """Return whether this process is a worker of a pool."""
    return _IS_WORKER.is_set()


def _begin_worker(parent: int) -> None:
    """Mark this process as a worker, and end it when its parent process has ended, even if the parent was killed."""
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
