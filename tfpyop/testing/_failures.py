"""Failures of checks, reported so that the user can act on them."""

from __future__ import annotations

from tfpyop.errors import GradientError, TfpyopError


class CheckError(TfpyopError, AssertionError):
    """A check found an error in an op.

    Args:
      problem: What is wrong, as a sentence.
      check: The name of the check, for example `check_gradient`.
      mode: The mode, if not all modes are affected.
      expected: The correct value, rendered.
      got: The actual value, rendered.
      cause: The likely cause, if it is known.
      code: Python code that shows the failure: a call, or a script that prints what was expected and what it got.
      subject: The op and its location.
    """

    def __init__(
        self,
        problem: str,
        *,
        check: str,
        mode: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        cause: str | None = None,
        code: str | None = None,
        subject: str | None = None,
    ) -> None:
        super().__init__(problem, expected=expected, got=got, subject=subject)
        self.check = check
        self.mode = mode
        self.cause = cause
        self.code = code

    def __str__(self) -> str:
        """Return the report, with the call that shows the failure at its end."""
        lines = [super().__str__(), f"  Found by: {self.check}" + (f", mode {self.mode}" if self.mode else "")]
        if self.cause is not None:
            lines.append(f"  Likely:   {self.cause}")
        if self.code is not None and "\n" in self.code:
            lines += ["  Shown by:", *(f"    {line}".rstrip() for line in self.code.splitlines())]
        elif self.code is not None:
            lines.append(f"  Shown by: {self.code}")
        return "\n".join(lines)


def is_refusal(error: Exception) -> bool:
    """Return whether an exception may mean that a function or rule has no value at a point.

    Functions and rules of users may raise any exception. Of tfpyop's own errors, only GradientError concerns a point: a
    numerical derivative is not precise there. All other errors report a violated contract, which is wrong at every
    point.
    """
    return not isinstance(error, TfpyopError) or isinstance(error, GradientError)
