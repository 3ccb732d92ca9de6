"""Functions for landscapes in numpy. `terrain.ops` has them as TensorFlow ops; only it imports TensorFlow."""

from terrain._drainage import accumulate
from terrain._hillslope import diffuse
from terrain._sphere import EARTH_RADIUS, distance

__all__ = ["EARTH_RADIUS", "accumulate", "diffuse", "distance"]
