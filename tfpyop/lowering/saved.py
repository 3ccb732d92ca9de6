"""Saved models: what their nodes call, and how TensorFlow finds the gradient of one that was made while saving.

TensorFlow saves the gradient functions of a model's nodes, but not those of the nodes in these functions. Such nodes
carry in an attribute what their gradient is, and are told by one name in all processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfpyop._token import PREFIX, Token
from tfpyop.lowering.batching import differentiable_op
from tfpyop.lowering.failures import unknown_op
from tfpyop.lowering.gradient_node import SAVED, NodeGradient
from tfpyop.lowering.refusals import refusing_lost
from tfpyop.lowering.xla import TOKEN_ATTRIBUTE, compiling


def install() -> None:
    """Let TensorFlow find the gradients of such nodes."""
    tf.RegisterGradient(SAVED)(_gradient)


def nodes_of(meta_graph: Any) -> Iterator[Any]:
    """All nodes that are written in a saved model: of the graph and of its functions."""
    graph = meta_graph.graph_def
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        yield from nodes


def host_tokens(node: Any) -> list[Token]:
    """The token of the host function that a written node calls, if it calls one."""
    texts = [node.attr[name].s.decode() for name in ("token", TOKEN_ATTRIBUTE) if name in node.attr]
    return [Token.parse(text) for text in texts if text.startswith(PREFIX)]


def _gradient(node: tf.Operation | None, *cotangents: Any) -> Sequence[Any]:
    if node is None:  # a loaded model is saved again: TensorFlow asks once for all such nodes, and does not say which
        return refusing_lost(cotangents)
    saved = NodeGradient.of(node)
    op = differentiable_op(saved.token)
    if op is None:
        raise unknown_op(saved.token).about(f"gradient of op {Token.parse(saved.token).name!r}")
    with compiling(saved.is_compiled):
        return saved.call(op, node, cotangents)
