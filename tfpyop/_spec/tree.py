"""Flatten nested arguments and results into leaves, and restore their nesting.

Dicts, tuples, namedtuples and dataclasses are nodes, as in `tf.nest`. None is part of the structure. The leaves of a
dict are in the order of its sorted keys, except in a declaration. A list is a leaf, because `f([1.0, 2.0])` means an
array. A structure of dicts and tuples can be written as JSON, so that a token in a graph can carry it to another
process.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

from tfpyop.errors import describe_kind

MOST_NESTED = 100
"""The maximum number of levels of a nested value or of JSON. It is well below Python's recursion limit."""

Json = Any
"""A value as returned by `json.loads`."""


@dataclass(frozen=True)
class TreeSpec:
    """Describe how the leaves of a nested value are arranged."""

    kind: str
    """`leaf`, `none`, `tuple`, `dict` or `custom`."""
    children: tuple[TreeSpec, ...] = ()
    keys: tuple[Any, ...] = ()
    build: Callable[[Sequence[Any]], Any] | None = None
    """The function that makes an object of a custom type (namedtuple, dataclass) from its children."""
    order: tuple[Any, ...] = ()
    """The keys of a dict in their original order."""

    @functools.cached_property
    def n_leaves(self) -> int:
        """The number of leaves in the structure."""
        return 1 if self.kind == "leaf" else sum(child.n_leaves for child in self.children)

    @functools.cached_property
    def is_flat(self) -> bool:
        """Whether the structure is a leaf or a tuple of leaves."""
        return self.kind == "leaf" or (self.kind == "tuple" and all(child.kind == "leaf" for child in self.children))

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """Return a nested value with these leaves, one for each leaf of the structure."""
        if self.kind == "leaf" and len(leaves) == 1:
            return leaves[0]
        if len(leaves) != self.n_leaves:
            raise AssertionError(f"{len(leaves)} leaves for a structure of {self.n_leaves}")
        return self._unflatten(iter(leaves))

    def _unflatten(self, leaves: Iterator[Any]) -> Any:
        if self.kind == "leaf":
            return next(leaves)
        if self.kind == "none":
            return None
        children = [child._unflatten(leaves) for child in self.children]
        if self.kind == "dict":
            by_key = dict(zip(self.keys, children, strict=True))
            return {key: by_key[key] for key in self.order}
        return tuple(children) if self.build is None else self.build(children)

    def flatten_as(self, value: Any) -> list[Any]:
        """Flatten a value that should have this structure. Raise ValueError with the difference if it does not.

        The value may be anything where the structure has a leaf. A list is accepted for a tuple.
        """
        if self.kind == "leaf":
            return [value]
        if self.kind == "none":
            if value is not None:
                raise ValueError(f"expected None, got {describe_kind(value)}")
            return []
        if self.kind == "dict":
            if not isinstance(value, Mapping):
                raise ValueError(f"expected a dict, got {describe_kind(value)}")
            if set(value) != set(self.keys):
                raise ValueError(f"expected keys {_listed(self.keys)}, got keys {_listed(value)}")
            parts = [value[key] for key in self.keys]
        elif isinstance(value, tuple | list):
            parts = list(value)
        elif dataclasses.is_dataclass(value) and self.build is not None:
            parts = _field_values(value)
        else:
            raise ValueError(f"expected {len(self.children)} values, got {describe_kind(value)}")
        if len(parts) != len(self.children):
            raise ValueError(f"expected {len(self.children)} values, got {len(parts)}")
        return [leaf for child, part in zip(self.children, parts, strict=True) for leaf in child.flatten_as(part)]

    def to_json(self, depth: int = 0) -> Json:
        """Return the structure as JSON.

        Raises:
          ValueError: The structure is too deep, or contains a type other than tuples and dicts with text keys.
        """
        if self.kind in ("leaf", "none"):
            return self.kind
        _require(depth < MOST_NESTED, "it is nested too deeply")
        children = [child.to_json(depth + 1) for child in self.children]
        if self.kind == "tuple":
            return children
        if self.kind == "dict" and all(isinstance(key, str) for key in self.keys):
            by_key = dict(zip(self.keys, children, strict=True))
            return {"dict": [[key, by_key[key]] for key in self.order]}
        raise ValueError("only tuples and dicts with text keys can be written as JSON")

    @classmethod
    def from_json(cls, value: Json, depth: int = 0) -> TreeSpec:
        """Read an output of `to_json`. Raise ValueError for anything else."""
        if value in ("leaf", "none"):
            return cls(value)
        _require(depth <= MOST_NESTED, "it is nested too deeply")
        if isinstance(value, list):
            return cls("tuple", tuple(cls.from_json(child, depth + 1) for child in value))
        _require(isinstance(value, dict) and value.keys() == {"dict"}, "it is neither a leaf nor nested")
        children = {key: cls.from_json(child, depth + 1) for key, child in pairs_of(value["dict"])}
        keys = tuple(sorted(children))
        return cls("dict", tuple(children[key] for key in keys), keys, order=tuple(children))


LEAF = TreeSpec("leaf")


@functools.lru_cache(maxsize=1024)
def is_leaf_type(kind: Hashable) -> bool:
    """Return whether values of a type are always leaves."""
    assert isinstance(kind, type)
    return not (issubclass(kind, tuple | dict | NoneType) or dataclasses.is_dataclass(kind))


@functools.cache
def flat(n_leaves: int) -> TreeSpec:
    """Return the structure of a tuple of leaves."""
    return TreeSpec("tuple", (LEAF,) * n_leaves)


def outline(value: Any, leaves: list[Any], depth: int = 0) -> Hashable:
    """Append the leaves of nested tuples and dicts to a list, and return a key that identifies the nesting.

    This finds the same leaves as `flatten`, but is faster, because it does not create a `TreeSpec`.

    Raises:
      TypeError: The value contains something else, such as a namedtuple or a dict with keys that are not text.
    """
    kind: type[Any] = type(value)
    if kind is tuple and depth < MOST_NESTED:
        return (tuple, *[outline(item, leaves, depth + 1) for item in value])
    if kind is dict and depth < MOST_NESTED and all(type(key) is str for key in value):
        return (dict, *value, *[outline(value[key], leaves, depth + 1) for key in sorted(value)])
    if isinstance(value, tuple | dict) or not is_leaf_type(kind):  # type: ignore[arg-type]  # types are hashable
        raise TypeError(f"{describe_kind(value)} is not a plain tuple, dict or leaf")
    leaves.append(value)
    return None


def flatten(value: Any, *, is_declaration: bool = False) -> tuple[list[Any], TreeSpec]:
    """Flatten a nested value into its leaves and their arrangement.

    Args:
      value: The nested value.
      is_declaration: Whether None is a leaf, and dicts keep their original order.

    Raises:
      TypeError: The value contains itself, is nested too deeply, or contains a value that cannot be restored.
    """
    leaves: list[Any] = []
    return leaves, _flatten(value, leaves, is_declaration, 0)


def _flatten(value: Any, leaves: list[Any], is_declaration: bool, depth: int) -> TreeSpec:
    if depth > MOST_NESTED:
        raise TypeError(f"a value contains itself, or is nested more than {MOST_NESTED} levels deep")
    if value is None and not is_declaration:
        return TreeSpec("none")
    kind, build = "tuple", None
    keys: tuple[Any, ...] = ()
    children: Sequence[Any]
    if isinstance(value, tuple):
        children = value
        if type(value) is not tuple:
            if not hasattr(value, "_make"):
                raise TypeError(f"{describe_kind(value)}, a subclass of tuple that is not a namedtuple")
            kind, build = "custom", type(value)._make
    elif isinstance(value, dict):
        try:
            keys = tuple(value) if is_declaration else tuple(sorted(value))
        except TypeError:
            raise TypeError("the keys of a dict cannot be sorted, so its values have no order") from None
        kind, children = "dict", [value[key] for key in keys]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        kind, children, build = "custom", _field_values(value), _dataclass_builder(type(value), names)
    else:
        leaves.append(value)
        return LEAF
    nested = tuple(_flatten(child, leaves, is_declaration, depth + 1) for child in children)
    return TreeSpec(kind, nested, keys, build, tuple(value) if kind == "dict" else ())


def pairs_of(pairs: Json) -> list[tuple[str, Json]]:
    """Return the items of a dict in JSON. Raise ValueError if they are not pairs, or if a key occurs twice."""
    _require(isinstance(pairs, list), "a dict is not a list of pairs")
    for pair in pairs:
        _require(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str), "not a pair of key and value")
    _require(len({key for key, _ in pairs}) == len(pairs), "a key comes twice")
    return [(key, item) for key, item in pairs]


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _dataclass_builder(kind: type[Any], names: Sequence[str]) -> Callable[[Sequence[Any]], Any]:
    def build(children: Sequence[Any]) -> Any:
        value = object.__new__(kind)  # like copy.copy, because a field may not be an argument of __init__
        for name, child in zip(names, children, strict=True):
            object.__setattr__(value, name, child)
        return value

    return build


def _field_values(value: Any) -> list[Any]:
    return [getattr(value, field.name) for field in dataclasses.fields(value)]


def _listed(keys: Any) -> str:
    return ", ".join(sorted(map(repr, keys)))
