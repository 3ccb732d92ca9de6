"""Calls: an op and the tensors that went into it and came out of it, as its derivative rules need them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

import tensorflow as tf

from tfpyop._coercion import is_differentiable
from tfpyop._host import HostFunction
from tfpyop._promise import CotangentPromise, RuleInputs, SamePromise
from tfpyop._rules import HostOp, Rule, Rules
from tfpyop.errors import GradientError
from tfpyop.lowering._tensorflow import record_operation, stop_recording
from tfpyop.lowering.compilation import is_compiling
from tfpyop.lowering.gradient_node import KEPT_OVER_ROWS, pass_through
from tfpyop.lowering.tensors import dtype_of


@dataclass(eq=False)
class Call:
    """One call of an op, eagerly or in a graph."""

    op: HostOp
    inputs: Sequence[tf.Tensor]
    outputs: Sequence[tf.Tensor]
    residuals: Sequence[tf.Tensor]
    is_second_order: bool = True
    """For the op of a VJP rule: whether somebody may want its derivative by the primals."""
    is_compiled: bool = field(default_factory=is_compiling)
    """Whether it is in a graph that XLA compiles."""

    @property
    def is_of_vjp(self) -> bool:
        """Whether this is a call of a VJP rule's op that has no rule of its own."""
        return self.op.rules.gradient is None and isinstance(self.op.host.promise, CotangentPromise)

    @cached_property
    def primal(self) -> Call:
        """For the op of a VJP rule: the call that it takes cotangents back through."""
        parts = self._parts
        return Call(self.op.primal, parts.inputs, parts.outputs, parts.residuals)

    @property
    def vectors(self) -> Sequence[tf.Tensor]:
        """For the op of a VJP rule: the cotangents it was given."""
        return self._parts.vectors

    @cached_property
    def _parts(self) -> RuleInputs[tf.Tensor]:
        promise = self.op.host.promise
        assert isinstance(promise, CotangentPromise)
        return promise.split(self.inputs, [dtype_of(tensor) for tensor in self.inputs])

    @property
    def values(self) -> RuleInputs[Any]:
        """The call as a rule is given it, without vectors."""
        return RuleInputs(self.inputs, self.outputs, self.guarded_residuals(), ())

    def guarded_residuals(self) -> list[tf.Tensor]:
        """The residuals, such that differentiating a rule through them raises.

        They come from the inputs in a way that only the host knows; taking them for constants would be silently wrong.
        """
        if not any(is_differentiable(dtype_of(tensor)) for tensor in self.residuals):
            return list(self.residuals)

        def refuse(*_: Any) -> NoReturn:
            raise self.op.residual_differentiated()

        with stop_recording():
            if tf.executing_eagerly():
                guarded = [tf.identity(tensor) for tensor in self.residuals]
            else:
                guarded = pass_through(self.op, [*self.residuals, *self.inputs], _refuse_when_run)
        guarded = guarded[: len(self.residuals)]
        record_operation("tfpyop residuals", guarded, list(self.inputs), refuse, refuse)
        return guarded


def _refuse_when_run(op: HostOp, node: tf.Operation, cotangents: Sequence[Any]) -> list[Any]:
    return refusing(op, op.residual_differentiated, list(node.inputs), cotangents)


KEPT_OVER_ROWS.append(_refuse_when_run)


def refusing(
    op: HostOp, error: Callable[[], GradientError], like: Sequence[tf.Tensor], by: Sequence[tf.Tensor | None]
) -> list[tf.Tensor | None]:
    """Stand-ins for cotangents like some tensors that nobody can compute: a node that raises when it runs.

    In a graph it is pruned when nobody wants them. It depends on what the cotangents would depend on, and its own
    derivatives raise too.
    """

    def refuse(arrays: Sequence[Any]) -> NoReturn:
        del arrays
        raise error()

    floating = [tensor for tensor in like if is_differentiable(dtype_of(tensor))]
    host = HostFunction(op.host.subject, function=refuse, promise=SamePromise(len(floating)))
    rule = Rule(op.owner.site, function=lambda context, *cotangents: refusing(op, error, context.inputs, cotangents))
    stand_in = HostOp(op.name, host, Rules(gradient=rule), None, None, {}, op.owner, None)
    from tfpyop.lowering import call

    results = iter(call(stand_in, [*floating, *(tensor for tensor in by if tensor is not None)]))
    return [next(results) if is_differentiable(dtype_of(tensor)) else None for tensor in like]


def apply_rule(call: Call, rule: Callable[..., Any], kind: str, vectors: Sequence[Any]) -> Any:
    """Call a rule in TensorFlow ops, telling on its own exceptions which op it belongs to."""
    try:
        return rule(call.op.context(call.values), *vectors)
    except Exception as error:
        if isinstance(error, NotImplementedError) and "to a numpy array" in str(error):
            raise GradientError(
                f"its {kind} rule calls numpy on a tensor of a graph.",
                subject=call.op.host.subject,
                remedy=f"For a rule in numpy use @op.numpy_{kind}; for @op.{kind} use TensorFlow ops.",
            ) from error
        if hasattr(error, "add_note"):  # Python 3.11
            name = "tangent" if kind == "jvp" else "cotangent"
            names = [name] if len(vectors) == 1 else [f"{name} {number}" for number in range(len(vectors))]
            called = ", ".join(["op", *names])
            error.add_note(f"Raised in the {kind} rule of {call.op.host.subject}, called as rule({called}).")
        raise
