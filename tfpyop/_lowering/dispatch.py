"""Select the lowering of a call: the way it reaches TensorFlow.

Imported with the first call on tensors, never by `import tfpyop`.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfpyop._lowering import eager, graph, native
from tfpyop._lowering._tensorflow import Weakref
from tfpyop._lowering.autodiff.linear_solution import solve_iteratively as solve_iteratively
from tfpyop._lowering.autodiff.linearization import Linearization
from tfpyop._lowering.autodiff.linearization import escapes as escapes
from tfpyop._lowering.autodiff.linearization import map_rows as map_rows
from tfpyop._lowering.tensors import as_tensors, holds_tensor, is_symbolic, type_of
from tfpyop._lowering.tensors import tensor_of_vector as tensor_of_vector
from tfpyop._lowering.usual_inputs import usual_tensors
from tfpyop._registry.op_def import ConcreteOp
from tfpyop.errors import CoercionError, UnsupportedError

linearize = Linearization
_symbolic_calls: list[Callable[[ConcreteOp, Sequence[Any]], list[Any]]] = []


def call(op: ConcreteOp, leaves: Sequence[Any]) -> list[tf.Tensor]:
    """Call an op in the current context; return its flat outputs as tensors."""
    if op.is_eager_plain and op.rules.native is None and tf.executing_eagerly():
        usual = usual_tensors(leaves)
        if usual is not None:
            return eager.run(op, usual)
    for name, value in op.static.items():
        if holds_tensor(value):
            raise CoercionError(
                f"static argument {name!r} is or holds a tensor.",
                subject=op.subject,
                expected="a Python value that is known when the function is traced",
                got=f"{value!r:.80}",
                remedy="Pass a Python value, or make the parameter positional so that it is an input. tf.function "
                "converts arrays among its arguments to tensors: pass them as lists, or close over them.",
            )
    special = [leaf for leaf in leaves if not isinstance(leaf, tf.Tensor)]
    if any(map(is_symbolic, special)):
        return _call_symbolic(op, leaves)
    if any(isinstance(leaf, tf.RaggedTensor) for leaf in special) and op.signature and op.signature.is_elementwise:
        return _call_ragged(op, leaves)
    tensors = as_tensors(leaves, op.subject, op.place)
    if native.is_called_for(op):
        return native.call(op, tensors)
    if tf.executing_eagerly():
        return eager.call(op, tensors)
    return graph.call(op, tensors)


def call_symbolic_with(call: Callable[[ConcreteOp, Sequence[Any]], list[Any]]) -> None:
    """Set the function that calls ops on Keras's symbolic tensors. Set as soon as Keras is imported."""
    _symbolic_calls[:] = [call]


def _call_symbolic(op: ConcreteOp, leaves: Sequence[Any]) -> list[Any]:
    if not _symbolic_calls:
        backend = sys.modules["keras"].backend.backend()
        raise UnsupportedError(
            f"Keras uses the {backend} backend, but ops require the TensorFlow backend.",
            subject=op.subject,
            remedy='Set the environment variable KERAS_BACKEND="tensorflow" before you import Keras.',
        )
    return _symbolic_calls[0](op, leaves)


def _call_ragged(op: ConcreteOp, leaves: Sequence[Any]) -> list[tf.RaggedTensor]:
    """Call an elementwise op on the flat values of ragged tensors. The outputs keep the row lengths."""
    rows = next(leaf for leaf in leaves if isinstance(leaf, tf.RaggedTensor))
    flat = [leaf.flat_values if isinstance(leaf, tf.RaggedTensor) else leaf for leaf in leaves]
    tensors = as_tensors(flat, op.subject, op.place)
    values: list[tf.Tensor] = []

    def collect(*parts: tf.Tensor) -> tf.Tensor:
        values.extend(parts)
        return rows.flat_values

    try:
        tf.ragged.map_flat_values(collect, *_with_rows(leaves, tensors, rows))
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise CoercionError(
            "the ragged inputs do not have the same row lengths.",
            subject=op.subject,
            expected="ragged tensors with the row lengths of the first ragged input, and tensors that broadcast to it",
            got=", ".join(
                str(type_of(leaf if isinstance(leaf, tf.RaggedTensor) else tensor))
                for leaf, tensor in zip(leaves, tensors, strict=True)
            ),
            remedy="Convert the inputs to dense tensors with .to_tensor(), or make their row lengths equal and pass "
            ".flat_values.",
        ) from error
    return [rows.with_flat_values(output) for output in call(op, values)]


def _with_rows(leaves: Sequence[Any], tensors: Sequence[tf.Tensor], rows: tf.RaggedTensor) -> list[Any]:
    """Return inputs whose flat values match a ragged tensor. Dense inputs are broadcast to it, as in TensorFlow."""
    if any(isinstance(leaf, tf.RaggedTensor) and leaf.shape.rank != rows.shape.rank for leaf in leaves):
        raise ValueError("ragged tensors of different ranks")

    def ones(tensor: tf.Tensor) -> tf.RaggedTensor:
        return rows.with_flat_values(tf.ones(tf.shape(rows.flat_values), tensor.dtype))

    return [
        leaf if isinstance(leaf, tf.RaggedTensor) else tensor if tensor.shape.rank == 0 else ones(tensor) * tensor
        for leaf, tensor in zip(leaves, tensors, strict=True)
    ]


def tracing_type(op: Any) -> Any:
    """Return the trace type that identifies an op among the arguments of a tf.function: its identity."""
    return Weakref(weakref.ref(op))
