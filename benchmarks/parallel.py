"""What a pool of processes gains for a slow function of plain Python: `python -m benchmarks.parallel`.

Prints the ratio of serial to parallel, interleaved in one run; the first calls, which start the workers, do not count.
"""

import statistics
import time

import numpy as np

from tfpyop import differentiable_op
from tfpyop.parallel import process_pool

SECONDS, BATCH, ROUNDS = 0.02, 64, 5
POOL = process_pool(2)


def busy(x):
    """Keep a core busy for a while."""
    end = time.process_time() + SECONDS
    while time.process_time() < end:
        pass
    return x


serial = differentiable_op(
    busy, signature="()->()", vectorized=False, non_differentiable=True, name="benchmarks:serial"
)
parallel = differentiable_op(
    busy, signature="()->()", vectorized=False, non_differentiable=True, executor=POOL, name="benchmarks:parallel"
)


def seconds(op):
    """How long one call takes."""
    x = np.arange(BATCH, dtype=np.float32)
    start = time.perf_counter()
    op(x)
    return time.perf_counter() - start


def main():
    """Measure and print."""
    from benchmarks.parallel import POOL, parallel, serial  # workers find the ops of this module, not of __main__

    seconds(parallel)
    ratios = [seconds(serial) / seconds(parallel) for _ in range(ROUNDS)]
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(
        f"{BATCH} calls of {SECONDS * 1e3:.0f} ms: {middle:.2f} times faster in 2 processes ({low:.2f} to {high:.2f})"
    )
    POOL.shutdown()


if __name__ == "__main__":
    main()
