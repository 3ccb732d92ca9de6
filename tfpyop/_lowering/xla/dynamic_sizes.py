"""Sizes that XLA itself does not know before it runs: whether an input may have one, as far as a graph tells."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfpyop._lowering._tensorflow import FuncGraph

_SOURCES = frozenset(
    {"DynamicPartition", "Unique", "UniqueV2", "UniqueWithCounts", "Where", "XlaSetDynamicDimensionSize"}
)
"""The nodes whose results have such sizes, or hand them on as numbers."""


def may_be_dynamic(tensors: Sequence[tf.Tensor]) -> bool:
    """Whether a tensor of unknown size comes from nodes of dynamic sizes through others of unknown size.

    Arguments of loops, branches and inner functions are taken for such, because nothing tells where they come from.
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
    """The tensor of an outer graph that a placeholder stands for, if it does."""
    graph = placeholder.graph
    captures = graph.captures if isinstance(graph, FuncGraph) else ()
    return next((outside for outside, inside in captures if inside is placeholder), None)


def _is_inner(graph: tf.Graph) -> bool:
    return isinstance(graph, FuncGraph) and isinstance(graph.outer_graph, FuncGraph)
