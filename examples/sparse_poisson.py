"""Find the heat conductivity of a plate from noisy temperatures, through a sparse solver of SciPy inside of an op.

    -div(k grad T) = f    inside of a square of one metre, T = 0 on its edge

A plate is heated in one place after another, its temperature T is measured on 64 x 64 cells each time, and the
conductivity k(x, y) > 0 that explains all measurements is looked for, with an optimiser of Keras. The logarithm of k is
a priori a smooth random field, without which the noise would be amplified: its most likely value a posteriori is found.

The measurements are made up, on a grid twice as fine as that of the search: otherwise the errors of the discretisation
would cancel, and the result look better than it is (Kaipio and Somersalo (2007), "Statistical inverse problems:
discretization, model reduction and inverse crimes", J. Comput. Appl. Math. 198).
"""

import argparse
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.sparse.linalg import SuperLU, splu
from tqdm import tqdm

from tfpyop import RuleContext, differentiable_op

Array = NDArray[Any]

SIZE = 64
"""Cells along each side of the plate."""
NOISE = 0.01
"""Standard deviation of the errors of the temperatures, relative to the range of these."""
SEED = 2024

BACKGROUND = 1.5
INCLUSIONS = [(0.30, 0.68, 0.11, 2.8), (0.70, 0.72, 0.09, -0.7), (0.66, 0.30, 0.13, 2.0), (0.25, 0.25, 0.10, -0.6)]
"""Where the true conductivity differs from the background: x, y, radius, and by how much, in W/(m K)."""
HEATERS = [(0.22, 0.22), (0.78, 0.22), (0.50, 0.50), (0.22, 0.78), (0.78, 0.78)]
"""Centres of the heated places; one measurement for each."""
HEATER_RADIUS = 0.12
POWER = 1000.0
"""Largest power of a heater, in W/m^3."""

DEVIATION, LENGTH, MODES = 0.7, 0.2, 16
"""The logarithm of k a priori: standard deviation, length of correlation in metres, cosines along each side."""

STEPS = 300
LEARNING_RATE = 0.1
ERROR_BOUND = 0.1
"""The largest relative error of the conductivity allowed."""
GRADIENT_BOUND = 1e-6
"""The largest relative difference allowed between the adjoint derivative and a central difference."""


# The solver takes one conductivity at a time. Other loop dimensions are gone through by the host.
@differentiable_op(
    signature="(n,n),(s,n,n)->(s,n,n)", residuals={"factors": object}, vectorized=False, compute_dtype="float64"
)
def temperature(conductivity: Array, sources: Array) -> tuple[Array, dict[str, SuperLU]]:
    """The temperatures for each source, by finite volumes.

    The heat through the faces of a cell is what the source brings into it. All differences of temperature between
    cells, or between a cell and the edge, are G T with a sparse matrix G of a row for each face, so

        A T = h^2 f,    A = G' diag(c) G

    where h is the side of a cell, and c are the conductances of the faces. Halves of two cells follow one another on
    the way through a face, hence their resistances add: c is the harmonic mean of their conductivities. Patankar
    (1980), "Numerical Heat Transfer and Fluid Flow", section 4.2-3.
    """
    factors = factorize(conductivity)
    return solve(factors, sources / len(conductivity) ** 2), {"factors": factors}


@temperature.numpy_gradient
def temperature_gradient(op: RuleContext, cotangent: Array) -> tuple[Array, Array]:
    """The adjoint method: one more solution with the same matrix, which is symmetric, for any number of unknowns.

    With A a = cotangent, the cotangent of the right-hand side is a, and that of c is -(G a)(G T), summed over the
    sources. Plessix (2006), "A review of the adjoint-state method", Geophys. J. Int. 167.
    """
    conductivity, _ = op.inputs
    (temperatures,) = op.outputs
    adjoint = solve(op.residuals.factors, cotangent)

    differences = face_differences(len(conductivity))
    flat_temperatures, flat_adjoint = (field.reshape(len(field), -1).T for field in (temperatures, adjoint))
    by_conductances = -np.sum((differences @ flat_adjoint) * (differences @ flat_temperatures), axis=1)
    by_resistances = -(face_conductances(conductivity) ** 2) * by_conductances
    by_conductivity = -(abs(differences).T @ by_resistances).reshape(conductivity.shape) / (2 * conductivity**2)
    return by_conductivity, adjoint / len(conductivity) ** 2


def solve(factors: SuperLU, right: Array) -> Array:
    """Solve A x = right for a stack of right-hand sides."""
    return factors.solve(right.reshape(len(right), -1).T).T.reshape(right.shape)


def factorize(conductivity: Array) -> SuperLU:
    """The sparse factorization of A. It is a residual of the op: the gradient rule uses it again."""
    differences = face_differences(len(conductivity))
    matrix = differences.T @ scipy.sparse.diags_array(face_conductances(conductivity)) @ differences
    # Positive definite: the order may be chosen for the fewest entries, no pivots are needed.
    return splu(matrix.tocsc(), "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})


@lru_cache(maxsize=2)
def face_differences(size: int) -> scipy.sparse.csr_array:
    """The matrix G, with a row for each face and a column for each cell."""
    along = scipy.sparse.diags_array([np.ones(size), -np.ones(size)], offsets=[0, -1], shape=(size + 1, size))
    identity = scipy.sparse.eye_array(size)
    return scipy.sparse.vstack([scipy.sparse.kron(along, identity), scipy.sparse.kron(identity, along)], format="csr")


def face_conductances(conductivity: Array) -> Array:
    """One over the sum of the resistances, 1 / (2 k) for the half of a cell on either side; the edge has one side."""
    return 1 / (abs(face_differences(len(conductivity))) @ (1 / (2 * conductivity.ravel())))


def cell_centres(size: int) -> tuple[Array, Array]:
    """The coordinates x and y of all cells; rows are y, columns x."""
    along = (np.arange(size) + 0.5) / size
    return np.meshgrid(along, along)


def bump(size: int, x: float, y: float, radius: float) -> Array:
    """A Gaussian hill of height one."""
    all_x, all_y = cell_centres(size)
    return np.exp(-((all_x - x) ** 2 + (all_y - y) ** 2) / (2 * radius**2))


def true_conductivity(size: int) -> Array:
    """The background and its inclusions."""
    return BACKGROUND + sum(change * bump(size, x, y, radius) for x, y, radius, change in INCLUSIONS)


def heat_sources(size: int) -> Array:
    """The power of each heater in each cell."""
    return POWER * np.stack([bump(size, x, y, HEATER_RADIUS) for x, y in HEATERS])


def measure(random: np.random.Generator) -> tuple[Array, float]:
    """The temperatures with errors, and the standard deviation of these."""
    fine = temperature(true_conductivity(2 * SIZE), heat_sources(2 * SIZE)).numpy()
    exact = fine.reshape(-1, SIZE, 2, SIZE, 2).mean(axis=(2, 4))
    deviation = NOISE * float(np.ptp(exact))
    return exact + random.normal(scale=deviation, size=exact.shape).astype(np.float32), deviation


def best_uniform(measured: Array) -> Array:
    """The conductivity that explains the measurements best if it is everywhere the same: T is proportional to 1 / k."""
    ones = np.ones([SIZE, SIZE], np.float32)
    temperatures = temperature(ones, heat_sources(SIZE)).numpy()
    return ones * np.sum(temperatures**2) / np.sum(temperatures * measured)


def log_ratio(coefficients: tf.Tensor) -> tf.Tensor:
    """The logarithm of k over its median a priori, from standard normal coefficients of products of cosines.

    But for its scale it solves (1 - LENGTH^2 Laplacian) log_ratio = white noise: Lindgren, Rue and Lindström (2011),
    "An explicit link between Gaussian fields and Gaussian Markov random fields", J. R. Stat. Soc. B 73.
    """
    modes = np.arange(MODES)
    weights = 1 / (1 + (np.pi * LENGTH) ** 2 * (modes[:, None] ** 2 + modes**2))
    weights *= DEVIATION / np.linalg.norm(weights)
    cosines = np.cos(np.pi * np.outer((np.arange(SIZE) + 0.5) / SIZE, modes)) * np.where(modes, np.sqrt(2), 1)
    return cosines @ (coefficients * weights) @ cosines.T


def find(start: Array, measured: Array, deviation: float, steps: int) -> Array:
    """The most likely conductivity a posteriori."""
    coefficients = tf.Variable(tf.zeros([MODES, MODES]))
    sources = heat_sources(SIZE)
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    # The loss falls to a tenth in a few steps. An optimiser that remembers the gradients of these for long is slow.
    optimizer = keras.optimizers.Adam(schedule, beta_2=0.95)

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            conductivity = start * tf.exp(log_ratio(coefficients))
            misfit = (temperature(conductivity, sources) - measured) / deviation
            loss = (tf.reduce_sum(misfit**2) + tf.reduce_sum(coefficients**2)) / 2
        optimizer.apply([tape.gradient(loss, coefficients)], [coefficients])
        return loss

    with tqdm(range(steps), desc="Searching", unit="step") as progress:
        for _ in progress:
            progress.set_postfix(loss=f"{step().numpy():.1f}", refresh=False)
    return start * np.exp(log_ratio(coefficients))


def gradient_difference(random: np.random.Generator) -> float:
    """The relative difference between the adjoint derivative in a random direction and a central difference."""
    point = [tf.constant(true_conductivity(SIZE)), tf.constant(heat_sources(SIZE))]
    direction = [tensor * random.normal(size=tensor.shape) for tensor in point]
    weights = random.normal(size=point[1].shape)

    def value(distance: tf.Tensor) -> tf.Tensor:
        moved = [tensor + distance * change for tensor, change in zip(point, direction, strict=True)]
        return tf.reduce_sum(weights * temperature(*moved))

    distance = tf.constant(0.0, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(distance)
        result = value(distance)
    adjoint = tape.gradient(result, distance)
    step = tf.constant(1e-5, tf.float64)
    central = (value(step) - value(-step)) / (2 * step)
    return abs(float((adjoint - central) / central))


def standard_misfit(conductivity: Array, measured: Array, deviation: float) -> Array:
    """Calculated minus measured temperatures, in standard deviations of the errors."""
    return (temperature(conductivity, heat_sources(SIZE)).numpy() - measured) / deviation


def compare(columns: dict[str, Array], measured: Array, deviation: float) -> float:
    """Print a column for each conductivity, the true one first and the one that was found last; returns its error."""
    truth, *_ = columns.values()
    errors = [np.linalg.norm(values - truth) / np.linalg.norm(truth) for values in columns.values()]
    misfits = [np.sqrt(np.mean(standard_misfit(values, measured, deviation) ** 2)) for values in columns.values()]
    rows = {
        "smallest k, W/(m K)": [f"{values.min():.2f}" for values in columns.values()],
        "largest k, W/(m K)": [f"{values.max():.2f}" for values in columns.values()],
        "relative error of k": [f"{error:.1%}" for error in errors],
        "misfit of T over its error": [f"{misfit:.2f}" for misfit in misfits],
    }
    print(" " * 26 + "".join(f"{title:>8}" for title in columns))
    for name, cells in rows.items():
        print(f"{name:26}" + "".join(f"{cell:>8}" for cell in cells))
    return float(errors[-1])


def draw(path: Path, columns: dict[str, Array], measured: Array, deviation: float) -> None:
    """Draw the conductivities, and for one heater the temperatures and what the conductivity found leaves of them."""
    figure = Figure(figsize=(12, 7), layout="compressed")
    upper, lower = figure.subplots(2, 3, sharex=True, sharey=True)
    truth, _, found = columns.values()
    for axes, (title, values) in zip(upper, columns.items(), strict=True):
        show(axes, values, f"conductivity, {title}", "k in W/(m K)", vmin=truth.min(), vmax=truth.max())
    upper[0].plot(*np.transpose(HEATERS), "+", color="white", markersize=9)
    upper[0].set_title("conductivity, true (+ heaters)")

    heater = len(HEATERS) // 2
    misfit = standard_misfit(found, measured, deviation)[heater]
    show(lower[0], measured[heater], "measured, heater in the middle", "T in K", cmap="inferno")
    show(lower[1], misfit, "calculated minus measured", "standard deviations", cmap="RdBu_r", vmin=-4, vmax=4)
    show(lower[2], 100 * (found / truth - 1), "error of the conductivity", "percent", cmap="RdBu_r", vmin=-20, vmax=20)
    for axes in lower:
        axes.set_xlabel("x in m")
    for axes in (upper[0], lower[0]):
        axes.set_ylabel("y in m")
    figure.savefig(path, dpi=150)


def show(axes: Any, values: Array, title: str, label: str, **options: Any) -> None:
    """Draw one field as an image, with a bar of its colours."""
    image = axes.imshow(values, origin="lower", extent=(0, 1, 0, 1), **options)
    axes.figure.colorbar(image, ax=axes, label=label)
    axes.set_title(title)


def main() -> None:
    """Measure, search, compare and draw; exits with a message if the result is worse than it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"), help="the picture to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the optimiser (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        arguments.output.open("ab").close()  # now, not after all the work
    except OSError as error:
        parser.error(f"--output cannot be written: {error}")

    random = np.random.default_rng(SEED)
    difference = gradient_difference(random)
    print(f"Adjoint derivative and central difference: {difference:.1e} apart, at most {GRADIENT_BOUND:.0e} allowed")

    measured, deviation = measure(random)
    start = best_uniform(measured)
    found = find(start, measured, deviation, arguments.steps)
    columns = {"true": true_conductivity(SIZE), "start": start, "found": found}
    error = compare(columns, measured, deviation)

    draw(arguments.output, columns, measured, deviation)
    print(f"Picture: {arguments.output}")
    if difference > GRADIENT_BOUND:
        raise SystemExit("The gradient rule of the op disagrees with the central difference.")
    if error > ERROR_BOUND:
        raise SystemExit(f"The relative error of the conductivity is above {ERROR_BOUND:.0%}.")


if __name__ == "__main__":
    main()
