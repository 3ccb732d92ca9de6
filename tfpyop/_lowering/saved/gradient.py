"""Saved gradients: find the gradient of a node that was created while a model was saved.

TensorFlow saves the gradient functions of a model's nodes, but not the gradients of the nodes in these functions. These
nodes store their gradient in an attribute, and share one gradient name in all processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfpyop._lowering.autodiff.deferred_errors import lost_gradient_vectors
from tfpyop._lowering.autodiff.gradient_node import ATTRIBUTE, SAVED, NodeGradient
from tfpyop._lowering.vectorized_map import op_of_token
from tfpyop._lowering.xla.compilation import compiling


def install() -> None:
    """Register the gradient of nodes that were created while a model was saved."""
    tf.RegisterGradient(SAVED)(_gradient)


def _gradient(node: tf.Operation | None, *cotangents: Any) -> Sequence[Any]:
    if node is None:  # a loaded model is saved again: TensorFlow calls once for all of these nodes, without a node
        return lost_gradient_vectors(cotangents)
    saved = NodeGradient.parse(node.get_attr(ATTRIBUTE))
    with compiling(saved.is_compiled):
        return saved.call(op_of_token(saved.token), node, cotangents)
