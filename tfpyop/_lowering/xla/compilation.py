"""Compilation: whether what is being built is for XLA."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import tensorflow as tf

from tfpyop._lowering._tensorflow import FuncGraph, GraphOrParentsInXlaContext, InXlaContext, XLAControlFlowContext
from tfpyop._lowering.watchdog import WATCHDOG


def is_compiling() -> bool:
    """Whether the current graph is one that XLA compiles."""
    graph = tf.compat.v1.get_default_graph()
    if tf.executing_eagerly() or not GraphOrParentsInXlaContext(graph):
        return False
    while isinstance(graph, FuncGraph) and not InXlaContext(graph):
        graph = graph.outer_graph
    if isinstance(graph, FuncGraph) or not WATCHDOG.is_calling():
        return True
    # TensorFlow leaves a thread in the context of a compiled function while that calls host functions. What these trace
    # is compiled only if they say so.
    return any(map(_is_compiled, _functions_being_traced()))


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


def is_outermost_compiled() -> bool:
    """Whether XLA compiles the current graph by itself, not as a loop, a branch or an inner function of another."""
    graph = tf.compat.v1.get_default_graph()
    if isinstance(graph, FuncGraph) and type(graph) is not FuncGraph:  # of a loop or a branch
        return False
    if not (InXlaContext(graph) or InXlaContext(graph.outer_graph)):  # TensorFlow marks either, depending on the road
        return False
    own, *outer = _functions_being_traced()  # what calls a compiled function looks like what is called by one otherwise
    is_nested = isinstance(graph.outer_graph, FuncGraph)  # and not traced by a host function, or in tf.init_scope
    return _is_compiled(own) and not (is_nested and any(map(_is_compiled, outer)))


def _functions_being_traced() -> list[Any]:
    """Each `tf.function` that this thread is tracing, the innermost first; in a host call only what that traces."""
    found: list[Any] = []
    frame: FrameType | None = sys._getframe()
    while frame is not None and not WATCHDOG.is_host_call(frame):
        function = frame.f_locals.get("self") if "self" in frame.f_code.co_varnames[:1] else None
        if isinstance(function, tf.types.experimental.PolymorphicFunction) and function not in found:
            found.append(function)
        frame = frame.f_back
    return found


def _is_compiled(function: Any) -> bool:
    return bool(getattr(function, "_jit_compile", False))
