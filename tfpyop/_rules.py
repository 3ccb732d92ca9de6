"""Derivative rules: what may be attached to an op, and the op together with its rules.

A rule in TensorFlow ops is called as it is. A rule in numpy is an op of its own, whose inputs are the primals, outputs
and residuals of the op it belongs to, and the cotangents or tangents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType, MethodType
from typing import Any, Protocol

from tfpyop._coercion import Array, DType, is_differentiable
from tfpyop._context import NamedValues, RuleContext
from tfpyop._from_values import FromValues
from tfpyop._host import HostFunction
from tfpyop._registry import REGISTRY, Site
from tfpyop._rule_promise import CotangentPromise, RuleInputs, TangentPromise
from tfpyop._signature import Signature
from tfpyop._structure import Structure
from tfpyop.errors import GradientError, UnsupportedError


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


@dataclass(frozen=True, eq=False)
class HostOp:
    """A host function with its derivative rules and static arguments: what a lowering lowers."""

    name: str
    host: HostFunction
    rules: Rules
    signature: Signature | None
    """With the residuals among its outputs."""
    structure: Structure | None
    """How the inputs are nested; None if they are not."""
    static: Mapping[str, Any]
    owner: Any
    """Whose host function this is: the registry's entry, or a local one."""
    payload: str | None
    """What a token says beside the name; None if it cannot be said."""

    def __post_init__(self) -> None:
        """Static values are given to every rule; nobody may change them for the others."""
        object.__setattr__(self, "static", MappingProxyType(dict(self.static)))

    @property
    def residual_names(self) -> tuple[str, ...]:
        """The names of the outputs that only rules see."""
        return self.host.promise.residual_names

    @property
    def prefers_native(self) -> bool:
        """Whether the native implementation is called by default."""
        prefers: bool = self.owner.prefers_native
        return prefers

    def call_native(self, tensors: Sequence[Any]) -> Sequence[Any]:
        """Call the native implementation as the function is called; returns flat outputs."""
        outputs: Sequence[Any] = self.owner.call_native(tensors, self.structure, self.static)
        return outputs

    @property
    def token(self) -> str:
        """What stands for the host function in graphs, registered under it."""
        return REGISTRY.token_of(self)

    @property
    def has_stable_token(self) -> bool:
        """Whether the token means the same in every process that imports the op's module."""
        return REGISTRY.is_stable(self)

    @property
    def is_batched(self) -> bool:
        """Whether a call is one over many rows."""
        return self.host.is_batched

    @property
    def is_of_rule(self) -> bool:
        """Whether this is the op of a numpy rule."""
        return isinstance(self.host.promise, CotangentPromise | TangentPromise)

    @property
    def primal(self) -> HostOp:
        """For the op of a rule: the op that the rule belongs to."""
        primal: HostOp = self.owner.primal.host_op(self.structure, self.static)
        return primal

    def is_differentiable(self, inputs: Sequence[DType], outputs: Sequence[DType]) -> bool:
        """Whether a call with these dtypes has a derivative at all."""
        return (
            not self.rules.non_differentiable
            and any(map(is_differentiable, inputs))
            and any(map(is_differentiable, outputs))
        )

    def context(self, call: RuleInputs[Any], evaluate: Callable[..., list[Array]] | None = None) -> RuleContext:
        """What the rules of this op are given."""
        residuals = self._no_residuals
        if call.residuals:
            values = dict(zip(self.residual_names, call.residuals, strict=True))
            residuals = NamedValues(values, "residual", self.host.subject)
        return RuleContext(self.name, tuple(call.inputs), tuple(call.outputs), residuals, self._named_static, evaluate)

    @cached_property
    def _no_residuals(self) -> NamedValues:
        return NamedValues({}, "residual", self.host.subject)

    @cached_property
    def _named_static(self) -> NamedValues:
        return NamedValues(self.static, "static argument", self.host.subject)

    def residual_differentiated(self) -> GradientError:
        """The error for a second derivative through a residual."""
        return GradientError(
            "a derivative rule was differentiated through a residual.",
            subject=self.host.subject,
            remedy="Second derivatives cannot pass through residuals, which only the host knows how to make. Use only "
            "op.inputs and op.outputs in this rule, or attach one to what @op.numpy_gradient returned: @that.gradient.",
        )

    def unexportable(self) -> UnsupportedError | None:
        """The error for a call in a saved model that no other process can make; None if others can."""
        if self.owner.is_bound:
            problem = "it is bound to an instance, which no other process has."
            remedy = "Make an op at the top level of a module, and give it what it reads of the instance as inputs."
        elif self.owner.is_local:
            problem = "its name holds for this process only, as it was made inside of a function, or of a lambda."
            remedy = "Make it with a def at the top level of a module, or give it a name=."
        elif self.owner.module == "__main__":
            problem = "it is defined in a script, which no other process imports."
            remedy = "Move it into a module."
        elif self.payload is None:
            problem = "it is called with a static value that is not JSON, so that a model cannot hold it."
            remedy = (
                "Pass Python's numbers, text, lists, tuples or dicts: float(x), an Enum's value, a list for an array."
            )
        else:
            return None
        return UnsupportedError(problem, subject=self.host.subject, remedy=remedy)

    def missing_gradient(self) -> GradientError:
        """The error for a gradient nobody has defined."""
        if self.is_of_rule:
            return self.missing_second_derivative()
        forward = (
            " Forward mode around a tf.function goes through the gradient rule too: attach one, or open the "
            "accumulator inside of the function."
        )
        return GradientError(
            "its gradient was asked for, but it has no gradient rule.",
            subject=self.host.subject,
            remedy="Attach one with @op.gradient (TensorFlow ops) or @op.numpy_gradient (arrays). If its derivative is "
            "zero everywhere, declare non_differentiable=True; to cut the graph here, use tf.stop_gradient."
            f"{'' if self.rules.jvp is None else forward}",
        )

    def missing_second_derivative(self) -> GradientError:
        """The error for differentiating a numpy rule that has no rule of its own."""
        rule = self.owner.function
        if isinstance(rule, FromValues):
            return GradientError(
                f"a second derivative was asked for, but derivatives from values ({rule.option}) go to first order "
                "only.",
                subject=self.host.subject,
                remedy="Write a rule with @op.gradient (TensorFlow ops), or one with @op.numpy_gradient (arrays) and "
                "another for what that returned.",
            )
        name, other = ("gradient", "numpy_gradient") if self.owner.kind == "vjp" else ("jvp", "jvp")
        return GradientError(
            "a second derivative was asked for, but this numpy rule has no rule of its own.",
            subject=self.host.subject,
            remedy=f"Attach one to what @op.numpy_{name} returned, with @that.gradient or @that.{other}, or write "
            f"the first rule in TensorFlow ops with @op.{name}.",
        )

    def detached_rule(self) -> GradientError:
        """The error for the derivative of a rule that TensorFlow cannot differentiate."""
        return GradientError(
            "a derivative of one of its rules was asked for, but what the rule returns does not depend on what it is "
            "given in a way that TensorFlow can follow.",
            subject=self.host.subject,
            remedy="Use TensorFlow ops only in it (no numpy, .numpy() or tf.numpy_function), and return None where "
            "there is no dependence; or make it a numpy rule with @op.numpy_gradient. For forward mode, a JVP rule "
            "will do: @op.jvp or @op.numpy_jvp.",
        )

    def missing_jvp(self) -> GradientError:
        """The error for forward mode through an op without a JVP."""
        if self.is_of_rule and self.rules.gradient is None:
            return self.missing_second_derivative()
        return GradientError(
            "forward mode was asked for, but the op has no JVP rule, and none follows from its gradient rule.",
            subject=self.host.subject,
            remedy="Attach one with @op.jvp (TensorFlow ops) or @op.numpy_jvp (arrays), or write the gradient rule in "
            "TensorFlow ops with @op.gradient.",
        )


def rule_caller(
    rule: Callable[..., Any], promise: CotangentPromise | TangentPromise, primal: HostOp
) -> Callable[[list[Array]], Any]:
    """The function of a numpy rule's op: flat arrays in, the rule called as its author wrote it."""

    def call(arrays: list[Array]) -> Any:
        parts = promise.split(arrays, [array.dtype for array in arrays])
        vectors = [vector if is_differentiable(vector.dtype) else None for vector in parts.vectors]
        return rule(primal.context(parts, primal.host.evaluate), *vectors)

    return call
