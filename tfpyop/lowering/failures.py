"""Failures of host calls as runtimes take them: of an exception, TensorFlow and XLA keep the kind and the text."""

from __future__ import annotations

from collections.abc import Sequence

from tfpyop._coercion import Array
from tfpyop._registry import split_token
from tfpyop.errors import UnsupportedError, describe_arrays


def failure(subject: str, arrays: Sequence[Array], error: BaseException, more: str = "") -> Exception:
    """An exception of the same status as one of a user's function, whose text says where and for which inputs."""
    try:
        said = str(error)
    except Exception as second:  # an exception may refuse
        said = f"(its text raised {type(second).__name__})"
    called_with = describe_arrays(arrays)
    text = f"{subject}: the function raised {type(error).__name__}: {said}\n  Called with: {called_with}"
    return _same_status(error)(f"{text}\n\n{more}" if more else text)


def unknown_op(token: str) -> UnsupportedError:
    """The error for a token that no op of this process has."""
    name, _ = split_token(token)
    return UnsupportedError(
        "it is not known in this process.",
        subject=f"op {name!r}",
        remedy=f"Import the module that defines it ({name.partition(':')[0]!r}?) before the graph runs. Names with '#' "
        "are of local functions, which exist in one process only.",
    )


def _same_status(error: BaseException) -> type[Exception]:
    """The kind of exception that TensorFlow maps to the same status. StopIteration would end a dataset in silence."""
    kinds: tuple[type[Exception], ...] = (ValueError, TypeError, MemoryError, NotImplementedError)
    return next((kind for kind in kinds if isinstance(error, kind)), RuntimeError)
