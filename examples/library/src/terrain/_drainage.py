"""Water that runs down a grid of heights."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

NEIGHBOURS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
"""Rows and columns from a cell to the cells around it."""


def accumulate(heights: ArrayLike, rain: ArrayLike) -> Floats:
    """The water that each cell of a grid gets: its own rain, and all that comes from above.

    Of the eight cells around a cell, all of its water goes to the one to which the ground falls most steeply; the first
    in reading order, if there are several. Where none is lower, the water stays. No water leaves at the edges.

    Args:
      heights: Shape `[m, n]`, in the unit of the sides of the cells.
      rain: Shape `[m, n]`, in any unit.

    Returns:
      Water in the unit of the rain, shape `[m, n]`.

    Raises:
      ValueError: The inputs are not grids of one shape.

    Source: O'Callaghan and Mark (1984), "The extraction of drainage networks from digital elevation data", Comput.
    Vision Graph. 28.

    >>> accumulate([[3.0, 2.0, 1.0], [4.0, 3.0, 2.0]], np.ones((2, 3)))
    array([[1., 3., 6.],
           [1., 1., 1.]])
    """
    heights, water = np.asarray(heights, np.float64), np.array(rain, np.float64)
    if heights.ndim != 2 or heights.shape != water.shape:
        shapes = f"{[*heights.shape]} and {[*water.shape]}"
        raise ValueError(f"heights and rain must be grids of one shape [m, n], but have shapes {shapes}")
    flat = water.reshape(-1)
    for cell, lower in flows(heights):
        flat[lower] += flat[cell]
    return water


def accumulate_back(heights: Floats, weights: Floats) -> Floats:
    """The sum of the weights of all cells that a cell's rain passes: the transpose of `accumulate`."""
    total = weights.astype(np.float64)
    flat = total.reshape(-1)
    for cell, lower in reversed(flows(heights)):
        flat[cell] += flat[lower]
    return total


def flows(heights: Floats) -> list[tuple[int, int]]:
    """The cells whose water goes on and the cells it goes to, as flat indices, from the highest cell down."""
    rows, columns = heights.shape
    around = np.pad(heights, 1, constant_values=np.inf)
    falls = np.stack(
        [
            (heights - around[1 + down : 1 + down + rows, 1 + right : 1 + right + columns]) / np.hypot(down, right)
            for down, right in NEIGHBOURS
        ]
    )
    steps = np.array([down * columns + right for down, right in NEIGHBOURS])
    lower = (np.arange(heights.size).reshape(heights.shape) + steps[falls.argmax(axis=0)]).ravel()
    goes_on = (falls.max(axis=0) > 0).ravel()
    order = np.argsort(-heights, axis=None, kind="stable")
    order = order[goes_on[order]]
    return list(zip(order.tolist(), lower[order].tolist(), strict=True))
