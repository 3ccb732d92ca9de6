"""The functions of `terrain` as TensorFlow ops, with their derivatives. Needs `pip install "terrain[tensorflow]"`.

Ops take loop dimensions in front of the dimensions of their signatures.
"""

import numpy as np
from numpy.typing import NDArray

import terrain
from terrain._drainage import accumulate_back
from terrain._hillslope import conductances, slope_of_conductances, solve

try:
    import tensorflow as tf

    from tfpyop import RuleContext, differentiable_op
except ModuleNotFoundError as error:
    if error.name not in ("tensorflow", "tfpyop"):
        raise
    raise ModuleNotFoundError(
        f'terrain.ops needs {error.name}: pip install "terrain[tensorflow]"', name=error.name
    ) from error

__all__ = ["accumulate", "diffuse", "distance"]

Floats = NDArray[np.float64]

# Each op is made here, at the top level, of a function that is defined elsewhere. So its name is that of this module,
# `terrain.ops:distance`, and importing this module is all that another process needs to find it.

distance = differentiable_op(terrain.distance, signature="(2),(2)->()", domain="[-80, 80]")


@distance.gradient
def distance_gradient(op: RuleContext, cotangent: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """In TensorFlow ops, so that it can be differentiated again."""
    start, end = op.inputs
    return cotangent[..., None] * slope_at(start, end), cotangent[..., None] * slope_at(end, start)


def slope_at(place: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """The derivative of the distance by latitude and longitude of a place: the way to the other shrinks ahead.

    It is zero for a place and itself, and for antipodes, where the distance has a kink.
    """
    degree = np.pi / 180
    latitude, longitude = degree * place[..., 0], degree * place[..., 1]
    other_latitude, other_longitude = degree * other[..., 0], degree * other[..., 1]
    east = tf.cos(other_latitude) * tf.sin(other_longitude - longitude)
    bend = 2 * tf.sin(latitude) * tf.cos(other_latitude) * tf.sin((other_longitude - longitude) / 2) ** 2
    north = tf.sin(other_latitude - latitude) + bend
    square = north**2 + east**2
    # No root of zero, whose slope is infinite, so that the second derivative is finite too.
    length = tf.sqrt(tf.where(square > 0, square, tf.ones_like(square)))
    direction = tf.stack([north / length, tf.cos(latitude) * east / length], axis=-1)
    return -terrain.EARTH_RADIUS * degree * direction


# The function takes one profile, so the host goes through the loop dimensions. The solver works in float64.
diffuse = differentiable_op(
    terrain.diffuse,
    signature="(n),(n)->(n)",
    vectorized=False,
    compute_dtype="float64",
    domain={"heights": "[-500, 9000]", "diffusivity": "[0, 10]"},
)


@diffuse.numpy_gradient
def diffuse_gradient(op: RuleContext, cotangent: Floats) -> tuple[Floats, Floats]:
    """The adjoint method: one more solution with the same matrix, which is symmetric."""
    _, diffusivity = op.inputs
    (after,) = op.outputs
    adjoint = solve(conductances(diffusivity, **op.static), cotangent)
    by_conductances = -np.diff(adjoint) * np.diff(after)
    by_diffusivity = np.zeros_like(diffusivity)
    by_diffusivity[1:] += by_conductances
    by_diffusivity[:-1] += by_conductances
    return adjoint, by_diffusivity * slope_of_conductances(**op.static)


accumulate = differentiable_op(
    terrain.accumulate, signature="(m,n),(m,n)->(m,n)", vectorized=False, domain={"heights": "[-500, 9000]"}
)


@accumulate.numpy_gradient
def accumulate_gradient(op: RuleContext, cotangent: Floats) -> tuple[None, Floats]:
    """Where water goes does not change with a small change of the heights, but in jumps: their derivative is zero."""
    heights, _ = op.inputs
    return None, accumulate_back(heights, cotangent)


@accumulate.numpy_jvp
def accumulate_jvp(op: RuleContext, by_heights: Floats, by_rain: Floats) -> Floats:
    """The function itself, which is linear in the rain."""
    heights, _ = op.inputs
    return terrain.accumulate(heights, by_rain)
