"""Payloads: the JSON that a token holds behind the name of an op.

Payloads come from files that anybody may have written. Reading checks every part of one, in time proportional to its
length, and raises ValueError for what this version does not write.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfpyop._spec.tree import MOST_NESTED, Json, pairs_of
from tfpyop.errors import describe_kind

InAxes = tuple[bool, ...]
"""For each input, whether it has a dimension of rows at this level. Outer levels come first."""

MOST_LEVELS = 64
"""Every level adds a dimension to the outputs, and numpy's arrays have no more."""
_BATCH = "batch"


def read_parts(text: str, parts: Iterable[str]) -> dict[str, Json]:
    """Read a payload; an empty one has no parts.

    Args:
      text: The payload.
      parts: The parts that it may have, besides the levels of batching.

    Raises:
      ValueError: It is not a JSON object, or has other parts.
    """
    if not text:
        return {}
    try:
        found = json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _require(isinstance(found, dict), "it is not an object")
    known: dict[str, Json] = found
    for part in known:
        _require(part in (*parts, _BATCH), f"it has an unknown part {part!r}")
    return known


def write_parts(parts: Mapping[str, Json]) -> str:
    """Write a payload canonically; it is empty without parts."""
    return json.dumps(parts, sort_keys=True, separators=(",", ":")) if parts else ""


def with_in_axes(text: str, levels: Sequence[InAxes]) -> str:
    """Return the same payload for a call over rows; without levels, for a call of one row."""
    parts = json.loads(text) if text else {}
    parts[_BATCH] = [[int(flag) for flag in level] for level in levels]
    return write_parts({part: value for part, value in parts.items() if part != _BATCH or value})


def in_axes_of(parts: Mapping[str, Json]) -> tuple[InAxes, ...]:
    """Read the levels of batching, outer ones first.

    Raises:
      ValueError: They are not levels of one call.
    """
    levels = parts.get(_BATCH, [])
    _require(isinstance(levels, list) and len(levels) <= MOST_LEVELS, f"it has more than {MOST_LEVELS} levels")
    for level in levels:
        _require(isinstance(level, list) and all(type(flag) is int and flag in (0, 1) for flag in level), "no level")
        _require(1 in level and len(level) == len(levels[0]), "levels are of the same inputs, some with rows")
    return tuple(tuple(map(bool, level)) for level in levels)


def values_of(parts: Mapping[str, Json], part: str) -> dict[str, Any]:
    """Read a part that holds values by name; without it there are none.

    Raises:
      ValueError: It does not, or a value is not written as `value_to_json` writes it.
    """
    values = parts.get(part, {})
    _require(isinstance(values, dict), f"{part!r} is not an object")
    return {name: value_from_json(value) for name, value in values.items()}


def marks_in(parts: Mapping[str, Json]) -> dict[str, str]:
    """Read the marks of defaults, by parameter."""
    marks = parts.get("marks", {})
    _require(isinstance(marks, dict), "'marks' is not an object")
    _require(all(isinstance(mark, str) for mark in marks.values()), "a mark is not text")
    return dict(marks)


def value_to_json(value: Any, depth: int = 0) -> Json:
    """Write a static value as JSON that keeps tuples apart from lists.

    Raises:
      ValueError: It is, or holds, something that JSON has no word for, or is nested too deeply.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    _require(depth < MOST_NESTED, "it is nested too deeply")
    if type(value) is list:
        return [value_to_json(item, depth + 1) for item in value]
    if type(value) is tuple:
        return {"tuple": [value_to_json(item, depth + 1) for item in value]}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": [[key, value_to_json(item, depth + 1)] for key, item in value.items()]}
    raise ValueError(f"{describe_kind(value)} cannot be written as JSON")


def value_from_json(value: Json, depth: int = 0) -> Any:
    """Read what `value_to_json` wrote.

    Raises:
      ValueError: It did not write this.
    """
    _require(depth <= MOST_NESTED, "it is nested too deeply")
    if isinstance(value, list):
        return [value_from_json(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"tuple"} and isinstance(value["tuple"], list):
        return tuple(value_from_json(item, depth + 1) for item in value["tuple"])
    _require(value.keys() == {"dict"}, "a value is neither a tuple nor a dict")
    return {key: value_from_json(item, depth + 1) for key, item in pairs_of(value["dict"])}


def _without_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    _require(len(found) == len(pairs), "a key comes twice")
    return found


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)
