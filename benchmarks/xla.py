"""What a host call costs in compiled code, against `tf.numpy_function` in a graph, native ops and `jax.pure_callback`.

Run with `python -m benchmarks.xla`; JAX takes part if it is installed. Everything runs in one process and takes turns,
and the medians of the ratios of neighbouring runs are printed, so that a drift of the machine cancels.
"""

import importlib.metadata
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop import differentiable_op

CHAIN = 50
ROUNDS = 25
LARGE = 16_000_000
"""Elements of an array of 64 MB."""

Run = Callable[[], Any]
Build = Callable[[int], Run]
"""From the number of calls in a chain to a compiled function of no arguments."""


@differentiable_op(signature="(),()->()")
def mod(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The remainder."""
    return x % y


@differentiable_op(signature="()->()")
def increment(x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """One more."""
    return np.add(x, 1, out=out)


X, Y = np.float32([0.3, 0.7, 1.2, 1.7]), np.float32([0.2, 0.5, 1.0, 2.9])


def tensorflow_chain(op: Callable[[Any, Any], Any], *, compiled: bool) -> Build:
    """Chains of an op in a `tf.function`."""

    def build(count: int) -> Run:
        @tf.function(autograph=False, jit_compile=compiled)
        def chain(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
            x = x + 0.0
            for _ in range(count):
                x = op(x, y)
            return x

        x, y = tf.constant(X), tf.constant(Y)
        return lambda: chain(x, y)

    return build


def by_numpy_function(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The op as TensorFlow offers it."""
    return tf.ensure_shape(tf.numpy_function(mod.numpy, [x, y], tf.float32, stateful=False), [4])


def jax_chain(count: int) -> Run:
    """A chain of `jax.pure_callback` under `jax.jit`."""
    import jax

    result = jax.ShapeDtypeStruct((4,), np.float32)

    @jax.jit
    def chain(x: Any, y: Any) -> Any:
        x = x + 0.0
        for _ in range(count):
            x = jax.pure_callback(mod.numpy, result, x, y, vmap_method="sequential")
        return x

    x, y = jax.numpy.asarray(X), jax.numpy.asarray(Y)
    return lambda: chain(x, y).block_until_ready()


def seconds(run: Run, repeat: int) -> float:
    """How long one call takes, the best of a few."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeat):
            run()
        best = min(best, (time.perf_counter() - start) / repeat)
    return best


def compare(title: str, runs: dict[str, Callable[[], float]], unit: float) -> None:
    """Print what each costs, and how many times as much as the first."""
    for run in runs.values():
        run()
    rounds = [[run() for run in runs.values()] for _ in range(ROUNDS)]
    print(f"\n{title}")
    for number, name in enumerate(runs):
        ratios = sorted(costs[0] / costs[number] for costs in rounds)
        cost = statistics.median(costs[number] for costs in rounds) / unit
        spread = f"{ratios[2]:.2f} to {ratios[-3]:.2f}"
        print(f"  {name:34}{cost:9.2f}   tfpyop / this: {statistics.median(ratios):5.2f}   {spread}")


def marginal(build: Build) -> Callable[[], float]:
    """The cost of one more call in a chain."""
    long, short = build(CHAIN + 1), build(1)
    return lambda: (seconds(long, 20) - seconds(short, 20)) / CHAIN


def added(build: Build) -> Callable[[], float]:
    """What one call adds to a compiled function."""
    one, none = build(1), build(0)
    return lambda: seconds(one, 100) - seconds(none, 100)


def main() -> None:
    """Print the versions and the three tables."""
    has_jax = importlib.util.find_spec("jax") is not None
    packages = ["tensorflow", "numpy", *(["jax"] if has_jax else [])]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"Python {platform.python_version()}, {versions}")
    chains: dict[str, Build] = {
        "tfpyop, compiled": tensorflow_chain(mod, compiled=True),
        "tf.numpy_function, graph": tensorflow_chain(by_numpy_function, compiled=False),
        "native floormod, graph": tensorflow_chain(tf.math.floormod, compiled=False),
    }
    if has_jax:
        chains["jax.pure_callback, jit"] = jax_chain
    compare("One more call in a chain, 4 floats, us", {name: marginal(build) for name, build in chains.items()}, 1e-6)
    kept = ("tfpyop, compiled", "jax.pure_callback, jit")
    alone = {name: added(build) for name, build in chains.items() if name in kept}
    compare("One call in a compiled function, added to the function without it, us", alone, 1e-6)

    array = np.random.default_rng(0).random(LARGE, np.float32)  # zeros would be one page, read again
    large = tf.constant(array)
    ours = tf.function(increment, autograph=False, jit_compile=True)
    native = tf.function(lambda x: x + 1, autograph=False, jit_compile=True)
    runs = {
        "tfpyop with out=, compiled": lambda: seconds(lambda: ours(large), 1),
        "numpy": lambda: seconds(lambda: array + 1, 1),
        "native, compiled": lambda: seconds(lambda: native(large), 1),
    }
    compare("64 MB, x + 1, ms", runs, 1e-3)


if __name__ == "__main__":
    main()
