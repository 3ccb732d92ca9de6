"""What `vectorized_map` and Jacobians cost with an op and with TensorFlow's fallback for `tf.numpy_function`.

Run with `python -m benchmarks.batching`. Both sides take turns, and the median of the pairwise ratios is printed, so
that a drift of the machine cancels.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfpyop import differentiable_op

ROWS = (10, 100, 1_000, 10_000)
PAIRS = 15


@differentiable_op(signature="(n)->()")
def norm(x: np.ndarray) -> np.ndarray:
    """The Euclidean norm of each row."""
    return np.sqrt((x * x).sum(-1))


def norm_by_numpy_function(x: tf.Tensor) -> tf.Tensor:
    """The same as TensorFlow offers it."""
    return tf.ensure_shape(tf.numpy_function(norm.numpy, [x], tf.float32, stateful=False), [])


def seconds(function: Callable[[tf.Tensor], tf.Tensor], rows: tf.Tensor) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function(rows).numpy()
    return time.perf_counter() - start


def main() -> None:
    """Print, for each number of rows, the cost of both and how many times less the op costs."""
    mapped = tf.function(lambda rows: tf.vectorized_map(norm, rows), autograph=False)
    fallback = tf.function(lambda rows: tf.vectorized_map(norm_by_numpy_function, rows), autograph=False)
    print(f"{'rows':>6}  {'tfpyop, ms':>10}  {'fallback, ms':>12}  {'ratio':>6}  spread")
    for count in ROWS:
        rows = tf.random.stateless_uniform([count, 8], seed=[1, 2])
        np.testing.assert_allclose(mapped(rows), fallback(rows), rtol=1e-6)
        pairs = [(seconds(mapped, rows), seconds(fallback, rows)) for _ in range(PAIRS)]
        ratios = sorted(theirs / ours for ours, theirs in pairs)
        ours, theirs = (1000 * statistics.median(side) for side in zip(*pairs, strict=True))
        spread = f"{ratios[2]:.1f} to {ratios[-3]:.1f}"
        print(f"{count:6}  {ours:10.2f}  {theirs:12.2f}  {statistics.median(ratios):6.1f}  {spread}")


if __name__ == "__main__":
    main()
