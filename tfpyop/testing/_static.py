"""Static parameters: the values that their annotations allow."""

from __future__ import annotations

import contextlib
import enum
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from tfpyop import Op
from tfpyop.testing._ops import spec_of


def static_choices(op: Op[..., Any]) -> dict[str, Sequence[Any] | None]:
    """Return the values of static parameters by annotation: `bool`, `int`, `Literal`, an `Enum`; None if unknown.

    Integers are small, the default first. Parameters with a default but without these annotations are omitted.
    """
    hints, parameters = _hints(op.numpy), spec_of(op).parameters.static_parameters
    found = {name: (parameter, _choices(hints.get(name), parameter.default)) for name, parameter in parameters.items()}
    return {
        name: choices
        for name, (parameter, choices) in found.items()
        if choices is not None or parameter.default is parameter.empty
    }


def is_fixed(op: Op[..., Any], name: str) -> bool:
    """Return whether a static parameter allows only one value."""
    return len(static_choices(op).get(name) or ()) == 1


def _hints(function: Any) -> Mapping[str, Any]:
    """Return the annotations by name, evaluated separately, without annotations that cannot be evaluated."""
    innermost = inspect.unwrap(function)
    names = {**getattr(innermost, "__globals__", {})}
    hints = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        one = types.SimpleNamespace(__annotations__={name: annotation})
        # evaluation runs the user's expression: it may use names imported for type checkers only, or be invalid code
        with contextlib.suppress(Exception):
            hints.update(typing.get_type_hints(one, names))
    return hints


def _choices(hint: Any, default: Any) -> Sequence[Any] | None:
    if hint is bool:
        return [False, True]
    if hint is int:
        return _small_integers(default)
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return list(hint)
    if hint is types.NoneType:
        return [None]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [_choices(part, default) for part in typing.get_args(hint)]
        return None if None in parts else [choice for part in parts for choice in part or ()]
    return None


def _small_integers(default: Any) -> list[int]:
    """Return small integers, the default first. They are positive unless the default is not."""
    if type(default) is not int:
        return [1, 2, 3]
    near = [default, default - 1, default + 1, *range(min(default, 1), 4)]
    return list(dict.fromkeys(number for number in near if number >= min(default, 1) or default < 0))
