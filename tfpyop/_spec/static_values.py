"""Protect static values, so that functions, rules and shape functions do not see each other's changes.

Lists, dicts, sets and bytearrays are copied, also inside tuples. Other objects are passed unchanged, because tfpyop
cannot know how to copy them, or whether they are meant to be shared.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

PLAIN_TYPES = frozenset({int, float, complex, str, bool, bytes, type(None)})
"""The types whose values `repr` distinguishes and that contain no other objects."""
NO_STATIC: Mapping[str, Any] = MappingProxyType({})
_CONTAINERS = (list, dict, set, bytearray)


def static_values(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an immutable mapping of the values that copies mutable values whenever they are read.

    Without mutable values, the result is a plain view without this cost.
    """
    if isinstance(values, _CopiedValues | MappingProxyType):
        return values
    mutable = frozenset(name for name, value in values.items() if _is_mutable(value))
    own = {name: copied(value) if name in mutable else value for name, value in values.items()}
    return _CopiedValues(own, mutable) if mutable else MappingProxyType(own)


def copied(value: Any, known: dict[int, Any] | None = None) -> Any:
    """Return the same value with new containers, for a function that may change them.

    A list or dict that occurs several times in the value, or in itself, is a single object in the copy too.
    """
    known = {} if known is None else known
    if id(value) in known:
        return known[id(value)]
    if type(value) is list:
        items = known[id(value)] = []
        items += [copied(item, known) for item in value]
        return items
    if type(value) is tuple:
        return tuple(copied(item, known) for item in value)
    if type(value) is dict:
        entries = known[id(value)] = {}
        entries.update({key: copied(item, known) for key, item in value.items()})
        return entries
    return copy.copy(value) if isinstance(value, _CONTAINERS) else value


def _is_mutable(value: Any) -> bool:
    """Return whether a value is a mutable container, or a tuple that contains a mutable container."""
    return any(map(_is_mutable, value)) if type(value) is tuple else isinstance(value, _CONTAINERS)


class _CopiedValues(Mapping[str, Any]):
    """Provide values by name, and copy the mutable values whenever they are read."""

    __slots__ = ("_mutable", "_values")

    def __init__(self, values: dict[str, Any], mutable: frozenset[str]) -> None:
        self._values, self._mutable = values, mutable

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        return copied(value) if name in self._mutable else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)
