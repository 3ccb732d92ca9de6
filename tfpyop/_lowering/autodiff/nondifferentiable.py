"""Nondifferentiable tensors: requesting their unknown derivative raises an error instead of being wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfpyop._lowering._tensorflow import record_operation, stop_recording
from tfpyop._lowering.autodiff.deferred_errors import deferred_error_vectors, error_of, kind_of
from tfpyop._lowering.autodiff.gradient_node import (
    add_forwarded,
    forwarded_inputs,
    identity_with_gradient,
    register_gradient,
    sum_of,
    unreadable_gradient,
)
from tfpyop._lowering.xla.compilation import compiling, is_compiling
from tfpyop._registry.op_def import ConcreteOp
from tfpyop._spec.tree import Json
from tfpyop.errors import GradientError


def nondifferentiable(
    op: ConcreteOp,
    tensors: Sequence[tf.Tensor],
    sources: Sequence[tf.Tensor],
    error: Callable[[ConcreteOp], GradientError],
) -> list[tf.Tensor]:
    """Return the tensors, marked as depending on `sources` in a way that cannot be differentiated.

    Their known derivatives stay available. Derivatives by other tensors, such as a cotangent, depend on the sources
    too, and are marked in turn.
    """
    n_tensors, is_compiled = len(tensors), is_compiling()
    through = [*tensors, *sources]

    def backward(*cotangents: Any) -> list[Any]:
        with compiling(is_compiled):
            kept = _guarded_where_given(op, cotangents, sources, error)
            return [*kept, *deferred_error_vectors(op, error, sources, cotangents)]

    def forward(*tangents: Any) -> list[Any]:
        with compiling(is_compiled):
            placeholders = deferred_error_vectors(op, error, tensors, tangents[n_tensors:])
            sums = [sum_of(*pair) for pair in zip(tangents[:n_tensors], placeholders, strict=True)]
            return _guarded_where_given(op, sums, sources, error)

    with stop_recording():
        if tf.executing_eagerly():
            kept = [tf.identity(tensor) for tensor in tensors]
        else:
            detail: Json = [n_tensors, kind_of(error)]
            kept = identity_with_gradient(op, through, "guard", detail, holds_for_batches=True)[:n_tensors]
    record_operation("tfpyop guard", kept, through, backward, forward)
    return kept


@register_gradient("guard")
def _gradient_of_guard(op: ConcreteOp, node: tf.Operation, cotangents: Sequence[Any], detail: Any) -> list[Any]:
    """Return the cotangents of the node that marked tensors and their sources pass through."""
    is_pair = isinstance(detail, list) and len(detail) == 2 and type(detail[0]) is int and isinstance(detail[1], str)
    if not is_pair or not 0 <= detail[0] <= len(node.outputs):
        raise unreadable_gradient(f"{detail!r:.80}")
    n_tensors, kind = detail
    given, sources, error = list(cotangents[:n_tensors]), forwarded_inputs(node, n_tensors), error_of(kind)
    deferred_for = deferred_error_vectors(op, error, sources, given)
    return [*_guarded_where_given(op, given, sources, error), *add_forwarded(deferred_for, cotangents[n_tensors:])]


def _guarded_where_given(
    op: ConcreteOp,
    vectors: Sequence[tf.Tensor | None],
    sources: Sequence[tf.Tensor],
    error: Callable[[ConcreteOp], GradientError],
) -> list[tf.Tensor | None]:
    given = [vector for vector in vectors if vector is not None]
    kept = iter(nondifferentiable(op, given, sources, error) if given else ())
    return [None if vector is None else next(kept) for vector in vectors]
