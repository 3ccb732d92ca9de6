"""Locks that may be acquired at any moment: by finalizers, signal handlers, user code and forked children.

A plain lock deadlocks where garbage collection, or a signal, runs code in the middle of a change that asks for the same
lock again. And a forked child inherits locks that threads of its parent held, which will never be released.
"""

from __future__ import annotations

import os
import threading
import weakref

_LOCKS: weakref.WeakSet[SafeLock] = weakref.WeakSet()


class SafeLock:
    """A re-entrant lock that is free in a forked child, unless the thread that forked holds it.

    Code that holds it must leave the data valid between any two of its steps, and run no user code.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _LOCKS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Replace the lock in a forked child if a thread held it that the child does not have."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()


def _renew_all() -> None:
    for lock in list(_LOCKS):
        lock.renew()


if hasattr(os, "register_at_fork"):  # where processes can be forked
    os.register_at_fork(after_in_child=_renew_all)
