"""How calls grow with threads, processes and traces."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from benchmarks.libraries.common import WORKERS, X, Y
from benchmarks.libraries.tensorflow_cases import OPS
from benchmarks.measuring import Case, Measure, timed
from tfpyop import differentiable_op
from tfpyop.parallel import process_pool

CALLS = 8
_SECONDS, _EXAMPLES = 0.02, 64
_TRACES = 1000
_POOLS = {workers: process_pool(workers) for workers in WORKERS}


@differentiable_op(signature="(n)->(n)", non_differentiable=True)
def in_order(x: np.ndarray) -> np.ndarray:
    """Numpy sorts in one thread, and lets go of the interpreter's lock."""
    return np.sort(x)


def busy(x: np.ndarray) -> np.ndarray:
    """Keep a core busy for 20 ms."""
    end = time.process_time() + _SECONDS
    while time.process_time() < end:
        pass
    return x


def _busy_in(name: str, **options: object) -> Callable[..., tf.Tensor]:
    return differentiable_op(
        busy, signature="()->()", vectorized=False, non_differentiable=True, name=f"benchmarks:{name}", **options
    )


busy_here = _busy_in("busy_here")
busy_in_1 = _busy_in("busy_in_1", executor=_POOLS[1])
busy_in_2 = _busy_in("busy_in_2", executor=_POOLS[2])


def cases() -> Mapping[str, Case]:
    """All cases, by name."""
    numbers = tf.random.stateless_uniform([300_000], seed=[1, 2])
    array = numbers.numpy()
    return {
        **{f"threads {n} tfpyop": _threads(lambda: in_order(numbers), n) for n in WORKERS},
        **{f"threads {n} numpy": _threads(lambda: in_order.numpy(array), n) for n in WORKERS},
        "processes 0": lambda: _processes(busy_here),
        "processes 1": lambda: _processes(busy_in_1),
        "processes 2": lambda: _processes(busy_in_2),
        **{f"retrace {name}": _retrace(OPS[name]) for name in ("tfpyop", "native", "numpy_function", "recipe")},
    }


def _threads(call: Callable[[], object], count: int) -> Case:
    def case() -> Measure:
        pool = ThreadPoolExecutor(count)
        return timed(lambda: list(pool.map(lambda _: call(), range(CALLS))), 1)

    return case


def _processes(op: Callable[..., tf.Tensor]) -> Measure:
    x = np.arange(_EXAMPLES, dtype=np.float32)
    op(x)  # starts the workers

    def measure() -> float:
        start = time.perf_counter()
        op(x)
        return time.perf_counter() - start

    return measure


def _retrace(op: Callable[..., tf.Tensor]) -> Case:
    """Measures by how many bytes a trace that nobody keeps lets the process grow."""

    def trace(count: int) -> int:
        for _ in range(count):
            tf.function(lambda x, y: op(x, y), autograph=False)(tf.constant(X), tf.constant(Y))
        gc.collect()
        return _resident()

    def measure() -> float:
        before = trace(0)
        return (trace(_TRACES) - before) / _TRACES

    def case() -> Measure:
        trace(2 * _TRACES)  # what TensorFlow keeps once
        return measure

    return case


def _resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
