"""Connect ops to the lowering that calls them.

The lowering needs TensorFlow, which is imported at the first call. Another module sets the function that imports it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tfpyop._registry.op_def import ConcreteOp


class Lowering(Protocol):
    """Declare the interface of the module that chooses how a call reaches TensorFlow."""

    @property
    def tf(self) -> Any:
        """TensorFlow, for rules in TensorFlow ops that tfpyop derives. They are made before TensorFlow is imported."""
        ...

    def call(self, op: ConcreteOp, leaves: Sequence[Any]) -> list[Any]:
        """Call an op with flat inputs and return its flat outputs as tensors."""
        ...

    def tracing_type(self, op: Any) -> Any:
        """Return the tracing type of an op that is an argument of a `tf.function`."""
        ...


_loaders: list[Callable[[], Lowering]] = []


def load_with(load: Callable[[], Lowering]) -> None:
    """Set the function that imports the lowering."""
    _loaders[:] = [load]


@functools.cache
def lowering() -> Lowering:
    """Return the lowering. The first call of any op imports it."""
    return _loaders[0]()


def bind(op: ConcreteOp, leaves: Sequence[Any]) -> list[Any]:
    """Call an op with flat inputs, in eager mode or in a graph, and return its flat outputs as tensors."""
    return lowering().call(op, leaves)
