"""Shapes in graphs, as tensors: compute the sizes of a signature, and compare shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from tfpyop._spec.signature import InputDimension, SymbolicShape, SymbolicSize
from tfpyop._spec.size_terms import OPERATORS, fold

_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = MappingProxyType(
    {**OPERATORS, "broadcast": lambda left, right: tf.where(tf.equal(left, 1), right, left)}
)


def sizes_tensor(sizes: SymbolicShape, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return a shape, given in terms of the inputs' dimensions, as an int32 tensor."""
    return tf.stack([_size(size, inputs) for size in sizes]) if sizes else tf.zeros([0], tf.int32)


def is_same_shape(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Return whether two shapes are equal, as a boolean tensor. They may have different ranks."""
    rank = tf.maximum(tf.size(left), tf.size(right))
    padded = [tf.pad(shape, [[rank - tf.size(shape), 0]], constant_values=-1) for shape in (left, right)]
    return tf.reduce_all(tf.equal(*padded))


def _size(size: SymbolicSize, inputs: Sequence[tf.Tensor]) -> Any:
    def leaf(part: int | InputDimension) -> tf.Tensor:
        return tf.constant(part) if isinstance(part, int) else tf.shape(inputs[part.input])[part.axis]

    return fold(size, leaf, lambda name, left, right: _OPERATORS[name](left, right))
