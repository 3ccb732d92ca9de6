"""The check runner: judge and count examples, and report the outcome."""

from __future__ import annotations

import contextlib
import contextvars
import time
import traceback
import unittest
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, Protocol, TypeVar

import hypothesis
import numpy as np
from hypothesis.errors import Unsatisfiable, UnsatisfiedAssumption

from tfpyop import Op
from tfpyop.errors import UnsupportedError
from tfpyop.testing._check_scripts import check_script
from tfpyop.testing._diagnosis import cause_of_exception
from tfpyop.testing._drawn import Drawn, NotTested
from tfpyop.testing._events import record_shapes, reject_example
from tfpyop.testing._examples import Arguments, Rows
from tfpyop.testing._failures import CheckError, is_refusal
from tfpyop.testing._ops import is_unbound_method, spec_of, subject_of
from tfpyop.testing._validation import require_arguments, require_count, require_seed

ExampleT = TypeVar("ExampleT", Arguments, Rows)
"""The type of an example that a strategy draws and a report shows as code."""

KEEPS_STATE = "the function keeps state or draws random numbers: declare stateful=True"
"""The cause of different results for the same inputs."""
_MOST_REJECTED = 0.9
"""The largest ratio of rejected examples for which a check is conclusive."""
_ENOUGH = 10
"""Number of judged examples from which a check is conclusive, however many examples the function refused."""
_HOPELESS = 30
"""Number of inapplicable examples after which a run without a judged example stops."""
_MOST_REFUSED = 90
"""Number of refused examples after which a run without a judged example stops."""
_THOROUGH = 10
"""Factor of the default number of examples in a thorough check."""
_MOST_LINES = 16
"""Maximum number of lines of an exception in a report. TensorFlow lists every frame of a trace."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one check of one op.

    Attributes:
      check: The name of the check.
      op: The name of the op.
      status: Whether the check passed, failed or was skipped.
      n_examples: Number of judged examples, in all modes together. Not counted if the check failed.
      n_rejected: Number of rejected examples, for example at points where the function is not smooth.
      reason: The reason why the check was skipped, or why it proves less than usual.
      failure: The failure, if the check failed.
      seconds: Duration of the check in seconds.
      drawn: What the examples contained. Empty if the check failed.
      not_tested: What the examples of this check did not contain.
    """

    check: str
    op: str
    status: Literal["passed", "failed", "skipped"]
    n_examples: int = 0
    n_rejected: int = 0
    reason: str | None = None
    failure: CheckError | None = None
    seconds: float = 0.0
    drawn: Drawn = field(default_factory=Drawn)
    not_tested: tuple[NotTested, ...] = ()


_IS_QUICK = contextvars.ContextVar("is_quick", default=False)
_IS_THOROUGH = contextvars.ContextVar("is_thorough", default=False)


def is_quick() -> bool:
    """Return whether the first failure is enough, without a diagnosis."""
    return _IS_QUICK.get()


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Report the first failure that is found, without stored examples and without a search for a simpler one."""
    token = _IS_QUICK.set(True)
    try:
        yield
    finally:
        _IS_QUICK.reset(token)


@contextlib.contextmanager
def thoroughly(is_thorough: bool = True) -> Iterator[None]:
    """Draw ten times as many examples, and search for larger errors near the examples with the largest errors.

    Args:
      is_thorough: Whether to do so.
    """
    token = _IS_THOROUGH.set(is_thorough)
    try:
        yield
    finally:
        _IS_THOROUGH.reset(token)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Suppress numpy's warnings for examples at the edge of a domain, in all threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


class Script(Protocol):
    """A script that shows a failure."""

    def code(self, op: Op[..., Any], arguments: Arguments) -> str | None:
        """Return the script for a call; None if it cannot be written for this call."""


class CheckRunner:
    """Judge the examples of one check of one op: count them, and turn exceptions into failures with the example.

    Args:
      op: The op.
      check: The name of the check.
      max_examples: Number of examples to judge. Default: `usual`.
      seed: Seed that makes every run draw the same examples. Default: runs differ.
      usual: Default number of examples if they are slow. Default: set by the current Hypothesis profile.
    """

    def __init__(
        self, op: Op[..., Any], check: str, *, max_examples: int | None, seed: int | None, usual: int | None = None
    ) -> None:
        self._subject = subject_of(op)
        if is_unbound_method(op):
            raise UnsupportedError(
                "the op is an unbound method.",
                subject=self._subject,
                remedy="Check the op of an instance: check_op(instance.method).",
            )
        require_count(op, max_examples)
        require_seed(op, seed)
        self._op = op
        self._check = check
        self._max_examples, self._default = max_examples, usual
        self._seed = seed
        self._n_examples = self._n_rejected = self._n_refused = self._n_pointless = 0
        self._drawn = Drawn()
        self._example: Arguments | None = None
        self._ratios: dict[str, float] = {}
        self._pointless: str | None = None
        self._refusal: Exception | None = None
        self._start = time.perf_counter()

    @property
    def op(self) -> Op[..., Any]:
        """The op."""
        return self._op

    @property
    def title(self) -> str:
        """The names of the op and the check."""
        return f"{self._op.name} {self._check}"

    @property
    def max_examples(self) -> int | None:
        """Number of examples to judge. None for the number in Hypothesis' profile."""
        if self._max_examples is not None or not _IS_THOROUGH.get():
            return self._default if self._max_examples is None else self._max_examples
        return _THOROUGH * (hypothesis.settings().max_examples if self._default is None else self._default)

    @property
    def seed(self) -> int | None:
        """The seed that makes every run draw the same examples."""
        return self._seed

    def judge(self, example: ExampleT, body: Callable[[ExampleT], None]) -> None:
        """Judge one example.

        Args:
          example: The arguments of one call, or of several calls.
          body: The check of one example.

        Raises:
          CheckError: The body raised an error. The failure contains code that shows it.
        """
        for row in example.arguments if isinstance(example, Rows) else [example]:
            require_arguments(self._op, row)
            record_shapes(row)
            self._drawn = self._drawn.joined(Drawn.of(self._op, row))
        self._n_examples += 1
        self._ratios.clear()
        with self.named(example):
            body(example)
        if _IS_THOROUGH.get() and hypothesis.currently_in_test_context():
            for label, ratio in self._ratios.items():
                hypothesis.target(ratio, label=label)

    def judge_all(self, examples: Sequence[ExampleT], body: Callable[[ExampleT], None], *, most_seconds: float) -> None:
        """Judge some examples in addition to the examples of a property, until the first failure.

        Args:
          examples: The examples.
          body: The check of one example.
          most_seconds: The time after which no further example is judged.

        Raises:
          CheckError: The body raised this failure twice for an example.
        """
        end = time.perf_counter() + most_seconds
        with quietly():
            for example in examples:
                if time.perf_counter() > end:
                    break
                with contextlib.suppress(UnsatisfiedAssumption, _HopelessError):
                    try:
                        self.judge(example, body)
                    except CheckError as failure:
                        self._judge_again(example, body)
                        raise self._unstable() from failure

    def _judge_again(self, example: ExampleT, body: Callable[[ExampleT], None]) -> None:
        with contextlib.suppress(UnsatisfiedAssumption, _HopelessError):
            self.judge(example, body)

    @contextlib.contextmanager
    def judging(self) -> Iterator[None]:
        """Let Hypothesis judge the examples of a property, and require that enough examples were judged."""
        before = (self._n_examples, self._n_rejected, self._n_refused, self._n_pointless)
        with contextlib.suppress(Unsatisfiable, _HopelessError), quietly():  # too many rejected: reported below
            try:
                yield
            except hypothesis.errors.Flaky as error:
                raise self._unstable() from error
        after = (self._n_examples, self._n_rejected, self._n_refused, self._n_pointless)
        self._require_enough(*(now - then for now, then in zip(after, before, strict=True)))

    def _unstable(self) -> CheckError:
        return self.failure(
            "an example failed once, but not when it was run again.",
            got="different results for the same inputs",
            cause=KEEPS_STATE,
        )

    def script_of(self, *calls: Arguments, mode: str | None = None) -> str:
        """Return a script that runs the check on these calls alone."""
        return check_script(self._op, self._check, Rows(calls), mode)

    def aim_at(self, ratio: float, what: str) -> None:
        """Note an error at an example, which a thorough check tries to increase.

        Args:
          ratio: The error over the tolerance. Only finite numbers count.
          what: What has the error. The largest error of each at an example counts.
        """
        if np.isfinite(ratio):
            self._ratios[what] = max(float(ratio), self._ratios.get(what, 0.0))

    @property
    def refusal(self) -> Exception | None:
        """The last exception with which the function refused an example."""
        return self._refusal

    @property
    def has_judged(self) -> bool:
        """Whether an example was judged."""
        return self._n_examples > self._n_rejected

    def passed(self, reason: str | None = None) -> Outcome:
        """Return the outcome of a check without failures. The check is skipped if it did not apply to any example.

        Args:
          reason: The reason why the check proves less than usual.
        """
        if self._pointless is not None and self._n_rejected == self._n_examples:
            return self.skipped(self._pointless)
        return Outcome(
            self._check,
            self._op.name,
            "passed",
            self._n_examples - self._n_rejected,
            self._n_rejected,
            reason,
            seconds=time.perf_counter() - self._start,
            drawn=self._drawn,
            not_tested=tuple(self._drawn.not_tested(self._op)),
        )

    def skipped(self, reason: str) -> Outcome:
        """Return the outcome of a check that does not apply."""
        return Outcome(self._check, self._op.name, "skipped", reason=reason)

    def failure(self, problem: str, *, script: Script | None = None, **details: Any) -> CheckError:
        """Return a failure of this check.

        Args:
          problem: What is wrong, as a sentence.
          script: The script that shows it for the current example. Default: a script that runs the check.
          **details: Further details of the failure.
        """
        if script is not None and self._example is not None and not is_quick():
            details["code"] = script.code(self._op, self._example)
        return CheckError(problem, check=self._check, subject=self._subject, **details)

    def reject(self, error: Exception) -> NoReturn:
        """Reject an example that the function itself refuses; raise the error if it is not a refusal."""
        if not is_refusal(error):
            raise error
        self._refusal = error
        self._n_refused += 1
        if self._n_refused == self._n_examples >= _MOST_REFUSED:
            raise _HopelessError(str(error))
        reject_example(f"{type(error).__name__} in the function or rule")

    def skip_example(self, reason: str) -> NoReturn:
        """Reject an example to which the check does not apply, whatever its values."""
        self._pointless = reason
        self._n_pointless += 1
        is_judged = self._n_rejected + 1 < self._n_examples  # this example is not counted as rejected yet
        if not is_judged and self._n_pointless >= max(_HOPELESS, self._n_refused + 1):
            raise _HopelessError(reason)
        reject_example(reason)

    def _require_enough(self, n_examples: int, n_rejected: int, n_refused: int, n_pointless: int) -> None:
        """Raise if too few examples of a run were judged to be conclusive."""
        n_judged = n_examples - n_rejected
        if not n_judged and n_pointless > n_refused:  # the check does not apply; other rejections are not evidence
            return
        if not n_examples:
            raise self.failure(
                "inconclusive: no example could be drawn.",
                cause="no small sizes match the signature, or the domain contains no value: pass arguments=, for "
                "example arguments(op, max_side=10)",
            )
        is_refused = 2 * n_refused >= n_rejected
        if n_rejected <= _MOST_REJECTED * n_examples or (is_refused and n_judged >= _ENOUGH):
            return
        if self._refusal is not None and is_refused:
            is_unknown = spec_of(self._op).n_inputs is None
            nested = (
                ". For inputs that are tuples or dicts, pass strategies by name: arguments(op, x=...)"
                if is_unknown
                else ""
            )
            raise self.failure(
                "inconclusive: the function raised for most examples.",
                got=f"the function raised for {n_refused} of {n_examples} examples, the last time with "
                f"{described(self._refusal)}",
                cause="the function does not accept the drawn inputs: pass domain= or arguments= with inputs that it "
                f"accepts{nested}",
            )
        raise self.failure(
            "inconclusive: too many examples were rejected.",
            got=f"{n_rejected} of {n_examples} rejected, {n_judged} judged",
            cause="the function is not smooth at most drawn points, or computes in single precision: pass domain= or "
            "arguments= with points where it is smooth",
        )

    @contextlib.contextmanager
    def named(self, example: Arguments | Rows) -> Iterator[None]:
        """Add the example to a failure, and convert all other exceptions to failures."""
        self._example = example if isinstance(example, Arguments) else None
        try:
            yield
        except (UnsatisfiedAssumption, _HopelessError):
            self._n_rejected += 1
            raise
        except CheckError as error:
            error.code = error.code or check_script(self._op, self._check, example, error.mode)
            raise
        except Exception as error:
            raise self.failure(
                "a call raised an exception.",
                got=described(error),
                cause=cause_of_exception(error),
                code=check_script(self._op, self._check, example, None),
            ) from error


class _HopelessError(unittest.SkipTest):
    """An exception that ends a run without judged examples. Hypothesis passes it on at once, without shrinking."""


def described(error: Exception) -> str:
    """Return an exception with its notes, formatted for a report."""
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    shown = lines if len(lines) <= _MOST_LINES else ["[...]", *lines[-_MOST_LINES:]]
    return "\n            ".join(shown)
