"""What a rule is given of the call it belongs to. Knows nothing of ops beyond their name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NoReturn

from tfpyop._spec.coercion import Array


class NamedValues(Mapping[str, Any]):
    """Immutable values by name, read as `values.name` or `values["name"]`.

    Names are found before the methods of mappings, so that a value may be called `values` or `keys`.
    """

    __slots__ = ("__dict__", "_kind", "_subject")

    def __init__(self, values: Mapping[str, Any], kind: str, subject: str) -> None:
        """Take the values; errors call each a `kind`, and name the op they belong to."""
        vars(self).update(values)
        object.__setattr__(self, "_kind", kind)
        object.__setattr__(self, "_subject", subject)

    def __getitem__(self, name: str) -> Any:
        """The value of this name; KeyError lists those there are."""
        try:
            return vars(self)[name]
        except KeyError:
            raise KeyError(self._explain(name)) from None

    def __getattr__(self, name: str) -> Any:
        """Called for unknown names only."""
        raise AttributeError(self._explain(name))

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        """Every rule of a call is given the same values."""
        raise AttributeError(f"cannot set {name!r}: the first argument of a rule is read-only")

    def __delattr__(self, name: str) -> NoReturn:
        """As for setting."""
        raise AttributeError(f"cannot delete {name!r}: the first argument of a rule is read-only")

    def __iter__(self) -> Iterator[str]:
        """The names, as they were declared."""
        return iter(vars(self))

    def __len__(self) -> int:
        """How many there are."""
        return len(vars(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled by what it was made of."""
        return type(self), (dict(vars(self)), self._kind, self._subject)

    def __repr__(self) -> str:
        """Show what is there."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def _explain(self, name: object) -> str:
        declared = ", ".join(map(repr, vars(self))) or "none"
        return f"{self._subject}: no {self._kind} {name!r}. Declared: {declared}."


@dataclass(frozen=True, slots=True)
class RuleContext:
    """What a rule is given first, in the manner of a TensorFlow op: tensors, or arrays for a numpy rule.

    Attributes:
      name: The name of the op.
      inputs: What the op was called with, flat; dicts by sorted key.
      outputs: What it returned, flat, in the order of the signature.
      residuals: What the function kept for its rules, by name: `op.residuals.lu` or `op.residuals["lu"]`.
      static: The static arguments by name, defaults included: `op.static.axis` or `op.static["axis"]`.
    """

    name: str
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    residuals: NamedValues
    static: NamedValues
    _evaluate: Callable[[Sequence[Array]], list[Array]] | None = field(default=None, repr=False)
    """In a numpy rule: what the op's own function returns for flat inputs, neither cast nor checked."""

    if not TYPE_CHECKING:  # type checkers know by themselves

        def __getattr__(self, name):
            """Called for unknown names only."""
            offered = [offered.name for offered in fields(self) if offered.repr]
            raise AttributeError(
                f"op {self.name!r}: the first argument of a rule has no attribute {name!r}. "
                f"Attributes: {', '.join(offered)}."
            )
