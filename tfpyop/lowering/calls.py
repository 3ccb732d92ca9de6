"""Calls: an op and the tensors that went into it and came out of it, as its derivative rules need them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import tensorflow as tf

from tfpyop._coercion import is_differentiable
from tfpyop._rule_promise import CotangentPromise, RuleInputs
from tfpyop._rules import HostOp
from tfpyop._structure import Json
from tfpyop.errors import GradientError, annotate
from tfpyop.lowering._tensorflow import is_watched, record_operation, stop_recording
from tfpyop.lowering.detachment import detached_sources, leaves_tensorflow, wants_values
from tfpyop.lowering.gradient_node import (
    pass_through,
    passed_inputs,
    register_gradient,
    with_passed,
)
from tfpyop.lowering.refusals import refusing
from tfpyop.lowering.tensors import dtype_of, type_of
from tfpyop.lowering.xla import compiling, is_compiling


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
        return _guarded(self.op, self.residuals, self.inputs, HostOp.residual_differentiated)


def _guarded(
    op: HostOp, tensors: Sequence[tf.Tensor], sources: Sequence[tf.Tensor], error: Callable[[HostOp], GradientError]
) -> list[tf.Tensor]:
    """The same tensors, which are known to depend on sources in a way that nobody can follow beside their own."""
    n_tensors, is_compiled = len(tensors), is_compiling()
    through = [*tensors, *sources]

    def backward(*cotangents: Any) -> list[Any]:
        with compiling(is_compiled):
            return [*cotangents, *refusing(op, error, sources, cotangents)]

    def forward(*tangents: Any) -> list[Any]:
        with compiling(is_compiled):
            beside = refusing(op, error, tensors, tangents[n_tensors:])
        return [_sum(*pair) for pair in zip(tangents[:n_tensors], beside, strict=True)]

    with stop_recording():
        if tf.executing_eagerly():
            guarded = [tf.identity(tensor) for tensor in tensors]
        else:
            detail: Json = [n_tensors, error.__name__]
            guarded = pass_through(op, through, "guard", detail, holds_over_rows=True)[:n_tensors]
    record_operation("tfpyop guard", guarded, through, backward, forward)
    return guarded


@register_gradient("guard")
def _gradient_of_guard(op: HostOp, node: tf.Operation, cotangents: Sequence[Any], detail: Any) -> list[Any]:
    """The gradient of the node that guarded tensors and their sources pass through."""
    n_tensors, error = detail
    given = list(cotangents[:n_tensors])
    refused = refusing(op, getattr(HostOp, error), passed_inputs(node, n_tensors), given)
    return [*given, *with_passed(refused, cotangents[n_tensors:])]


def _sum(tangent: tf.Tensor | None, beside: tf.Tensor | None) -> tf.Tensor | None:
    return tangent if beside is None else beside if tangent is None else tangent + beside


def apply_rule(call: Call, rule: Callable[..., Any], kind: str, vectors: Sequence[Any]) -> Any:
    """Call a rule in TensorFlow ops, telling on its own exceptions which op it belongs to."""
    try:
        return rule(call.op.context(call.values), *vectors)
    except Exception as error:
        if not tf.executing_eagerly() and wants_values(error):
            raise GradientError(
                f"its {kind} rule calls numpy on a tensor of a graph.",
                subject=call.op.host.subject,
                remedy=f"For a rule in numpy use @op.numpy_{kind}; for @op.{kind} use TensorFlow ops.",
            ) from error
        name = "tangent" if kind == "jvp" else "cotangent"
        names = [name] if len(vectors) == 1 else [f"{name} {number}" for number in range(len(vectors))]
        called = ", ".join(["op", *names])
        annotate(error, f"Raised in the {kind} rule of {call.op.host.subject}, called as rule({called}).")
        raise


def guarded_results(
    call: Call, rule: Callable[..., Any], vectors: Sequence[Any], results: Sequence[tf.Tensor | None]
) -> list[tf.Tensor | None]:
    """What a rule in TensorFlow ops returned, such that differentiating it raises where numpy made a part of it."""
    given = [*call.inputs, *call.outputs, *vectors]
    sources = [tensor for tensor in given if tensor is not None and is_differentiable(dtype_of(tensor))]
    if tf.executing_eagerly():
        sources = [tensor for tensor in sources if is_watched([tensor])]
        lost = sources if sources and _is_detached(call, rule, given, sources) else []
    else:
        lost = detached_sources(results, sources)
    if not lost:
        return list(results)
    guarded = iter(_guarded(call.op, [value for value in results if value is not None], lost, HostOp.detached_rule))
    return [None if value is None else next(guarded) for value in results]


def _is_detached(
    call: Call, rule: Callable[..., Any], given: Sequence[tf.Tensor | None], sources: Sequence[tf.Tensor]
) -> bool:
    """Whether a rule that runs eagerly takes values of these tensors to Python, found out once a kind of call."""
    replaced = {id(tensor) for tensor in sources}

    def with_symbolic(symbolic: Sequence[tf.Tensor]) -> Any:
        remaining = iter(symbolic)
        values = [next(remaining) if id(tensor) in replaced else tensor for tensor in given]
        n_inputs, n_values = len(call.inputs), len(call.inputs) + len(call.outputs)
        parts = RuleInputs(values[:n_inputs], values[n_inputs:n_values], call.residuals, ())
        return rule(call.op.context(parts), *values[n_values:])

    types = tuple(None if tensor is None else (type_of(tensor), id(tensor) in replaced) for tensor in given)
    key = (getattr(rule, "__func__", rule), types)
    return call.op.host.remembered(key, lambda: leaves_tensorflow(with_symbolic, sources))
