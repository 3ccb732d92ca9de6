"""Find where plants invaded a landscape, from a map made years later, by Newton's method through a solver of SciPy.

    du/dt = div(k grad u) + r u (1 - u)    no flux through the border

The density u of the plants spreads through a landscape with a ridge that few seeds cross (Fisher and Kolmogorov's
equation). A time step solves a sparse linear system for the spread, (1 - dt div k grad) u_new = u + dt r u (1 - u). The
solver is an op that is linear in the right-hand side. Its matrix is symmetric, so the op is its own adjoint, and
derivatives of every order follow from this. Growth and time steps are TensorFlow.

The logarithm of the density at the start is a priori a smooth random field: the same op makes it from white noise,
Lindgren, Rue and Lindström (2011), J. R. Stat. Soc. B 73. The most likely white noise z a posteriori minimises

    J(z) = |u(z) - map|^2 / (2 error^2) + |z|^2 / 2

Newton's method solves its systems by conjugate gradients (Newton-CG), which need products of the Hessian with vectors
only. The Hessian is one plus a part that few numbers in the map determine, so few products are needed.
"""

import argparse
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import tensorflow as tf
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.linalg import SuperLU, splu
from tqdm import tqdm

from tfpyop import RuleContext, differentiable_op

Array = NDArray[Any]

SIZE = 40
"""Cells along each side of the landscape."""
SIDE = 80.0
"""Length of the sides in km."""
GROWTH = 0.6
"""Of few plants, per year."""
SPREAD, SPREAD_ON_RIDGE = 4.0, 0.02
"""The diffusivity k in km^2 per year."""
YEARS, TIME_STEPS = 8.0, 16
ERROR = 0.03
"""Standard deviation of the densities in the map, which are from 0 to 1."""
SEED = 7

STARTS = [(22.0, 58.0), (56.0, 24.0)]
"""Where the plants were brought in: x and y in km."""
START_RADIUS, START_DENSITY = 4.0, 0.4
MEDIAN, DEVIATION, LENGTH = 3e-4, 2.5, 8.0
"""The density at the start a priori: its median, the standard deviation of its logarithm, and a length in km."""

NEWTON_STEPS = 60
HESSIAN_BOUND = 1e-6
"""The largest relative difference allowed between a Hessian-vector product and a difference of gradients."""
GRADIENT_BOUND = 1e-3
"""What Newton's method may leave of the gradient."""
PLACE_BOUND = 4.0
"""How many km from the true starts the densest places found may be."""


@differentiable_op(signature="(n,n),(n,n)->(n,n)", vectorized=False, compute_dtype="float64")
def spread(diffusivity: Array, density: Array) -> Array:
    """Solve (1 - div diffusivity grad) x = density, by finite volumes; diffusivity has the unit of an area."""
    factors = factorize(diffusivity.astype(float).tobytes(), len(diffusivity))
    return factors.solve(density.ravel()).reshape(density.shape)


@spread.numpy_adjoint(linear_in="density")
def spread_adjoint(op: RuleContext, cotangent: Array) -> Array:
    """The same solution, since the matrix is symmetric."""
    return spread.numpy(op.inputs[0], cotangent)


@lru_cache(maxsize=4)
def factorize(content: bytes, size: int) -> SuperLU:
    """The sparse factorization for a diffusivity given by its bytes."""
    resistances = 1 / np.frombuffer(content)
    along = scipy.sparse.diags_array([-np.ones(size), np.ones(size - 1)], offsets=[0, 1], shape=(size - 1, size))
    identity = scipy.sparse.eye_array(size)
    differences = scipy.sparse.vstack([scipy.sparse.kron(along, identity), scipy.sparse.kron(identity, along)])
    # Halves of two cells follow one another on the way through a face: their resistances add.
    conductances = 2 / (abs(differences) @ resistances) / (SIDE / size) ** 2
    matrix = scipy.sparse.eye_array(size**2) + differences.T @ scipy.sparse.diags_array(conductances) @ differences
    return splu(matrix.tocsc(), "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})


def cell_centres() -> tuple[Array, Array]:
    """The coordinates x and y of all cells in km; rows are y, columns x."""
    along = (np.arange(SIZE) + 0.5) * SIDE / SIZE
    return np.meshgrid(along, along)


def landscape() -> Array:
    """The diffusivity: low on a ridge with a pass."""
    x, y = cell_centres()
    ridge = (abs(y - 0.4 * x - 25) < 3) & (abs(x - 62) > 5)
    return np.where(ridge, SPREAD_ON_RIDGE, SPREAD)


def true_start() -> Array:
    """The density at the places where the plants were brought in."""
    x, y = cell_centres()
    hills = [np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * START_RADIUS**2)) for a, b in STARTS]
    return MEDIAN + START_DENSITY * np.sum(hills, axis=0)


def later(density: tf.Tensor) -> tf.Tensor:
    """The density after all years."""
    time_step = YEARS / TIME_STEPS
    diffusivity = tf.constant(landscape() * time_step)
    for _ in range(TIME_STEPS):
        density = spread(diffusivity, density + time_step * GROWTH * density * (1 - density))
    return density


def start_of(noise: tf.Tensor) -> tf.Tensor:
    """The density at the start for white noise."""
    # Of a field made from white noise in two dimensions: its variance is 1 / (4 pi) for cells of the area LENGTH^2.
    scale = DEVIATION * np.sqrt(4 * np.pi) * LENGTH * SIZE / SIDE
    return MEDIAN * tf.exp(scale * spread(tf.fill([SIZE, SIZE], tf.constant(LENGTH**2, tf.float64)), noise))


class Posterior:
    """The function J to minimise, with its gradient and Hessian, for flat arrays of numpy."""

    def __init__(self, measured: Array) -> None:
        self._measured = tf.constant(measured)

    def value(self, noise: tf.Tensor) -> tf.Tensor:
        """J, in TensorFlow."""
        noise = tf.reshape(noise, [SIZE, SIZE])
        misfit = (later(start_of(noise)) - self._measured) / ERROR
        return (tf.reduce_sum(misfit**2) + tf.reduce_sum(noise**2)) / 2

    @tf.function
    def with_gradient(self, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """J and its gradient."""
        with tf.GradientTape() as tape:
            tape.watch(noise)
            value = self.value(noise)
        return value, tape.gradient(value, noise)

    @tf.function
    def hessian_product(self, noise: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
        """The Hessian times a vector: the derivative of the gradient along it."""
        with tf.GradientTape() as tape:
            tape.watch(noise)
            _, gradient = self.with_gradient(noise)
            slope = tf.tensordot(gradient, vector, 1)
        return tape.gradient(slope, noise)


def hessian_difference(posterior: Posterior, random: np.random.Generator) -> float:
    """The relative difference between a Hessian-vector product and a central difference of gradients."""
    point, vector = random.normal(scale=0.1, size=[2, SIZE**2])
    product = posterior.hessian_product(tf.constant(point), tf.constant(vector))
    step = 1e-5
    above, below = (
        posterior.with_gradient(tf.constant(point + change))[1] for change in (step * vector, -step * vector)
    )
    central = (above - below) / (2 * step)
    return float(tf.norm(product - central) / tf.norm(central))


def newton(posterior: Posterior, steps: int) -> tuple[Array, list[float], int]:
    """The most likely white noise, the length of the gradient at each step, and the number of Hessian products."""
    products = 0
    lengths: list[float] = []

    def gradient(point: Array) -> tuple[Array, Array]:
        value, slope = posterior.with_gradient(tf.constant(point))
        return value.numpy(), slope.numpy()

    def product(point: Array, vector: Array) -> Array:
        nonlocal products
        products += 1
        return posterior.hessian_product(tf.constant(point), tf.constant(vector)).numpy()

    with tqdm(desc="Searching", unit="step") as progress:

        def note(point: Array) -> None:
            lengths.append(float(np.linalg.norm(gradient(point)[1])))
            progress.update()

        start = np.zeros(SIZE**2)
        note(start)
        options = {"maxiter": steps, "gtol": lengths[0] * GRADIENT_BOUND}
        found = minimize(gradient, start, jac=True, hessp=product, method="trust-ncg", callback=note, options=options)
    return found.x, lengths, products


def places(density: Array) -> Array:
    """For each true start, the densest place that is nearer to it than to the others: x and y in km."""
    x, y = (coordinates.ravel() for coordinates in cell_centres())
    distances = np.array([np.hypot(x - a, y - b) for a, b in STARTS])
    nearest = distances.argmin(axis=0)
    densest = [int(np.argmax(np.where(nearest == number, density.ravel(), 0))) for number in range(len(STARTS))]
    return np.stack([x[densest], y[densest]], axis=1)


def draw(path: Path, measured: Array, found: Array, lengths: list[float]) -> None:
    """Draw the start, the map, the start found, and how the gradient went down."""
    figure = Figure(figsize=(15, 4), layout="compressed")
    axes = figure.subplots(1, 4)
    fields = {
        "true density at the start": true_start(),
        f"map after {YEARS:g} years": measured,
        "density found at the start": found,
    }
    x, y = cell_centres()
    for place, (title, field) in zip(axes, fields.items(), strict=False):
        image = place.imshow(field, origin="lower", extent=(0, SIDE, 0, SIDE), vmin=0, cmap="YlGn")
        place.contour(x, y, landscape(), levels=[(SPREAD + SPREAD_ON_RIDGE) / 2], colors="saddlebrown", linewidths=1)
        figure.colorbar(image, ax=place)
        place.set(title=title, xlabel="x in km")
    axes[0].set_ylabel("y in km; brown: the ridge")
    axes[2].plot(*np.transpose(STARTS), "+", color="red", markersize=10)
    axes[3].semilogy(lengths, marker=".")
    axes[3].set(title="Newton-CG", xlabel="step", ylabel="length of the gradient", box_aspect=1)
    axes[3].grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main() -> int:
    """Check the Hessian, draw a map, search and draw; returns 1 if a number is worse than it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"), help="the picture to write")
    parser.add_argument("--steps", type=int, default=NEWTON_STEPS, help="steps of the method (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        arguments.output.open("ab").close()  # now, not after all the work
    except OSError as error:
        parser.error(f"--output cannot be written: {error}")

    random = np.random.default_rng(SEED)
    exact = later(tf.constant(true_start())).numpy()
    measured = exact + random.normal(scale=ERROR, size=exact.shape)
    posterior = Posterior(measured)
    difference = hessian_difference(posterior, random)
    print(f"Hessian and difference of gradients: {difference:.1e} apart, at most {HESSIAN_BOUND:.0e} allowed")

    noise, lengths, products = newton(posterior, arguments.steps)
    found = start_of(tf.constant(noise.reshape(SIZE, SIZE))).numpy()
    rest = lengths[-1] / lengths[0]
    print(f"{len(lengths) - 1} Newton steps with {products} Hessian products leave {rest:.1e} of the gradient")
    apart = np.hypot(*(places(found) - STARTS).T)
    for (x, y), distance in zip(places(found), apart, strict=True):
        print(f"Brought in at x = {x:.0f} km, y = {y:.0f} km: {distance:.1f} km from the true place")

    draw(arguments.output, measured, found, lengths)
    print(f"Picture: {arguments.output}")
    print(f"At most {GRADIENT_BOUND:.0e} of the gradient and {PLACE_BOUND:g} km allowed")
    is_right = difference <= HESSIAN_BOUND and rest <= GRADIENT_BOUND and np.max(apart) <= PLACE_BOUND
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
