"""Fit the Lotka-Volterra equations, solved by SciPy inside of an op, to a hundred years old pelt counts.

    du/dt = (alpha - beta v) u        u: hares
    dv/dt = (-gamma + delta u) v      v: lynxes

The counts are those of the Hudson's Bay Company, with log-normal errors. Growth rates, initial populations and the size
of the errors are found by maximum likelihood, with an optimiser of Keras, and compared with the posterior of Carpenter
(2018), "Predator-Prey Population Dynamics: the Lotka-Volterra model in Stan", a Stan case study.
"""

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from tqdm import tqdm

from tfpyop import RuleContext, differentiable_op


@contextlib.contextmanager
def without_messages() -> Iterator[None]:
    """Hide what C++ code writes to the terminal, such as TensorFlow's messages about CUDA."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # for messages after the import
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


with without_messages():
    import keras
    import tensorflow as tf

Array = NDArray[Any]

FIRST_YEAR = 1900
HARES = [30, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22, 25.4, 27.1]
HARES += [40.3, 57, 76.6, 52.3, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7]
LYNXES = [4, 6.1, 9.8, 35.2, 59.4, 41.7, 19, 13, 8.3, 9.1, 7.4]
LYNXES += [8, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7, 10.1, 8.6]
PELTS = np.array([HARES, LYNXES], np.float32).T
"""Thousands of pelts, one row for each year."""
TIMES = np.arange(len(PELTS), dtype=np.float32)
"""Years since the first."""

PUBLISHED = {"alpha": (0.55, 0.06), "beta": (0.028, 0.004), "gamma": (0.80, 0.09), "delta": (0.024, 0.004)}
"""Mean and standard deviation of the posterior."""

STEPS = 300
LEARNING_RATE = 0.05


# The op takes one set of rates and one initial state, no loop dimensions: each call is one run of the solver.
@differentiable_op(signature="(4),(2),(t)->(t,2)", vectorized=False, compute_dtype="float64")
def solve(rates: Array, initial: Array, times: Array) -> Array:
    """The populations at the given times, from their state at the first of them."""
    return integrate(growth, initial, rates, times)


@solve.numpy_gradient
def solve_gradient(op: RuleContext, cotangent: Array) -> tuple[Array, Array, Array]:
    """Integrate the derivatives of the state along with it: the sensitivity equations."""
    rates, initial, times = op.inputs
    (populations,) = op.outputs
    start = np.concatenate([initial, np.eye(2, 6, k=4).ravel()])
    sensitivities = integrate(sensitivity_growth, start, rates, times)[:, 2:].reshape(-1, 2, 6)
    by_rates, by_initial = np.split(np.einsum("ti,tij->j", cotangent, sensitivities), [4])

    # The equations do not contain the time: a later start is the same as an earlier end.
    by_times = np.sum(cotangent * growth(0.0, populations.T, *rates).T, axis=1)
    by_times[0] = -np.sum(by_times[1:])
    return by_rates, by_initial, by_times


def integrate(equations: Callable[..., Array], start: Array, rates: Array, times: Array) -> Array:
    """Solve an ordinary differential equation; one row for each time."""
    span = (times[0], times[-1])
    solution = solve_ivp(equations, span, start, method="LSODA", t_eval=times, args=rates, rtol=1e-8, atol=1e-8)
    if not solution.success:
        raise RuntimeError(solution.message)
    return solution.y.T


def growth(time: float, state: Array, alpha: float, beta: float, gamma: float, delta: float) -> Array:
    """The right-hand side of the Lotka-Volterra equations."""
    u, v = state
    return np.array([(alpha - beta * v) * u, (-gamma + delta * u) * v])


def sensitivity_growth(time: float, state: Array, *rates: float) -> Array:
    """How the state and its derivatives by the four rates and the two initial populations change."""
    alpha, beta, gamma, delta = rates
    u, v = state[:2]
    sensitivities = state[2:].reshape(2, 6)
    by_state = np.array([[alpha - beta * v, -beta * u], [delta * v, -gamma + delta * u]])
    by_unknowns = np.array([[u, -u * v, 0, 0, 0, 0], [0, 0, -v, u * v, 0, 0]])
    change = by_state @ sensitivities + by_unknowns
    return np.concatenate([growth(time, state[:2], *rates), change.ravel()])


def starting_point() -> list[tf.Variable]:
    """Logarithms of rates, initial populations and errors: all are positive, and so they stay.

    Averaged over a cycle, the populations are (gamma / delta, alpha / beta), and a small cycle takes
    2 pi / sqrt(alpha gamma). The counts have cycles of about ten years.
    """
    frequency = 2 * math.pi / 10
    mean_hares, mean_lynxes = PELTS.mean(axis=0)
    rates = [frequency, frequency / mean_lynxes, frequency, frequency / mean_hares]
    errors = [0.5, 0.5]
    return [tf.Variable(np.log(values), dtype=tf.float32) for values in (rates, PELTS[0], errors)]


def negative_log_likelihood(log_rates: tf.Tensor, log_initial: tf.Tensor, log_errors: tf.Tensor) -> tf.Tensor:
    """Of log(pelts) ~ normal(log(populations), errors), but for a constant."""
    populations = solve(tf.exp(log_rates), tf.exp(log_initial), TIMES)
    residuals = (tf.math.log(PELTS) - tf.math.log(populations)) / tf.exp(log_errors)
    return tf.reduce_sum(residuals**2 / 2 + log_errors)


def fit(steps: int, *, jit_compile: bool) -> list[Array]:
    """The most likely rates, initial populations and errors."""
    unknowns = starting_point()
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps))

    @tf.function(jit_compile=jit_compile)
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = negative_log_likelihood(*unknowns)
        optimizer.apply(tape.gradient(loss, unknowns), unknowns)
        return loss

    with tqdm(range(steps), desc="Fitting", unit="step") as progress:
        for _ in progress:
            progress.set_postfix(loss=f"{step().numpy():.3f}", refresh=False)
    return [np.exp(unknown.numpy()) for unknown in unknowns]


def compare(rates: Array) -> bool:
    """Print the rates beside the published ones; returns whether all are inside one standard deviation."""
    print("per year  fitted  published       inside")
    all_inside = True
    for (name, (mean, deviation)), rate in zip(PUBLISHED.items(), rates, strict=True):
        inside = abs(rate - mean) <= deviation
        all_inside &= inside
        print(f"{name:8}  {rate:6.4f}  {mean:5.3f} ± {deviation:5.3f}   {'yes' if inside else 'NO'}")
    return all_inside


def draw(path: Path, rates: Array, initial: Array) -> None:
    """Draw the counts and the fitted populations over the years."""
    times = np.linspace(TIMES[0], TIMES[-1], 501, dtype=np.float32)
    populations = solve(rates, initial, times).numpy()
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, color) in enumerate([("hares", "C0"), ("lynxes", "C3")]):
        axes.plot(FIRST_YEAR + times, populations[:, number], color=color, label=f"{name}, fitted")
        axes.plot(FIRST_YEAR + TIMES, PELTS[:, number], "o", color=color, label=f"{name}, counted")
    axes.set(title="Pelts of the Hudson's Bay Company and the Lotka-Volterra equations", ylabel="thousands of pelts")
    axes.set(xlabel="year", xticks=FIRST_YEAR + TIMES[::2], ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=150)


def main() -> int:
    """Fit, compare and draw; returns 1 if a rate is outside one standard deviation of the published one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"), help="the picture to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the optimiser (default: %(default)s)")
    parser.add_argument("--jit-compile", action="store_true", help="compile the steps with XLA")
    arguments = parser.parse_args()
    try:
        arguments.output.open("ab").close()  # now, not after all the work
    except OSError as error:
        parser.error(f"--output cannot be written: {error}")

    rates, initial, errors = fit(arguments.steps, jit_compile=arguments.jit_compile)
    all_inside = compare(rates)
    print(f"In {FIRST_YEAR}: {initial[0]:.1f} thousand hares and {initial[1]:.1f} thousand lynxes")
    print(f"Typical errors of the counts: {errors[0]:.0%} and {errors[1]:.0%}")

    draw(arguments.output, rates, initial)
    print(f"Picture: {arguments.output}")
    return 0 if all_inside else 1


if __name__ == "__main__":
    sys.exit(main())
