"""Linearize functions of tensors: their VJPs and JVPs at a point, for rules that TensorFlow derives from a function."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence

import tensorflow as tf

from tfpyop._lowering._tensorflow import map_rows as map_rows_in_graph
from tfpyop._lowering._tensorflow import push_forwardprop_state, recording
from tfpyop._lowering.autodiff.gradient_node import sum_of
from tfpyop._lowering.autodiff.unconnected import escapes_tensorflow, unconnected_sources
from tfpyop._lowering.tensors import type_of

Vectors = Sequence[tf.Tensor | None]
TensorFunction = Callable[[Sequence[tf.Tensor]], Sequence[tf.Tensor]]

_MOST_KINDS = 1024
_MOST_LOOPED = 64
_ESCAPING: weakref.WeakKeyDictionary[Hashable, dict[Hashable, bool]] = weakref.WeakKeyDictionary()
"""Whether functions that run eagerly read values of tensors in Python, by the owner of the function and types."""


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


def escapes(function: TensorFunction, linearization: Linearization, owner: Hashable, kind: Hashable) -> bool:
    """Return whether values of a function depend on its tensors through numpy, which TensorFlow cannot follow.

    Args:
      function: The function.
      linearization: The function at a point.
      owner: The object that the function belongs to. An eager function is traced once for each owner, kind and types.
      kind: What else the function depends on.
    """
    point = linearization.point
    if not tf.executing_eagerly():
        return bool(unconnected_sources(linearization.values, point))
    known = _ESCAPING.setdefault(owner, {})
    key = (kind, *map(type_of, point))
    if key not in known:
        if len(known) >= _MOST_KINDS:
            known.clear()
        known[key] = escapes_tensorflow(function, point)
    return known[key]


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
