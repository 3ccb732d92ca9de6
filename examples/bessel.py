"""Bessel functions of SciPy as ops that can be differentiated to any order, compared with mpmath at 50 digits.

    J_v'(x) = (J_{v-1}(x) - J_{v+1}(x)) / 2
    K_v'(x) = -(K_{v-1}(x) + K_{v+1}(x)) / 2

The rules are these recurrences. They call the ops themselves, so what they return has a rule again.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import scipy.special
import tensorflow as tf
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from tfpyop import Op, RuleContext, differentiable_op

Array = NDArray[Any]

DIGITS = 50
BOUND = 1e-12
"""The largest relative error allowed."""
DERIVATIVES = ["value", "first", "second", "third"]
"""What is compared: the n-th derivative by x."""

# No point is near a zero of J or of its derivatives, where a relative error would say little.
POINTS = [(0.0, 0.5), (0.0, 10.0), (0.5, 2.0), (1.0, 0.01), (1.0, 3.0), (2.5, 7.0), (-1.5, 4.0), (10.5, 15.0)]
"""Pairs of order v and argument x."""
DRAWN_ORDERS = [0.0, 1.0, 2.5, 5.0]

# NumPy's ufuncs bring their signature along, here (),()->(): the order x1 and the argument x2 broadcast. A derivative
# by the order is an error, because no rule is for it.
jv: Op[..., Any] = differentiable_op(scipy.special.jv)
kv: Op[..., Any] = differentiable_op(scipy.special.kv)
FUNCTIONS = {"J": (jv, mpmath.besselj), "K": (kv, mpmath.besselk)}


@jv.jacobian(wrt="x2")
def jv_by_argument(op: RuleContext) -> tf.Tensor:
    """The recurrence for x."""
    v, x = op.inputs
    return (jv(v - 1, x) - jv(v + 1, x)) / 2


@kv.jacobian(wrt="x2")
def kv_by_argument(op: RuleContext) -> tf.Tensor:
    """The recurrence for x."""
    v, x = op.inputs
    return -(kv(v - 1, x) + kv(v + 1, x)) / 2


def derivative(op: Op[..., Any], v: tf.Tensor, x: tf.Tensor, times: int) -> tf.Tensor:
    """The function differentiated so many times by x, element by element, with one tape inside of another."""
    if times == 0:
        return op(v, x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        lower = derivative(op, v, x, times - 1)
    return tape.gradient(lower, x)


def reference(name: str, v: float, x: float, times: int) -> mpmath.mpf:
    """The same by mpmath, which takes differences at a higher precision: it does not use the recurrences."""
    _, function = FUNCTIONS[name]
    return mpmath.diff(lambda point: function(v, point), x, times)


def relative_errors(name: str) -> Array:
    """One row for each point, one column for each derivative from the zeroth on."""
    op, _ = FUNCTIONS[name]
    v, x = tf.unstack(tf.constant(POINTS, tf.float64), axis=1)
    computed = np.stack([derivative(op, v, x, times) for times in range(len(DERIVATIVES))], axis=1)
    errors = np.empty(computed.shape)
    with mpmath.workdps(DIGITS), tqdm(desc=f"{name} by mpmath", total=computed.size) as progress:
        for (row, times), value in np.ndenumerate(computed):
            exact = reference(name, *POINTS[row], times)
            errors[row, times] = abs((mpmath.mpf(float(value)) - exact) / exact)
            progress.update()
    return errors


def compare() -> float:
    """Print the relative errors of all functions at all points; returns the largest."""
    errors = {name: relative_errors(name) for name in FUNCTIONS}
    print("Relative errors of the functions and their derivatives by x")
    print("      v      x  " + "  ".join(f"{title:>8}" for title in DERIVATIVES))
    for name, rows in errors.items():
        for (v, x), row in zip(POINTS, rows, strict=True):
            print(f"{name}  {v:4.1f}  {x:5.2f}  " + "  ".join(f"{error:8.1e}" for error in row))
    return float(np.max(list(errors.values())))


def draw(path: Path) -> None:
    """Draw the functions of some orders and their derivatives."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    upper, lower = figure.subplots(2, len(DERIVATIVES))
    for times in range(len(DERIVATIVES)):
        primes = "'" * times
        draw_orders(upper[times], jv, np.linspace(0.02, 20, 600), times)
        upper[times].set(title=f"$J_v{primes}(x)$", xlabel="x", ylim=(-0.65, 1.05))
        # The derivatives of K have one sign each, plus and minus in turn.
        draw_orders(lower[times], kv, np.linspace(0.05, 5, 600), times, sign=(-1) ** times)
        lower[times].set(title=f"${'-' * (times % 2)}K_v{primes}(x)$", xlabel="x", yscale="log", ylim=(1e-3, 1e6))
    figure.legend(*upper[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle("Bessel functions of order v and their derivatives")
    figure.savefig(path, dpi=150)


def draw_orders(axes: Any, op: Op[..., Any], x: Array, times: int, *, sign: int = 1) -> None:
    """Draw one derivative, a curve for each order."""
    for v in DRAWN_ORDERS:
        curve = derivative(op, tf.constant(v, tf.float64), tf.constant(x), times)
        axes.plot(x, sign * curve, label=f"v = {v:g}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> int:
    """Compare, print and draw; returns 1 if a relative error exceeds the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"), help="the picture to write")
    arguments = parser.parse_args()
    try:
        arguments.output.open("ab").close()  # now, not after all the work
    except OSError as error:
        parser.error(f"--output cannot be written: {error}")

    largest = compare()
    print(f"Largest relative error: {largest:.1e}, at most {BOUND:.0e} allowed")

    draw(arguments.output)
    print(f"Picture: {arguments.output}")
    return 0 if largest <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
