"""Cotangents and tangents, matched to the tensors that they belong to."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfpyop._lowering.tensors import dtype_of
from tfpyop._spec.coercion import is_differentiable


def scatter(like: Sequence[tf.Tensor], values: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    """Return one entry for each tensor: the next value if the tensor is differentiable, else None."""
    return scatter_needed([is_differentiable(dtype_of(tensor)) for tensor in like], values)


def scatter_needed(needs: Sequence[bool], values: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    """Return one entry for each flag: the next value if the flag is True, else None."""
    remaining = iter(values)
    return [next(remaining) if is_needed else None for is_needed in needs]


def or_zeros(tangents: Sequence[tf.Tensor | None], tensors: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    """Return tangents as a rule receives them: one for each differentiable input, zeros for inputs that do not vary."""
    return [
        tf.zeros_like(tensor) if tangent is None and is_differentiable(dtype_of(tensor)) else tangent
        for tangent, tensor in zip(tangents, tensors, strict=True)
    ]
