"""Failures: what a check found wrong, as a report that a person can act on."""

from __future__ import annotations

from tfpyop.errors import GradientError, TfpyopError


class CheckError(TfpyopError, AssertionError):
    """A check found an op to be wrong.

    Args:
      problem: What is wrong, as a sentence.
      check: Which check, as `check_gradient`.
      mode: In which mode, if it is not wrong in all.
      expected: What would have been right, rendered.
      got: What came instead.
      cause: The likely cause, if it can be told.
      code: A call that shows it, as Python code.
      subject: The op and where it was made.
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
        """Render the report, with the call that shows the failure at its end."""
        lines = [super().__str__(), f"  Found by: {self.check}" + (f", mode {self.mode}" if self.mode else "")]
        if self.cause is not None:
            lines.append(f"  Likely:   {self.cause}")
        if self.code is not None:
            lines.append(f"  Shown by: {self.code}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by value, so that a failure crosses a process boundary whole."""
        return _rebuild, (
            self.problem,
            {
                "check": self.check,
                "mode": self.mode,
                "expected": self.expected,
                "got": self.got,
                "cause": self.cause,
                "code": self.code,
                "subject": self.subject,
            },
        )


def is_refusal(error: Exception) -> bool:
    """Whether an exception may say that a function or rule has no value at a point.

    Functions and rules of users raise whatever they like. Of our own errors only GradientError speaks of a point: a
    numerical derivative is not credible there. The others say that a contract is broken, which is wrong at any point.
    """
    return not isinstance(error, TfpyopError) or isinstance(error, GradientError)


def _rebuild(problem: str, fields: dict[str, str]) -> CheckError:
    return CheckError(problem, **fields)
