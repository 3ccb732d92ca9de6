"""Compilation: find out whether the current graph is for XLA."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import tensorflow as tf

from tfpyop._lowering._tensorflow import (
    FuncGraph,
    GraphOrParentsInXlaContext,
    InXlaContext,
    XLAControlFlowContext,
    is_compiled,
)
from tfpyop._lowering.watchdog import WATCHDOG


def is_compiling() -> bool:
    """Return whether XLA compiles the current graph."""
    graph = tf.compat.v1.get_default_graph()
    if tf.executing_eagerly() or not GraphOrParentsInXlaContext(graph):
        return False
    while isinstance(graph, FuncGraph) and not InXlaContext(graph):
        graph = graph.outer_graph
    if isinstance(graph, FuncGraph) or not WATCHDOG.is_calling():
        return True
    # TensorFlow leaves a thread in the context of a compiled function while the function calls host functions.
    # Functions that a host function traces are compiled only if they request it.
    return any(map(is_compiled, _functions_being_traced()))


def compiling(is_wanted: bool) -> contextlib.AbstractContextManager[None]:
    """Build for XLA, if wanted, even where TensorFlow has left XLA's context to differentiate the nodes in it."""
    if not is_wanted or tf.executing_eagerly() or is_compiling():
        return _UNCHANGED
    return _xla_context()


_UNCHANGED = contextlib.nullcontext()


@contextlib.contextmanager
def _xla_context() -> Iterator[None]:
    context = XLAControlFlowContext()
    context.Enter()
    try:
        yield
    finally:
        context.Exit()


def is_outermost_compiled() -> bool:
    """Return whether XLA compiles the current graph by itself, not as a loop, branch or inner function."""
    graph = tf.compat.v1.get_default_graph()
    if isinstance(graph, FuncGraph) and type(graph) is not FuncGraph:  # a loop or a branch
        return False
    if not (InXlaContext(graph) or InXlaContext(graph.outer_graph)):  # TensorFlow may mark either graph
        return False
    own, *outer = _functions_being_traced()  # otherwise, callers of a compiled function look like its callees
    is_nested = isinstance(graph.outer_graph, FuncGraph)  # and not traced by a host function, or in tf.init_scope
    return is_compiled(own) and not (is_nested and any(map(is_compiled, outer)))


def _functions_being_traced() -> list[Any]:
    """Return each `tf.function` that this thread is tracing, innermost first; in a host call, only its own."""
    found: list[Any] = []
    frame: FrameType | None = sys._getframe()
    while frame is not None and not WATCHDOG.is_host_call(frame):
        function = frame.f_locals.get("self") if "self" in frame.f_code.co_varnames[:1] else None
        if isinstance(function, tf.types.experimental.PolymorphicFunction) and function not in found:
            found.append(function)
        frame = frame.f_back
    return found
