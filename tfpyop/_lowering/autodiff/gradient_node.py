"""Gradient nodes: IdentityN nodes with their own gradient, whose functions live as long as their graph.

TensorFlow finds the gradient of a node by a name in a global table. Each node here has a unique name. The function
behind the name refers to op and node weakly, and the name is removed when the graph is collected.
"""

from __future__ import annotations

import json
import re
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import tensorflow as tf

from tfpyop._lowering._tensorflow import (
    FuncGraph,
    convert_node_with,
    executing_eagerly_outside_functions,
    find_gradient,
    forget_gradient,
    name_gradient,
    of_graph,
    record_operation,
    set_attribute,
    stop_recording,
    wrap_for_pfor,
)
from tfpyop._lowering.autodiff.graph_gradient_names import GraphGradientNames
from tfpyop._lowering.xla.compilation import compiling, is_compiling
from tfpyop._registry.exportable import export_error_with_defaults
from tfpyop._registry.op_def import REGISTRY, ConcreteOp
from tfpyop._registry.token import unreadable
from tfpyop._spec.tree import Json
from tfpyop.errors import ExportWarning, GradientError, UnsupportedError

Gradient = Callable[[ConcreteOp, tf.Operation, Sequence[Any], Json], list[Any]]
"""A function that returns the cotangents of a node's inputs, given op, node, output cotangents and detail."""

SAVED = "tfpyop"
"""The gradient name of the nodes that are created while a model is saved."""
ATTRIBUTE = "_tfpyop"
"""The attribute of these nodes that specifies their gradient."""

_GRADIENTS: dict[str, Gradient] = {}
_NAMES = GraphGradientNames(forget_gradient)
_saving: ContextVar[bool] = ContextVar("saving", default=False)


def is_saving() -> bool:
    """Return whether TensorFlow is tracing the gradient of a node to write it into a saved model."""
    return _saving.get()


def register_gradient(kind: str) -> Callable[[Gradient], Gradient]:
    """Register a gradient of nodes under a kind that means the same in every process."""

    def register(gradient: Gradient) -> Gradient:
        _GRADIENTS[kind] = gradient
        return gradient

    return register


@dataclass(frozen=True, slots=True)
class NodeGradient:
    """The gradient of a node, in a form that can be written into a saved model.

    Attributes:
      kind: The name of a registered gradient.
      detail: What this gradient needs besides op and node.
      is_compiled: Whether the node is in a graph that XLA compiles.
      token: The token of the op, if the op can be found by name.
    """

    kind: str
    detail: Json
    is_compiled: bool = field(default_factory=is_compiling)
    token: str = ""

    @classmethod
    def parse(cls, text: bytes) -> NodeGradient:
        """Parse what `write` wrote.

        Raises:
          UnsupportedError: The text is invalid.
        """
        try:
            parts = json.loads(text)
            gradient = cls(parts["kind"], parts["detail"], parts["is_compiled"], parts["token"])
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise unreadable_gradient(f"{text[:200]!r}") from error
        is_known = isinstance(gradient.kind, str) and gradient.kind in _GRADIENTS
        if not is_known or not isinstance(gradient.token, str) or not isinstance(gradient.is_compiled, bool):
            raise unreadable_gradient(f"{text[:200]!r}")
        return gradient

    def write(self, op: ConcreteOp, node: tf.Operation) -> None:
        """Write the gradient into a node of the op."""
        set_attribute(node, ATTRIBUTE, json.dumps(asdict(replace(self, token=REGISTRY.token_of(op)))))

    def call(self, op: ConcreteOp, node: tf.Operation, cotangents: Sequence[Any]) -> list[Any]:
        """Return the cotangents of the node's inputs."""
        return _GRADIENTS[self.kind](op, node, cotangents, self.detail)


def unreadable_gradient(got: str) -> UnsupportedError:
    """Return the error for a node whose gradient data is invalid in this version."""
    return unreadable(got, what="gradient data in the model")


def identity_with_gradient(
    op: ConcreteOp,
    tensors: Sequence[tf.Tensor],
    kind: str,
    detail: Json,
    *,
    holds_for_batches: bool = False,
    over_rows: Callable[[Any], list[Any]] | None = None,
) -> list[tf.Tensor]:
    """Pass tensors of the current graph through a node with its own gradient.

    Args:
      op: The op that the node belongs to.
      tensors: The tensors to pass through.
      kind: The name of the registered gradient of the node.
      detail: What the gradient needs besides op and node.
      holds_for_batches: Whether the gradient of one row is also correct for stacked rows.
      over_rows: Converts the node in `vectorized_map`. Default: the node is passed on, because its values are converted
        with their gradient. TensorFlow's own converter would drop the gradient.
    """
    graph = tf.compat.v1.get_default_graph()
    keep_alive(op, graph)
    gradient = NodeGradient(kind, detail)
    is_saved = is_saving() and REGISTRY.is_stable(op)
    name = SAVED if is_saved else REGISTRY.unique(op.name)
    with graph.gradient_override_map({"IdentityN": name}):
        passed: list[tf.Tensor] = tf.identity_n(list(tensors), name=f"{node_name(op.name)}/outputs")
    node = passed[0].op
    if is_saved:
        gradient.write(op, node)
    else:
        name_gradient(name, _GradientOfNode(op, node, gradient))
        _NAMES.add(name, graph)
    kept = gradient if holds_for_batches else None
    convert_node_with(node, over_rows or (lambda rows: _over_rows(op, kept, rows)))
    return passed


def is_gradient_node(node: Any) -> bool:
    """Return whether `identity_with_gradient` created a serialized node."""
    if ATTRIBUTE in node.attr:
        return True
    name = node.attr["_gradient_op_type"].s if "_gradient_op_type" in node.attr else b""
    return isinstance(find_gradient(name.decode(errors="replace")), _GradientOfNode)


def keep_alive(op: ConcreteOp, graph: tf.Graph) -> None:
    """Keep the op alive as long as the graph and the graphs that enclose it.

    The global graph around eager code is excluded, because it lives forever.
    """
    if op in _kept_alive(graph):  # then the enclosing graphs hold it too
        return
    while isinstance(graph, FuncGraph):
        _kept_alive(graph).add(op)
        graph = graph.outer_graph
    if not executing_eagerly_outside_functions():
        _kept_alive(graph).add(op)


def forwarded_inputs(node: tf.Operation, begin: int) -> list[tf.Tensor]:
    """Return the tensors that a node passes on from a position, for its gradient to read.

    These are its inputs, whose derivatives are computed separately. While a model is saved, these are its outputs
    instead: other nodes may be renamed in the model, and TensorFlow would not find them.
    """
    return list(node.outputs if is_saving() else node.inputs)[begin:]


def add_forwarded(by_rule: Sequence[tf.Tensor | None], passed: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Return the cotangents of the passed tensors. Add those of the node's outputs if the gradient read the outputs."""
    return list(map(sum_of, by_rule, passed)) if is_saving() else list(by_rule)


def sum_of(vector: tf.Tensor | None, other: tf.Tensor | None) -> tf.Tensor | None:
    """Return the sum of two vectors for one tensor. None, and any vector of an integer tensor, count as zeros."""
    if other is None or not (other.dtype.is_floating or other.dtype.is_complex):
        return vector
    return other if vector is None else vector + other


def node_name(name: str) -> str:
    """Return the op's own name in a form that TensorFlow allows for a node: `acme.ops:Model.solve` becomes `solve`."""
    return re.sub(r"^[^A-Za-z0-9.]+|[^\w.\-/]", "", re.split(r"[:.]", name.partition("#")[0])[-1]) or "numpy_op"


def _over_rows(op: ConcreteOp, gradient: NodeGradient | None, pfor_input: Any) -> list[Any]:
    """Convert a gradient node in `vectorized_map`: values keep their gradient if the gradient also holds for rows.

    The node of a call's outputs is already a part of the call over rows, and is passed on unchanged.
    """
    tensors = [item.t for item in pfor_input.inputs]
    passed = tf.identity_n(tensors) if gradient is None else _recorded(op, tensors, gradient)
    return [wrap_for_pfor(tensor, item.is_stacked) for tensor, item in zip(passed, pfor_input.inputs, strict=True)]


def _recorded(op: ConcreteOp, tensors: Sequence[tf.Tensor], gradient: NodeGradient) -> list[tf.Tensor]:
    """Pass tensors through a gradient node, also for tapes inside functions, which ignore gradient names."""
    with stop_recording():
        passed = identity_with_gradient(op, tensors, gradient.kind, gradient.detail, holds_for_batches=True)

    def backward(*cotangents: Any) -> list[Any]:
        return gradient.call(op, passed[0].op, cotangents)

    record_operation(op.name, passed, list(tensors), backward, backward)
    return passed


class _GradientOfNode:
    """The function that TensorFlow calls for the gradient of one node."""

    autograph_info__: Mapping[str, Any] = {}  # AutoGraph's mark for functions that it must not convert

    def __init__(self, op: ConcreteOp, node: tf.Operation, gradient: NodeGradient) -> None:
        self._op = weakref.ref(op)  # the graph keeps both alive; strong references here would keep the graph alive
        self._node = weakref.ref(node)
        self._gradient = gradient

    def __call__(self, node: tf.Operation | None, *cotangents: Any) -> list[Any]:
        """Return the cotangents of the node's inputs. Saving a model passes None and placeholder cotangents."""
        outer = _saving.set(is_saving() or node is None)
        try:
            node = self._node() if node is None else node
            op = self._op()
            if node is None or op is None:
                raise GradientError(
                    "cannot compute a gradient in a graph that no longer exists.",
                    remedy="Keep a reference to the tf.function or graph until its gradients are computed.",
                )
            error = export_error_with_defaults(op) if is_saving() else None
            if error is not None:
                warnings.warn(str(error), ExportWarning, stacklevel=2)
            with compiling(self._gradient.is_compiled):
                return self._gradient.call(REGISTRY.current(op), node, cotangents)
        finally:
            _saving.reset(outer)


def _kept_alive(graph: tf.Graph) -> set[ConcreteOp]:
    """Return the ops that a graph holds."""
    return of_graph(graph, "ops", set[ConcreteOp])
