"""Gradient nodes: IdentityN nodes with a gradient of their own, whose functions go with their graph.

TensorFlow finds the gradient of a node by a name in a global table. Each node here has a name of its own; the function
behind it holds op and node weakly, and the name is taken back when the graph is collected.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfpyop._registry import REGISTRY, OwnedNames
from tfpyop._rules import HostOp
from tfpyop.errors import GradientError
from tfpyop.lowering._tensorflow import (
    FuncGraph,
    executing_eagerly_outside_functions,
    forget_gradient,
    record_operation,
    stop_recording,
    wrap_for_pfor,
)
from tfpyop.lowering.xla import compiling, is_compiling

Gradient = Callable[[HostOp, tf.Operation, Sequence[Any]], list[Any]]
"""From the op, a node and the cotangents of its outputs to those of its inputs. It must not refer to any graph."""

_NAMES = OwnedNames(forget_gradient)


def pass_through(
    op: HostOp, tensors: Sequence[tf.Tensor], gradient: Gradient, *, holds_over_rows: bool = False
) -> list[tf.Tensor]:
    """Pass tensors of the current graph through a node with this gradient.

    Args:
      op: The op that the node belongs to.
      tensors: What passes.
      gradient: The node's gradient.
      holds_over_rows: Whether the gradient is right for many rows as it is for one.
    """
    graph = tf.compat.v1.get_default_graph()
    hold(op, graph)
    name = REGISTRY.unique(op.name)
    function = _NodeGradient(op, gradient)
    tf.RegisterGradient(name)(function)
    _NAMES.add(name, graph)
    with graph.gradient_override_map({"IdentityN": name}):
        passed: list[tf.Tensor] = tf.identity_n(list(tensors), name=f"{node_name(op.name)}_outputs")
    node = passed[0].op
    function.node = weakref.ref(node)
    over_rows = gradient if holds_over_rows else None
    node.pfor_converter = lambda rows: _over_rows(op, over_rows, rows)  # TensorFlow's own would drop the gradient
    return passed


def hold(op: HostOp, graph: tf.Graph) -> None:
    """Let the graph, and those it is built into, hold the op as long as they live.

    The global graph around eager code is left out, because it lives for ever.
    """
    while isinstance(graph, FuncGraph):
        _held(graph).add(op)
        graph = graph.outer_graph
    if not executing_eagerly_outside_functions():
        _held(graph).add(op)


def node_name(name: str) -> str:
    """The op's own name as TensorFlow allows it for a node: `acme.ops:Model.solve` becomes `solve`."""
    return re.sub(r"^[^A-Za-z0-9.]+|[^\w.\-/]", "", re.split(r"[:.]", name.partition("#")[0])[-1]) or "numpy_op"


def _over_rows(op: HostOp, gradient: Gradient | None, pfor_input: Any) -> list[Any]:
    """How `vectorized_map` converts such a node: values keep their gradient if they are still those of one row.

    The node of a call's outputs has become a part of the call over rows, and is passed on as it is.
    """
    tensors = [item.t for item in pfor_input.inputs]
    passed = tf.identity_n(tensors) if gradient is None else _recorded(op, tensors, gradient)
    return [wrap_for_pfor(tensor, item.is_stacked) for tensor, item in zip(passed, pfor_input.inputs, strict=True)]


def _recorded(op: HostOp, tensors: Sequence[tf.Tensor], gradient: Gradient) -> list[tf.Tensor]:
    """Pass tensors through such a node, also for tapes inside of functions, which do not look at gradient names."""
    with stop_recording():
        passed = pass_through(op, tensors, gradient, holds_over_rows=True)

    def backward(*cotangents: Any) -> list[Any]:
        return gradient(op, passed[0].op, cotangents)

    record_operation(op.name, passed, list(tensors), backward, backward)
    return passed


class _NodeGradient:
    """What TensorFlow calls for the gradient of one node."""

    autograph_info__: Mapping[str, Any] = {}  # AutoGraph's mark for what it must call as it is
    node: weakref.ref[tf.Operation]

    def __init__(self, op: HostOp, gradient: Gradient) -> None:
        self._op = weakref.ref(op)  # the graph keeps it; a strong reference here would keep the graph
        self._gradient = gradient
        self._is_compiled = is_compiling()

    def __call__(self, node: tf.Operation | None, *cotangents: Any) -> list[Any]:
        """The cotangents of the node's inputs. Saving a model calls with None and stand-ins for cotangents."""
        node = self.node() if node is None else node
        op = self._op()
        if node is None or op is None:
            raise GradientError(
                "a gradient was asked for in a graph that no longer exists.",
                remedy="Keep the tf.function or graph for as long as it is differentiated.",
            )
        with compiling(self._is_compiled):
            return self._gradient(REGISTRY.current(op), node, cotangents)


def _held(graph: tf.Graph) -> set[HostOp]:
    """The ops a graph holds: an attribute of the graph, so that a cycle through them can be collected."""
    if not hasattr(graph, "_tfpyop_held"):
        graph._tfpyop_held = set()
    held: set[HostOp] = graph._tfpyop_held
    return held
