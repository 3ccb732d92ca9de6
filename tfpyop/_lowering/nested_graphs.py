"""Nested graphs: run graphs called by host functions in separate threads if all TensorFlow threads are blocked.

TensorFlow runs the nodes of graphs in its inter-op threads. A host call blocks its thread until the function returns.
A function that calls a graph while no thread is free would wait forever. tf.data can run a graph in its own threads,
so the graph is called as the function of a dataset. This takes milliseconds, so it is done only where it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfpyop._lowering._tensorflow import called_functions, is_stateful_kind, replace_function_calls

_HARMLESS = frozenset(
    {
        "Assert",
        "AssignAddVariableOp",
        "AssignSubVariableOp",
        "AssignVariableOp",
        "Case",
        "EagerPyFunc",
        "If",
        "Print",
        "PrintV2",
        "PyFunc",
        "ReadVariableOp",
        "ResourceGather",
        "ResourceGatherNd",
        "ResourceScatterAdd",
        "ResourceScatterUpdate",
        "RngReadAndSkip",
        "StatefulPartitionedCall",
        "StatefulStandardNormalV2",
        "StatefulTruncatedNormal",
        "StatefulUniform",
        "StatefulUniformFullInt",
        "StatefulUniformInt",
        "VarIsInitializedOp",
        "VariableShape",
        "While",
    }
)
"""Stateful nodes whose state is outside the node. State inside a node would start over in every call."""


def install(is_needed: Callable[[], bool]) -> None:
    """Run graphs in separate threads where this is needed and possible.

    Args:
      is_needed: Whether the current thread must not wait for an inter-op thread.
    """

    def call(context: Any, call_function: Callable[..., Any], name: bytes, inputs: Sequence[Any], count: int) -> Any:
        if is_needed() and inputs and count and _can_run_in_own_thread(context, name):
            return _run_in_own_thread(context, name, inputs)
        return call_function(context, name, inputs, count)

    replace_function_calls(call)


def _run_in_own_thread(context: Any, name: bytes, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Call a TensorFlow function as the function of a dataset that has one element and one thread."""
    types = [tf.as_dtype(output.type) for output in context.get_function_def(name).signature.output_arg]
    shapes = [tf.TensorShape(None)] * len(types)
    element = tf.raw_ops.TensorDataset(components=list(inputs), output_shapes=[tensor.shape for tensor in inputs])
    mapped = tf.raw_ops.MapDataset(
        input_dataset=element,
        other_arguments=[],
        f=name.decode(),
        output_types=types,
        output_shapes=shapes,
        preserve_cardinality=True,
    )
    in_thread = tf.raw_ops.PrivateThreadPoolDataset(
        input_dataset=mapped, num_threads=1, output_types=types, output_shapes=shapes
    )
    return list(tf.raw_ops.DatasetToSingleElement(dataset=in_thread, output_types=types, output_shapes=shapes))


def _can_run_in_own_thread(context: Any, name: bytes) -> bool:
    """Return whether a function behaves the same in its own thread: it is on the CPU, and its nodes keep no state."""
    definition = context.get_function_def(name)
    if "_XlaMustCompile" in definition.attr and definition.attr["_XlaMustCompile"].b:
        return False  # not needed: TensorFlow runs it in its caller's thread
    if tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"):
        return False
    return all(node.op in _HARMLESS or not is_stateful_kind(node.op) for node in _nodes_of(context, definition))


def _nodes_of(context: Any, definition: Any) -> Iterator[Any]:
    """Iterate over the nodes of a function and of the functions that it calls."""
    found, waiting = {definition.signature.name}, [definition]
    while waiting:
        for node in waiting.pop().node_def:
            yield node
            for function in called_functions(node):
                if function not in found:
                    found.add(function)
                    waiting.append(context.get_function_def(function))
