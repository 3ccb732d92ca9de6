"""Saved nodes: which ops the nodes of a saved model stand for. Nothing is imported or run to find out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tfpyop._token import PREFIX, Token
from tfpyop.lowering.gradient_node import ATTRIBUTE
from tfpyop.lowering.refusals import is_refusal, refused
from tfpyop.lowering.xla import TOKEN_ATTRIBUTE


def tokens_of(meta_graph: Any) -> Iterator[Token]:
    """The ops that are called in a graph and its functions, or whose gradients are."""
    for node in nodes_of(meta_graph.graph_def):
        tokens = host_tokens(node)
        if ATTRIBUTE in node.attr:
            tokens.append(Token.parse(json.loads(node.attr[ATTRIBUTE].s)["token"]))
        calls = [refused(token) if is_refusal(token) else token for token in tokens]
        yield from (token for token in calls if token is not None)


def nodes_of(graph: Any) -> Iterator[Any]:
    """All nodes of a written graph and of the functions that it calls."""
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        yield from nodes


def host_tokens(node: Any) -> list[Token]:
    """The token of the host function that a written node calls, if it calls one."""
    texts = [node.attr[name].s.decode() for name in ("token", TOKEN_ATTRIBUTE) if name in node.attr]
    return [Token.parse(text) for text in texts if text.startswith(PREFIX)]
