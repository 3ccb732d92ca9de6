"""Distances on the Earth, taken as a sphere."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

EARTH_RADIUS = 6_371_008.8
"""The mean radius in metres. Moritz (2000), "Geodetic Reference System 1980", J. Geodesy 74."""


def distance(start: ArrayLike, end: ArrayLike) -> NDArray[np.float64]:
    """The length of the shortest way over the ground from one place to another.

    It is accurate for neighbours, for antipodes and in between. A latitude beyond 90 degrees goes on across the pole.

    Args:
      start: Latitude and longitude in degrees, shape `[..., 2]`.
      end: The same; leading dimensions broadcast.

    Returns:
      Metres, shape `[...]`.

    Raises:
      ValueError: The last dimension of an input is not 2.

    Source: Vincenty (1975), "Direct and inverse solutions of geodesics on the ellipsoid", Survey Review 23; here for a
    sphere.

    >>> paris, berlin = [48.8566, 2.3522], [52.5200, 13.4050]
    >>> print(f"{distance(paris, berlin) / 1000:.0f} km")
    877 km
    """
    (latitude, longitude), (end_latitude, end_longitude) = _in_radians(start, "start"), _in_radians(end, "end")
    east = np.cos(end_latitude) * np.sin(end_longitude - longitude)
    # cos(a) sin(b) - sin(a) cos(b) cos(c), without its cancellation for places that are close.
    bend = 2 * np.sin(latitude) * np.cos(end_latitude) * np.sin((end_longitude - longitude) / 2) ** 2
    north = np.sin(end_latitude - latitude) + bend
    along = np.cos(latitude) * np.cos(end_latitude) * np.cos(end_longitude - longitude)
    angle = np.arctan2(np.hypot(north, east), along + np.sin(latitude) * np.sin(end_latitude))
    metres: NDArray[np.float64] = EARTH_RADIUS * np.asarray(angle)
    return metres


def _in_radians(place: ArrayLike, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    degrees = np.asarray(place, np.float64)
    if degrees.shape[-1:] != (2,):
        raise ValueError(f"{name} must be latitude and longitude, shape [..., 2], but has shape {[*degrees.shape]}")
    radians = np.radians(degrees)
    return radians[..., 0], radians[..., 1]
