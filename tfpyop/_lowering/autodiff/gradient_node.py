"""Gradient nodes: IdentityN nodes with a gradient of their own, whose functions go with their graph.

TensorFlow finds the gradient of a node by a name in a global table. Each node here has a name of its own; the function
behind it holds op and node weakly, and the name is taken back when the graph is collected.
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
    executing_eagerly_outside_functions,
    find_gradient,
    forget_gradient,
    name_gradient,
    record_operation,
    set_attribute,
    stop_recording,
    wrap_for_pfor,
)
from tfpyop._lowering.autodiff.graph_gradient_names import GraphGradientNames
from tfpyop._lowering.xla.compilation import compiling, is_compiling
from tfpyop._registry.exportable import export_error_with_defaults
from tfpyop._registry.op_def import REGISTRY, ConcreteOp
from tfpyop._spec.tree import Json
from tfpyop.errors import ExportWarning, GradientError, UnsupportedError

Gradient = Callable[[ConcreteOp, tf.Operation, Sequence[Any], Json], list[Any]]
"""From the op, a node, the cotangents of its outputs and a detail to the cotangents of its inputs."""

SAVED = "tfpyop"
"""The gradient name of the nodes that are made while a model is saved."""
ATTRIBUTE = "_tfpyop"
"""The attribute of such a node that tells its gradient."""

_GRADIENTS: dict[str, Gradient] = {}
_NAMES = GraphGradientNames(forget_gradient)
_saving: ContextVar[bool] = ContextVar("saving", default=False)


def is_saving() -> bool:
    """Whether TensorFlow traces the gradient of a node to write it into a saved model."""
    return _saving.get()


def register_gradient(kind: str) -> Callable[[Gradient], Gradient]:
    """Name a gradient that nodes may have, by a kind that means the same in every process."""

    def register(gradient: Gradient) -> Gradient:
        _GRADIENTS[kind] = gradient
        return gradient

    return register


@dataclass(frozen=True, slots=True)
class NodeGradient:
    """What the gradient of a node is, such that it can be written into a saved model.

    Attributes:
      kind: Which of the registered gradients.
      detail: What that one has to know beside op and node.
      is_compiled: Whether the node is in a graph that XLA compiles.
      token: The op, if it can be found by name.
    """

    kind: str
    detail: Json
    is_compiled: bool = field(default_factory=is_compiling)
    token: str = ""

    @classmethod
    def parse(cls, text: bytes) -> NodeGradient:
        """Read what `write` wrote.

        Raises:
          UnsupportedError: It did not write this.
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
        """Write it into a node of the op."""
        set_attribute(node, ATTRIBUTE, json.dumps(asdict(replace(self, token=REGISTRY.token_of(op)))))

    def call(self, op: ConcreteOp, node: tf.Operation, cotangents: Sequence[Any]) -> list[Any]:
        """The cotangents of the node's inputs."""
        return _GRADIENTS[self.kind](op, node, cotangents, self.detail)


def unreadable_gradient(got: str) -> UnsupportedError:
    """The error for a node whose gradient is not one that this version writes."""
    return UnsupportedError(
        "cannot parse gradient data in the model.",
        got=got,
        remedy="The file may be damaged, or a newer tfpyop wrote it. Save the model again with this version.",
    )


def identity_with_gradient(
    op: ConcreteOp, tensors: Sequence[tf.Tensor], kind: str, detail: Json, *, holds_over_rows: bool = False
) -> list[tf.Tensor]:
    """Pass tensors of the current graph through a node with a gradient of its own.

    Args:
      op: The op that the node belongs to.
      tensors: What passes.
      kind: Which registered gradient the node has.
      detail: What the gradient has to know beside op and node.
      holds_over_rows: Whether the gradient is right for many rows as it is for one.
    """
    graph = tf.compat.v1.get_default_graph()
    hold(op, graph)
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
    over_rows = gradient if holds_over_rows else None
    node.pfor_converter = lambda rows: _over_rows(op, over_rows, rows)  # TensorFlow's own would drop the gradient
    return passed


def is_gradient_node(node: Any) -> bool:
    """Return whether a written node is one that `identity_with_gradient` has made."""
    if ATTRIBUTE in node.attr:
        return True
    name = node.attr["_gradient_op_type"].s if "_gradient_op_type" in node.attr else b""
    return isinstance(find_gradient(name.decode(errors="replace")), _GradientOfNode)


def hold(op: ConcreteOp, graph: tf.Graph) -> None:
    """Let the graph, and those it is built into, hold the op as long as they live.

    The global graph around eager code is left out, because it lives forever.
    """
    if op in _held(graph):  # and so by those around it
        return
    while isinstance(graph, FuncGraph):
        _held(graph).add(op)
        graph = graph.outer_graph
    if not executing_eagerly_outside_functions():
        _held(graph).add(op)


def forwarded_inputs(node: tf.Operation, begin: int) -> list[tf.Tensor]:
    """What a node passes on from some position, for its gradient to read.

    These are its inputs, whose derivatives go their own way. But while a model is saved they are its outputs: the nodes
    of others may come to have other names in the model, where TensorFlow would look for them in vain.
    """
    return list(node.outputs if is_saving() else node.inputs)[begin:]


def add_forwarded(by_rule: Sequence[tf.Tensor | None], passed: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """The cotangents of what passes: with those of the node's own outputs, if the gradient has read these."""
    return list(map(sum_of, by_rule, passed)) if is_saving() else list(by_rule)


def sum_of(vector: tf.Tensor | None, other: tf.Tensor | None) -> tf.Tensor | None:
    """The sum of two vectors like one tensor, where None, and whatever such an integer is given, stands for zeros."""
    if other is None or not (other.dtype.is_floating or other.dtype.is_complex):
        return vector
    return other if vector is None else vector + other


def node_name(name: str) -> str:
    """The op's own name as TensorFlow allows it for a node: `acme.ops:Model.solve` becomes `solve`."""
    return re.sub(r"^[^A-Za-z0-9.]+|[^\w.\-/]", "", re.split(r"[:.]", name.partition("#")[0])[-1]) or "numpy_op"


def _over_rows(op: ConcreteOp, gradient: NodeGradient | None, pfor_input: Any) -> list[Any]:
    """How `vectorized_map` converts such a node: values keep their gradient if they are still those of one row.

    The node of a call's outputs has become a part of the call over rows, and is passed on as it is.
    """
    tensors = [item.t for item in pfor_input.inputs]
    passed = tf.identity_n(tensors) if gradient is None else _recorded(op, tensors, gradient)
    return [wrap_for_pfor(tensor, item.is_stacked) for tensor, item in zip(passed, pfor_input.inputs, strict=True)]


def _recorded(op: ConcreteOp, tensors: Sequence[tf.Tensor], gradient: NodeGradient) -> list[tf.Tensor]:
    """Pass tensors through such a node, also for tapes inside of functions, which do not look at gradient names."""
    with stop_recording():
        passed = identity_with_gradient(op, tensors, gradient.kind, gradient.detail, holds_over_rows=True)

    def backward(*cotangents: Any) -> list[Any]:
        return gradient.call(op, passed[0].op, cotangents)

    record_operation(op.name, passed, list(tensors), backward, backward)
    return passed


class _GradientOfNode:
    """What TensorFlow calls for the gradient of one node."""

    autograph_info__: Mapping[str, Any] = {}  # AutoGraph's mark for what it must call as it is

    def __init__(self, op: ConcreteOp, node: tf.Operation, gradient: NodeGradient) -> None:
        self._op = weakref.ref(op)  # the graph keeps both; strong references here would keep the graph
        self._node = weakref.ref(node)
        self._gradient = gradient

    def __call__(self, node: tf.Operation | None, *cotangents: Any) -> list[Any]:
        """The cotangents of the node's inputs. Saving a model calls with None and stand-ins for cotangents."""
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


def _held(graph: tf.Graph) -> set[ConcreteOp]:
    """The ops a graph holds: an attribute of the graph, so that a cycle through them can be collected."""
    if not hasattr(graph, "_tfpyop_held"):
        graph._tfpyop_held = set()
    held: set[ConcreteOp] = graph._tfpyop_held
    return held
