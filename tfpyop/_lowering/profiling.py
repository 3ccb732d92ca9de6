"""Profiling: host calls as events in TensorFlow's profiler."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfpyop._host.function import HostFunction, Plan
from tfpyop._lowering._tensorflow import is_profiling
from tfpyop._spec.coercion import Array


def run_host(host: HostFunction, plan: Plan, views: Sequence[Array], out: Sequence[Array] | None = None) -> list[Array]:
    """Run a host function as `HostFunction.run` does, as a profiler event with the name of its op."""
    if not is_profiling():
        return host.run(plan, views, out)
    with tf.profiler.experimental.Trace(host.subject):
        return host.run(plan, views, out)
