"""Cotangents and tangents, matched to the tensors that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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


def map_over(
    map_rows: Callable[..., Any],
    function: Callable[[list[Any]], Sequence[tf.Tensor | None]],
    values: Sequence[Any],
    is_stacked: Sequence[bool],
) -> list[tf.Tensor | None]:
    """Map a function over the rows of the stacked values. Results that are None for one row are None for all rows.

    Args:
      map_rows: Maps a function of a list over the rows of a list of tensors.
      function: Takes one row of each stacked value, and the other values as they are.
      values: The values, which may be None.
      is_stacked: Whether each value has rows.
    """
    flags = [flag and value is not None for flag, value in zip(is_stacked, values, strict=True)]
    is_none: list[bool] = []

    def of_row(elements: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        remaining = iter(elements)
        results = function([next(remaining) if flag else value for flag, value in zip(flags, values, strict=True)])
        is_none[:] = [result is None for result in results]
        return [result for result in results if result is not None]

    mapped = iter(map_rows(of_row, [value for flag, value in zip(flags, values, strict=True) if flag]))
    return [None if missing else next(mapped) for missing in is_none]
