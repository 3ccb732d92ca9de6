"""Lowerings: the ways a call can reach TensorFlow. This file picks one.

Imported with the first call on tensors, never by `import tfpyop`.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfpyop._rules import HostOp
from tfpyop.errors import CoercionError
from tfpyop.lowering import eager, graph, native
from tfpyop.lowering._tensorflow import Weakref
from tfpyop.lowering.tensors import as_tensors, holds_tensor


def call(op: HostOp, leaves: Sequence[Any]) -> list[tf.Tensor]:
    """Call an op in whatever context this is; returns its flat outputs as tensors."""
    for name, value in op.static.items():
        if holds_tensor(value):
            raise CoercionError(
                f"static argument {name!r} is or holds a tensor.",
                subject=op.host.subject,
                expected="a Python value that is known when the graph is made",
                got=f"{value!r:.80}",
                remedy="Pass a Python value, or make the parameter positional: then it is an input. tf.function makes "
                "tensors of arrays among its arguments: pass them as lists, or close over them.",
            )
    if any(isinstance(leaf, tf.RaggedTensor) for leaf in leaves) and op.signature and op.signature.is_elementwise:
        return _call_ragged(op, leaves)
    tensors = as_tensors(leaves, op.host.subject)
    if native.is_called_for(op):
        return native.call(op, tensors)
    if tf.executing_eagerly():
        return eager.call(op, tensors)
    return graph.call(op, tensors)


def _call_ragged(op: HostOp, leaves: Sequence[Any]) -> list[tf.RaggedTensor]:
    """Call an op that works element by element on the values of ragged tensors, which keep their rows."""
    outputs: list[tf.Tensor] = []

    def on_values(*values: Any) -> tf.Tensor:
        outputs.extend(call(op, values))
        return outputs[0]

    first = tf.ragged.map_flat_values(on_values, *leaves)
    return [first.with_flat_values(output) for output in outputs]


def tracing_type(op: Any) -> Any:
    """What tf.function tells an op among its arguments by: its identity."""
    return Weakref(weakref.ref(op))
