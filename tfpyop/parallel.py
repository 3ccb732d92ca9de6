"""Parallel: pools of processes for slow functions, to be given to ops as `executor=`."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Callable
from typing import Any

from tfpyop.errors import UnsupportedError

__all__ = ["ProcessPool", "process_pool"]


class ProcessPool(concurrent.futures.Executor):
    """A pool of processes that starts on first use, and anew after one of them has ended or been stopped.

    Its workers import the module of an op, and no TensorFlow unless the module does.
    """

    def __init__(self, workers: int, timeout: float | None) -> None:
        self._max_workers = workers
        self.timeout = timeout
        self._pool: Any = None
        self._lock = threading.Lock()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Run a function in a worker."""
        with self._lock:
            if self._pool is None:
                self._pool = _loky().ProcessPoolExecutor(self._max_workers)
            future: concurrent.futures.Future[Any] = self._pool.submit(function, *args, **kwargs)
        return future

    def reset(self) -> None:
        """End all workers now; the next use starts new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, kill_workers=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers; without waiting, or cancelling, at once."""
        if not wait or cancel_futures:
            self.reset()
            return
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)


def process_pool(workers: int | None = None, *, timeout: float | None = None) -> ProcessPool:
    """Make a pool of processes for the `executor=` of ops.

    Args:
      workers: How many processes. Default: as many as this one may use cores.
      timeout: How long one call of an op may take, in seconds. Default: as long as it takes.

    Returns:
      A `concurrent.futures.Executor`. Nothing is started before its first use, so that a module may make one.

    Raises:
      UnsupportedError: The package loky is missing.
    """
    _loky()
    return ProcessPool(workers or len(os.sched_getaffinity(0)), timeout)


def _loky() -> Any:
    try:
        import loky
    except ImportError:
        raise UnsupportedError(
            "a pool of processes needs the package loky.", remedy="pip install 'tfpyop[parallel]'."
        ) from None
    return loky
