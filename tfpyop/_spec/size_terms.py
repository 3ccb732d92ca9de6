"""Represent the sizes of dimensions as terms of numbers, names and arithmetic. Evaluate and solve these terms."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

T = TypeVar("T")
Term = int | str | tuple[str, "Term", "Term"]
"""A size: a number, a name, or an operator with two terms."""

LARGEST_SIZE = 2**63 - 1
OPERATORS: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
}


def fold(term: Any, leaf: Callable[[Any], T], combine: Callable[[str, T, T], T]) -> T:
    """Compute a value from a term, or from a size of the same form.

    Args:
      term: The term.
      leaf: Returns the value of a part that is not a tuple.
      combine: Returns the value of a tuple, from its operator and the values of its operands.
    """
    if isinstance(term, tuple):
        return combine(term[0], fold(term[1], leaf, combine), fold(term[2], leaf, combine))
    return leaf(term)


def names_in(term: Term) -> frozenset[str]:
    """Return the names that a term contains."""
    names: list[str] = []
    fold(term, lambda part: names.append(part) if isinstance(part, str) else None, lambda *_: None)
    return frozenset(names)


def evaluate(term: Term, sizes: Mapping[str, int | None]) -> int | None:
    """Return the value of a term; None if one of its names has no known size."""

    def combine(name: str, left: int | None, right: int | None) -> int | None:
        return None if left is None or right is None else OPERATORS[name](left, right)

    return fold(term, lambda part: sizes.get(part) if isinstance(part, str) else part, combine)


@dataclass(frozen=True, slots=True)
class Linear:
    """Represent a size of the form `factor * name + offset`."""

    name: str
    factor: int
    offset: int

    def solution(self, size: int) -> int | None:
        """Return the value of the name that gives this size; None if no value gives this size."""
        value, rest = divmod(size - self.offset, self.factor)
        return value if rest == 0 and value >= 0 else None


@lru_cache(maxsize=4096)
def linear_of(term: Term) -> Linear | None:
    """Convert a term to a positive multiple of one name plus a number; return None for any other term."""
    coefficients = _coefficients(term)
    if coefficients is None:
        return None
    offset = coefficients.pop("", 0)
    if len(coefficients) != 1:
        return None
    ((name, factor),) = coefficients.items()
    return Linear(name, factor, offset) if factor > 0 else None


def _coefficients(term: Term) -> dict[str, int] | None:
    """Return the factor of each name, and the constant under the empty name; None if the term is not linear."""
    if isinstance(term, int):
        return {"": term}
    if isinstance(term, str):
        return {term: 1}
    left, right = _coefficients(term[1]), _coefficients(term[2])
    if left is None or right is None:
        return None
    if term[0] in "+-":
        sign = 1 if term[0] == "+" else -1
        total = {name: left.get(name, 0) + sign * right.get(name, 0) for name in left | right}
        return {name: factor for name, factor in total.items() if factor or not name}
    if term[0] == "*" and (set(left) <= {""} or set(right) <= {""}):
        names, number = (right, left.get("", 0)) if set(left) <= {""} else (left, right.get("", 0))
        return {name: factor * number for name, factor in names.items() if number or not name}
    return None
