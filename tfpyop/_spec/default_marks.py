"""Identify defaults that are not JSON by marks: texts that show whether two processes have the same default.

A token holds the marks, so that tfpyop can refuse to run a model with a default that has changed since the model was
saved. A mark is compared only. The process that loads a model uses its own default if the marks are equal.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

_DEEPEST = 20
"""The maximum nesting depth of a container that gets a mark."""
_BY_REPR = (type(None), bool, int, float, complex, str, bytes, bytearray, range, type(Ellipsis))


def marks_of(defaults: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the mark of each default; None if no text identifies the default, as for an object without a name."""
    return {name: _mark_of(value) for name, value in defaults.items()}


def _mark_of(value: Any, depth: int = 0) -> str | None:
    if depth > _DEEPEST:  # it may contain itself
        return None
    if type(value) in _BY_REPR:
        return repr(value)
    if isinstance(value, enum.Enum):
        return _joined(_named(type(value)), value.name, _mark_of(value.value, depth + 1))
    if isinstance(value, np.dtype):
        return repr(value)
    if isinstance(value, np.ndarray | np.generic):
        return _mark_of_array(np.asarray(value))
    if isinstance(value, list | tuple | set | frozenset | dict):
        return _mark_of_container(value, depth + 1)
    if isinstance(value, functools.partial):
        return _joined("partial", *(_mark_of(part, depth + 1) for part in (value.func, value.args, value.keywords)))
    if type(value).__name__ == "DType":  # a TensorFlow dtype; the name avoids an import of TensorFlow
        return repr(value)
    return _named(value)


def _mark_of_array(array: np.ndarray[Any, Any]) -> str | None:
    if array.dtype.hasobject:
        return None
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return f"array {array.dtype!r} {list(array.shape)} {digest[:32]}"


def _mark_of_container(value: Any, depth: int) -> str | None:
    kind = _named(type(value))
    if isinstance(value, dict):
        return _joined(kind, *(_mark_of(part, depth) for pair in value.items() for part in pair))
    marks = [_mark_of(item, depth) for item in value]
    if isinstance(value, set | frozenset) and None not in marks:
        return _joined(kind, *sorted(map(str, marks)))
    return _joined(kind, *marks)


def _named(value: Any) -> str | None:
    """Return the name under which a module defines a class or function; None if it has none, as for a lambda.

    The name leaves out private modules, because packages move their contents from version to version.
    """
    owner = getattr(value, "__self__", None)
    if owner is not None and not inspect.ismodule(owner):
        return None  # a method of an instance
    module = "numpy" if isinstance(value, np.ufunc) else getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        return None
    first, *inner = module.split(".")
    return f"{'.'.join([first, *(part for part in inner if not part.startswith('_'))])}:{name}"


def _joined(*parts: str | None) -> str | None:
    return None if None in parts else f"({' '.join(map(str, parts))})"
