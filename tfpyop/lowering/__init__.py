"""Lowerings: the ways a call can reach TensorFlow. This file picks one.

Imported with the first call on tensors, never by `import tfpyop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfpyop._rules import HostOp
from tfpyop.errors import CoercionError, UnsupportedError
from tfpyop.lowering import eager, graph
from tfpyop.lowering._tensorflow import GraphOrParentsInXlaContext
from tfpyop.lowering.tensors import as_tensors, type_of


def call(op: HostOp, leaves: Sequence[Any]) -> list[tf.Tensor]:
    """Call an op in whatever context this is; returns its flat outputs as tensors."""
    for name, value in op.static.items():
        if isinstance(value, tf.Tensor | tf.Variable):
            raise CoercionError(
                f"static argument {name!r} is a tensor.",
                subject=op.host.subject,
                expected="a Python value that is known when the graph is made",
                got=str(type_of(value)),
                remedy="Pass a Python value, or make the parameter positional: then it is an input.",
            )
    tensors = as_tensors(leaves, op.host.subject)
    if tf.executing_eagerly():
        return eager.call(op, tensors)
    if GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        raise UnsupportedError(
            "XLA cannot compile it yet.",
            subject=op.host.subject,
            remedy="Leave the op outside of functions with jit_compile=True.",
        )
    return graph.call(op, tensors)
