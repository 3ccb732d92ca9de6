"""Host ops: a host function together with its rules and static values, which is what a lowering lowers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from tfpyop._host.batched import BatchedHost
from tfpyop._host.function import HostFunction
from tfpyop._registry.registry import REGISTRY
from tfpyop._registry.rules import Rules
from tfpyop._spec.coercion import Array, DType, is_differentiable
from tfpyop._spec.payload import Level, with_levels
from tfpyop._spec.rule_context import NamedValues, RuleContext
from tfpyop._spec.rule_outputs import RuleInputs, RulePromise
from tfpyop._spec.signature import Signature
from tfpyop._spec.static_values import static_values
from tfpyop._spec.tree import Structure
from tfpyop.errors import UnsupportedError

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class HostOp:
    """A host function with its derivative rules and static arguments: what a lowering lowers."""

    name: str
    host: HostFunction
    rules: Rules
    signature: Signature | None
    """Of the user's function with the residuals among its outputs; of a rule the input side only."""
    structure: Structure | None
    """How the inputs are nested; None if they are not."""
    static: Mapping[str, Any]
    owner: Any
    """Whose host function this is: the registry's entry, or a local one."""
    payload: str | None
    """What a token says beside the name; None if it cannot be said."""

    def __post_init__(self) -> None:
        """Take over the static values, so that no rule changes them for the others."""
        object.__setattr__(self, "static", static_values(self.static))

    @property
    def residual_names(self) -> tuple[str, ...]:
        """The names of the outputs that only rules see."""
        return self.host.promise.residual_names

    def visible(self, results: Sequence[T]) -> Sequence[T]:
        """What the caller sees of the results of a call: all but the residuals."""
        return results[: len(results) - len(self.residual_names)]

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
        return isinstance(self.host.promise, RulePromise)

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
        return RuleContext(
            self.name, tuple(call.inputs), tuple(call.outputs), residuals, self._named_static(), evaluate
        )

    @cached_property
    def _no_residuals(self) -> NamedValues:
        return NamedValues({}, "residual", self.host.subject)

    @cached_property
    def _shared_static(self) -> NamedValues:
        return self._named_static()

    def _named_static(self) -> NamedValues:
        return NamedValues(self.static, "static argument", self.host.subject)

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

    def export_problem(self) -> UnsupportedError | None:
        """The error for a call in a saved model that others cannot make, or may make with another default."""
        marks = self.owner.definition.parameters.default_marks
        defaults = self.owner.definition.parameters.static_defaults or {}
        unknown = [name for name, mark in marks.items() if mark is None and self.static.get(name) is defaults[name]]
        error = self.unexportable()
        if error is not None or not unknown:
            return error
        return UnsupportedError(
            f"the default of {unknown[0]!r} cannot be written into a model, nor compared where the model is loaded.",
            subject=self.host.subject,
            got=f"{defaults[unknown[0]]!r:.80}",
            remedy="The process that loads the model takes its own default. Use a default that has a name in a module, "
            "such as a function or an Enum's member, or Python's numbers, text, lists, tuples or dicts.",
        )


def batched_op(op: HostOp, *levels: Level) -> HostOp:
    """The op over rows, without derivative rules of its own.

    Args:
      op: The op of one row; may be batched itself, further in.
      levels: Which inputs have rows, outer levels first.
    """
    if not levels:
        return op
    levels += op.host.levels if isinstance(op.host, BatchedHost) else ()
    unbatched = op.host.unbatched if isinstance(op.host, BatchedHost) else op.host
    signature = op.host.signature if isinstance(op.host, BatchedHost) else op.signature
    payload = None if op.payload is None else with_levels(op.payload, levels)
    return replace(op, host=BatchedHost(unbatched, signature, levels), signature=None, payload=payload)


def unbatched_op(op: HostOp) -> HostOp:
    """The op of one row of an op over rows, with the derivative rules that this one has."""
    if not isinstance(op.host, BatchedHost):
        return op
    payload = None if op.payload is None else with_levels(op.payload, ())
    return replace(op, host=op.host.unbatched, signature=op.host.signature, payload=payload)
