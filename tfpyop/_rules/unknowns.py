"""The unknowns of an equation: the differentiable outputs of a call as real vectors, one for each loop element.

A complex output stands for its real and its imaginary part, because an equation need not be analytic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfpyop._registry.bind import lowering
from tfpyop._registry.op_def import dtype_of
from tfpyop._rules.derived_rule import shape_of
from tfpyop._rules.jacobian_blocks import Layout
from tfpyop._spec.coercion import finfo


class Unknowns:
    """Convert vectors of the outputs to matrices of shape `[n_elements, n_unknowns]`, and back.

    Args:
      layout: The layout of the call.
      outputs: The outputs of the call.
      numbers: The indices of the differentiable outputs.
    """

    def __init__(self, layout: Layout, outputs: Sequence[Any], numbers: Sequence[int]) -> None:
        self._outputs = [outputs[number] for number in numbers]
        self._tf = lowering().tf
        self._n_elements = self._count(self._outputs[0], 0, layout.output_ranks[numbers[0]])
        counts = [self._count(outputs[number], -layout.output_ranks[number], None) for number in numbers]
        self._sizes = [2 * n if self._is_complex(place) else n for place, n in enumerate(counts)]
        dtypes = [output.dtype.real_dtype for output in self._outputs]
        self._dtype = self._tf.as_dtype(np.result_type(*[dtype.as_numpy_dtype for dtype in dtypes]))
        self.precision = max(float(finfo(dtype_of(output)).eps) for output in self._outputs)
        """The relative rounding error of values computed from the outputs."""

    @property
    def n_unknowns(self) -> Any:
        """The number of unknowns of each element: an int, or a tensor if it is not known yet."""
        return sum(self._sizes)

    def join(self, vectors: Sequence[Any]) -> Any:
        """Return one vector for each output (None: zeros) as a matrix."""
        tf = self._tf
        parts: list[Any] = []
        for number, (vector, output) in enumerate(zip(vectors, self._outputs, strict=True)):
            value = tf.zeros_like(output) if vector is None else vector
            halves = [tf.math.real(value), tf.math.imag(value)] if self._is_complex(number) else [value]
            size = self._sizes[number] // len(halves)
            parts += [tf.reshape(tf.cast(half, self._dtype), [self._n_elements, size]) for half in halves]
        return parts[0] if len(parts) == 1 else tf.concat(parts, 1)

    def split(self, matrix: Any) -> list[Any]:
        """Return a matrix as one vector for each output, in the shape and dtype of the output."""
        tf, first, vectors = self._tf, 0, []
        for number, output in enumerate(self._outputs):
            size = self._sizes[number]
            part = matrix[:, first : first + size]
            first += size
            shape = output.shape if output.shape.is_fully_defined() else tf.shape(output)
            if self._is_complex(number):
                real, imaginary = part[:, : size // 2], part[:, size // 2 :]
                real, imaginary = (tf.cast(half, output.dtype.real_dtype) for half in (real, imaginary))
                part = tf.complex(real, imaginary)
            vector = tf.reshape(tf.cast(part, output.dtype), shape)
            vector.set_shape(output.shape)
            vectors.append(vector)
        return vectors

    def as_matrix(self, vector: Any) -> Any:
        """Return the rows of a matrix, one after the other in a vector, as a matrix."""
        return self._tf.reshape(vector, [self._n_elements, self.n_unknowns])

    def units(self) -> Any:
        """Return the unit vectors, as the rows of a matrix."""
        return self._tf.eye(self.n_unknowns, dtype=self._dtype)

    def for_all_elements(self, vector: Any) -> Any:
        """Return the matrix that has one vector in every row."""
        return self._tf.broadcast_to(vector, [self._n_elements, self.n_unknowns])

    def _is_complex(self, number: int) -> bool:
        return bool(self._outputs[number].dtype.is_complex)

    def _count(self, output: Any, first: int, n_core: int | None) -> Any:
        """Return the number of elements of the loop dimensions or of the core dimensions of an output."""
        tf, shape = self._tf, shape_of(output)
        if first == 0 and n_core is None:
            return 1
        if shape is not None:
            sizes = shape[first:] if n_core is None else shape[: len(shape) - n_core]
            known = [size for size in sizes if size is not None]
            if len(known) == len(sizes):
                return math.prod(known)
        whole = tf.shape(output)
        return tf.reduce_prod(whole[first:] if n_core is None else whole[: tf.rank(output) - n_core])
