"""Compute output sizes that a signature names but no input determines, with the functions in `sizes=`.

A size function takes sizes of the inputs by position, and static values as keyword-only arguments:
`sizes={"k": lambda d, *, degree: d**degree}`.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfpyop._spec.parameters import Parameters
from tfpyop._spec.signature import Signature
from tfpyop._spec.size_terms import LARGEST_SIZE
from tfpyop.errors import RegistrationError, SignatureError, nearest

_EXAMPLE = 'Write, for example, signature="(n,d)->(k)", sizes={"k": lambda d, *, degree: d**degree}.'
_MOST_VALUES = 1024
"""The maximum number of cached values of a size function."""


@dataclass(frozen=True, slots=True)
class SizeFunction:
    """Store a function in `sizes=`: the name that it computes, and the sizes and static values that it takes."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    static: tuple[str, ...]

    def bound(self, static: Mapping[str, Any]) -> ComputedSize:
        """Return the computed size for calls with these static values."""
        return ComputedSize(self, {name: static[name] for name in self.static if name in static})

    def __str__(self) -> str:
        """Render the function as `k(d, *, degree)`."""
        parameters = [*self.inputs, *(["*", *self.static] if self.static else [])]
        return f"{self.name}({', '.join(parameters)})"


@dataclass(frozen=True, slots=True, eq=False)
class ComputedSize:
    """Compute one size for calls with certain static values. Values are cached."""

    source: SizeFunction
    static: Mapping[str, Any]
    _known: dict[tuple[int, ...], int] = field(init=False, default_factory=dict)

    @property
    def unknown_without(self) -> tuple[str, ...]:
        """The names of the input sizes that must be known."""
        return self.source.inputs

    def value(self, sizes: Mapping[str, int | None]) -> int | None:
        """Return the size, given the sizes of the inputs; None if a size that the function takes is unknown.

        Raises:
          SignatureError: The function raised, or did not return a size.
        """
        known = [size for name in self.source.inputs if (size := sizes.get(name)) is not None]
        if len(known) < len(self.source.inputs):
            return None
        key = tuple(known)
        value = self._known.get(key)
        if value is None:
            value = self._computed(key)
            if len(self._known) >= _MOST_VALUES:
                self._known.clear()
            self._known[key] = value
        return value

    def _computed(self, values: tuple[int, ...]) -> int:
        given = [f"{name} = {value}" for name, value in zip(self.source.inputs, values, strict=True)]
        given += [f"{name} = {value!r:.80}" for name, value in self.static.items()]
        name, shown = self.source.name, ", ".join(given) or "no arguments"
        try:
            result = self.source.function(*values, **self.static)
        except Exception as error:
            raise SignatureError(
                f"the function of {name!r} in sizes= raised {type(error).__name__}: {error}",
                got=shown,
                remedy="Fix the function, or pass inputs and static values that it accepts.",
            ) from error
        try:
            size = -1 if isinstance(result, bool) else operator.index(result)
        except TypeError:
            size = -1
        if not 0 <= size <= LARGEST_SIZE:
            raise SignatureError(
                f"the function of {name!r} in sizes= did not return a size.",
                expected="an integer from 0 to 2**63 - 1",
                got=f"{result!r:.80} for {shown}",
                remedy="Fix the function, or pass inputs and static values for which it returns a size.",
            )
        return size


def read_sizes(sizes: Any, signature: Signature | None, parameters: Parameters) -> Mapping[str, SizeFunction]:
    """Read and check `sizes=`.

    Args:
      sizes: The value of the option.
      signature: The signature, with the residuals among its outputs.
      parameters: The parameters of the op's function.

    Raises:
      RegistrationError: A name is not a new name in the outputs, or its function takes a parameter that is neither the
        size of an input nor a static parameter.
    """
    if sizes is None:
        return {}
    if not isinstance(sizes, Mapping):
        raise RegistrationError("sizes= is not a dict.", got=f"{sizes!r:.80}", remedy=_EXAMPLE)
    if signature is None:
        raise RegistrationError("sizes= requires a signature.", remedy=f"Name the sizes in signature=. {_EXAMPLE}")
    new = signature.output_names - signature.input_names
    for name in sizes:
        if name not in new:
            is_of_input = name in signature.input_names
            raise RegistrationError(
                f"sizes= computes {name!r}, which "
                + ("is the size of an input." if is_of_input else "is not a name in the signature's outputs."),
                expected=f"new names in the outputs or residuals of signature {signature.text!r}",
                remedy=_EXAMPLE if is_of_input or not new else nearest(str(name), new),
            )
    return {name: _size_function(name, function, signature, parameters) for name, function in sizes.items()}


def _size_function(name: str, function: Any, signature: Signature, parameters: Parameters) -> SizeFunction:
    subject = f"the function of {name!r} in sizes="
    if not callable(function):
        raise RegistrationError(
            f"the value of {name!r} in sizes= is not a function.", got=f"{function!r:.80}", remedy=_EXAMPLE
        )
    try:
        taken = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise RegistrationError(
            f"cannot read the parameters of {subject}.",
            got=f"{function!r:.80}",
            remedy=f"Wrap it in a function whose parameters are names of the signature. {_EXAMPLE}",
        ) from None
    by_position = [p.name for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_keyword = [p.name for p in taken if p.kind is p.KEYWORD_ONLY]
    if len(by_position) + len(by_keyword) < len(taken):
        raise RegistrationError(
            f"{subject} takes a variable number of arguments.",
            expected="parameters with the names of input sizes, and keyword-only static parameters",
            got=str(inspect.signature(function)),
            remedy=_EXAMPLE,
        )
    for parameter in by_position:
        if parameter not in signature.required_names:
            is_optional = parameter in signature.input_names
            raise RegistrationError(
                f"{subject} takes {parameter!r}, which is "
                + ("an optional size." if is_optional else "not the size of an input."),
                expected=f"names of input sizes in signature {signature.text!r} that are not optional",
                remedy=f"{nearest(parameter, signature.required_names)} Static parameters are keyword-only in the "
                "function.",
            )
    parameters.require_static(by_keyword)
    return SizeFunction(name, function, tuple(by_position), tuple(by_keyword))
