"""Bind: the one way from an op to the lowering that calls it.

The lowering needs TensorFlow, which is imported with the first call: whoever can import it says how.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tfpyop._registry.op_def import ConcreteOp


class Lowering(Protocol):
    """The module that picks the way in which a call reaches TensorFlow."""

    def call(self, op: ConcreteOp, leaves: Sequence[Any]) -> list[Any]:
        """Call an op with flat inputs; return its flat outputs as tensors."""
        ...

    def tracing_type(self, op: Any) -> Any:
        """Return what `tf.function` knows an op among its arguments by."""
        ...


_loaders: list[Callable[[], Lowering]] = []


def load_with(load: Callable[[], Lowering]) -> None:
    """Set the function that imports the lowering."""
    _loaders[:] = [load]


@functools.cache
def lowering() -> Lowering:
    """Return the lowering, imported with the first call of any op."""
    return _loaders[0]()


def bind(op: ConcreteOp, leaves: Sequence[Any]) -> list[Any]:
    """Call an op with flat inputs in whatever context this is; return its flat outputs as tensors."""
    return lowering().call(op, leaves)
