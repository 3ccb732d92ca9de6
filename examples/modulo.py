"""The remainder `x % y` of numpy as a differentiable op: in a TF 1 graph with a Session, eagerly, in tf.function.

TensorFlow has this operation already, which makes it a good first example: three ways to run the op, one result.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tfpyop import RuleContext, differentiable_op

Array = NDArray[Any]

X = np.array([0.3, 0.7, 1.2, 1.7], np.float32)
Y = np.array([0.2, 0.5, 1.0, 2.9], np.float32)
EXPECTED = {
    "z": [0.1, 0.2, 0.2, 1.7],
    "dz/dx": [1.0, 1.0, 1.0, 1.0],
    "dz/dy": [-1.0, -1.0, -1.0, 0.0],
}


@differentiable_op(signature="(),()->()")
def mod(x: Array, y: Array) -> Array:
    """The remainder of the division of x by y, element by element."""
    return x % y


@mod.gradient
def mod_gradient(op: RuleContext, grad: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """As x % y = x - y floor(x / y), and the floor is constant between its jumps."""
    x, y = op.inputs
    return grad, -grad * tf.math.floordiv(x, y)


def in_session() -> list[Array]:
    """The remainder and its derivatives from a TF 1 graph."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x, y = tf.constant(X), tf.constant(Y)
        z = mod(x, y)
        return session.run([z, *tf.gradients(z, [x, y])])


def with_tape(x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
    """The remainder and its derivatives from a GradientTape."""
    with tf.GradientTape() as tape:
        tape.watch([x, y])
        z = mod(x, y)
    return [z, *tape.gradient(z, [x, y])]


def eagerly() -> list[Array]:
    """The remainder and its derivatives, each operation run as it is called."""
    return [tensor.numpy() for tensor in with_tape(tf.constant(X), tf.constant(Y))]


def in_function() -> list[Array]:
    """The remainder and its derivatives from a graph that tf.function traces."""
    return [tensor.numpy() for tensor in tf.function(with_tape)(tf.constant(X), tf.constant(Y))]


def draw(path: Path, *, y: float = 1.0) -> None:
    """Draw the remainder and its derivatives over x."""
    x = np.linspace(0.0, 4.0 * y, 800, endpoint=False, dtype=np.float32)
    z, by_x, by_y = with_tape(tf.constant(x), tf.fill(x.shape, y))
    jumps = np.flatnonzero(np.diff(by_y)) + 1

    figure = Figure(figsize=(7, 5), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    upper.plot(*broken_at(jumps, x, z), color="C0")
    upper.set(title=f"The remainder of x / y and its derivatives, for y = {y:g}", ylabel="z = x mod y")
    lower.plot(*broken_at(jumps, x, by_x), color="C1", label="dz/dx")
    lower.plot(*broken_at(jumps, x, by_y), color="C2", label="dz/dy")
    lower.set(xlabel="x", ylabel="derivative")
    lower.legend()
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def broken_at(jumps: Array, *curve: Array) -> list[Array]:
    """The coordinates of a curve with a gap at each jump, so that no line is drawn across."""
    return [np.insert(coordinate, jumps, np.nan) for coordinate in curve]


def show(values: Array) -> str:
    """Four digits of each number; adding zero turns -0 into 0."""
    return "[" + ", ".join(f"{value + 0.0:.4g}" for value in values) + "]"


def main() -> None:
    """Compute in three ways, print, draw, and check; a wrong number raises an AssertionError."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"), help="the picture to write")
    arguments = parser.parse_args()
    try:
        arguments.output.open("ab").close()  # now, not after all the work
    except OSError as error:
        parser.error(f"--output cannot be written: {error}")

    ways: dict[str, Callable[[], list[Array]]] = {
        "TF 1 graph and Session": in_session,
        "eagerly": eagerly,
        "tf.function": in_function,
    }
    results = {title: way() for title, way in ways.items()}
    for title, result in results.items():
        print(title)
        for name, values in zip(EXPECTED, result, strict=True):
            print(f"  {name:5} = {show(values)}")

    draw(arguments.output)
    print(f"Picture: {arguments.output}")

    for title, result in results.items():
        np.testing.assert_allclose(result, list(EXPECTED.values()), rtol=1e-6, atol=1e-6, err_msg=title)
    print("All three agree with the expected numbers.")


if __name__ == "__main__":
    main()
