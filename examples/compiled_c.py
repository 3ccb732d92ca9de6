"""Find the shape of a cluster of thirteen atoms, with energies and forces by a C function inside of an op.

    E = 4 sum over pairs of (r^-12 - r^-6)

The C code is compiled when it is first needed, loaded with ctypes and given the memory of numpy arrays. ctypes lets go
of Python's lock while C runs, so other threads go on. Energies are those of the Lennard-Jones potential, in units of
its depth and length. Clusters are relaxed from many random starts at once with an optimiser of Keras, and the lowest
energy is compared with that of the icosahedron, which has a closed form, and with the lowest energy known: Wales and
Doye (1997), "Global optimization by basin-hopping and the lowest energy structures of Lennard-Jones clusters
containing up to 110 atoms", J. Phys. Chem. A 101.

It needs a C compiler: cc, gcc or clang, or what the environment variable CC says.
"""

import argparse
import ctypes
import itertools
import math
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from tfpyop import RuleContext, differentiable_op

Array = NDArray[Any]

CODE = r"""
#include <stddef.h>

/* The sixth power of one over the distance of two atoms; the components of the distance go to d. */
static double inverse_sixth(const double *a, const double *b, double d[3], double *squared)
{
    for (int k = 0; k < 3; k++)
        d[k] = a[k] - b[k];
    *squared = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
    return 1 / (*squared * *squared * *squared);
}

/* Energies of so many clusters of n atoms each; positions are [clusters][n][3]. */
void lj_energies(size_t clusters, size_t n, const double *positions, double *energies)
{
    double d[3], squared;
    for (size_t c = 0; c < clusters; c++, positions += 3 * n) {
        double energy = 0;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < i; j++) {
                double s = inverse_sixth(positions + 3 * i, positions + 3 * j, d, &squared);
                energy += 4 * (s * s - s);
            }
        energies[c] = energy;
    }
}

/* Their derivatives by the positions. */
void lj_derivatives(size_t clusters, size_t n, const double *positions, double *derivatives)
{
    double d[3], squared;
    for (size_t c = 0; c < clusters; c++, positions += 3 * n, derivatives += 3 * n) {
        for (size_t i = 0; i < 3 * n; i++)
            derivatives[i] = 0;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < i; j++) {
                double s = inverse_sixth(positions + 3 * i, positions + 3 * j, d, &squared);
                double factor = (24 * s - 48 * s * s) / squared;
                for (int k = 0; k < 3; k++) {
                    derivatives[3 * i + k] += factor * d[k];
                    derivatives[3 * j + k] -= factor * d[k];
                }
            }
    }
}
"""
FLAGS = ["-O3", "-shared", "-fPIC"]
READ = np.ctypeslib.ndpointer(np.float64, flags="C_CONTIGUOUS")
WRITTEN = np.ctypeslib.ndpointer(np.float64, flags=("C_CONTIGUOUS", "WRITEABLE"))
"""ctypes refuses arrays that are not like that, so C never sees memory of another layout."""

ATOMS = 13
STARTS = 500
DRAWN_STARTS = 100
RADIUS = 1.8
"""Atoms start at random inside of a ball of this radius."""
STEPS = 600
LEARNING_RATE = 0.05
SEED = 5

KNOWN = -44.326801
"""The lowest energy published for thirteen atoms."""
ENERGY_BOUND = 1e-6
"""The largest distance allowed between the lowest energy found and the closed form."""
BOND = 1.25
"""Atoms that are nearer to each other are neighbours: between the nearest and the second nearest distance."""


# The C functions go through the loop dimensions themselves: all of them together are its clusters.
@differentiable_op(signature="(n,3)->()", compute_dtype="float64")
def energy(positions: Array) -> Array:
    """The energies of clusters of n atoms, by C; no two atoms may be at one place."""
    *loop, n, _ = positions.shape
    energies = np.empty(loop)
    library().lj_energies(energies.size, n, np.ascontiguousarray(positions), energies)
    return energies


@energy.numpy_jacobian
def energy_derivatives(op: RuleContext) -> Array:
    """Minus the forces on the atoms, by C."""
    (positions,) = op.inputs
    *loop, n, _ = positions.shape
    derivatives = np.empty(positions.shape)
    library().lj_derivatives(math.prod(loop), n, np.ascontiguousarray(positions), derivatives)
    return derivatives


# Threads that come here at the same time may each compile a library of their own; one of them is kept.
@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The C functions, compiled into a directory that is gone afterwards: loaded code needs its file no more."""
    command = compiler()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        path = Path(directory, "lennard_jones.so")
        process = subprocess.run(
            [*command, *FLAGS, "-x", "c", "-", "-o", path], input=CODE, capture_output=True, encoding="utf-8"
        )
        if process.returncode:
            raise RuntimeError(f"{shlex.join(command)} cannot compile the C functions:\n{process.stderr}")
        functions = ctypes.CDLL(str(path))
    for function in (functions.lj_energies, functions.lj_derivatives):
        function.argtypes, function.restype = [ctypes.c_size_t, ctypes.c_size_t, READ, WRITTEN], None
    return functions


def compiler() -> list[str]:
    """The command that compiles C."""
    named = shlex.split(os.environ.get("CC", ""))
    commands = [named] if named else [["cc"], ["gcc"], ["clang"]]
    for command in commands:
        if shutil.which(command[0]):
            return command
    looked_for = ", ".join(command[0] for command in commands)
    raise RuntimeError(f"No C compiler found ({looked_for}): install one, or name it in the environment variable CC.")


def icosahedron() -> tuple[Array, float]:
    """The positions and the energy of an icosahedron with an atom in the middle, as large as it likes best to be.

    At a distance r of the corners from the middle, all distances of pairs are multiples of r, so that E is
    4 (a s^2 - b s) with s = r^-6 and sums a, b over pairs. It is lowest, -b^2 / a, for s = b / 2a.
    """
    golden = (1 + math.sqrt(5)) / 2
    corners = [np.roll([0, one, two], turn) for one in (-1, 1) for two in (-golden, golden) for turn in range(3)]
    unit = np.concatenate([np.zeros((1, 3)), np.array(corners) / math.sqrt(1 + golden**2)])
    distances = pair_distances(unit)
    a, b = np.sum(distances**-12), np.sum(distances**-6)
    return unit * (2 * a / b) ** (1 / 6), float(-(b**2) / a)


def pair_distances(positions: Array) -> Array:
    """The distances of all pairs of atoms."""
    first, second = np.array(list(itertools.combinations(range(len(positions)), 2))).T
    return np.linalg.norm(positions[first] - positions[second], axis=-1)


def random_clusters(random: np.random.Generator) -> Array:
    """Atoms spread evenly in a ball, [starts, atoms, 3]."""
    directions = random.normal(size=(STARTS, ATOMS, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    return RADIUS * directions * np.cbrt(random.uniform(size=(STARTS, ATOMS, 1)))


def relax(start: Array, steps: int) -> tuple[Array, Array]:
    """The clusters at the end, and their energies before each step and at the end, [steps + 1, starts]."""
    positions = tf.Variable(start)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps), beta_2=0.9)

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            energies = energy(positions)
            # The clusters do not feel one another: one sum gives the forces in all of them.
            total = tf.reduce_sum(energies)
        optimizer.apply([tape.gradient(total, positions)], [positions])
        return energies

    energies = [step().numpy() for _ in tqdm(range(steps), desc="Relaxing", unit="step")]
    return positions.numpy(), np.array([*energies, energy(positions).numpy()])


def draw(path: Path, start: Array, end: Array, energies: Array, lowest: float) -> None:
    """Draw the energies over the steps, and the cluster that ends lowest, before and after."""
    best = int(np.argmin(energies[-1]))
    figure = Figure(figsize=(14, 5), layout="constrained")
    grid = figure.add_gridspec(1, 4, width_ratios=[5, 1.5, 4, 4])
    ways = figure.add_subplot(grid[0])
    ways.plot(energies[:, :DRAWN_STARTS], color="gray", lw=0.6, alpha=0.4)
    ways.plot([], [], color="gray", lw=0.8, label=f"{DRAWN_STARTS} of {energies.shape[1]} starts")
    ways.plot(energies[:, best], color="C0", lw=2, label="the start that ends lowest")
    ways.axhline(lowest, color="C3", ls="--", lw=1, label=f"icosahedron, closed form: {lowest:.6f}")
    ways.set(xlabel="step", ylabel="energy", ylim=(1.05 * lowest, 0), title=f"Energies of clusters of {ATOMS} atoms")
    ways.legend(loc="upper right")
    ends = figure.add_subplot(grid[1], sharey=ways)
    ends.hist(energies[-1], bins=2 * ATOMS, orientation="horizontal", color="gray")
    ends.axhline(lowest, color="C3", ls="--", lw=1)
    ends.set(xlabel="starts", title="At the end")
    ends.tick_params(labelleft=False)
    for axes in (ways, ends):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for place, positions, title in [
        (grid[2], start[best], f"Before, E = {energies[0, best]:.3g}"),
        (grid[3], end[best], f"After, E = {energies[-1, best]:.6f}"),
    ]:
        draw_cluster(figure.add_subplot(place, projection="3d"), positions, title)
    figure.savefig(path, dpi=150)


def draw_cluster(axes: Any, positions: Array, title: str) -> None:
    """Draw the atoms, coloured by their number of neighbours, and lines between neighbours."""
    positions = positions - positions.mean(axis=0)
    neighbours = np.zeros(len(positions))
    for one, other in itertools.combinations(range(len(positions)), 2):
        pair = positions[[one, other]]
        if np.linalg.norm(pair[0] - pair[1]) < BOND:
            neighbours[[one, other]] += 1
            axes.plot(*pair.T, color="gray", lw=1.5)
    colors = {"c": neighbours, "cmap": "viridis", "vmin": 0, "vmax": 12, "edgecolor": "black"}
    axes.scatter(*positions.T, s=420, depthshade=False, **colors)
    axes.set(title=title, xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), zlim=(-1.1, 1.1))
    axes.set_box_aspect((1, 1, 1), zoom=1.1)
    axes.set_axis_off()


def main() -> int:
    """Relax, compare and draw; returns 1 if the lowest energy found is another, 2 without a C compiler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"), help="the picture to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the optimiser (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        arguments.output.open("ab").close()  # now, not after all the work
    except OSError as error:
        parser.error(f"--output cannot be written: {error}")
    try:
        library()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2

    start = random_clusters(np.random.default_rng(SEED))
    end, energies = relax(start, arguments.steps)
    shape, lowest = icosahedron()
    found = float(energies[-1].min())
    same = int(np.sum(energies[-1] < lowest + 1e-3))
    print(f"{same} of {STARTS} starts end as the icosahedron")
    print(f"Lowest energy found:         {found:.6f}")
    print(f"Icosahedron by closed form:  {lowest:.6f}")
    print(f"Icosahedron by C:            {float(energy(tf.constant(shape))):.6f}")
    print(f"Lowest energy known:         {KNOWN:.6f}")

    draw(arguments.output, start, end, energies, lowest)
    print(f"Picture: {arguments.output}")
    difference = max(abs(found - lowest), abs(lowest - KNOWN))
    print(f"Found, closed form and known: {difference:.1e} apart, at most {ENERGY_BOUND:.0e} allowed")
    return 0 if difference <= ENERGY_BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
