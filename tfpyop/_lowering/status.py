"""Failures of host calls as runtimes take them: of an exception, TensorFlow and XLA keep the kind and the text."""

from __future__ import annotations

from collections.abc import Sequence

from tfpyop._spec.coercion import Array
from tfpyop._spec.outputs import Types, describe_types
from tfpyop.errors import ContractError, describe_arrays

CANCELLED, _UNKNOWN, _INVALID_ARGUMENT, _RESOURCE_EXHAUSTED, _UNIMPLEMENTED = 1, 2, 3, 8, 12
_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (MemoryError, _RESOURCE_EXHAUSTED),
    (NotImplementedError, _UNIMPLEMENTED),
    (ValueError, _INVALID_ARGUMENT),
    (TypeError, _INVALID_ARGUMENT),
    (Exception, _UNKNOWN),
)
"""What TensorFlow makes of an exception of tf.numpy_function, and what XLA is told."""


def failure(
    subject: str,
    arrays: Sequence[Array],
    error: BaseException,
    *,
    traceback: str | None = None,
    most_characters: int | None = None,
) -> Exception:
    """An exception of the same status as one of a user's function, whose text says where and for which inputs.

    Args:
      subject: What failed.
      arrays: What it was called with.
      error: What it raised.
      traceback: Where, as text, if that would be lost otherwise.
      most_characters: How much of what the exception says is told. Default: all.
    """
    try:
        said = str(error)
    except Exception as second:  # an exception may refuse
        said = f"(its text raised {type(second).__name__})"
    said = said if most_characters is None else shortened(said, most_characters)
    called_with = describe_arrays(arrays)
    text = f"{subject}: the function raised {type(error).__name__}: {said}\n  Called with: {called_with}"
    return _kind_of(error)(text if traceback is None else f"{text}\n\n{traceback}")


def outputs_changed_error(subject: str, expected: Types, got: Types) -> ContractError:
    """The error where an op returns something else than the graph takes it to return that calls it."""
    return ContractError(
        "the op has changed since the graph that calls it was traced.",
        subject=subject,
        expected=f"{describe_types(expected, 'outputs')}, from the graph",
        got=f"{describe_types(got, 'outputs')}, from the current op",
        remedy="Trace the function again, or save the model again with the current op. If a model needs the old op, "
        "give the new op another name.",
    )


def shortened(text: str, most_characters: int) -> str:
    """A text without its middle if it is long."""
    if len(text) <= most_characters:
        return text
    half = most_characters // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"


def status_of(error: BaseException) -> int:
    """The number of the status that TensorFlow gives an exception; what is not an Exception is a wish to stop."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), CANCELLED)


def _kind_of(error: BaseException) -> type[Exception]:
    """The kind of exception with the same status. StopIteration would end a dataset in silence."""
    kind = next((kind for kind, _ in _STATUSES if isinstance(error, kind)), Exception)
    return RuntimeError if kind is Exception else kind
