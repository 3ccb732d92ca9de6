"""Arguments: which parameters of a function are tensors, which are static, and how one call is divided among them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfpyop._structure import Json, Structure, flatten
from tfpyop.errors import RegistrationError, nearest

_Parameter = inspect.Parameter
_POSITIONAL = (_Parameter.POSITIONAL_ONLY, _Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Division:
    """The arguments of one call: the tensors among them, how they are nested, and the static values."""

    leaves: Sequence[Any]
    structure: Structure
    static: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a function: positional ones are tensors, keyword-only and named ones are static."""

    signature: inspect.Signature | None
    """None where Python cannot tell, as for many C functions: then positional arguments are the tensors."""
    tensors: tuple[inspect.Parameter, ...] = ()
    variadic: str | None = None
    static_defaults: Mapping[str, Any] | None = None
    """The defaults of the static parameters that have one."""

    @classmethod
    def of(cls, function: Callable[..., Any], static_argnames: Sequence[str]) -> Parameters:
        """Read the parameters of a function.

        Raises:
          RegistrationError: A static name is not a parameter, or cannot be passed by keyword.
        """
        signature = _signature_of(function)
        if signature is None:
            return cls(None)
        parameters = signature.parameters
        takes_any = any(parameter.kind is _Parameter.VAR_KEYWORD for parameter in parameters.values())
        for name in static_argnames:
            if name not in parameters and not takes_any:
                raise RegistrationError(
                    f"static_argnames names {name!r}, which is no parameter.", remedy=nearest(name, parameters)
                )
        values = parameters.values()
        static = [p for p in values if p.kind is _Parameter.KEYWORD_ONLY or p.name in static_argnames]
        return cls(
            signature,
            tuple(p for p in values if p.kind in _POSITIONAL and p.name not in static_argnames),
            next((p.name for p in values if p.kind is _Parameter.VAR_POSITIONAL), None),
            {p.name: p.default for p in static if p.default is not _Parameter.empty},
        )

    @property
    def n_required(self) -> int:
        """How many tensor parameters have no default."""
        return sum(parameter.default is _Parameter.empty for parameter in self.tensors)

    def divide(self, args: Sequence[Any], kwargs: Mapping[str, Any], n_inputs: int | None) -> Division:
        """Divide the arguments of a call into tensors and static values.

        Defaults of tensor parameters are inputs too. Where that makes more inputs than the signature has (`n_inputs`),
        trailing parameters that were left to their defaults stay with the function.

        Raises:
          TypeError: As Python says for a call that does not fit the function.
        """
        if self.signature is None:
            return Division(*flatten(tuple(args)), dict(kwargs))
        given = dict(self.signature.bind(*args, **kwargs).arguments)
        values = [given.pop(parameter.name, parameter.default) for parameter in self.tensors]
        values += given.pop(self.variadic, ()) if self.variadic else ()
        leaves, structure = flatten(tuple(values))
        if n_inputs is not None and not self.variadic:
            while len(leaves) > n_inputs and _is_default(values[-1], self.tensors[len(values) - 1]):
                del values[-1]
                leaves, structure = flatten(tuple(values))
        keywords = next((p.name for p in self.signature.parameters.values() if p.kind is _Parameter.VAR_KEYWORD), None)
        extra = given.pop(keywords, {}) if keywords else {}
        return Division(leaves, structure, {**(self.static_defaults or {}), **given, **extra})

    def assemble(self, tensors: Sequence[Any], static: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Put tensors and static values in their places: what to call the function with."""
        positional = [] if self.signature is None else list(self.signature.parameters.values())
        if not any(p.kind in _POSITIONAL and p.name in static for p in positional):
            return tensors, static
        keywords = dict(static)
        remaining = list(tensors)
        args = []
        for parameter in positional:
            if parameter.name in keywords and parameter.kind in _POSITIONAL:
                args.append(keywords.pop(parameter.name))
            elif remaining and parameter.kind in _POSITIONAL:
                args.append(remaining.pop(0))
        return [*args, *remaining], keywords

    def payload(self, structure: Structure, static: Mapping[str, Any]) -> str:
        """Canonical JSON for what a token must say beside the op's name; empty for a plain call.

        Raises:
          ValueError: A static value or a nested type cannot be written as JSON.
        """
        defaults = self.static_defaults or {}
        chosen = {name: value for name, value in static.items() if name not in defaults or defaults[name] is not value}
        parts: dict[str, Json] = {}
        if chosen:
            parts["static"] = {name: _to_json(value) for name, value in chosen.items()}
        if not structure.is_flat:
            parts["inputs"] = structure.to_json()
        return json.dumps(parts, sort_keys=True, separators=(",", ":")) if parts else ""

    def read_payload(self, payload: str) -> tuple[Structure | None, Mapping[str, Any]]:
        """Read what `payload` wrote: the structure (None for a plain call) and the static values."""
        parts = json.loads(payload) if payload else {}
        structure = Structure.from_json(parts["inputs"]) if "inputs" in parts else None
        static = {name: _from_json(value) for name, value in parts.get("static", {}).items()}
        return structure, {**(self.static_defaults or {}), **static}


def _signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    if isinstance(function, np.ufunc):  # its keyword arguments (out, where, ...) are not for graphs
        names = (f"x{number + 1}" for number in range(function.nin))
        return inspect.Signature([_Parameter(name, _Parameter.POSITIONAL_ONLY) for name in names])
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _is_default(value: Any, parameter: inspect.Parameter) -> bool:
    """Whether a value is what the parameter would have anyway; tf.function passes defaults along."""
    return value is parameter.default or (type(value) in (bool, int, float, str) and value == parameter.default)


def _to_json(value: Any) -> Json:
    """JSON that keeps tuples apart from lists."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [_to_json(item) for item in value]
    if type(value) is tuple:
        return {"tuple": [_to_json(item) for item in value]}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {key: _to_json(item) for key, item in value.items()}}
    raise ValueError(f"a {type(value).__name__} cannot be written as JSON")


def _from_json(value: Json) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if isinstance(value, dict):
        if "tuple" in value:
            return tuple(_from_json(item) for item in value["tuple"])
        return {key: _from_json(item) for key, item in value["dict"].items()}
    return value
