"""Gradient names that belong to a graph, and are removed from TensorFlow's table when the graph is collected."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from tfpyop._locks import SafeLock


class GraphGradientNames:
    """Names in an external table, each removed when its owner is collected."""

    def __init__(self, remove: Callable[[str], Any]) -> None:
        self._remove = remove
        self._names: weakref.WeakKeyDictionary[Any, list[str]] = weakref.WeakKeyDictionary()
        self._lock = SafeLock()

    def add(self, name: str, owner: Any) -> None:
        """Remove a name when its owner is collected."""
        with self._lock:
            names = self._names.get(owner)
            if names is None:
                names = self._names[owner] = []
                weakref.finalize(owner, _remove_all, self._remove, names).atexit = False
            names.append(name)


def _remove_all(remove: Callable[[str], Any], names: list[str]) -> None:
    for name in names:
        remove(name)
