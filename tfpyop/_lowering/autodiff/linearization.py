"""Linearize functions of tensors: their VJPs and JVPs at a point, for rules that TensorFlow derives from a function."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import tensorflow as tf

from tfpyop._lowering._tensorflow import map_rows as map_rows_in_graph
from tfpyop._lowering._tensorflow import push_forwardprop_state, recording
from tfpyop._lowering.autodiff.gradient_node import sum_of
from tfpyop._lowering.autodiff.unconnected import escapes_once, unconnected_sources
from tfpyop._lowering.tensors import type_of
from tfpyop._registry.op_def import ConcreteOp

Vectors = Sequence[tf.Tensor | None]
TensorFunction = Callable[[Sequence[tf.Tensor]], Sequence[tf.Tensor]]

_MOST_LOOPED = 64


class Linearization:
    """The values of a function of tensors at a point, and the products of its Jacobian and vectors.

    Tapes and accumulators that are active differentiate the products again. The function may be called where TensorFlow
    does not record, such as in the gradient of a function.

    Args:
      function: Takes and returns tensors. It is called once.
      point: The tensors at which the function is linearized.
    """

    def __init__(self, function: TensorFunction, point: Sequence[tf.Tensor]) -> None:
        self.point = [tf.identity(tensor) for tensor in point]  # which active accumulators do not watch
        with recording(), push_forwardprop_state(), tf.GradientTape(persistent=True) as self._tape:
            self._tape.watch(self.point)
            self.values = list(function(self.point))

    def vjp(self, cotangents: Vectors) -> list[tf.Tensor | None]:
        """Return a cotangent for each tensor of the point; None where no value depends on it.

        Args:
          cotangents: One cotangent for each value; None for zero.
        """
        pairs = [(v, c) for v, c in zip(self.values, cotangents, strict=True) if c is not None]
        found = self._tape.gradient(
            [value for value, _ in pairs], self.point, output_gradients=[cotangent for _, cotangent in pairs]
        )
        return [None if vector is None else tf.convert_to_tensor(vector) for vector in found]

    def jvp(self, tangents: Vectors) -> list[tf.Tensor | None]:
        """Return a tangent for each value: the derivative of the VJP, which is linear, by the cotangents.

        Args:
          tangents: One tangent for each tensor of the point; None for zero.
        """
        with recording(), push_forwardprop_state(), tf.GradientTape(persistent=True) as tape:
            vectors = [tf.zeros_like(value) for value in self.values]
            tape.watch(vectors)
            pulled = self.vjp(vectors)
        results: list[tf.Tensor | None] = [None] * len(vectors)
        for value, tangent in zip(pulled, tangents, strict=True):
            if value is not None and tangent is not None:
                terms = tape.gradient(value, vectors, output_gradients=tangent)
                results = list(map(sum_of, results, terms))
        return results


def escapes(op: ConcreteOp, kind: Hashable, function: TensorFunction, linearization: Linearization) -> bool:
    """Return whether values of a function depend on its tensors through numpy, which TensorFlow cannot follow.

    Args:
      op: The op that the function belongs to.
      kind: What the answer depends on, apart from the op and the types of the tensors.
      function: The function.
      linearization: The function at a point.
    """
    point = linearization.point
    if not tf.executing_eagerly():
        return bool(unconnected_sources(linearization.values, point))
    return escapes_once(op.host, (kind, *map(type_of, point)), function, point)


def map_rows(function: Callable[[tf.Tensor], Sequence[tf.Tensor]], rows: tf.Tensor) -> list[tf.Tensor]:
    """Map a function over the rows of a tensor, in one call of each op. Eager code loops over a few rows instead.

    `tf.vectorized_map` traces the function in each eager call, which takes longer than a loop over up to 64 rows.
    """
    if tf.executing_eagerly():
        n_rows = rows.shape[0]
        if not 0 < n_rows <= _MOST_LOOPED:
            return list(tf.vectorized_map(function, rows))
        results = [function(row) for row in tf.unstack(rows)]
        return [tf.stack(of_rows) for of_rows in zip(*results, strict=True)]
    return list(map_rows_in_graph(lambda row: function(row[0]), [rows]))
