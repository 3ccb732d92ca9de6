"""Find the stiffness of a rope from photographs of it, through an optimiser of SciPy inside of an op.

A rope is stretched between two masts and loaded with known weights. It hangs where its energy is least:

    E(z) = sum_i k_i (d_i(z) - l)^2 / 2 + sum_j w_j y_j

with the joints z = (x, y), and for each segment its stiffness k, its length d and its length l at rest. An op finds the
minimum by `scipy.optimize.minimize`, for each example of the batch. How the minimum moves does not depend on how it was
found: as the forces vanish there for all stiffnesses, the implicit function theorem gives

    dz/dk = -(d^2 E / dz dz)^-1  d^2 E / dz dk

so the rule is the energy itself, and `@op.stationary` solves this system. The rope's stiffnesses are then found by
maximum likelihood from noisy positions of its joints under different weights.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import scipy.optimize
import tensorflow as tf
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from tfpyop import RuleContext, differentiable_op

Array = NDArray[Any]

SPAN = 8.0
"""From mast to mast, in metres."""
SHORTENING = 0.9
"""The length of the rope at rest over the span: it is always stretched."""
STIFFNESS = [420.0, 380.0, 450.0, 160.0, 400.0, 520.0, 300.0, 430.0]
"""The true stiffness of each segment in N/m; the fourth is worn."""
PHOTOGRAPHS = 6
LIGHTEST, HEAVIEST = 2.0, 60.0
"""The range of the weights of the segments, in newtons."""
NOISE = 0.005
"""Standard deviation of the errors of the positions, in metres."""
SEED = 2024

FORCE_TOLERANCE = 1e-4
"""In newtons. Where forces are smaller, rounding hides how the energy changes, and Newton's method takes over."""
NEWTON_STEPS = 2

GUESS = 300.0
"""Where the search for each stiffness starts."""
STEPS = 150
LEARNING_RATE = 0.1
GRADIENT_BOUND = 1e-6
"""The largest relative difference allowed between the implicit derivative and a central difference."""
DEVIATIONS_BOUND = 4.0
"""How many standard deviations a stiffness may be from the true one."""


# The optimiser finds one rope at a time: the host goes through the batch.
@differentiable_op(
    signature="(n),(n)->(n-1,2)",
    vectorized=False,
    compute_dtype="float64",
    domain={"stiffness": "[100, 1000]", "weights": "[1, 100]"},
)
def hang(stiffness: Array, weights: Array) -> Array:
    """Where the joints of a rope are, x and y in metres, from the stiffness and the weight of each segment.

    Half of the weight of a segment hangs on either end of it. As all are stretched, the energy has one minimum.
    """
    if len(stiffness) < 2:
        raise ValueError("a rope of one segment has no joint: give two stiffnesses or more.")
    if not (np.all(stiffness > 0) and np.all(weights >= 0)):
        raise ValueError(f"stiffnesses must be positive and weights not negative, got {stiffness} and {weights}.")

    def on_rope(function: Any) -> Any:
        return lambda unknowns: function(unknowns.reshape(-1, 2), stiffness, weights)

    start = straight(len(stiffness)).ravel()
    derivatives = {"jac": on_rope(forces), "hess": on_rope(energy_hessian)}
    options = {"gtol": FORCE_TOLERANCE}
    found = scipy.optimize.minimize(on_rope(energy), start, method="trust-exact", options=options, **derivatives)
    if not found.success:
        raise RuntimeError(found.message)

    place = found.x
    for _ in range(NEWTON_STEPS):
        place = place - np.linalg.solve(derivatives["hess"](place), derivatives["jac"](place))
    return place.reshape(-1, 2)


@hang.stationary
def hang_energy(op: RuleContext) -> tf.Tensor:
    """The energy of all ropes of the batch, in TensorFlow ops. The joints are where it is least."""
    (stiffness, weights), (joints,) = op.inputs, op.outputs
    mast = tf.zeros_like(joints[..., :1, :])
    places = tf.concat([mast, joints, mast + tf.constant([SPAN, 0], mast.dtype)], -2)
    lengths = tf.norm(places[..., 1:, :] - places[..., :-1, :], axis=-1)
    segments = tf.cast(tf.shape(stiffness)[-1], stiffness.dtype)  # the static shape may be unknown
    extensions = lengths - rest_length(segments)
    stretching = tf.reduce_sum(stiffness * extensions**2, -1) / 2
    return stretching + tf.reduce_sum((weights[..., :-1] + weights[..., 1:]) / 2 * joints[..., 1], -1)


def straight(segments: int) -> Array:
    """The joints of the rope without weights."""
    x = np.linspace(0, SPAN, segments + 1)[1:-1]
    return np.stack([x, np.zeros_like(x)], axis=1)


def with_masts(joints: Array) -> Array:
    """The joints and both ends of the rope."""
    return np.concatenate([[[0.0, 0.0]], joints, [[SPAN, 0.0]]])


def rest_length(segments: Any) -> Any:
    """The length of a segment without any force."""
    return SHORTENING * SPAN / segments


def extension(joints: Array) -> tuple[Array, Array]:
    """How much longer than at rest each segment is, and its direction."""
    segments = np.diff(with_masts(joints), axis=0)
    lengths = np.linalg.norm(segments, axis=1)
    return lengths - rest_length(len(segments)), segments / lengths[:, None]


def energy(joints: Array, stiffness: Array, weights: Array) -> float:
    """The energy in joules, of the stretched segments and of the weights."""
    extensions, _ = extension(joints)
    return float(stiffness @ extensions**2 / 2 + joint_weights(weights) @ joints[:, 1])


def forces(joints: Array, stiffness: Array, weights: Array) -> Array:
    """The gradient of the energy by all positions, which is zero at rest."""
    extensions, directions = extension(joints)
    pulls = (stiffness * extensions)[:, None] * directions
    gradient = pulls[:-1] - pulls[1:]
    gradient[:, 1] += joint_weights(weights)
    return gradient.ravel()


def energy_hessian(joints: Array, stiffness: Array, weights: Array) -> Array:
    """The second derivatives of the energy: a segment resists along itself by k, and across by its tension over d."""
    extensions, directions = extension(joints)
    across = extensions / (extensions + rest_length(len(extensions)))
    along = directions[:, :, None] * directions[:, None, :]
    blocks = stiffness[:, None, None] * (across[:, None, None] * (np.eye(2) - along) + along)

    # Each row is a segment: the joint at its far end minus that at its near end.
    differences = np.eye(len(stiffness), len(joints)) - np.eye(len(stiffness), len(joints), k=-1)
    return np.einsum("si,sab,sj->iajb", differences, blocks, differences).reshape(joints.size, joints.size)


def joint_weights(weights: Array) -> Array:
    """What hangs on each joint: half of the segments on both sides."""
    return (weights[:-1] + weights[1:]) / 2


def gradient_difference(weights: Array, random: np.random.Generator) -> float:
    """The relative difference between the implicit derivative in a random direction and a central difference."""
    point = [tf.constant(STIFFNESS, tf.float64), tf.constant(weights)]
    direction = [tensor * random.normal(size=tensor.shape) for tensor in point]
    factors = random.normal(size=[len(weights), len(STIFFNESS) - 1, 2])

    def value(distance: tf.Tensor) -> tf.Tensor:
        moved = [tensor + distance * change for tensor, change in zip(point, direction, strict=True)]
        return tf.reduce_sum(factors * hang(*moved))

    distance = tf.constant(0.0, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(distance)
        result = value(distance)
    implicit = tape.gradient(result, distance)
    step = tf.constant(1e-5, tf.float64)
    central = (value(step) - value(-step)) / (2 * step)
    return abs(float((implicit - central) / central))


def find(weights: Array, photographed: Array, steps: int) -> Array:
    """The most likely stiffness of each segment. Its logarithm is looked for, so it stays positive."""
    log_stiffness = tf.Variable(np.full(len(STIFFNESS), np.log(GUESS), np.float32))
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps))

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            misfit = (hang(tf.exp(log_stiffness), weights) - photographed) / NOISE
            loss = tf.reduce_sum(misfit**2) / 2
        optimizer.apply([tape.gradient(loss, log_stiffness)], [log_stiffness])
        return loss

    with tqdm(range(steps), desc="Searching", unit="step") as progress:
        for _ in progress:
            progress.set_postfix(loss=f"{step().numpy():.1f}", refresh=False)
    return np.exp(log_stiffness.numpy())


def standard_deviations(stiffness: Array, weights: Array) -> Array:
    """How far from the truth each stiffness is likely to be: from the inverse of the Fisher information."""
    point = tf.constant(stiffness, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(point)
        joints = hang(point, weights)
    jacobian = tape.jacobian(joints, point).numpy().reshape(-1, len(stiffness))
    return np.sqrt(np.diag(np.linalg.inv(jacobian.T @ jacobian / NOISE**2)))


def compare(found: Array, deviations: Array) -> float:
    """Print the stiffnesses beside the true ones; returns the largest difference in standard deviations."""
    distances = np.abs(found - STIFFNESS) / deviations
    print("segment  true k  found k, N/m  standard deviations apart")
    for number, (true, *row) in enumerate(zip(STIFFNESS, found, deviations, distances, strict=True), start=1):
        value, deviation, distance = row
        print(f"{number:7}  {true:6.1f}  {value:5.1f} ± {deviation:4.1f}  {distance:.1f}")
    return float(distances.max())


def draw(path: Path, weights: Array, photographed: Array, found: Array, deviations: Array) -> None:
    """Draw the ropes of all photographs with what was found, and the stiffnesses beside the true ones."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    hanging = hang(found, weights).numpy()
    for number, (rope, seen, load) in enumerate(zip(hanging, photographed, weights, strict=True)):
        left.plot(*with_masts(rope).T, color=f"C{number}", linewidth=1.5)
        left.scatter(*seen.T, s=2 * joint_weights(load), color=f"C{number}", edgecolor="white", zorder=2)
    left.plot([0, SPAN], [0, 0], "k^", markersize=10, clip_on=False)
    left.set(title="The rope: photographed joints (area: weight) and the fit", xlabel="x in m", ylabel="y in m")

    segments = np.arange(1, len(STIFFNESS) + 1)
    right.bar(segments, STIFFNESS, color="lightgray", label="true")
    right.errorbar(segments, found, 2 * deviations, fmt="o", color="C3", capsize=5, label="found, ± 2 deviations")
    right.axhline(GUESS, color="C7", linestyle="--", linewidth=1, label="start of the search")
    right.set(title="Stiffness of the segments", xlabel="segment", ylabel="k in N/m", xticks=segments)
    figure.legend(loc="outside lower right", ncols=3, frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> int:
    """Photograph, search, compare and draw; returns 1 if the gradient or a stiffness is not what it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"), help="the picture to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the optimiser (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        arguments.output.open("ab").close()  # now, not after all the work
    except OSError as error:
        parser.error(f"--output cannot be written: {error}")

    random = np.random.default_rng(SEED)
    weights = random.uniform(LIGHTEST, HEAVIEST, size=[PHOTOGRAPHS, len(STIFFNESS)])
    difference = gradient_difference(weights, random)
    print(f"Implicit derivative and central difference: {difference:.1e} apart, at most {GRADIENT_BOUND:.0e} allowed")

    exact = hang(np.array(STIFFNESS), weights).numpy()
    photographed = exact + random.normal(scale=NOISE, size=exact.shape).astype(np.float32)
    found = find(weights, photographed, arguments.steps)
    deviations = standard_deviations(found, weights)
    largest = compare(found, deviations)
    print(f"Largest: {largest:.1f} standard deviations, at most {DEVIATIONS_BOUND:.0f} allowed")

    draw(arguments.output, weights, photographed, found, deviations)
    print(f"Picture: {arguments.output}")
    return 0 if difference <= GRADIENT_BOUND and largest <= DEVIATIONS_BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
