"""Calls in graphs: a node that calls the host function, and a node that carries the gradient.

Outputs, residuals and primals pass through the second node. The gradient rule reads the primals there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfpyop._lowering import py_func
from tfpyop._lowering._tensorflow import stop_recording
from tfpyop._lowering.autodiff.differentiate import input_cotangents
from tfpyop._lowering.autodiff.gradient_node import (
    add_forwarded,
    forwarded_inputs,
    identity_with_gradient,
    is_saving,
    keep_alive,
    register_gradient,
    unreadable_gradient,
)
from tfpyop._lowering.autodiff.record import record
from tfpyop._lowering.autodiff.recorded_call import RecordedCall
from tfpyop._lowering.status import outputs_changed_error
from tfpyop._lowering.tensors import type_of
from tfpyop._lowering.unknown_shapes import record_unknown_shape
from tfpyop._lowering.xla import nodes as xla_nodes
from tfpyop._lowering.xla.compilation import is_compiling
from tfpyop._registry.op_def import ConcreteOp
from tfpyop._spec.outputs import ArraySpec, is_compatible


def call(op: ConcreteOp, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Add a call of the op to the current graph."""
    outputs = list(op.visible(call_with_residuals(op, tensors)))
    record_unknown_shape(op, outputs)
    return outputs


def call_with_residuals(op: ConcreteOp, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Add a call of the op to the current graph; return its outputs and residuals."""
    types = [type_of(tensor) for tensor in tensors]
    promised = op.host.infer_outputs(types)
    keep_alive(op, tf.compat.v1.get_default_graph())
    with stop_recording():
        if is_compiling():
            results = xla_nodes.host_node(op, tensors, types, promised)
        else:
            results = py_func.host_node(op, tensors, promised)
    is_differentiable = op.is_differentiable([type_.dtype for type_ in types], [type_.dtype for type_ in promised])
    if is_differentiable:
        return with_gradient(op, tensors, results)
    # TensorFlow knows that PyFunc has no gradient, but does not know this of XLA's node
    return list(map(tf.stop_gradient, results)) if is_compiling() else results


def with_gradient(
    op: ConcreteOp,
    tensors: Sequence[tf.Tensor],
    results: Sequence[tf.Tensor],
    over_rows: Callable[[Any], list[Any]] | None = None,
) -> list[tf.Tensor]:
    """Attach the derivatives of the op to outputs and residuals of a call in the current graph.

    Args:
      op: The op.
      tensors: The inputs of the call.
      results: The outputs and residuals.
      over_rows: Converts the gradient node in `vectorized_map`, if the nodes of the call are not converted as a call.
    """
    n_outputs = len(op.visible(results))
    with stop_recording():
        passed = identity_with_gradient(op, [*results, *tensors], "call", n_outputs, over_rows=over_rows)
        passed = passed[: len(results)]
    record(RecordedCall(op, list(tensors), passed[:n_outputs], passed[n_outputs:]))
    return passed


@register_gradient("call")
def _gradient(op: ConcreteOp, node: tf.Operation, cotangents: Sequence[Any], n_outputs: Any) -> list[Any]:
    """Return the cotangents of the node that outputs, residuals and primals of a call pass through."""
    n_results = _count_results(op, node, n_outputs)
    results = list(node.outputs)[:n_results]
    call = RecordedCall(
        op,
        forwarded_inputs(node, n_results),
        results[:n_outputs],
        results[n_outputs:],
        keeps_sparse=not is_saving(),  # otherwise they are added to dense cotangents
    )
    by_rule = input_cotangents(call, cotangents[:n_outputs])
    return [None] * n_results + add_forwarded(by_rule, cotangents[n_results:])


def _count_results(op: ConcreteOp, node: tf.Operation, n_outputs: Any) -> int:
    """Count the outputs and residuals among the tensors that a node passes on.

    Raises:
      UnsupportedError: The node belongs to a damaged model.
      ContractError: The op has changed since the node was created.
    """
    n_passed = len(node.outputs)
    if type(n_outputs) is not int or not 0 <= n_outputs <= n_passed:
        raise unreadable_gradient(f"{n_outputs!r:.80} outputs of {n_passed}")
    n_results = n_outputs + len(op.residual_names)
    n_before = n_results if op.signature is None else n_passed - len(op.signature.inputs)
    passed = list(map(type_of, node.inputs))
    promised = op.host.infer_outputs(passed[n_before:])
    if not n_before == n_results == len(promised) or not all(map(_may_be, passed, promised)):
        raise outputs_changed_error(op.subject, passed[:n_before], promised)
    return n_results


def _may_be(traced: ArraySpec, promised: ArraySpec) -> bool:
    is_possible = promised.shape is None or is_compatible(promised.shape, traced.shape)
    return traced.dtype == promised.dtype and is_possible
