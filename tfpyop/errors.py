"""Every exception tfpyop raises, and the one way their messages are rendered.

Code inside the library states a fact: what is wrong, what was expected, what came, what to do. The layer
that knows the op names it once, by setting `subject`. No other code formats errors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

Shape = tuple[int | None, ...]
"""A shape with None for a dimension that is not known yet."""


class TfpyopError(Exception):
    """The base class of all errors of tfpyop.

    Args:
      problem: What is wrong, as a sentence.
      expected: The correct value, rendered.
      got: The actual value, rendered.
      remedy: What the user can do.
      subject: The op and where it was made; usually set by the layer that knows it.
    """

    ag_pass_through = True  # AutoGraph's mark for exceptions it must not replace by one of its own

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

    def about(self, subject: str) -> TfpyopError:
        """Set the subject unless an inner layer has set it, and return this error."""
        self.subject = self.subject or subject
        return self

    @property
    def args(self) -> tuple[str]:  # type: ignore[override]  # Keras makes exceptions anew from it, and from it alone
        """The rendered report, for code that reads exceptions by their arguments."""
        return (str(self),)

    def __str__(self) -> str:
        """Render the report: subject and problem, then Expected, Got and the remedy on lines of their own."""
        lines = [self.problem if self.subject is None else f"{self.subject}: {self.problem}"]
        if self.expected is not None:
            lines.append(f"  Expected: {self.expected}")
        if self.got is not None:
            lines.append(f"  Got:      {self.got}")
        if self.remedy is not None:
            lines.append(f"  {self.remedy}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        """The kind and the report."""
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by value, so that an error crosses a process boundary whole."""
        return _rebuild, (type(self), self.problem, self.expected, self.got, self.remedy, self.subject)


class SignatureError(TfpyopError, ValueError):
    """A signature cannot be read, or the inputs of a call do not fit it."""


class CoercionError(TfpyopError, TypeError):
    """A value does not have, and cannot be given, the dtype the rules ask for."""


class ContractError(TfpyopError, ValueError):
    """A function or rule returned something other than what was promised."""


class GradientError(TfpyopError, ValueError):
    """A requested derivative is not defined."""


class RegistrationError(TfpyopError, ValueError):
    """An op cannot be made, named or found as asked."""


class UnsupportedError(TfpyopError, NotImplementedError):
    """The call is understood, but not possible in this context or version."""


class WorkerError(TfpyopError, RuntimeError):
    """Workers cannot run the examples of a function: a worker terminated, timed out, or found no space."""


class ExportWarning(UserWarning):
    """The saved model cannot run in any other process."""


def text_of(error: BaseException) -> str:
    """Return the text of an exception, or an empty string if its own code raises."""
    with contextlib.suppress(Exception):  # its own code runs
        return str(error)
    return ""


def shown(value: Any) -> str:
    """Render a value in at most 80 characters, also if it refuses to be rendered."""
    with contextlib.suppress(Exception):
        return f"{value!r:.80}"
    return "a value whose repr() raises"


def annotate(error: BaseException, note: str) -> None:
    """Add a note to an exception from other code, once, and let AutoGraph pass it on unchanged."""
    if hasattr(error, "add_note") and note not in getattr(error, "__notes__", ()):  # Python 3.11
        error.add_note(note)
        with contextlib.suppress(Exception):  # an exception may refuse
            error.ag_pass_through = True  # type: ignore[attr-defined]  # AutoGraph would make a new one, without notes


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
    """Say which known names come nearest to a wrong one, or which there are at all."""
    known = sorted(known)
    close = get_close_matches(name, known, n=3)
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    return f"Known: {', '.join(map(repr, known[:8])) or 'none'}."


def describe_kind(value: Any) -> str:
    """Render the type of a value with its article: `a list`, `an int`."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIO' or name == 'ndarray' else 'a'} {name}"


def _rebuild(
    kind: type[TfpyopError],
    problem: str,
    expected: str | None,
    got: str | None,
    remedy: str | None,
    subject: str | None,
) -> TfpyopError:
    return kind(problem, expected=expected, got=got, remedy=remedy, subject=subject)
