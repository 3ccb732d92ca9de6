"""Cotangents and tangents next to the tensors that they belong to."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfpyop._lowering.tensors import dtype_of
from tfpyop._spec.coercion import is_differentiable


def scatter(like: Sequence[tf.Tensor], values: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    """Values for the differentiable ones among some tensors, with None for the others."""
    remaining = iter(values)
    return [next(remaining) if is_differentiable(dtype_of(tensor)) else None for tensor in like]


def or_zeros(tangents: Sequence[tf.Tensor | None], tensors: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    """Tangents as a rule is given them: one for each differentiable input, zero for those that are not moved."""
    return [
        tf.zeros_like(tensor) if tangent is None and is_differentiable(dtype_of(tensor)) else tangent
        for tangent, tensor in zip(tangents, tensors, strict=True)
    ]
