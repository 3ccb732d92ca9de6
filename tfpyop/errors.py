"""Define every exception that tfpyop raises, and render all error messages.

Code inside the library states the facts: the problem, the expected value, the actual value and the remedy. The layer
that knows the op sets `subject` once. No other code formats errors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

Shape = tuple[int | None, ...]
"""A shape. None stands for an unknown size."""


class TfpyopError(Exception):
    """Provide the base class of all tfpyop errors.

    Args:
      problem: The problem, as a sentence.
      expected: The correct value, rendered.
      got: The actual value, rendered.
      remedy: What the user can do, as an instruction.
      subject: The op and where it was defined. Usually the layer that knows the op sets it.
    """

    ag_pass_through = True  # keeps AutoGraph from replacing the exception with its own

    def __init__(
        self,
        problem: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        remedy: str | None = None,
        subject: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.expected = expected
        self.got = got
        self.remedy = remedy
        self.subject = subject

    def with_subject(self, subject: str) -> TfpyopError:
        """Set the subject unless an inner layer has set it, and return this error."""
        self.subject = self.subject or subject
        return self

    @property
    def args(self) -> tuple[str]:  # type: ignore[override]  # Keras creates exceptions again from args alone
        """The rendered report, for code that reads `args` of exceptions."""
        return (str(self),)

    def __str__(self) -> str:
        """Render the report: subject and problem, then Expected, Got and the remedy on separate lines."""
        lines = [self.problem if self.subject is None else f"{self.subject}: {self.problem}"]
        if self.expected is not None:
            lines.append(f"  Expected: {self.expected}")
        if self.got is not None:
            lines.append(f"  Got:      {self.got}")
        if self.remedy is not None:
            lines.append(f"  {self.remedy}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Return the exception type and the report as text."""
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle all fields, so that an error reaches another process complete."""
        return _rebuild, (type(self), dict(vars(self)))


class naming:  # noqa: N801 - used like a function, in a with statement
    """Set the subject of tfpyop errors that are raised in a block, unless an inner layer has set it."""

    def __init__(self, subject: str) -> None:
        self._subject = subject

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Set the subject. The error keeps its cause and its traceback."""
        if isinstance(error, TfpyopError):
            error.with_subject(self._subject)


class SignatureError(TfpyopError, ValueError):
    """Report a signature that cannot be parsed, or inputs that do not match the signature."""


class CoercionError(TfpyopError, TypeError):
    """Report a value that does not have the required dtype and cannot be converted to it."""


class ContractError(TfpyopError, ValueError):
    """Report a function or rule that returned something other than its declaration requires."""


class GradientError(TfpyopError, ValueError):
    """Report a requested derivative that is not defined or not reliable."""


class RegistrationError(TfpyopError, ValueError):
    """Report an op that cannot be defined, named or found."""


class UnsupportedError(TfpyopError, NotImplementedError):
    """Report a valid call that is not possible in this context or version."""


class WorkerError(TfpyopError, RuntimeError):
    """Report that workers cannot run the examples of a function: a worker terminated, timed out, or found no space."""


class ExportWarning(UserWarning):
    """Warn that a saved model cannot run in any other process."""


def message_of(error: BaseException) -> str:
    """Return the text of an exception; an empty string if the exception's own code raises."""
    with contextlib.suppress(Exception):  # the exception's own code runs
        return str(error)
    return ""


def shown(value: Any) -> str:
    """Render a value in at most 80 characters, even if its `repr` raises."""
    with contextlib.suppress(Exception):
        return f"{value!r:.80}"
    return "a value whose repr() raises"


def annotate(error: BaseException, note: str) -> None:
    """Add a note to an exception from other code, if it is not there yet, and let AutoGraph pass it on unchanged."""
    if hasattr(error, "add_note") and note not in getattr(error, "__notes__", ()):  # Python 3.11 or later
        error.add_note(note)
        with contextlib.suppress(Exception):  # an exception may reject attributes
            error.ag_pass_through = True  # type: ignore[attr-defined]  # AutoGraph would make a copy without notes


def describe(dtype: np.dtype[Any] | str, shape: Sequence[int | None] | None) -> str:
    """Render a dtype and shape as `float32[?, 3]`, with `...` for an unknown rank."""
    name = "string" if isinstance(dtype, np.dtype) and dtype.kind in "OSU" else str(dtype)
    if shape is None:
        return f"{name}[...]"
    return f"{name}{describe_shape(shape)}"


def describe_shape(shape: Sequence[int | None] | None) -> str:
    """Render a shape as `[?, 3]`, with `[...]` for an unknown rank."""
    if shape is None:
        return "[...]"
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def describe_arrays(arrays: Iterable[np.ndarray[Any, Any]]) -> str:
    """Render dtypes and shapes of arrays as one comma-separated line."""
    return ", ".join(describe(array.dtype, array.shape) for array in arrays) or "no inputs"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint with the known names nearest to an unknown name, or with the first known names if none is near."""
    known = sorted(known)
    close = get_close_matches(name, known, n=3)
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    return f"Known: {', '.join(map(repr, known[:8])) or 'none'}."


def describe_kind(value: Any) -> str:
    """Return the name of a value's type with its article: `a list`, `an int`."""
    return with_article(type(value).__name__)


def with_article(name: str) -> str:
    """Return a noun with its article: `a list`, `an int`."""
    return f"{'an' if name[0] in 'aeiouAEIO' or name == 'ndarray' else 'a'} {name}"


def _rebuild(kind: type[TfpyopError], fields: dict[str, Any]) -> TfpyopError:
    error = kind.__new__(kind)
    vars(error).update(fields)
    return error
