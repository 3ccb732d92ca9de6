"""Unknown shapes: remember the op that output a tensor of unknown rank, for later errors caused by the unknown rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfpyop._lowering._tensorflow import FuncGraph, of_graph
from tfpyop._registry.op_def import ConcreteOp


class UnknownShape(NamedTuple):
    """An output of an op with an unknown rank."""

    op: ConcreteOp
    number: int


def record_unknown_shape(op: ConcreteOp, outputs: Sequence[tf.Tensor]) -> None:
    """Remember an output of unknown rank in the current graph and the graphs that enclose it."""
    number = next((number for number, output in enumerate(outputs) if output.shape.rank is None), None)
    graph = tf.compat.v1.get_default_graph()
    while number is not None and isinstance(graph, FuncGraph):
        _known(graph)[:] = [UnknownShape(op, number)]
        graph = graph.outer_graph


def find_unknown_shape() -> UnknownShape | None:
    """Return the last op output without a known rank in the current graph, or None."""
    return next(iter(_known(tf.compat.v1.get_default_graph())), None)


def _known(graph: tf.Graph) -> list[UnknownShape]:
    return of_graph(graph, "unknown_shapes", list[UnknownShape])
