"""Compilation: whether what is being built is for XLA."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from tfpyop.lowering._tensorflow import GraphOrParentsInXlaContext, XLAControlFlowContext


def is_compiling() -> bool:
    """Whether the current graph is one that XLA compiles."""
    return not tf.executing_eagerly() and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


@contextlib.contextmanager
def compiling(is_wanted: bool) -> Iterator[None]:
    """Build for XLA, if it is wanted, also where TensorFlow has left XLA's context to differentiate what is in it."""
    if not is_wanted or tf.executing_eagerly() or is_compiling():
        yield
        return
    context = XLAControlFlowContext()
    context.Enter()
    try:
        yield
    finally:
        context.Exit()
