"""Unconnected gradients: detect derivative rules that leave TensorFlow, so that their results lose dependencies.

In a graph, foreign Python functions are nodes without a gradient, and numpy rejects symbolic tensors. A rule that runs
eagerly is traced to inspect its graph.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from typing import Any

import tensorflow as tf

from tfpyop._host.function import HostFunction
from tfpyop._lowering._tensorflow import EagerTensor, FuncGraph, called_functions, may_call_functions, nodes_of_called
from tfpyop._registry.token import is_own
from tfpyop.errors import message_of

_PYTHON = ("PyFunc", "PyFuncStateless")
"""The nodes of Python functions, which have no gradient."""

_MOST_KINDS = 1024
_ESCAPING: weakref.WeakKeyDictionary[HostFunction, dict[Hashable, bool]] = weakref.WeakKeyDictionary()
"""Whether functions that ran eagerly read values in Python, by the host function of their op and kind of call."""

_MISSING = re.compile(r"'SymbolicTensor' object has no attribute '(?P<name>\w+)'")


def unconnected_sources(results: Any, sources: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Return the source tensors of a graph on which results depend through foreign Python functions."""
    ends = _in_graph(sources)
    foreign = [node for node in _nodes_behind(_symbolic(results), ends) if _is_foreign(node)]
    entering = [tensor for node in foreign for tensor in node.inputs]
    behind = [tensor for node in _nodes_behind(entering, ends) for tensor in node.inputs]
    lost = {ends[tensor.ref()] for tensor in (*entering, *behind) if tensor.ref() in ends}
    return [source for number, source in enumerate(sources) if number in lost]


def _in_graph(sources: Sequence[tf.Tensor]) -> dict[Any, int]:
    """Number the tensors and the placeholders that capture them in the current graph.

    The gradient of a `tf.function` under a tape is a separate graph next to the graph of the function. It captures what
    it reads.
    """
    graphs, graph = [], tf.compat.v1.get_default_graph()
    while isinstance(graph, FuncGraph):
        graphs.append(graph)
        graph = graph.outer_graph
    known = {source.ref(): number for number, source in enumerate(sources)}
    for graph in reversed(graphs):
        for outside, inside in graph.captures:
            if outside.ref() in known:
                known[inside.ref()] = known[outside.ref()]
    return known


def escapes_once(
    host: HostFunction, kind: Hashable, rule: Callable[[Sequence[tf.Tensor]], Any], sources: Sequence[tf.Tensor]
) -> bool:
    """Return whether an eager rule reads values of these tensors in Python, checked once per kind of call.

    Args:
      host: The host function of the op. Its rule may read the instance and static values of the op.
      kind: The rule, and everything else that the check depends on.
      rule: The rule as a function of the tensors.
      sources: The tensors.
    """
    known = _ESCAPING.setdefault(host, {})
    found = known.get(kind)
    if found is None:
        found = escapes_tensorflow(rule, sources)
        if len(known) >= _MOST_KINDS:
            known.clear()
        known[kind] = found
    return found


def escapes_tensorflow(rule: Callable[[Sequence[tf.Tensor]], Any], sources: Sequence[tf.Tensor]) -> bool:
    """Return whether a rule, called with these tensors, reads their values in Python.

    The rule is traced without AutoGraph. If this fails, it is traced with AutoGraph, for an `if` or a loop that needs a
    value. A rule that cannot be traced either way counts as connected: it may be correct, and an error would break it.
    """
    return _leaves(rule, sources, autograph=False)


def _leaves(rule: Callable[[Sequence[tf.Tensor]], Any], sources: Sequence[tf.Tensor], *, autograph: bool) -> bool:
    found = False

    def look(*symbolic: tf.Tensor) -> None:
        nonlocal found
        found = bool(unconnected_sources(rule(symbolic), symbolic))

    try:
        specs = [tf.TensorSpec(source.shape, source.dtype) for source in sources]
        tf.function(look, autograph=autograph).get_concrete_function(*specs)
    except Exception as error:
        return needs_concrete_values(error) or (not autograph and _leaves(rule, sources, autograph=True))
    return found


def needs_concrete_values(error: BaseException) -> bool:
    """Return whether an exception reports that Python cannot read the values of a symbolic tensor."""
    if isinstance(error, AttributeError):  # an attribute of eager tensors only, such as .numpy()
        found = _MISSING.search(message_of(error))  # AutoGraph creates the exception again, from its text alone
        is_of_tensor = isinstance(error.obj, tf.Tensor) or found is not None
        return is_of_tensor and hasattr(EagerTensor, found["name"] if found else str(error.name))
    if isinstance(error, TypeError):  # float(tensor)
        return "'SymbolicTensor'" in message_of(error)
    return isinstance(error, NotImplementedError) and "to a numpy array" in message_of(error)


def _symbolic(results: Any) -> list[tf.Tensor]:
    tensors = [value for value in tf.nest.flatten(results) if isinstance(value, tf.Tensor)]
    return [tensor for tensor in tensors if not isinstance(tensor, EagerTensor)]


def _nodes_behind(tensors: Iterable[tf.Tensor], ends: Container[Any]) -> list[tf.Operation]:
    """Return the nodes that compute tensors, back to the tensors in `ends`."""
    found: dict[tf.Operation, None] = {}
    remaining = [tensor for tensor in tensors if tensor.ref() not in ends]
    while remaining:
        node = remaining.pop().op
        if node not in found:
            found[node] = None
            remaining += [tensor for tensor in node.inputs if tensor.ref() not in ends]
    return list(found)


def _is_foreign(node: tf.Operation) -> bool:
    """Return whether a node runs foreign Python code: directly, or in a function, loop or branch."""
    if node.type not in _PYTHON and not may_call_functions(node.type):
        return False
    found: set[str] = set()
    waiting = [node.node_def]
    while waiting:
        written = waiting.pop()
        if written.op in _PYTHON:
            if not is_own(written.attr["token"].s):
                return True
            continue
        for name in called_functions(written):
            if name not in found:
                found.add(name)
                waiting += nodes_of_called(node.graph, name)
    return False
