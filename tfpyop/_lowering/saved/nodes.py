"""Saved nodes: find the ops that the nodes of a saved model refer to, without importing or running anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfpyop._lowering.autodiff.deferred_errors import deferred_for, is_deferred_error
from tfpyop._lowering.autodiff.gradient_node import ATTRIBUTE, NodeGradient
from tfpyop._lowering.traced_outputs import read_call
from tfpyop._lowering.xla.nodes import TOKEN_ATTRIBUTE
from tfpyop._registry.op_def import REGISTRY
from tfpyop._registry.token import Token


def tokens_of(meta_graph: Any) -> Iterator[Token]:
    """Iterate over the tokens of the users' ops that a graph and its functions call or differentiate."""
    for node in nodes_of(meta_graph.graph_def):
        tokens = host_tokens(node)
        if ATTRIBUTE in node.attr:
            tokens.append(Token.parse(NodeGradient.parse(node.attr[ATTRIBUTE].s).token))
        calls = [deferred_for(token) if is_deferred_error(token) else token for token in tokens]
        yield from (token for token in calls if token is not None and not REGISTRY.is_internal(token.name))


def nodes_of(graph: Any) -> Iterator[Any]:
    """Iterate over all nodes of a serialized graph and of the functions in its library."""
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        yield from nodes


def host_tokens(node: Any) -> list[Token]:
    """Return the token of the host function that a serialized node calls, in a list, or an empty list."""
    values = [node.attr[name].s for name in ("token", TOKEN_ATTRIBUTE) if name in node.attr]
    tokens = [token for token in map(Token.of_node, values) if token is not None]
    if tokens and "token" in node.attr:
        read_call(node.attr["token"].s.decode())
    return tokens
