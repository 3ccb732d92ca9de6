"""The graph lowering: a node that calls the host function by its token, and a node that carries the gradient.

The first is TensorFlow's PyFunc, pure or stateful. The second is an IdentityN over outputs and primals with a gradient
name of this call site's own; the function behind that name holds its op and node weakly and goes with the graph.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop._coercion import STRING, Array
from tfpyop._host import ArrayType, HostFunction
from tfpyop._registry import REGISTRY, OwnedNames
from tfpyop._rules import HostOp
from tfpyop.errors import GradientError, TfpyopError, describe_arrays
from tfpyop.lowering._tensorflow import (
    FuncGraph,
    executing_eagerly_outside_functions,
    forget_gradient,
    install_token_table,
    record_operation,
    stop_recording,
)
from tfpyop.lowering.cotangents import input_cotangents
from tfpyop.lowering.tensors import detached, type_of

_GRADIENT_NAMES = OwnedNames(forget_gradient)


def call(op: HostOp, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Add a call of the op to the current graph."""
    types = [type_of(tensor) for tensor in tensors]
    promised = op.host.output_types(types)
    is_differentiable = op.is_differentiable([type_.dtype for type_ in types], [type_.dtype for type_ in promised])
    graph = tf.compat.v1.get_default_graph()
    _keep(op, graph)
    with stop_recording():
        outputs = _host_node(op.host, tensors, promised, _node_name(op.name))
        if is_differentiable:
            outputs = _gradient_node(op, graph, outputs, tensors)
    if is_differentiable:

        def backward(*cotangents: Any) -> list[Any]:
            return input_cotangents(op, tensors, outputs, cotangents)

        record_operation(op.name, outputs, tensors, backward)
    return outputs


def install() -> None:
    """Let TensorFlow's runtime find host functions by their tokens."""
    install_token_table(_find)


def _host_node(
    host: HostFunction, tensors: Sequence[tf.Tensor], promised: Sequence[ArrayType], name: str
) -> list[tf.Tensor]:
    dtypes = [tf.string if type_.dtype == STRING else tf.as_dtype(type_.dtype) for type_ in promised]
    node = tf.raw_ops.PyFunc if host.is_stateful else tf.raw_ops.PyFuncStateless
    outputs = node(input=list(tensors), token=host.token, Tout=dtypes, name=name)
    for output, type_ in zip(outputs, promised, strict=True):
        output.set_shape(type_.shape)
    return list(outputs)


def _gradient_node(
    op: HostOp, graph: tf.Graph, outputs: Sequence[tf.Tensor], inputs: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Pass the outputs through a node whose gradient is the op's rule; the primals come along for the rule to read."""
    name = REGISTRY.unique(op.name)
    gradient = _CallSiteGradient(op, len(outputs))
    tf.RegisterGradient(name)(gradient)
    _GRADIENT_NAMES.add(name, graph)
    with graph.gradient_override_map({"IdentityN": name}):
        passed = tf.identity_n([*outputs, *inputs], name=f"{_node_name(op.name)}_outputs")
    gradient.node = weakref.ref(passed[0].op)
    return list(passed[: len(outputs)])


class _CallSiteGradient:
    """What TensorFlow calls for the gradient of one call site."""

    node: weakref.ref[tf.Operation]

    def __init__(self, op: HostOp, n_outputs: int) -> None:
        self._op = weakref.ref(op)  # the graph keeps it; a strong reference here would keep the graph
        self._n_outputs = n_outputs

    def __call__(self, node: tf.Operation | None, *cotangents: Any) -> list[Any]:
        """The cotangents of the node's inputs. Saving a model calls with None and stand-ins for cotangents."""
        node = self.node() if node is None else node
        op = self._op()
        if node is None or op is None:
            raise GradientError(
                "a gradient was asked for in a graph that no longer exists.",
                remedy="Keep the tf.function or graph for as long as it is differentiated.",
            )
        n = self._n_outputs
        inputs = list(node.inputs)[n:]
        return [None] * n + input_cotangents(op, inputs, node.outputs[:n], cotangents[:n])


def _find(token: str) -> Callable[..., list[Array]] | None:
    host = REGISTRY.find_host(token)
    return None if host is None else lambda *arrays: _run(host, arrays)


def _run(host: HostFunction, arrays: Sequence[Any]) -> list[Array]:
    """Run a host function for TensorFlow's runtime, which keeps only the text of an exception."""
    try:
        return [detached(array) for array in host(arrays)]
    except TfpyopError:
        raise
    except BaseException as error:
        given = describe_arrays([np.asarray(array) for array in arrays])
        text = f"{host.subject}: the function raised {type(error).__name__}: {error}\n  Called with: {given}"
        raise _same_status(error)(text) from error


def _same_status(error: BaseException) -> type[Exception]:
    """The kind of exception that TensorFlow maps to the same status. StopIteration would end a dataset in silence."""
    kinds: tuple[type[Exception], ...] = (ValueError, TypeError, MemoryError, NotImplementedError)
    return next((kind for kind in kinds if isinstance(error, kind)), RuntimeError)


def _keep(op: HostOp, graph: tf.Graph) -> None:
    """Let the graph, and those it is built into, hold the op as long as they live.

    The global graph around eager code is left out, because it lives for ever.
    """
    while isinstance(graph, FuncGraph):
        _kept(graph).add(op)
        graph = graph.outer_graph
    if not executing_eagerly_outside_functions():
        _kept(graph).add(op)


def _kept(graph: tf.Graph) -> set[HostOp]:
    """The ops a graph holds: an attribute of the graph, so that a cycle through them can be collected."""
    if not hasattr(graph, "_tfpyop_kept"):
        graph._tfpyop_kept = set()
    kept: set[HostOp] = graph._tfpyop_kept
    return kept


def _node_name(name: str) -> str:
    """The op's own name as TensorFlow allows it for a node: `acme.ops:Model.solve` becomes `solve`."""
    return re.sub(r"^[^A-Za-z0-9.]+|[^\w.\-/]", "", re.split(r"[:.]", name.partition("#")[0])[-1]) or "numpy_op"
