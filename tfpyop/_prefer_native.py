"""The preference for native implementations over numpy functions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_PREFERRED: ContextVar[bool | None] = ContextVar("tfpyop_prefer_native", default=None)


@contextlib.contextmanager
def prefer_native(is_preferred: bool = True) -> Iterator[None]:
    """Run the `@op.native` implementations of ops that have them, instead of the numpy functions.

    Use this context manager to compare both, or to trace a function whose nodes are all TensorFlow's. It affects calls
    that are made or traced inside it, in this thread or task. A `tf.function` that has already been traced is
    unchanged.

    Args:
      is_preferred: Pass False to cancel the preference, also for ops created with `prefer="native"`.

    >>> import numpy as np, tensorflow as tf
    >>> from tfpyop import differentiable_op, prefer_native
    >>> square = differentiable_op(lambda x: x * x, signature="()->()")
    >>> @square.native
    ... def square_native(x):
    ...     return tf.square(x)
    >>> with prefer_native():
    ...     square(3.0).numpy()
    np.float32(9.0)
    """
    token = _PREFERRED.set(is_preferred)
    try:
        yield
    finally:
        _PREFERRED.reset(token)


def is_preferred(by_default: bool) -> bool:
    """Return whether native implementations are preferred here, for an op with this default."""
    chosen = _PREFERRED.get()
    return by_default if chosen is None else chosen
