"""Detachment: whether a derivative rule leaves TensorFlow, so that its results lose what they depend on.

Graphs show it: other people's Python functions are nodes without a gradient, and numpy refuses symbolic tensors. A rule
that runs eagerly is traced to look at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf

from tfpyop._token import PREFIX
from tfpyop.errors import text_of
from tfpyop.lowering._tensorflow import EagerTensor


def detached_sources(results: Any, sources: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Those of some tensors of a graph that results depend on through Python functions of other people."""
    ends = {source.ref() for source in sources}
    foreign = [node for node in _nodes_behind(_symbolic(results), ends) if _is_foreign(node)]
    entering = [tensor for node in foreign for tensor in node.inputs]
    behind = [tensor for node in _nodes_behind(entering, ends) for tensor in node.inputs]
    lost = {tensor.ref() for tensor in (*entering, *behind)}
    return [source for source in sources if source.ref() in lost]


def leaves_tensorflow(rule: Callable[[Sequence[tf.Tensor]], Any], sources: Sequence[tf.Tensor]) -> bool:
    """Whether a rule, called with such tensors, takes their values to Python.

    One that cannot be traced for another reason, such as an `if` that asks for a value, is taken to stay.
    """
    found = False

    def look(*symbolic: tf.Tensor) -> None:
        nonlocal found
        found = bool(detached_sources(rule(symbolic), symbolic))

    try:
        specs = [tf.TensorSpec(source.shape, source.dtype) for source in sources]
        tf.function(look, autograph=False).get_concrete_function(*specs)
    except Exception as error:
        return wants_values(error)
    return found


def wants_values(error: BaseException) -> bool:
    """Whether an exception says that Python cannot have the values of a graph's tensor."""
    if isinstance(error, AttributeError):  # what only tensors with values have, such as .numpy()
        return isinstance(error.obj, tf.Tensor) and hasattr(EagerTensor, str(error.name))
    if isinstance(error, TypeError):  # float(tensor)
        return "'SymbolicTensor'" in text_of(error)
    return isinstance(error, NotImplementedError) and "to a numpy array" in text_of(error)


def _symbolic(results: Any) -> list[tf.Tensor]:
    tensors = [value for value in tf.nest.flatten(results) if isinstance(value, tf.Tensor)]
    return [tensor for tensor in tensors if not isinstance(tensor, EagerTensor)]


def _nodes_behind(tensors: Iterable[tf.Tensor], ends: set[Any]) -> list[tf.Operation]:
    """The nodes that tensors are computed by, back to the tensors where to stop."""
    found: dict[tf.Operation, None] = {}
    remaining = [tensor for tensor in tensors if tensor.ref() not in ends]
    while remaining:
        node = remaining.pop().op
        if node not in found:
            found[node] = None
            remaining += [tensor for tensor in node.inputs if tensor.ref() not in ends]
    return list(found)


def _is_foreign(node: tf.Operation) -> bool:
    return node.type in ("PyFunc", "PyFuncStateless") and not node.get_attr("token").decode().startswith(PREFIX)
