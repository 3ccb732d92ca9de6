"""Running host calls, and a watchdog that warns when they occupy all of TensorFlow's inter-op threads.

A host call blocks its thread, and graphs need these threads. A call costs two changes of a dict, and takes no lock
unless its thread inspects the frames of other threads.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import TypeVar

import tensorflow as tf

from tfpyop._locks import SafeLock
from tfpyop._lowering import nested_graphs
from tfpyop._lowering.traced_outputs import read_call
from tfpyop._registry.op_def import REGISTRY
from tfpyop._registry.token import Token

T = TypeVar("T")
X = TypeVar("X")
Name = TypeVar("Name", str, bytes)
Running = tuple[int, "str | bytes"]
"""A host call: the thread that makes it, and the token or site text that it is made for."""

_LOGGER = logging.getLogger("tfpyop")
_PACKAGE = f"{__name__.rpartition('.')[0]}."
_MOST_NAMES = 10
_LOCK = SafeLock()


class Watchdog:
    """Watch the host calls of graphs and compiled functions, with a daemon thread that lives only while it is needed.

    Args:
      interval: Seconds between two checks of the running calls.
      patience: Seconds without a finished call after which the watchdog warns.
      idle_looks: Number of checks that find a free thread, after which the daemon thread ends.
    """

    def __init__(self, *, interval: float = 0.5, patience: float = 5.0, idle_looks: int = 20) -> None:
        self._interval, self._patience, self._idle_looks = interval, patience, idle_looks
        self._running: dict[object, Running] = {}
        self._limit = 1
        """Number of running calls that triggers a check: first 1, then the number of threads, none after a warning."""
        self._n_threads: int | None = None
        self._is_awake = threading.Lock()  # held by the daemon thread; no thread waits for it
        self._codes: set[CodeType] = set()

    def watched(self, run: Callable[[Name, X], T]) -> Callable[[Name, X], T]:
        """Return a function that runs a host call as `run` does.

        Args:
          run: Takes the token of an op (in graphs) or the text of a call site (under XLA), and the arrays or the frame.
        """
        calls, finish, identity = self._running, self._running.pop, threading.get_ident

        def run_watched(name: Name, values: X) -> T:
            call = object()
            try:  # an interrupt before this line leaves no entry
                calls[call] = (identity(), name)
                if len(calls) >= self._limit:
                    self._wake()
                return run(name, values)
            finally:
                finish(call, None)

        self._codes.add(run_watched.__code__)
        return run_watched

    def is_host_call(self, frame: FrameType) -> bool:
        """Return whether a frame is the beginning of a host call."""
        return frame.f_code in self._codes

    def is_calling(self) -> bool:
        """Return whether the current thread is in the middle of a host call."""
        own = threading.get_ident()
        return any(thread == own for thread, _ in self._snapshot().values())

    def _is_last_thread(self) -> bool:
        """Return whether the current thread belongs to TensorFlow, and all TensorFlow threads are in host calls."""
        if self._n_threads is None or len(self._running) < self._n_threads:
            return False
        threads = {thread for thread, _ in _made_by_tensorflow(self._snapshot()).values()}
        return threading.get_ident() in threads and len(threads) >= self._n_threads

    def reset(self) -> None:
        """Forget all calls in a process that was forked while calls were running."""
        self._running.clear()
        self._is_awake = threading.Lock()

    def _wake(self) -> None:
        """Start the daemon thread if enough calls are running and it does not run yet."""
        if self._n_threads is None:
            self._limit = self._n_threads = n_inter_op_threads()
        if len(self._running) >= self._n_threads:
            nested_graphs.install(self._is_last_thread)
        if len(self._running) < self._limit or not self._is_awake.acquire(blocking=False):
            return
        try:
            threading.Thread(target=self._watch, name="tfpyop watchdog", daemon=True).start()
        except RuntimeError:  # the interpreter is exiting, or there are too many threads; the call continues unwatched
            self._is_awake.release()

    def _watch(self) -> None:
        try:
            stuck = self._wait_for_stuck_calls()
            if stuck:
                self._limit = sys.maxsize  # warn only once
        finally:
            self._is_awake.release()
        if stuck:
            _LOGGER.warning(_report(list(stuck.values()), self._patience, n_inter_op_threads()))
        if len(self._running) >= self._limit:  # a call started after the last check, while this thread was still alive
            self._wake()

    def _wait_for_stuck_calls(self) -> Mapping[object, Running]:
        """Return calls that block all threads and do not end, or no calls after threads have been free for a while."""
        seen: Mapping[object, Running] = {}
        since, n_idle = 0.0, 0
        while n_idle < self._idle_looks:
            time.sleep(self._interval)
            blocking = _made_by_tensorflow(self._snapshot())
            now = time.monotonic()
            if len({thread for thread, _ in blocking.values()}) < self._limit:
                seen, n_idle = {}, n_idle + 1
            elif not seen or not seen.keys() <= blocking.keys():  # a blocking call has ended
                seen, since, n_idle = blocking, now, 0
            elif now - since >= self._patience:
                return blocking
        return {}

    def _snapshot(self) -> dict[object, Running]:
        while True:
            try:
                return dict(self._running)
            except RuntimeError:  # noqa: PERF203 - the dict changed meanwhile, on a Python without the GIL
                continue


WATCHDOG = Watchdog()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WATCHDOG.reset)


def n_inter_op_threads() -> int:
    """Return the number of threads in which TensorFlow runs the nodes of graphs, computed as in TensorFlow."""
    configured = tf.config.threading.get_inter_op_parallelism_threads()
    if configured > 0:
        return int(configured)
    from_environment = os.environ.get("TF_NUM_INTEROP_THREADS", "")
    if from_environment.isdecimal() and int(from_environment) > 0:
        return int(from_environment)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _made_by_tensorflow(calls: Mapping[object, Running]) -> dict[object, Running]:
    """Return the calls in threads of TensorFlow and XLA. Calls in Python threads block no other graph."""
    frames, own = _current_frames(), threading.get_ident()
    return {
        call: (thread, name)
        for call, (thread, name) in calls.items()
        if _begins_with_call(sys._getframe() if thread == own else frames.get(thread))
    }


def _current_frames() -> dict[int, FrameType]:
    """Return the frame of every other thread, with garbage collection disabled meanwhile.

    The frame of this thread is left out. Its caller would be in a reference cycle with the result, so that the arrays
    in all frames would live until the next collection.

    Python 3.11.7 and other versions (gh-106883) lock their list of threads while they create frames. A collection
    during this time lets other threads run. If one of these starts or ends a thread, the whole process deadlocks.
    """
    with _LOCK:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            frames = sys._current_frames()
            frames.pop(threading.get_ident(), None)
            return frames
        finally:
            if was_enabled:
                gc.enable()


def _begins_with_call(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    return frame is not None and str(frame.f_globals.get("__name__")).startswith(_PACKAGE)


def _report(calls: list[Running], seconds: float, n_threads: int) -> str:
    waiting = [thread for thread, frame in _current_frames().items() if _waits_for_tensorflow(frame)]
    names = sorted({f"{_name_of(name)}{' (calls TensorFlow)' if thread in waiting else ''}" for thread, name in calls})
    more = f", and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    count = "1 host call has" if len(calls) == 1 else f"{len(calls)} host calls have"
    return (
        f"{count} been running for {seconds:g} seconds and block all inter-op threads of TensorFlow ({n_threads}): "
        f"{', f'.join(names[:_MOST_NAMES])}{more}. No other graph can run until one of them ends. A host call that "
        "waits for such a graph waits forever. Give TensorFlow more threads before its first operation, with "
        f"tf.config.threading.set_inter_op_parallelism_threads({max(64, 4 * n_threads)}), or compile the graph "
        "(jit_compile=True). See the page on threads in the documentation of tfpyop."
    )


def _waits_for_tensorflow(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("tensorflow.")


def _name_of(name: str | bytes) -> str:
    token = (
        name.decode().rpartition("|")[0] if isinstance(name, bytes) else read_call(name)[0]
    )  # a site begins with its token
    op = REGISTRY.find_op(token)
    return f"op {Token.parse(token).op!r}" if op is None else str(op.subject)
