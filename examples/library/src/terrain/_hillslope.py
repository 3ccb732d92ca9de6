"""Soil that creeps downhill along a profile.

    dz/dt = d/dx (K dz/dx)

One implicit step over the time t takes the heights z to (1 + G' diag(c) G)^-1 z. The matrix G takes differences of
neighbours, and c = K t / dx^2 between them. The step is stable however long the time is.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solveh_banded

Floats = NDArray[np.float64]


def diffuse(heights: ArrayLike, diffusivity: ArrayLike, *, spacing: float = 1.0, time: float = 1.0) -> Floats:
    """The heights along a profile after its soil has crept downhill for some time. No soil leaves at the ends.

    Args:
      heights: Metres, shape `[n]`.
      diffusivity: Square metres per year at the same points, shape `[n]`; between two points the mean counts.
      spacing: Metres from point to point.
      time: Years.

    Returns:
      Metres, shape `[n]`.

    Raises:
      ValueError: Shapes differ, a diffusivity or the time is negative, or the spacing is not positive.

    Source: Culling (1960), "Analytical theory of erosion", J. Geology 68.

    >>> diffuse([0.0, 0.0, 4.0, 0.0, 0.0], np.ones(5)).round(2)
    array([0.36, 0.73, 1.82, 0.73, 0.36])
    """
    heights, diffusivity = np.asarray(heights, np.float64), np.asarray(diffusivity, np.float64)
    if heights.ndim != 1 or heights.shape != diffusivity.shape:
        shapes = f"{[*heights.shape]} and {[*diffusivity.shape]}"
        raise ValueError(f"heights and diffusivity must be of one shape [n], but have shapes {shapes}")
    if np.any(diffusivity < 0):
        raise ValueError(f"a diffusivity is negative: {diffusivity.min()}")
    return solve(conductances(diffusivity, spacing=spacing, time=time), heights)


def conductances(diffusivity: Floats, *, spacing: float, time: float) -> Floats:
    """The c of the step, one between each two points."""
    return slope_of_conductances(spacing=spacing, time=time) * (diffusivity[1:] + diffusivity[:-1])


def slope_of_conductances(*, spacing: float, time: float) -> float:
    """The derivative of c by the diffusivity at either side."""
    if not (spacing > 0 and time >= 0):
        raise ValueError(f"spacing must be positive and time not negative, but they are {spacing} and {time}")
    return time / (2 * spacing**2)


def solve(between: Floats, right: Floats) -> Floats:
    """Solve (1 + G' diag(c) G) z = right, which is tridiagonal, symmetric and positive definite."""
    if not between.size:  # one point or none; LAPACK wants an off-diagonal
        return np.array(right)
    bands = np.zeros((2, right.size))
    bands[0, 1:] = -between
    bands[1] = 1
    bands[1, 1:] += between
    bands[1, :-1] += between
    solution: Floats = solveh_banded(bands, right)
    return solution
