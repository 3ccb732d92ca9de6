"""Sizes that XLA does not know before run time: detect inputs that may have one, as far as a graph shows it."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfpyop._lowering._tensorflow import FuncGraph

_SOURCES = frozenset(
    {"DynamicPartition", "Unique", "UniqueV2", "UniqueWithCounts", "Where", "XlaSetDynamicDimensionSize"}
)
"""The nodes whose results have dynamic sizes, or contain them as numbers."""


def may_be_dynamic(tensors: Sequence[tf.Tensor]) -> bool:
    """Return whether a tensor of unknown size comes from nodes of dynamic sizes through tensors of unknown size.

    Arguments of loops, branches and inner functions count as dynamic, because their origin is unknown.
    """
    found: set[int] = set()
    waiting = list(tensors)
    while waiting:
        tensor = waiting.pop()
        if tensor.shape.is_fully_defined() or id(tensor) in found:
            continue
        found.add(id(tensor))
        if tensor.op.type in _SOURCES:
            return True
        if tensor.op.type == "Placeholder":
            outside = _captured(tensor)
            if outside is None and _is_inner(tensor.graph):
                return True
            waiting += [] if outside is None else [outside]
        waiting += tensor.op.inputs
    return False


def _captured(placeholder: tf.Tensor) -> tf.Tensor | None:
    """Return the tensor of an outer graph that a placeholder captures, or None."""
    graph = placeholder.graph
    captures = graph.captures if isinstance(graph, FuncGraph) else ()
    return next((outside for outside, inside in captures if inside is placeholder), None)


def _is_inner(graph: tf.Graph) -> bool:
    return isinstance(graph, FuncGraph) and isinstance(graph.outer_graph, FuncGraph)
