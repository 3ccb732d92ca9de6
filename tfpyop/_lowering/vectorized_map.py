"""Batching in TensorFlow: convert the nodes of ops, with their derivatives, in `vectorized_map`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from tfpyop._host.batched import BatchedHostFunction
from tfpyop._lowering import graph
from tfpyop._lowering._tensorflow import ConversionNotImplementedError, map_rows, register_pfor_converter, wrap_for_pfor
from tfpyop._lowering.autodiff.differentiate import input_cotangents, output_tangents
from tfpyop._lowering.autodiff.recorded_call import RecordedCall
from tfpyop._lowering.autodiff.vectors import map_over
from tfpyop._lowering.xla.nodes import TOKEN_ATTRIBUTE
from tfpyop._registry.op_def import REGISTRY, ConcreteOp, RuleSet, TensorFlowRule
from tfpyop._registry.token import Token
from tfpyop._spec.payload import InAxes
from tfpyop._spec.rule_context import RuleContext
from tfpyop._spec.rule_outputs import RuleInputs
from tfpyop.errors import UnsupportedError


def install() -> None:
    """Make `vectorized_map` convert the nodes of ops. Other nodes of the same kinds are left to TensorFlow."""
    for kind, attribute in (("PyFunc", "token"), ("PyFuncStateless", "token"), ("XlaCallModule", TOKEN_ATTRIBUTE)):
        register_pfor_converter(kind, functools.partial(_convert, attribute))


def _convert(attribute: str, pfor_input: Any) -> list[Any]:
    token = Token.of_node(_attribute(pfor_input, attribute))
    op = None if token is None else REGISTRY.find_op(str(token))
    if op is None:
        name = _attribute(pfor_input, attribute).decode(errors="replace") or "a module"
        raise ConversionNotImplementedError(f"TensorFlow cannot vectorize the function {name}")
    if op.host.is_stateful:
        raise UnsupportedError(
            "stateful ops cannot run in tf.vectorized_map, because TensorFlow calls the mapped function twice for the "
            "first row.",
            subject=op.subject,
            remedy="Use tf.map_fn, which calls the op once for each row, in order.",
        )
    level = tuple(item.is_stacked for item in pfor_input.inputs)
    called = _differentiable(op, level) if any(level) else op  # XLA nodes count as stateful: convert all
    results = graph.call_with_residuals(called, [item.t for item in pfor_input.inputs])
    return [wrap_for_pfor(tensor, any(level)) for tensor in results]


def _attribute(pfor_input: Any, name: str) -> bytes:
    """Return an attribute of a node, or empty bytes if the node does not have it."""
    try:
        value: bytes = pfor_input.get_attr(name)
    except ValueError:
        return b""
    return value


def batch_native_call(op: ConcreteOp, n_results: int, pfor_input: Any) -> list[Any]:
    """Convert the gradient node of a native call, whose own nodes have been converted one by one."""
    level = tuple(item.is_stacked for item in pfor_input.inputs[n_results:])
    if not any(level):
        return [wrap_for_pfor(item.t, item.is_stacked) for item in pfor_input.inputs]
    pfor_input.stack_inputs(range(n_results))
    tensors = [item.t for item in pfor_input.inputs]
    results = graph.with_gradient(_differentiable(op, level), tensors[n_results:], tensors[:n_results])
    flags = [*[True] * n_results, *level]
    return [wrap_for_pfor(*pair) for pair in zip([*results, *tensors[n_results:]], flags, strict=True)]


def op_of_token(token: str) -> ConcreteOp:
    """Return the op of a token, with its derivatives, also if it is an op over rows.

    Raises:
      UnsupportedError: The op is not known.
    """
    op: ConcreteOp = REGISTRY.require_op(token)
    if not isinstance(op.host, BatchedHostFunction):
        return op
    over_rows = op.unbatched()
    for level in reversed(op.host.in_axes):
        over_rows = _differentiable(over_rows, level)
    return over_rows


def _differentiable(op: ConcreteOp, level: InAxes) -> ConcreteOp:
    """Return the op over rows, with the derivatives of a single row mapped over rows."""
    batched = op.batched(level)
    if op.rules.non_differentiable:
        return batched

    def gradient(context: RuleContext, *cotangents: tf.Tensor | None) -> list[tf.Tensor | None]:
        skipped = [number for number, is_needed in enumerate(context.needs) if not is_needed]

        def of_row(call: RecordedCall, vectors: Sequence[Any]) -> list[tf.Tensor | None]:
            return input_cotangents(replace(call, skipped=skipped), vectors)

        results = _over_rows(op, context, level, cotangents, [True] * len(cotangents), of_row)
        return [
            result if result is None or is_stacked else tf.reduce_sum(result, axis=0)
            for result, is_stacked in zip(results, level, strict=True)
        ]

    def jvp(context: RuleContext, *tangents: tf.Tensor | None) -> list[tf.Tensor | None]:
        moved = [tangent if varies else None for tangent, varies in zip(tangents, context.needs, strict=True)]
        return _over_rows(op, context, level, moved, level, output_tangents)

    site = op.definition.site
    return replace(batched, rules=RuleSet(TensorFlowRule(site, gradient), TensorFlowRule(site, jvp)))


def _over_rows(
    op: ConcreteOp,
    context: RuleContext,
    level: InAxes,
    vectors: Sequence[tf.Tensor | None],
    vector_level: Sequence[bool],
    of_row: Callable[[RecordedCall, Sequence[Any]], list[tf.Tensor | None]],
) -> list[tf.Tensor | None]:
    """Apply a derivative of one row to every row."""
    given = context._call
    assert given is not None
    n_outputs, n_residuals = len(given.outputs), len(given.residuals)
    values = [*given.inputs, *given.outputs, *given.residuals, *vectors]
    flags = [*level, *[True] * (n_outputs + n_residuals), *vector_level]

    def row(whole: Sequence[Any]) -> list[tf.Tensor | None]:
        parts = RuleInputs.flat(whole, len(level), n_outputs, n_residuals)
        call = RecordedCall(REGISTRY.current(op), parts.inputs, parts.outputs, parts.residuals)
        return of_row(call, parts.vectors)

    return map_over(map_rows, row, values, flags)
