"""Derivative rules: what may be attached to an op.

A rule in TensorFlow ops is called as it is. A rule in numpy is an op of its own, whose inputs are the primals, outputs
and residuals of the op it belongs to, and the cotangents or tangents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any, Protocol

from tfpyop._spec.source_location import Site
from tfpyop._spec.tree import Structure


class RuleOp(Protocol):
    """The op of a numpy rule, as the lowerings call it."""

    def call_flat(self, leaves: Sequence[Any], structure: Structure | None, static: Mapping[str, Any]) -> list[Any]:
        """Call the op with flat inputs; structure and static values are those of the op the rule belongs to."""
        ...

    def bound_with(self, instance: Any, primal: Any) -> Any:
        """The same for the rule of a method, bound to an instance as its primal op is."""
        ...


@dataclass(frozen=True, slots=True)
class Rule:
    """One derivative rule: a function of TensorFlow ops, or the op made of a numpy function."""

    site: Site
    function: Callable[..., Any] | None = None
    op: RuleOp | None = None

    def bound(self, instance: Any, primal: Any) -> Rule:
        """The rule of a method, bound to an instance as the op is that it belongs to."""
        if self.function is not None:
            return replace(self, function=MethodType(self.function, instance))
        return replace(self, op=None if self.op is None else self.op.bound_with(instance, primal))


@dataclass(slots=True)
class Rules:
    """What is known about the derivatives of an op."""

    gradient: Rule | None = None
    jvp: Rule | None = None
    non_differentiable: bool = False
    native: Rule | None = None
    """The same function in TensorFlow ops."""

    def bound(self, instance: Any, primal: Any) -> Rules:
        """The rules of a method, bound to an instance as the op is that they belong to."""
        gradient, jvp, native = (
            None if rule is None else rule.bound(instance, primal) for rule in (self.gradient, self.jvp, self.native)
        )
        return replace(self, gradient=gradient, jvp=jvp, native=native)
