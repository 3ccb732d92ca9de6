"""Status of failed host calls. TensorFlow and XLA keep only the kind and the text of an exception."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from tfpyop._host.function import RAISED_IN, HostFunction
from tfpyop._spec.coercion import Array
from tfpyop._spec.outputs import ArraySpecs, describe_types
from tfpyop._tracebacks import hide_package_frames
from tfpyop.errors import ContractError, describe_arrays

CANCELLED, _UNKNOWN, _INVALID_ARGUMENT, _RESOURCE_EXHAUSTED, _UNIMPLEMENTED = 1, 2, 3, 8, 12
_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (MemoryError, _RESOURCE_EXHAUSTED),
    (NotImplementedError, _UNIMPLEMENTED),
    (ValueError, _INVALID_ARGUMENT),
    (TypeError, _INVALID_ARGUMENT),
    (Exception, _UNKNOWN),
)
"""The status codes that TensorFlow uses for exceptions in tf.numpy_function, and that XLA receives."""


def failure(
    host: HostFunction,
    arrays: Sequence[Array],
    error: BaseException,
    *,
    trace: str | None = None,
    most_characters: int | None = None,
) -> Exception:
    """Return an exception with the status of a user exception, whose text names the op and the inputs.

    Args:
      host: The host function that failed.
      arrays: The inputs of the call.
      error: The exception of the user's code. Without a trace, the text has its notes too.
      trace: The traceback as text, if it would be lost otherwise.
      most_characters: Maximum length of the exception's own text. Default: unlimited.
    """
    try:
        said = str(error)
    except Exception as second:  # a user's __str__ may raise
        said = f"(its text raised {type(second).__name__})"
    said = said if most_characters is None else shortened(said, most_characters)
    called_with = describe_arrays(arrays)
    text = f"{host.subject}: the {host.what} raised {type(error).__name__}: {said}\n  Called with: {called_with}"
    if trace is None:
        text = "\n  ".join([text, *advice_of(error)])
    return _kind_of(error)(text if trace is None else f"{text}\n\n{trace}")


def advice_of(error: BaseException) -> list[str]:
    """Return the notes of an exception, except for the notes that say where it was raised."""
    notes = getattr(error, "__notes__", ())
    return [note for note in notes if isinstance(note, str) and not note.startswith(RAISED_IN)]


def user_traceback(error: BaseException, *, most_characters: int) -> str:
    """Return the traceback of an exception of a user's function as text, without the package's frames.

    Args:
      error: The exception.
      most_characters: Maximum length of each part of the text.
    """
    hide_package_frames(error)
    parts = traceback.format_exception(type(error), error, error.__traceback__)
    return "".join(shortened(part, most_characters) for part in parts)


def outputs_changed_error(subject: str, expected: ArraySpecs, got: ArraySpecs) -> ContractError:
    """Return the error for an op whose outputs differ from the outputs that the calling graph expects."""
    return ContractError(
        "the op has changed since the graph that calls it was traced.",
        subject=subject,
        expected=f"{describe_types(expected, 'outputs')}, from the graph",
        got=f"{describe_types(got, 'outputs')}, from the current op",
        remedy="Trace the function again, or save the model again with the current op. If a model needs the old op, "
        "give the new op another name.",
    )


def shortened(text: str, most_characters: int) -> str:
    """Return a text. If it is long, remove its middle."""
    if len(text) <= most_characters:
        return text
    half = most_characters // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"


def status_of(error: BaseException) -> int:
    """Return TensorFlow's status code for an exception. Exceptions that are not an `Exception` count as cancelled."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), CANCELLED)


def _kind_of(error: BaseException) -> type[Exception]:
    """Return the kind of exception with the same status. StopIteration would end a dataset without an error."""
    kind = next((kind for kind, _ in _STATUSES if isinstance(error, kind)), Exception)
    return RuntimeError if kind is Exception else kind
