"""Read and write payloads: the JSON that a token holds after the name of an op.

Payloads come from files of unknown origin. The reader checks every part of a payload, in time proportional to its
length, and raises ValueError for anything that this version does not write.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfpyop._spec.tree import MOST_NESTED, Json, pairs_of
from tfpyop.errors import describe_kind

InAxes = tuple[bool, ...]
"""For each input, whether it has a batch axis at one level of batching."""

Needs = tuple[bool, ...]
"""For each input of an op, whether a derivative rule must consider it: `op.needs` in the rule."""

MOST_LEVELS = 64
"""The maximum number of levels. Each level adds a dimension to the outputs; numpy arrays have at most 64 dimensions."""
_BATCH = "batch"
_NEEDS = "needs"


def read_parts(text: str, parts: Iterable[str]) -> dict[str, Json]:
    """Parse a payload. An empty payload has no parts.

    Args:
      text: The payload.
      parts: The names of the allowed parts, in addition to the levels of batching.

    Raises:
      ValueError: The payload is not a JSON object, or has an unknown part.
    """
    known = _read_object(text)
    for part in known:
        _require(part in (*parts, _BATCH), f"it has an unknown part {part!r}")
    return known


def write_parts(parts: Mapping[str, Json]) -> str:
    """Return the parts as canonical JSON; an empty text if there are no parts."""
    return json.dumps(parts, sort_keys=True, separators=(",", ":")) if parts else ""


def with_in_axes(text: str, levels: Sequence[InAxes]) -> str:
    """Return the payload with these levels of batching; without levels, the payload of an unbatched call."""
    parts = json.loads(text) if text else {}
    parts[_BATCH] = [[int(flag) for flag in level] for level in levels]
    return write_parts({part: value for part, value in parts.items() if part != _BATCH or value})


def with_needs(text: str, needs: Needs) -> str:
    """Return the payload of a call of a rule with these needs."""
    return write_parts({**(json.loads(text) if text else {}), _NEEDS: list(map(int, needs))})


def split_needs(text: str) -> tuple[str, Needs | None]:
    """Split the payload of a rule's op into the payload without needs, and the needs (None: the payload has no needs).

    Raises:
      ValueError: The needs are invalid.
    """
    parts = _read_object(text)
    if _NEEDS not in parts:
        return text, None
    needs = parts.pop(_NEEDS)
    is_list = isinstance(needs, list) and all(type(flag) is int and flag in (0, 1) for flag in needs)
    _require(is_list and 0 in needs and 1 in needs, f"{_NEEDS!r} are not flags of which some are 1")
    return write_parts(parts), tuple(map(bool, needs))


def in_axes_of(parts: Mapping[str, Json]) -> tuple[InAxes, ...]:
    """Return the levels of batching, outer levels first.

    Raises:
      ValueError: The levels are invalid.
    """
    levels = parts.get(_BATCH, [])
    _require(isinstance(levels, list) and len(levels) <= MOST_LEVELS, f"it has more than {MOST_LEVELS} levels")
    for level in levels:
        _require(isinstance(level, list) and all(type(flag) is int and flag in (0, 1) for flag in level), "no level")
        _require(1 in level and len(level) == len(levels[0]), "levels are of the same inputs, some with rows")
    return tuple(tuple(map(bool, level)) for level in levels)


def in_axes_of_payload(text: str) -> tuple[InAxes, ...]:
    """Return the levels of batching of a payload, outer levels first.

    Raises:
      ValueError: The payload is not an object, or the levels are invalid.
    """
    return in_axes_of(_read_object(text))


def values_of(parts: Mapping[str, Json], part: str) -> dict[str, Any]:
    """Return the values of a part by name; an empty dict if the part is missing.

    Raises:
      ValueError: The part is invalid, or a value is not in the form that `value_to_json` writes.
    """
    values = parts.get(part, {})
    _require(isinstance(values, dict), f"{part!r} is not an object")
    return {name: value_from_json(value) for name, value in values.items()}


def marks_in(parts: Mapping[str, Json]) -> dict[str, str]:
    """Return the marks of defaults by parameter name."""
    marks = parts.get("marks", {})
    _require(isinstance(marks, dict), "'marks' is not an object")
    _require(all(isinstance(mark, str) for mark in marks.values()), "a mark is not text")
    return dict(marks)


def value_to_json(value: Any, depth: int = 0) -> Json:
    """Convert a static value to JSON in a form that distinguishes tuples from lists.

    Raises:
      ValueError: The value contains something that JSON cannot represent, or is nested too deeply.
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
    """Convert the output of `value_to_json` back to a static value.

    Raises:
      ValueError: The JSON is not an output of `value_to_json`.
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


def _read_object(text: str) -> dict[str, Json]:
    if not text:
        return {}
    try:
        found = json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _require(isinstance(found, dict), "it is not an object")
    known: dict[str, Json] = found
    return known


def _without_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    _require(len(found) == len(pairs), "a key comes twice")
    return found


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)
