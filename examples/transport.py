"""Find Orion in a photograph of the sky, through an optimal assignment of SciPy inside of an op.

    cost(C) = min over assignments p of sum_i C[i, p(i)]

Where the camera looked, how it was turned and how far it was zoomed is not known, nor which of the spots in the
photograph is which star: some stars are missing, and many spots are not stars at all. Stars are matched with spots such
that the sum of squared distances is smallest, and the pose of the photograph is moved down the gradient of that sum,
from many directions at once. The pose found is compared with the closed form of Umeyama (1991), "Least-squares
estimation of transformation parameters between two point patterns", IEEE Trans. Pattern Anal. Mach. Intell. 13, which
is told the right pairs; the op is compared with all assignments tried one by one.

The minimum of linear functions of C has the gradient of the one that is smallest, the matrix of the assignment
(Danskin's theorem); where two assignments tie, it has a kink.

The search goes downhill from many directions, which mostly finds the pose, but not surely: of thirty other photographs
with these numbers it missed one.
"""

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from tfpyop import RuleContext, differentiable_op

Array = NDArray[Any]

STARS = {
    "Betelgeuse": (88.793, 7.407, 0.5),
    "Rigel": (78.634, -8.202, 0.1),
    "Bellatrix": (81.283, 6.350, 1.6),
    "Mintaka": (83.002, -0.299, 2.2),
    "Alnilam": (84.053, -1.202, 1.7),
    "Alnitak": (85.190, -1.943, 1.8),
    "Saiph": (86.939, -9.670, 2.1),
    "Meissa": (83.784, 9.934, 3.4),
    "Hatysa": (83.858, -5.910, 2.8),
    "Algjebbah": (81.119, -2.397, 3.4),
    "Tabit": (72.460, 6.961, 3.2),
    "tau": (79.402, -6.844, 3.6),
    "sigma": (84.687, -2.600, 3.8),
    "mu": (90.596, 9.647, 4.1),
}
"""Right ascension and declination in degrees, and magnitude, of the epoch 2000."""
BELT = ("Mintaka", "Alnilam", "Alnitak")
LINES = [
    ("Betelgeuse", "Bellatrix", "Mintaka", "Algjebbah", "Rigel", "Saiph", "Alnitak", "Betelgeuse"),
    BELT,
    ("Betelgeuse", "Meissa", "Bellatrix", "Tabit"),
    ("Betelgeuse", "mu"),
]
"""How the constellation is drawn."""
CENTRE = (83.0, 0.0)
"""Where the sphere is touched by the plane on which the catalogue is drawn: right ascension, declination."""

WIDTH, HEIGHT = 1200, 900
TURN, ZOOM, MIDDLE = 128.0, 33.0, (640.0, 430.0)
"""The true pose: degrees, pixels in a degree, and the pixel of the centre."""
ERROR = 0.8
"""Standard deviation of the coordinates of a spot, in pixels."""
MISSED = ("Meissa", "tau")
FALSE_SPOTS = 20
SEED = 7

STARTS = 36
"""Directions from which the search begins."""
GUESSED_ZOOM = 28.0
STEPS = 400
LEARNING_RATE = 0.1
FIRST_GATE, LAST_GATE = 150.0, 6.0
"""Pixels; a star that is farther from its spot counts as missed."""

POSE_BOUND = 1e-2
"""The largest distance allowed between a star by the pose found and by the closed form, in pixels."""
BRUTE_BOUND = 1e-12
"""The largest relative difference allowed between the op and all assignments tried one by one."""


# SciPy takes one matrix at a time. The loop dimensions, here the starts, are gone through by the host.
@differentiable_op(signature="(n,m)->()", residuals={"plan": ("(n,m)", np.float64)}, vectorized=False)
def transport_cost(costs: Array) -> tuple[float, dict[str, Array]]:
    """The smallest sum of costs when rows are matched with columns, as many pairs as there can be."""
    plan = np.zeros(costs.shape)
    plan[linear_sum_assignment(costs)] = 1
    return np.sum(plan * costs), {"plan": plan}


@transport_cost.numpy_gradient
def transport_cost_gradient(op: RuleContext, cotangent: Array) -> Array:
    """What each cost adds to the sum: itself if it is in the best assignment."""
    return cotangent * op.residuals.plan


def brute_force(costs: Array) -> tuple[float, Array]:
    """The same cost and its gradient, with all assignments of the rows tried one by one; no more rows than columns."""
    rows, columns = costs.shape
    assignments = np.array(list(itertools.permutations(range(columns), rows)))
    sums = costs[np.arange(rows), assignments].sum(axis=1)
    return sums.min(), np.eye(columns)[assignments[sums.argmin()]]


def difference_from_brute_force(random: np.random.Generator) -> float:
    """The largest relative difference between the op, or its gradient, and brute force, for matrices of some sizes."""
    differences = []
    for shape in [(1, 1), (2, 5), (4, 4), (5, 7), (7, 7)]:
        costs = tf.constant(random.uniform(1, 2, shape))
        with tf.GradientTape() as tape:
            tape.watch(costs)
            cost = transport_cost(costs)
        expected_cost, expected_gradient = brute_force(costs.numpy())
        differences.append(abs(float(cost) / expected_cost - 1))
        differences.append(np.max(np.abs(tape.gradient(cost, costs) - expected_gradient)))
    return float(max(differences))


def catalogue() -> Array:
    """The stars on a plane that touches the sphere, in degrees, as complex numbers: north is up, east to the left."""
    ascension, declination, _ = np.radians(list(STARS.values())).T
    centre_ascension, centre_declination = np.radians(CENTRE)
    along = ascension - centre_ascension
    depth = np.sin(centre_declination) * np.sin(declination)
    depth += np.cos(centre_declination) * np.cos(declination) * np.cos(along)
    north = np.cos(centre_declination) * np.sin(declination)
    north -= np.sin(centre_declination) * np.cos(declination) * np.cos(along)
    return np.degrees(-np.cos(declination) * np.sin(along) / depth) + 1j * np.degrees(north / depth)


def photograph(random: np.random.Generator) -> tuple[Array, Array]:
    """The spots, in no order, and for each star the number of its spot, or -1 where it is missing."""
    exact = complex(*MIDDLE) + ZOOM * np.exp(1j * np.radians(TURN)) * catalogue()
    errors = random.normal(scale=ERROR, size=(2, len(exact)))
    seen = np.array([name not in MISSED for name in STARS])
    noise = random.uniform([[0], [0]], [[WIDTH], [HEIGHT]], (2, FALSE_SPOTS))
    spots = np.concatenate([(exact + errors[0] + 1j * errors[1])[seen], noise[0] + 1j * noise[1]])
    order = random.permutation(len(spots))
    numbers = np.full(len(exact), -1)
    numbers[seen] = np.argsort(order)[: np.sum(seen)]
    return spots[order], numbers


def closed_form(stars: Array, spots: Array) -> Array:
    """The turn with zoom, and the shift, that bring stars nearest to their spots, as two complex numbers."""
    centred = stars - stars.mean()
    factor = np.vdot(centred, spots - spots.mean()) / np.vdot(centred, centred)
    return np.array([factor, spots.mean() - factor * stars.mean()])


def placed(stars: Array, pose: Array) -> Array:
    """Where the stars are in the photograph, for poses of factor and shift in the last dimension."""
    return pose[..., :1] * stars + pose[..., 1:]


def squared_distances(unknowns: tf.Tensor, stars: Array, spots: Array) -> tf.Tensor:
    """Of all stars (rows) from all spots (columns), for each start: [starts, stars, spots]."""
    turn_x, turn_y, shift_x, shift_y = (part[:, None] for part in tf.unstack(unknowns, axis=1))
    x = turn_x * stars.real - turn_y * stars.imag + shift_x
    y = turn_y * stars.real + turn_x * stars.imag + shift_y
    return (x[..., None] - spots.real) ** 2 + (y[..., None] - spots.imag) ** 2


def search(stars: Array, spots: Array, steps: int) -> tuple[Array, Array]:
    """The poses after each step from each start, [steps + 1, starts, 2], and the costs at the end, [starts].

    The search is done in the standard deviations of stars and spots, such that the unknowns are about as large as one:
    the pose is a turn with zoom, as a complex factor, and a shift. Besides its spots a star has a place of its own to
    go to, at the cost of a squared gate: there it is missing. The gate narrows from step to step.
    """
    star_unit, spot_unit = stars.std(), spots.std()
    centre = spots.mean()
    angles = 2 * np.pi * np.arange(STARTS) / STARTS
    factor = GUESSED_ZOOM * star_unit / spot_unit
    unknowns = tf.Variable(np.stack([factor * np.cos(angles), factor * np.sin(angles), 0 * angles, 0 * angles], axis=1))
    unit_stars, unit_spots = stars / star_unit, (spots - centre) / spot_unit
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps), beta_2=0.99)

    @tf.function
    def step(gate: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            distances = squared_distances(unknowns, unit_stars, unit_spots)
            missing = tf.fill([STARTS, len(stars), len(stars)], gate**2)
            costs = transport_cost(tf.concat([distances, missing], axis=2))
            # The starts have nothing to do with one another: one sum gives the gradients of all.
            total = tf.reduce_sum(costs)
        optimizer.apply([tape.gradient(total, unknowns)], [unknowns])
        return costs

    poses = [unknowns.numpy()]
    for gate in tqdm(np.geomspace(FIRST_GATE, LAST_GATE, steps) / spot_unit, desc="Searching", unit="step"):
        costs = step(tf.constant(gate)).numpy()
        poses.append(unknowns.numpy())
    turn_x, turn_y, shift_x, shift_y = np.moveaxis(np.array(poses), -1, 0)
    factors = (turn_x + 1j * turn_y) * spot_unit / star_unit
    return np.stack([factors, (shift_x + 1j * shift_y) * spot_unit + centre], axis=-1), costs * spot_unit**2


def compare(columns: dict[str, Array]) -> None:
    """Print a column for each pose."""
    rows = {
        "turn, degrees": [f"{np.angle(factor, deg=True):.3f}" for factor, _ in columns.values()],
        "zoom, pixels in a degree": [f"{abs(factor):.3f}" for factor, _ in columns.values()],
        "centre, x in pixels": [f"{shift.real:.2f}" for _, shift in columns.values()],
        "centre, y in pixels": [f"{shift.imag:.2f}" for _, shift in columns.values()],
    }
    print(" " * 26 + "".join(f"{title:>13}" for title in columns))
    for name, cells in rows.items():
        print(f"{name:26}" + "".join(f"{cell:>13}" for cell in cells))


def draw(path: Path, spots: Array, poses: Array, best: int, reference: Array) -> None:
    """Draw the way of the constellation over the photograph, and how far from the right pose each start was."""
    stars = catalogue()
    figure = Figure(figsize=(14, 6), layout="constrained")
    photo, ways = figure.subplots(1, 2, width_ratios=[4, 3])
    photo.set(facecolor="#0b1026", xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal", xticks=[], yticks=[])
    photo.scatter(spots.real, spots.imag, s=14, color="white", zorder=3, label="spots")
    for pose, alpha in zip(poses[[0, 5, 15], best], [0.3, 0.45, 0.6], strict=True):
        draw_constellation(photo, placed(stars, pose), "C1", alpha)
    found = placed(stars, poses[-1, best])
    draw_constellation(photo, found, "C9", 1.0)
    sizes = [60 + 40 * (4.5 - magnitude) for *_, magnitude in STARS.values()]
    photo.scatter(found.real, found.imag, s=sizes, facecolor="none", edgecolor="C9", label="stars, found")
    photo.plot([], [], color="C1", alpha=0.6, label="stars at the start, after 5 and 15 steps")
    for name, place in zip(STARS, found, strict=True):
        if name[0].isupper() and name not in BELT:
            label = f"{name} (missing)" if name in MISSED else name
            photo.annotate(label, (place.real, place.imag), (9, 7), textcoords="offset points", color="C9", fontsize=9)
    photo.set_title("The photograph, and the stars as the best start moves them")
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.01), "ncols": 3}
    photo.legend(**below, labelcolor="white", facecolor="#0b1026")

    distances = np.sqrt(np.mean(abs(placed(stars, poses) - placed(stars, reference)) ** 2, axis=-1))
    ways.plot(distances, color="gray", lw=0.8, alpha=0.6)
    ways.plot(distances[:, best], color="C9", lw=2, label="the start whose cost ends lowest")
    ways.plot([], [], color="gray", lw=0.8, label=f"the other {STARTS - 1} starts")
    ways.set(yscale="log", xlabel="step", ylabel="pixels", title="Distance from the pose of the closed form")
    ways.grid(alpha=0.3)
    ways.spines[["top", "right"]].set_visible(False)
    ways.legend(loc="lower left")
    figure.savefig(path, dpi=150)


def draw_constellation(axes: Any, places: Array, color: str, alpha: float) -> None:
    """Draw the lines between the stars."""
    where = dict(zip(STARS, places, strict=True))
    for names in LINES:
        line = np.array([where[name] for name in names])
        axes.plot(line.real, line.imag, color=color, alpha=alpha, lw=1.2)


def main() -> int:
    """Compare with brute force, search, compare with the closed form, draw; returns 1 if something is too far off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"), help="the picture to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the optimiser (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        arguments.output.open("ab").close()  # now, not after all the work
    except OSError as error:
        parser.error(f"--output cannot be written: {error}")

    random = np.random.default_rng(SEED)
    difference = difference_from_brute_force(random)
    print(f"Op and all assignments one by one: {difference:.1e} apart, at most {BRUTE_BOUND:.0e} allowed")

    stars = catalogue()
    spots, numbers = photograph(random)
    poses, costs = search(stars, spots, arguments.steps)
    best = int(np.argmin(costs))
    seen = numbers >= 0
    reference = closed_form(stars[seen], spots[numbers[seen]])
    true = np.array([ZOOM * np.exp(1j * np.radians(TURN)), complex(*MIDDLE)])
    compare({"true": true, "closed form": reference, "found": poses[-1, best]})
    apart = float(np.max(abs(placed(stars, poses[-1, best]) - placed(stars, reference))))

    draw(arguments.output, spots, poses, best, reference)
    print(f"Picture: {arguments.output}")
    print(f"Stars found and by closed form: {apart:.1e} pixels apart, at most {POSE_BOUND:.0e} allowed")
    return 0 if difference <= BRUTE_BOUND and apart <= POSE_BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
