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
    """Return the values of static parameters by annotation: `bool`, `Literal`, an `Enum`; None if unknown.

    Parameters with a default but without these annotations are omitted.
    """
    hints, parameters = _hints(op.numpy), spec_of(op).parameters.static_parameters
    found = {name: (parameter, _choices(hints.get(name))) for name, parameter in parameters.items()}
    return {
        name: choices
        for name, (parameter, choices) in found.items()
        if choices is not None or parameter.default is parameter.empty
    }


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


def _choices(hint: Any) -> Sequence[Any] | None:
    if hint is bool:
        return [False, True]
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return list(hint)
    return None
