"""Unknown shapes: which op gave a graph a tensor of unknown rank, for those who fail because of it later on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfpyop._lowering._tensorflow import FuncGraph
from tfpyop._registry.op_def import ConcreteOp


class UnknownShape(NamedTuple):
    """An output of an op whose rank is not known."""

    subject: str
    number: int


def record_unknown_shape(op: ConcreteOp, outputs: Sequence[tf.Tensor]) -> None:
    """Let the current graph, and those it is built into, remember an output of unknown rank."""
    number = next((number for number, output in enumerate(outputs) if output.shape.rank is None), None)
    graph = tf.compat.v1.get_default_graph()
    while number is not None and isinstance(graph, FuncGraph):
        graph._tfpyop_unknown_shape = UnknownShape(op.subject, number)
        graph = graph.outer_graph


def find_unknown_shape() -> UnknownShape | None:
    """Return the output that an op has given the current graph last without a rank, if there is one."""
    found: UnknownShape | None = getattr(tf.compat.v1.get_default_graph(), "_tfpyop_unknown_shape", None)
    return found
