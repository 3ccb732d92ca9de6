"""Locks that can be acquired at any moment: by finalizers, signal handlers, user code and forked children.

A plain lock deadlocks when garbage collection or a signal runs code in the middle of a change, and this code acquires
the same lock again. A forked child also inherits locks that were held by threads of its parent. These locks are never
released.
"""

from __future__ import annotations

import os
import threading
import weakref

_LOCKS: weakref.WeakSet[SafeLock] = weakref.WeakSet()


class SafeLock:
    """A re-entrant lock that is free in a forked child, unless the forking thread holds it.

    Code that holds the lock must leave the data valid between any two of its steps, and must not run user code.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _LOCKS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Replace the lock in a forked child if it was held by a thread that does not exist in the child."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()


def _renew_all() -> None:
    for lock in list(_LOCKS):
        lock.renew()


if hasattr(os, "register_at_fork"):  # on systems that can fork processes
    os.register_at_fork(after_in_child=_renew_all)
