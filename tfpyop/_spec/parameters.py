"""Sort a function's parameters into tensors and static values, and bind the arguments of a call to them.

Also writes and reads the part of a token's payload that holds the static values and the nesting of the inputs.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from tfpyop._spec.default_marks import marks_of
from tfpyop._spec.payload import InAxes, in_axes_of, marks_in, read_parts, value_to_json, values_of, write_parts
from tfpyop._spec.signature_text import NO_MARKS, Marks
from tfpyop._spec.static_values import NO_STATIC
from tfpyop._spec.tree import LEAF, Json, TreeSpec, flatten, is_leaf_type
from tfpyop.errors import RegistrationError, SignatureError, UnsupportedError, nearest

_Parameter = inspect.Parameter
_OPTIONAL_HINT = ' Mark an input that may be None with "?": "(n),()?->(n)".'
_POSITIONAL = (_Parameter.POSITIONAL_ONLY, _Parameter.POSITIONAL_OR_KEYWORD)


class BoundArguments(NamedTuple):
    """Store the arguments of one call: flat inputs, their nesting (None: they are flat), and static values."""

    leaves: Sequence[Any]
    tree: TreeSpec | None
    static: Mapping[str, Any]

    @classmethod
    def of(
        cls, leaves: Sequence[Any], structure: TreeSpec, static: Mapping[str, Any], *, keeps_flat: bool = False
    ) -> BoundArguments:
        """Return bound arguments for inputs that may be nested.

        Args:
          leaves: The flat inputs.
          structure: Their nesting.
          static: The static values.
          keeps_flat: Whether flat inputs have a nesting too, because it contains their number.
        """
        return cls(leaves, None if structure.is_flat and not keeps_flat else structure, static)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Describe the parameters of a function: the tensors and the static parameters.

    Positional parameters are tensors, unless their default is text or another object that cannot become a tensor.
    Keyword-only parameters and the parameters in `static_argnames` are static.
    """

    signature: inspect.Signature | None
    """None if Python cannot inspect the function, as for many C functions. Positional arguments are then tensors."""
    tensors: tuple[inspect.Parameter, ...] = ()
    variadic: str | None = None
    static_defaults: Mapping[str, Any] | None = None
    """The defaults of the static parameters that have a default."""
    is_plain: bool = False
    """Whether all parameters are positional tensors without defaults."""
    is_direct: bool = True
    """Whether the function can be called with tensors by position and static values by keyword."""
    takes_out: bool = False
    """Whether the function has a keyword-only `out`, as numpy functions do. It is not a parameter of the op."""
    default_marks: Mapping[str, str | None] = field(default_factory=dict)
    """The marks of the defaults that are not JSON."""

    @classmethod
    def of(cls, function: Callable[..., Any], static_argnames: Sequence[str]) -> Parameters:
        """Read the parameters of a function.

        Raises:
          RegistrationError: A name in `static_argnames` is not a parameter.
        """
        signature = _signature_of(function)
        if signature is None:
            return cls(None)
        takes_out = "out" not in static_argnames and _is_destination(signature.parameters.get("out"))
        if takes_out:
            others = [parameter for parameter in signature.parameters.values() if parameter.name != "out"]
            signature = signature.replace(parameters=others)
        parameters = signature.parameters
        takes_any = any(parameter.kind is _Parameter.VAR_KEYWORD for parameter in parameters.values())
        for name in static_argnames:
            if name not in parameters and not takes_any:
                raise RegistrationError(
                    f"static_argnames names {name!r}, which is not a parameter.", remedy=nearest(name, parameters)
                )
        values = parameters.values()
        positional = [p for p in values if p.kind in _POSITIONAL]
        tensors = tuple(p for p in positional if p.name not in static_argnames and _may_be_tensor(p.default))
        static = [p for p in values if p.kind in (*_POSITIONAL, _Parameter.KEYWORD_ONLY) and p not in tensors]
        defaults = {p.name: p.default for p in static if p.default is not _Parameter.empty}
        is_plain = len(tensors) == len(parameters) and all(p.default is _Parameter.empty for p in tensors)
        return cls(
            signature,
            tensors,
            next((p.name for p in values if p.kind is _Parameter.VAR_POSITIONAL), None),
            defaults,
            is_plain,
            all(p in tensors for p in positional),
            takes_out,
            marks_of({name: value for name, value in defaults.items() if name not in _written(defaults)}),
        )

    @property
    def n_required(self) -> int:
        """The number of tensor parameters without a default."""
        return sum(parameter.default is _Parameter.empty for parameter in self.tensors)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the tensor parameters, with the name of `*parameters` last."""
        names = tuple(parameter.name for parameter in self.tensors)
        return names if self.variadic is None else (*names, self.variadic)

    def places_of_inputs(self, tree: TreeSpec | None, n_inputs: int) -> Mapping[str, Sequence[int | None]]:
        """Return the indices of the flat inputs that belong to each tensor parameter, in one call.

        A parameter whose default is None, and that is None in the call, has one index, None.

        Args:
          tree: The nesting of the inputs; None if they are flat.
          n_inputs: The number of flat inputs.
        """
        children = (LEAF,) * n_inputs if tree is None else tree.children
        found: dict[str, list[int | None]] = {name: [] for name in self.input_names}
        first = 0
        for position, child in enumerate(children):
            name = self.tensors[position].name if position < len(self.tensors) else str(self.variadic)
            places = found.setdefault(name, [])
            places.extend(range(first, first + child.n_leaves))
            if self._is_left_out(position, child):
                places.append(None)
            first += child.n_leaves
        return found

    def presence(self, tree: TreeSpec) -> tuple[bool, ...]:
        """Return, for each input as the caller counts them, whether a call with this nesting has it."""
        flags: list[bool] = []
        for position, child in enumerate(tree.children):
            flags += [False] if self._is_left_out(position, child) else [True] * child.n_leaves
        return tuple(flags)

    def _is_left_out(self, position: int, child: TreeSpec) -> bool:
        """Return whether the value of a parameter is None, and this is its default."""
        return child.kind == "none" and position < len(self.tensors) and self.tensors[position].default is None

    @property
    def static_parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters that are not inputs, except `**keywords`."""
        if self.signature is None:
            return {}
        inputs = {*self.input_names, "self", "cls"}
        return {
            name: parameter
            for name, parameter in self.signature.parameters.items()
            if name not in inputs and parameter.kind is not parameter.VAR_KEYWORD
        }

    def require_static(self, names: Iterable[str]) -> None:
        """Raise RegistrationError for a name that is not the name of a static parameter."""
        if self._takes_any_static:
            return
        for name in names:
            if name not in self.static_parameters:
                raise RegistrationError(
                    f"the op has no static parameter {name!r}.", remedy=nearest(name, self.static_parameters)
                )

    def without_first(self) -> Parameters:
        """Return the parameters of a method after it is bound."""
        if self.signature is None:
            return self
        signature = self.signature.replace(parameters=list(self.signature.parameters.values())[1:])
        return replace(self, signature=signature, tensors=self.tensors[1:])

    @property
    def hint(self) -> str | None:
        """A hint for errors of the function: an option may have been passed as an input."""
        names = [repr(p.name) for p in self.tensors if isinstance(p.default, int)]
        if not names:
            return None
        return (
            f"Positional parameters are inputs, so {', '.join(names)} was passed as an array. Make an option "
            "keyword-only, or name it in static_argnames."
        )

    def bind(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], n_inputs: int | None, marks: Marks = NO_MARKS
    ) -> BoundArguments:
        """Sort the arguments of a call into flat inputs, their nesting, and static values.

        Defaults of tensor parameters are inputs too, except for trailing None. If the call has more inputs than the
        signature (`n_inputs`), trailing parameters with their default values are left out, and the function uses its
        defaults.

        Args:
          args: The positional arguments.
          kwargs: The keyword arguments.
          n_inputs: The number of cores in the inputs of the signature; None without a signature.
          marks: The marks of these cores.

        Raises:
          TypeError: The arguments do not match the function's parameters.
          SignatureError: The call has more or fewer inputs than the signature.
        """
        if marks.repeated is None and self._is_flat_call(args, kwargs, n_inputs):
            return BoundArguments(args, None, NO_STATIC)
        if self.signature is None:
            return BoundArguments.of(*flatten(tuple(args)), dict(kwargs))
        given = dict(self.signature.bind(*args, **kwargs).arguments)
        values = [given.pop(parameter.name, parameter.default) for parameter in self.tensors]
        values += given.pop(self.variadic, ()) if self.variadic else ()
        leaves, structure = flatten(tuple(values))
        while not self.variadic and values and _is_default(values[-1], self.tensors[len(values) - 1]):
            if not self._is_surplus(values, structure, n_inputs, marks):
                break
            del values[-1]
            leaves, structure = flatten(tuple(values))
        if n_inputs is not None:
            self._require_inputs(values, structure, n_inputs, marks)
        keywords = next((p.name for p in self.signature.parameters.values() if p.kind is _Parameter.VAR_KEYWORD), None)
        extra = given.pop(keywords, {}) if keywords else {}
        return BoundArguments.of(
            leaves,
            structure,
            {**(self.static_defaults or {}), **given, **extra},
            keeps_flat=marks.repeated is not None and len(leaves) != n_inputs,
        )

    def _is_surplus(self, values: Sequence[Any], structure: TreeSpec, n_inputs: int | None, marks: Marks) -> bool:
        """Return whether the signature has no input for the last parameter, which has its default value."""
        if marks.repeated is not None:
            return values[-1] is None and len(values) > (n_inputs or 0)
        if not marks.optional:
            return values[-1] is None or (n_inputs is not None and structure.n_leaves > n_inputs)
        return len(self.presence(structure)) > (n_inputs or 0)

    def _require_inputs(self, values: Sequence[Any], structure: TreeSpec, n_inputs: int, marks: Marks) -> None:
        """Raise SignatureError if a call does not have the inputs of the signature."""
        is_present = self.presence(structure) if marks.optional else (True,) * structure.n_leaves
        n_more = len(is_present) - n_inputs
        if marks.optional and n_more <= 0:
            self._require_not_none(structure)
        if n_more != 0 and (marks.repeated is None or n_more < -1):
            raise self._wrong_count(values, structure.n_leaves, n_inputs, marks)
        for place, flag in enumerate(is_present):
            core = place if marks.repeated is None or place <= marks.repeated else place - n_more
            if not flag and core not in marks.optional:
                raise _missing_input(f"input {place}")

    def _require_not_none(self, structure: TreeSpec) -> None:
        """Raise SignatureError if a parameter without a default of None is None."""
        for position, child in enumerate(structure.children):
            if child.kind == "none" and not self._is_left_out(position, child):
                name = self.tensors[position].name if position < len(self.tensors) else str(self.variadic)
                raise _missing_input(repr(name))

    def _is_flat_call(self, args: Sequence[Any], kwargs: Mapping[str, Any], n_inputs: int | None) -> bool:
        """Return whether each argument is a leaf for one parameter, and their number matches the signature."""
        if not self.is_plain or kwargs or len(args) != len(self.tensors) or n_inputs not in (None, len(args)):
            return False
        return all(map(is_leaf_type, map(type, args)))

    def _wrong_count(self, values: Sequence[Any], n_leaves: int, n_inputs: int, marks: Marks) -> SignatureError:
        names = [parameter.name for parameter in self.tensors]
        names += [str(self.variadic)] * (len(values) - len(names))
        counts = [len(flatten(value)[0]) for value in values]
        texts = {0: " ({}: no input)", 1: ""}
        given = [
            name + texts.get(count, f" ({count} inputs)").format(value)
            for name, value, count in zip(names, values, counts, strict=False)
        ]
        hint = _OPTIONAL_HINT if any(value is None for value in values) and not marks.optional else ""
        return SignatureError(
            "the call has the wrong number of inputs.",
            expected=f"{n_inputs}{_marks_text(marks)}, as the signature says",
            got=f"{n_leaves}: {', '.join(given)}",
            remedy="None is not an input; a tuple or dict counts as one input for each value in it. Make an option "
            f"keyword-only, or name it in static_argnames.{hint}",
        )

    def call_arguments(
        self, tensors: Sequence[Any], static: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return the positional and keyword arguments for the function, from tensors and static values."""
        if self.signature is None or self.is_direct:
            return tensors, static
        positional = [p for p in self.signature.parameters.values() if p.kind in _POSITIONAL]
        keywords = dict(static)
        remaining = list(tensors)
        args = []
        for parameter in positional:
            if parameter not in self.tensors and parameter.name in keywords:
                args.append(keywords.pop(parameter.name))
            elif parameter in self.tensors and remaining:
                args.append(remaining.pop(0))
            else:
                break
        return [*args, *remaining], keywords

    def payload(self, structure: TreeSpec | None, static: Mapping[str, Any]) -> str:
        """Return canonical JSON for the call data of a token; an empty text for a plain call.

        The payload includes defaults, because they may differ in the process that reads it. For defaults that are not
        JSON, it includes their marks.

        Raises:
          ValueError: A static value or the type of a nested input cannot be written as JSON.
        """
        known = self.static_defaults or {}
        defaults = {name: value for name, value in static.items() if name in known and _is_same(known[name], value)}
        parts: dict[str, Json] = {
            "defaults": _written(defaults),
            "inputs": None if structure is None else structure.to_json(),
            "marks": {name: mark for name, mark in self.default_marks.items() if name in defaults and mark},
            "static": {name: value_to_json(value) for name, value in static.items() if name not in defaults},
        }
        return write_parts({part: value for part, value in parts.items() if value not in (None, {})})

    def read_payload(self, payload: str) -> tuple[TreeSpec | None, Mapping[str, Any], tuple[InAxes, ...]]:
        """Read the output of `payload`: the nesting (None for a plain call), the static values, and levels of batching.

        Raises:
          ValueError: The text is not an output of `payload`.
          UnsupportedError: The function's static parameters or defaults have changed since the payload was written.
        """
        parts = read_parts(payload, ("defaults", "inputs", "marks", "static"))
        structure = None
        if "inputs" in parts:
            structure = TreeSpec.from_json(parts["inputs"])
            if structure.kind != "tuple":
                raise ValueError("the inputs are not a list")
        self._require_marks(marks_in(parts))
        given = {**values_of(parts, "defaults"), **values_of(parts, "static")}
        self._require_parameters(given)
        return structure, {**(self.static_defaults or {}), **given}, in_axes_of(parts)

    def _require_parameters(self, static: Mapping[str, Any]) -> None:
        if self._takes_any_static:
            return
        known = self.static_parameters
        unknown = {name: value for name, value in static.items() if name not in known}
        if unknown:
            raise UnsupportedError(
                f"the op has no static parameter {' or '.join(map(repr, unknown))}.",
                expected=f"static parameters {', '.join(map(repr, known))}" if known else "no static parameters",
                got=", ".join(f"{name}={value!r:.80}" for name, value in unknown.items()),
                remedy="If a saved model passes this parameter, the function has changed since the model was saved. "
                "Restore the parameter, or save the model again with the current function.",
            )

    @property
    def _takes_any_static(self) -> bool:
        """Whether any static name is valid: the function has `**keywords`, or its parameters are unknown."""
        if self.signature is None:
            return True
        return any(p.kind is _Parameter.VAR_KEYWORD for p in self.signature.parameters.values())

    def _require_marks(self, marks: Mapping[str, str]) -> None:
        """Raise UnsupportedError if a default differs from the default in the process that wrote the token."""
        for name, mark in marks.items():
            own = self.default_marks.get(name)
            if own != mark:
                defaults = self.static_defaults or {}
                default = f"{defaults[name]!r:.80}" if name in defaults else "no default"
                raise UnsupportedError(
                    f"the default of {name!r} has changed since the model was saved.",
                    expected=str(mark),
                    got=f"{own}: {default}" if own else default,
                    remedy="Restore the default, or save the model again with the current op.",
                )


def _signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    n_given = len(function.args) if isinstance(function, functools.partial) else 0
    ufunc = function.func if isinstance(function, functools.partial) else function
    if isinstance(ufunc, np.ufunc):  # its keyword arguments (out, where, ...) do not apply in graphs
        names = (f"x{number + 1}" for number in range(n_given, ufunc.nin))
        return inspect.Signature([_Parameter(name, _Parameter.POSITIONAL_ONLY) for name in names])
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # as for many C functions; all positional arguments are then inputs
        return None


def _missing_input(what: str) -> SignatureError:
    return SignatureError(
        f"{what} is None, but the signature does not mark this input as optional.",
        expected="a tensor",
        got="None",
        remedy='Pass a tensor. To make the input optional, mark it with "?", as in signature="(n),()?->(n)", and give '
        "its parameter the default None.",
    )


def _marks_text(marks: Marks) -> str:
    """Render how the number of inputs may differ from the number of cores in the signature."""
    if marks.repeated is not None:
        return f" (any number of input {marks.repeated})"
    return f" ({len(marks.optional)} of them optional)" if marks.optional else ""


def _is_destination(parameter: inspect.Parameter | None) -> bool:
    if parameter is None or parameter.kind is not _Parameter.KEYWORD_ONLY:
        return False
    return parameter.default is None or parameter.default is _Parameter.empty


def _may_be_tensor(default: Any) -> bool:
    """Return whether a parameter can be an input. Its default may be missing, a number, an array, None, or nested."""
    try:
        leaves, _ = flatten(default)
    except TypeError:  # not a valid nesting for an input
        return False
    return all(
        leaf is _Parameter.empty or isinstance(leaf, numbers.Number | np.ndarray | np.generic | list) for leaf in leaves
    )


def _is_default(value: Any, parameter: inspect.Parameter) -> bool:
    """Return whether a value equals the parameter's default. tf.function passes defaults explicitly."""
    default = parameter.default
    return value is default or (type(value) in (bool, int, float) and type(default) is type(value) and value == default)


def _is_same(default: Any, value: Any) -> bool:
    """Return whether a static value is the default of its parameter. Containers are copied, so compare them as JSON."""
    if value is default:
        return True
    if type(value) not in (list, dict, tuple) or type(default) is not type(value):
        return False
    try:
        return json.dumps(value_to_json(default)) == json.dumps(value_to_json(value))
    except ValueError:  # not JSON: treat it as a different value, like any other object
        return False


def _written(values: Mapping[str, Any]) -> dict[str, Json]:
    """Return the values that can be written as JSON, as JSON."""
    written = {}
    for name, value in values.items():
        with contextlib.suppress(ValueError):  # not JSON: the payload has its mark instead
            written[name] = value_to_json(value)
    return written
