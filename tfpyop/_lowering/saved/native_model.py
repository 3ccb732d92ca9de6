"""Native models: saved models in which host calls are replaced by the native implementations of their ops.

Works on the serialized graphs, so that it does not matter when they were traced. TensorFlow differentiates the
result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfpyop._lowering import native
from tfpyop._lowering._tensorflow import first_of_output
from tfpyop._lowering.autodiff.gradient_node import SAVED
from tfpyop._lowering.saved.nodes import host_tokens, nodes_of
from tfpyop._registry.op_def import REGISTRY, ConcreteOp
from tfpyop.errors import UnsupportedError

_GRADIENT = "_gradient_op_type"
_OWN_GRADIENT = re.compile(rf"{SAVED}|.+#[0-9a-f]{{8}}-\d+")
"""The gradient names of ops in graphs: the name used while a model is saved, or a unique name of a process."""


def make_native(meta_graph: Any) -> None:
    """Replace all host calls in the graphs of a saved model, in place.

    Raises:
      UnsupportedError: An op has no native implementation, or its native implementation cannot replace the call.
    """
    _drop_gradients(meta_graph)
    library = meta_graph.graph_def.library
    scopes = [_Scope(meta_graph.graph_def.node, [])]
    scopes += [_Scope(function.node_def, function) for function in library.function]
    calls = [
        (scope, node, REGISTRY.require_op(str(token)))
        for scope in scopes
        for node in scope.nodes
        for token in host_tokens(node)
    ]
    _require_native([op for _, _, op in calls])
    traced: dict[Any, Any] = {}
    known = {function.signature.name for function in library.function}
    for scope, node, op in calls:
        specs = _specs(node, scope)
        key = (op, *specs)
        if key not in traced:
            traced[key], functions = _traced(op, specs)
            new = [function for function in functions if function.signature.name not in known]
            library.function.extend(new)
            known.update(function.signature.name for function in new)
        _replace(node, traced[key])


class _Scope:
    """The nodes of a graph or a function, and the shapes of their outputs and of the function's arguments."""

    def __init__(self, nodes: Any, function: Any) -> None:
        self.nodes = list(nodes)
        self._by_name = {node.name: node for node in nodes}
        self._shapes = {node.name: _shapes(node.attr) for node in nodes}
        if function:
            arguments = enumerate(function.signature.input_arg)
            self._shapes |= {argument.name: _shapes(function.arg_attr[number].attr) for number, argument in arguments}

    def shape(self, name: str) -> tf.TensorShape:
        """Return the shape of an input as a node names it: `node`, `node:1` or, in functions, `node:output:1`."""
        node, *rest = name.split(":")
        shapes = self._shapes.get(node, [])
        number = int(rest[-1]) if rest else 0
        if len(rest) == 2:
            number += first_of_output(self._by_name[node], rest[0])
        return shapes[number] if number < len(shapes) else tf.TensorShape(None)


def _shapes(attributes: Any) -> list[tf.TensorShape]:
    if "_output_shapes" not in attributes:
        return []
    return [tf.TensorShape(shape) for shape in attributes["_output_shapes"].list.shape]


def _require_native(ops: Sequence[ConcreteOp]) -> None:
    for op in ops:
        if op.is_batched or op.host.is_stateful:
            problem = "the op is stateful or called by vectorized_map, so it cannot be native in a saved model."
            remedy = "Call the op on a whole batch instead, or save the model without native=True."
        elif op.rules.native is None and op.forward_op is not None:
            problem = "the model calls this rule, but the rule has no native implementation."
            remedy = (
                "Attach a native implementation to the object that @op.numpy_gradient returned, with @rule.native, or "
                "save the model without its training function."
            )
        elif op.rules.native is None:
            problem = "the op has no native implementation, which native=True requires."
            remedy = "Attach a native implementation with @op.native."
        else:
            continue
        raise UnsupportedError(problem, subject=op.subject, remedy=remedy)


def _specs(node: Any, scope: _Scope) -> list[tf.TensorSpec]:
    """Return the dtypes and shapes of the inputs of a node, as far as they are known."""
    dtypes = list(map(tf.as_dtype, node.attr["Tin"].list.type))
    names = [name for name in node.input if not name.startswith("^")]
    return [tf.TensorSpec(scope.shape(name), dtype) for name, dtype in zip(names, dtypes, strict=True)]


def _replace(node: Any, call: Any) -> None:
    """Overwrite a node with another node, but keep its name, inputs and output shapes."""
    kept = [*node.input]
    name, shapes = node.name, type(node)()
    shapes.attr["_output_shapes"].CopyFrom(node.attr["_output_shapes"])
    node.CopyFrom(call)
    node.MergeFrom(shapes)
    node.name = name
    del node.input[:]
    node.input.extend(kept)


def _traced(op: ConcreteOp, specs: Sequence[tf.TensorSpec]) -> tuple[Any, Sequence[Any]]:
    """Trace the native implementation; return a node that calls it, and the functions that the node needs."""
    native_call: Any = tf.function(lambda *tensors: native.results(op, tensors), autograph=False)
    function = native_call.get_concrete_function(*specs)
    if function.captured_inputs:
        raise UnsupportedError(
            "the op's native implementation closes over tensors or variables, which a native model does not save.",
            subject=op.subject,
            remedy="Create constants inside the native implementation with tf.constant.",
        )
    with tf.Graph().as_default() as graph:
        function(*(tf.compat.v1.placeholder(spec.dtype, spec.shape) for spec in specs))
    definition = graph.as_graph_def()
    [call] = [node for node in definition.node if node.op in ("PartitionedCall", "StatefulPartitionedCall")]
    return call, definition.library.function


def _drop_gradients(meta_graph: Any) -> None:
    """Remove the gradient functions of ops, which contain host calls. TensorFlow differentiates the nodes instead."""
    library = meta_graph.graph_def.library
    for node in nodes_of(meta_graph.graph_def):
        if _GRADIENT in node.attr and _is_own_gradient(node.attr[_GRADIENT].s.decode(errors="replace")):
            del node.attr[_GRADIENT]
    dropped = {
        gradient.gradient_func
        for gradient in library.registered_gradients
        if _is_own_gradient(gradient.registered_op_type)
    }
    _keep(library.registered_gradients, lambda gradient: gradient.gradient_func not in dropped)
    _keep(library.function, lambda function: function.signature.name not in dropped)
    for name in dropped:
        meta_graph.object_graph_def.concrete_functions.pop(name, None)


def _is_own_gradient(name: str) -> bool:
    return _OWN_GRADIENT.fullmatch(name) is not None


def _keep(repeated: Any, is_kept: Callable[[Any], bool]) -> None:
    kept = [item for item in repeated if is_kept(item)]
    del repeated[:]
    repeated.extend(kept)
