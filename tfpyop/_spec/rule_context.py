"""Define the first argument of rules: the data of the call to which the rule belongs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NoReturn

from tfpyop._spec.rule_outputs import RuleInputs
from tfpyop._spec.rule_values import Places, placed, without_missing


class NamedValues(Mapping[str, Any]):
    """Provide immutable values by name, as `values.name` or `values["name"]`.

    The names of values take precedence over the methods of mappings, so that a value may be named `values` or `keys`.
    """

    __slots__ = ("__dict__", "_kind", "_subject")

    def __init__(self, values: Mapping[str, Any], kind: str, subject: str) -> None:
        """Store the values. `kind` and `subject` describe a value and its op in error messages."""
        vars(self).update(values)
        object.__setattr__(self, "_kind", kind)
        object.__setattr__(self, "_subject", subject)

    def __getitem__(self, name: str) -> Any:
        """Return the value of this name. Raise KeyError with the known names if it does not exist."""
        try:
            return vars(self)[name]
        except KeyError:
            raise KeyError(self._explain(name)) from None

    def __getattr__(self, name: str) -> Any:
        """Raise AttributeError. Python calls this for unknown names only."""
        raise AttributeError(self._explain(name))

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        """Raise AttributeError, because all rules of a call share the same values."""
        raise AttributeError(f"cannot set {name!r}: the first argument of a rule is read-only")

    def __delattr__(self, name: str) -> NoReturn:
        """Raise AttributeError, because all rules of a call share the same values."""
        raise AttributeError(f"cannot delete {name!r}: the first argument of a rule is read-only")

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in the order of their declaration."""
        return iter(vars(self))

    def __len__(self) -> int:
        """Return the number of values."""
        return len(vars(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the values, the kind and the subject."""
        return type(self), (dict(vars(self)), self._kind, self._subject)

    def __repr__(self) -> str:
        """Return the names and values as text."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def _explain(self, name: object) -> str:
        declared = ", ".join(map(repr, vars(self))) or "none"
        return f"{self._subject}: no {self._kind} {name!r}. Declared: {declared}."


class LazyValues(NamedValues):
    """Provide further values that are computed when they are read for the first time."""

    __slots__ = ("_made",)

    def __init__(
        self, values: Mapping[str, Any], kind: str, subject: str, made: Mapping[str, Callable[[], Any]]
    ) -> None:
        """Store the values, and the functions that return the further values."""
        object.__setattr__(self, "_made", made)  # which all attributes need
        super().__init__(values, kind, subject)

    def __getattribute__(self, name: str) -> Any:
        """Return a value, also if a method of mappings has its name."""
        if name in object.__getattribute__(self, "_made"):
            return self[name]
        return super().__getattribute__(name)

    def __getitem__(self, name: str) -> Any:
        """Return the value of this name. Raise KeyError with the known names if it does not exist."""
        if name in self._made and name not in vars(self):
            vars(self)[name] = self._made[name]()
        return super().__getitem__(name)

    def __iter__(self) -> Iterator[str]:
        """Iterate over all names."""
        return iter(dict.fromkeys([*vars(self), *self._made]))

    def __len__(self) -> int:
        """Return the number of values."""
        return len(list(iter(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the values, which are made for this."""
        return NamedValues, ({name: self[name] for name in self}, self._kind, self._subject)

    def __repr__(self) -> str:
        """Return the names and values as text. Values that were not read are not made."""
        values = [f"{name}={vars(self)[name]!r}" if name in vars(self) else f"{name}=object" for name in self]
        return f"{type(self).__name__}({', '.join(values)})"

    def _explain(self, name: object) -> str:
        return f"{self._subject}: no {self._kind} {name!r}. Declared: {', '.join(map(repr, self))}."


@dataclass(frozen=True, slots=True)
class RuleContext:
    """Store the data of a call that a rule receives as its first argument, as in TensorFlow's gradient functions.

    The values are tensors; for a numpy rule they are arrays.

    Attributes:
      name: The name of the op.
      inputs: The inputs of the op, flat; dicts are flattened by sorted key. An optional input that the call leaves out
        is None.
      outputs: The outputs of the op, flat, in the order of the signature.
      residuals: The values that the function saved for its rules, by name: `op.residuals.lu` or `op.residuals["lu"]`.
        Python objects are available in numpy rules only.
      static: The static arguments by name, including defaults: `op.static.axis` or `op.static["axis"]`.
      needs: One bool for each input. For a VJP rule, False means that the cotangent of the input is certainly not used,
        so that the rule may return None or any value for it. For a JVP rule, False means that the input does not vary:
        its tangent is zero. Integers, and inputs that are None, always have False.
    """

    name: str
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    residuals: NamedValues
    static: NamedValues
    needs: tuple[bool, ...]
    _call: RuleInputs[Any] | None = field(default=None, repr=False, compare=False)
    """The values of the call, with handles in place of Python objects."""
    _name_residuals: Callable[[RuleInputs[Any]], NamedValues] | None = field(default=None, repr=False, compare=False)
    """A function that returns the residuals by name, for a part of the call."""
    _op: object = field(default=None, repr=False, compare=False)
    """The concrete op that was called, for rules that tfpyop derives."""
    _places: Places | None = field(default=None, repr=False, compare=False)
    """The places of the inputs, if the call leaves out optional inputs."""

    if not TYPE_CHECKING:  # type checkers report unknown names themselves

        def __getattr__(self, name):
            """Raise AttributeError with the known attributes. Python calls this for unknown names only."""
            offered = [offered.name for offered in fields(self) if offered.repr]
            raise AttributeError(
                f"op {self.name!r}: the first argument of a rule has no attribute {name!r}. "
                f"Attributes: {', '.join(offered)}."
            )


def as_seen_by_rules(context: RuleContext) -> RuleContext:
    """Return the context in which an input that the call leaves out is None."""
    places = context._places
    if places is None or len(context.inputs) == len(places):
        return context
    needs = tuple([bool(flag) for flag in placed(context.needs, places)])
    return replace(context, inputs=tuple(placed(context.inputs, places)), needs=needs)


def as_in_call(context: RuleContext) -> RuleContext:
    """Return the context with the flat inputs of the call only, as rules that tfpyop derives work on them."""
    places = context._places
    if places is None or len(context.inputs) < len(places):
        return context
    inputs, needs = (tuple(without_missing(values, places)) for values in (context.inputs, context.needs))
    return replace(context, inputs=inputs, needs=needs)
