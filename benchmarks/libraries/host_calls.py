"""Functions that leave reference cycles on their inputs, as ops in a graph and in a function that XLA compiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.measuring import Case, Measure, timed

_CALLS = 5
_WARMING = 4
"""Calls before those that are measured: the first ones of a compiled call show what the function keeps."""


def host_calls(name: str, function: Callable[[np.ndarray], np.ndarray]) -> Mapping[str, Case]:
    """Return the cases of one function of four numbers, without TensorFlow until one is set up."""
    return {
        f"cycles {name} graph": lambda: _measure(function, is_compiled=False),
        f"cycles {name} XLA": lambda: _measure(function, is_compiled=True),
    }


def _measure(function: Callable[[np.ndarray], Any], *, is_compiled: bool) -> Measure:
    import tensorflow as tf  # here, because the processes of other libraries measure without it

    from tfpyop import differentiable_op

    op = differentiable_op(function, signature="(n)->(n)", non_differentiable=True)
    call = tf.function(op, autograph=False, jit_compile=is_compiled)
    x = tf.constant([1.0, 2.0, 3.0, 4.0], tf.float64)
    for _ in range(_WARMING):
        call(x)
    return timed(lambda: call(x), _CALLS)
