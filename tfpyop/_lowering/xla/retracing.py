"""Retracing: a `tf.function` that calls ops has one trace for compiled functions and one for all other calls.

The nodes of a call and of its derivatives differ between the two traces. TensorFlow would reuse the first trace for
both.
"""

from __future__ import annotations

import logging
from typing import Any

import tensorflow as tf

from tfpyop._lowering._tensorflow import TESTED, of_graph, separate_traces_for_xla
from tfpyop._lowering.autodiff.gradient_node import is_gradient_node
from tfpyop._lowering.saved.nodes import nodes_of
from tfpyop._lowering.xla.nodes import TOKEN_ATTRIBUTE
from tfpyop._registry.token import is_own

_LOGGER = logging.getLogger("tfpyop")


def install() -> None:
    """Make `tf.function` trace functions that call ops again for XLA. Other functions are not traced again."""
    if not separate_traces_for_xla(_can_serve):
        _LOGGER.warning(
            "The function cache of TensorFlow %s differs from TensorFlow %s. A tf.function that was traced without "
            "XLA is not traced again when a compiled function calls it, and XLA refuses its PyFuncStateless nodes. "
            "Decorate the tf.function with jit_compile=True too.",
            tf.__version__,
            TESTED,
        )


def _can_serve(trace: Any) -> bool:
    """Return whether a trace is the same with and without XLA: it is compiled by itself, or calls no op."""
    attributes = trace.function_def.attr  # TensorFlow's own map, to which [] would add missing keys
    if "_XlaMustCompile" in attributes and attributes["_XlaMustCompile"].b:
        return True
    return of_graph(trace.graph, "is_neutral", lambda: not _holds_own_node(trace.graph))


def _holds_own_node(graph: tf.Graph) -> bool:
    try:
        written = graph.as_graph_def()
    except ValueError:  # above 2 GB; an unneeded trace does no harm
        return True
    return any(map(_is_own, nodes_of(written)))


def _is_own(node: Any) -> bool:
    """Return whether a node belongs to a call of an op or to its derivatives."""
    if node.op in ("PyFunc", "PyFuncStateless"):
        return is_own(node.attr["token"].s)
    return TOKEN_ATTRIBUTE in node.attr or is_gradient_node(node)
