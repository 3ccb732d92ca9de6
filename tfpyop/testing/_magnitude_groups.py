"""Groups by magnitude: find elements whose derivatives are so small that they must be compared separately."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tfpyop._numdiff.directional import Function
from tfpyop._spec.coercion import Array

_SPREAD = 1e3
"""The largest ratio of magnitudes within a group."""
_NARROWEST = 4.0
Masks = list[Array]
"""The elements of each array that belong to a group."""


def spread_for(tolerance: float) -> float:
    """Return the largest ratio of magnitudes at which a tolerance does not hide the smaller magnitude."""
    return max(_NARROWEST, min(_SPREAD, 0.1 / tolerance))


def magnitude_groups(sizes: Sequence[Array], wanted: Sequence[Array], spread: float) -> Iterator[Masks]:
    """Split elements into groups of similar magnitude, from the largest to the smallest. Zeros are the last group.

    Args:
      sizes: The magnitudes, by array. Elements that are not finite belong to no group.
      wanted: The elements to split.
      spread: The largest ratio of magnitudes within a group.
    """
    left = [np.isfinite(size) & mask for size, mask in zip(sizes, wanted, strict=True)]
    while any(mask.any() for mask in left):
        top = max(float(np.max(size, where=mask, initial=0.0)) for size, mask in zip(sizes, left, strict=True))
        group = [mask & (size >= top / spread) for size, mask in zip(sizes, left, strict=True)]
        group = [mask & (size > 0) for size, mask in zip(sizes, group, strict=True)] if top > 0 else group
        yield group
        left = [mask & ~taken for mask, taken in zip(left, group, strict=True)]


def reached_elements(function: Function, point: Sequence[Array], weights: Sequence[Array | None]) -> Masks:
    """Return the input elements that share a loop element with an output element of nonzero weight."""
    active: Array = np.zeros((), bool)
    for weight, rank in zip(weights, function.output_ranks, strict=True):
        if weight is not None:
            active = np.asarray(active | np.any(weight != 0, axis=tuple(range(-rank, 0))))
    return [_reached(active, values, rank) for values, rank in zip(point, function.input_ranks, strict=True)]


def _reached(active: Array, values: Array, rank: int) -> Array:
    """Return the elements of an input in active loop elements, including loop elements repeated by broadcasting."""
    loop = values.shape[: values.ndim - rank]
    active = np.broadcast_to(active, np.broadcast_shapes(active.shape, loop))
    active = np.asarray(active.any(axis=tuple(range(active.ndim - len(loop)))))
    repeated = tuple(axis for axis, size in enumerate(loop) if size == 1)
    if repeated:
        active = np.asarray(active.any(axis=repeated, keepdims=True))
    return np.broadcast_to(active.reshape(loop + (1,) * rank), values.shape)
