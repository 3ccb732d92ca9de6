"""Saved gradients: how TensorFlow finds the gradient of a node that was made while a model was saved.

TensorFlow saves the gradient functions of a model's nodes, but not those of the nodes in these functions. Such nodes
carry in an attribute what their gradient is, and are told by one name in all processes.
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
    """Let TensorFlow find the gradients of such nodes."""
    tf.RegisterGradient(SAVED)(_gradient)


def _gradient(node: tf.Operation | None, *cotangents: Any) -> Sequence[Any]:
    if node is None:  # a loaded model is saved again: TensorFlow asks once for all such nodes, and does not say which
        return lost_gradient_vectors(cotangents)
    saved = NodeGradient.parse(node.get_attr(ATTRIBUTE))
    with compiling(saved.is_compiled):
        return saved.call(op_of_token(saved.token), node, cotangents)
