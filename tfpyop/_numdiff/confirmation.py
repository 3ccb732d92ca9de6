"""Choose directions along which a derivative is compared with the values of the function.

If a direction moves all input elements at once, it hides an error in an element with a small share of the change.
Therefore, elements with shares of different magnitude are grouped, and each direction moves one group. Within a group,
the elements move so that their shares are about equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tfpyop._numdiff.directional import SMALLEST, Function, contract, core_axes, precision_of
from tfpyop._spec.coercion import Array

_SHORT = 2.0**-16
"""The length of a direction, relative to the inputs. Its product with a large gradient must not overflow."""
_RATIO = 0.1
"""The smallest share of the change in a group, relative to the largest share."""
_RESOLVED = 512.0
"""The minimum size of a share, in rounding units, to be resolved. All smaller shares form one group."""


@dataclass(frozen=True, slots=True)
class DirectionalEstimate:
    """Store a derivative along one direction, for the comparison with the values of the function.

    Attributes:
      point: The point.
      direction: The direction.
      values: The derivatives of the outputs, or their contraction with cotangents.
      scales: The sums of the magnitudes of the terms in `values`.
      n_parts: The maximum number of terms in one sum.
      length: The length of the direction, relative to the inputs.
      weigh: Converts derivatives of the outputs to the form of `values`.
      weigh_sizes: Converts magnitudes, which add up, to the form of `values`.
    """

    point: Sequence[Array]
    direction: Sequence[Array | None]
    values: list[Array]
    scales: list[Array]
    n_parts: int
    length: float
    project: Callable[[Sequence[Array]], list[Array]]
    project_bounds: Callable[[Sequence[Array]], list[Array]]

    @classmethod
    def from_vjp(
        cls,
        function: Function,
        point: Sequence[Array],
        cotangents: Sequence[Array | None],
        gradients: Sequence[Array | None],
    ) -> list[DirectionalEstimate]:
        """Return a VJP's derivatives along directions that together move every element that has a gradient.

        Outputs that are not finite do not count, and elements whose gradient is NaN do not move.
        """
        if function.values is not None:
            pairs = zip(cotangents, function.values, strict=True)
            cotangents = [None if vector is None else np.where(np.isfinite(here), vector, 0) for vector, here in pairs]
        shares, sizes = _shares(point, gradients), [None if vector is None else np.abs(vector) for vector in cotangents]
        ranks = function.output_ranks
        resolved: Array = np.zeros(())
        if function.values is not None:
            units = [precision_of(values) * np.abs(values) for values in function.values]
            with np.errstate(all="ignore"):
                resolved = np.nan_to_num(_RESOLVED * contract(units, sizes, ranks))
        groups = _groups(shares, function.input_ranks, resolved)
        return [
            cls._of_group(function, point, cotangents, gradients, _where_known(direction, gradients))
            for direction in _directions(point, shares, groups)
        ]

    @classmethod
    def _of_group(
        cls,
        function: Function,
        point: Sequence[Array],
        cotangents: Sequence[Array | None],
        gradients: Sequence[Array | None],
        direction: Sequence[Array | None],
    ) -> DirectionalEstimate:
        total, scale, n_parts = np.zeros(()), np.zeros(()), 1
        with np.errstate(all="ignore"):
            for gradient, vector, rank in zip(gradients, direction, function.input_ranks, strict=True):
                if gradient is not None and vector is not None:
                    parts = np.where(vector == 0, 0.0, np.real(np.conj(gradient) * vector))
                    total = total + parts.sum(axis=core_axes(rank))
                    scale = scale + np.abs(parts).sum(axis=core_axes(rank))
                    n_parts += math.prod(parts.shape[parts.ndim - rank :])
        sizes = [None if cotangent is None else np.abs(cotangent) for cotangent in cotangents]
        ranks = function.output_ranks
        return cls(
            point,
            direction,
            [np.asarray(total)],
            [np.asarray(scale)],
            max(n_parts - 1, 1),
            _SHORT,
            lambda slopes: [contract(slopes, cotangents, ranks)],
            lambda magnitudes: [contract(magnitudes, sizes, ranks)],
        )

    @classmethod
    def from_jvp(
        cls, point: Sequence[Array], tangents: Sequence[Array | None], values: list[Array]
    ) -> DirectionalEstimate:
        """Return a JVP's derivatives along its own tangents."""
        return cls(point, tangents, values, [np.abs(value) for value in values], 1, 1.0, list, list)


def _where_known(direction: Sequence[Array | None], gradients: Sequence[Array | None]) -> list[Array | None]:
    """Return a direction without the elements whose gradient is NaN."""
    pairs = zip(direction, gradients, strict=True)
    return [
        None if vector is None or gradient is None else np.where(np.isnan(gradient), 0.0, vector)
        for vector, gradient in pairs
    ]


def _shares(point: Sequence[Array], gradients: Sequence[Array | None]) -> list[Array | None]:
    """Return how much each element of each input changes the result if it moves by its own magnitude."""
    with np.errstate(all="ignore"):
        return [
            None if gradient is None else np.nan_to_num(np.abs(gradient) * np.maximum(np.abs(values), SMALLEST))
            for values, gradient in zip(point, gradients, strict=True)
        ]


def _groups(shares: Sequence[Array | None], ranks: Sequence[int], resolved: Array) -> list[Array | None]:
    """Return the group of each element: zero for the largest shares in a loop element, then up for smaller shares."""
    largest: Array = np.zeros(())
    for share, rank in zip(shares, ranks, strict=True):
        if share is not None:
            largest = np.maximum(largest, share.max(axis=core_axes(rank), initial=0.0))
    groups: list[Array | None] = []
    for share, rank in zip(shares, ranks, strict=True):
        if share is None:
            groups.append(None)
            continue
        most, least = (np.expand_dims(size, core_axes(rank)) for size in (largest, resolved))
        with np.errstate(all="ignore"):
            lower = np.maximum(share, np.maximum(least, np.finfo(np.float64).tiny)) / most
            group = np.floor(np.log(lower) / math.log(_RATIO) + 0.5)
        groups.append(np.where(np.isfinite(group), np.maximum(group, 0), 0))
    return groups


def _directions(
    point: Sequence[Array], shares: Sequence[Array | None], groups: Sequence[Array | None]
) -> list[list[Array | None]]:
    """Return one direction per group. It moves the elements of the group by about equal shares of the change."""
    numbers = np.unique(np.concatenate([np.zeros(1), *(np.ravel(group) for group in groups if group is not None)]))
    found: list[list[Array | None]] = []
    for number in numbers:
        generator = np.random.default_rng(0)
        direction: list[Array | None] = []
        for values, share, group in zip(point, shares, groups, strict=True):
            if share is None or group is None:
                direction.append(None)
                continue
            which = group == number
            length = generator.uniform(_SHORT / 2, _SHORT, share.shape) * np.maximum(np.abs(values), SMALLEST)
            length = np.where(np.isfinite(length), length, 0.0)
            least = share.min(axis=None, where=which & (share > 0), initial=np.inf)
            balanced = np.clip(least / np.where(share > 0, share, least), _RATIO, 1.0) if np.isfinite(least) else 1.0
            direction.append(np.where(which, length * balanced, 0.0))
        found.append(direction)
    return found
