"""Outcomes: what came of a check, and how a property is run to get one."""

from __future__ import annotations

import contextlib
import re
import time
import traceback
import unittest
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop.errors import UnsupportedError
from tfpyop.testing._examples import Arguments, Rows
from tfpyop.testing._failures import CheckError, is_refusal
from tfpyop.testing._misuse import require_arguments, require_count, require_seed, require_strategy
from tfpyop.testing._ops import is_unbound_method, spec_of, subject_of

ExampleT = TypeVar("ExampleT", Arguments, Rows)
"""What a strategy draws, and a report shows as code."""

KEEPS_STATE = "the function keeps state or draws random numbers: declare stateful=True"
"""The cause where a function gives different results for the same inputs."""
_MOST_REJECTED = 0.9
"""The largest part of all examples that may be unfit for a check before it says nothing."""
_HOPELESS = 30
"""After how many examples that are refused or passed over, and none judged, no more are drawn."""
_MOST_LINES = 16
"""How much of an exception is reported; TensorFlow tells every frame of a trace."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one check of one op.

    Attributes:
      check: The name of the check.
      op: The name of the op.
      status: Whether it passed, or why it did not.
      n_examples: How many examples were judged, in all modes together; not counted where it failed.
      n_rejected: How many were drawn but unfit, as points where a function is not smooth.
      reason: Why the check was skipped.
      failure: What was found.
      seconds: How long it took.
    """

    check: str
    op: str
    status: Literal["passed", "failed", "skipped"]
    n_examples: int = 0
    n_rejected: int = 0
    reason: str | None = None
    failure: CheckError | None = None
    seconds: float = 0.0


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without numpy's warnings of what examples at the edge of a domain give, in all threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


class Property:
    """One check of one op as it runs: counts examples, and makes every exception a failure that names its example.

    Args:
      op: The op.
      check: The name of the check.
      max_examples: How many examples to judge. Default: `usual`.
      seed: Makes the examples the same in every run. Default: they differ.
      usual: How many examples to judge if each costs much. Default: as the current Hypothesis profile says.
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
        own = re.split(r"[:./]", op.name)[-1]
        self._name = own if own.isidentifier() else "op"
        self._check = check
        self._max_examples = usual if max_examples is None else max_examples
        self._seed = seed
        self._n_examples = self._n_rejected = self._n_refused = self._n_pointless = 0
        self._pointless: str | None = None
        self._refusal: Exception | None = None
        self._start = time.perf_counter()

    def run(
        self,
        strategy: SearchStrategy[ExampleT],
        body: Callable[[ExampleT], None],
        *,
        shrinks: bool = True,
        at_most: int | None = None,
    ) -> None:
        """Try the body on what the strategy draws.

        Args:
          strategy: Draws examples: the arguments of one call, or of several.
          body: Raises what is wrong; `hypothesis.reject()` where the check does not apply.
          shrinks: Whether to look for the simplest example; not where each costs much.
          at_most: How many examples to judge if each costs much, whatever `max_examples` says.

        Raises:
          CheckError: What the body raised for the simplest example.
        """
        require_strategy(self._op, "arguments", strategy)

        def judge(example: ExampleT) -> None:
            for row in example.arguments if isinstance(example, Rows) else [example]:
                require_arguments(self._op, row)
            self._n_examples += 1
            with self.named(example):
                body(example)

        before = (self._n_examples, self._n_rejected, self._n_refused, self._n_pointless)
        # Hypothesis finds kept examples by the code of the test, which is the same for all ops and checks
        judge._hypothesis_internal_add_digest = f"{self._op.name} {self._check}".encode()  # type: ignore[attr-defined]
        test = hypothesis.given(strategy)(judge)
        phases = [phase for phase in Phase if phase is not Phase.explain and (shrinks or phase is not Phase.shrink)]
        profile = hypothesis.settings.default.max_examples if hypothesis.settings.default else None
        usual = profile if self._max_examples is None else self._max_examples
        limits = [limit for limit in (usual, at_most) if limit is not None]
        max_examples = min(limits, default=None)
        options: dict[str, Any] = {} if max_examples is None else {"max_examples": max_examples}
        test = hypothesis.settings(
            deadline=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
            report_multiple_bugs=False,
            print_blob=False,
            **options,
        )(test)
        if self._seed is not None:
            test = hypothesis.seed(self._seed)(test)
        with contextlib.suppress(Unsatisfiable, _HopelessError), quietly():  # too many rejected: said below
            try:
                test()
            except hypothesis.errors.Flaky as error:
                raise self.failure(
                    "an example failed once, but not when it was run again.",
                    got="different results for the same inputs",
                    cause=KEEPS_STATE,
                ) from error
        after = (self._n_examples, self._n_rejected, self._n_refused, self._n_pointless)
        self._require_enough(*(now - then for now, then in zip(after, before, strict=True)))

    def passed(self) -> Outcome:
        """The outcome of a check that found nothing; skipped if it did not apply to any example."""
        if self._pointless is not None and self._n_rejected == self._n_examples:
            return self.skipped(self._pointless)
        return Outcome(
            self._check,
            self._op.name,
            "passed",
            self._n_examples - self._n_rejected,
            self._n_rejected,
            seconds=time.perf_counter() - self._start,
        )

    def skipped(self, reason: str) -> Outcome:
        """The outcome of a check that does not apply."""
        return Outcome(self._check, self._op.name, "skipped", reason=reason)

    def failure(self, problem: str, **details: Any) -> CheckError:
        """A failure of this check."""
        return CheckError(problem, check=self._check, subject=self._subject, **details)

    def reject(self, error: Exception) -> NoReturn:
        """Reject an example that the function itself refuses; raise an error that is not a refusal."""
        if not is_refusal(error):
            raise error
        self._refusal = error
        self._n_refused += 1
        if self._n_refused == self._n_examples >= _HOPELESS:
            raise _HopelessError(str(error))
        hypothesis.reject()

    def pass_over(self, reason: str) -> NoReturn:
        """Reject an example to which the check does not apply, whatever its values."""
        self._pointless = reason
        self._n_pointless += 1
        if self._n_pointless == self._n_examples >= _HOPELESS:
            raise _HopelessError(reason)
        hypothesis.reject()

    def _require_enough(self, n_examples: int, n_rejected: int, n_refused: int, n_pointless: int) -> None:
        """Raise if too few examples of one run were judged to say anything."""
        n_judged = n_examples - n_rejected
        if not n_judged and n_pointless > n_refused:  # the check does not apply; what else was rejected says nothing
            return
        if not n_examples:
            raise self.failure(
                "inconclusive: no example could be drawn.",
                cause="no small sizes match the signature, or the domain contains no value: pass arguments=, for "
                "example arguments(op, max_side=10)",
            )
        if n_rejected <= _MOST_REJECTED * n_examples:
            return
        if self._refusal is not None and 2 * n_refused >= n_rejected:
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
        """Add the example to a failure, and make a failure of any exception."""
        try:
            yield
        except (hypothesis.errors.UnsatisfiedAssumption, _HopelessError):
            self._n_rejected += 1
            raise
        except CheckError as error:
            error.code = error.code or example.code(self._name)
            raise
        except Exception as error:
            raise self.failure(
                "a call raised an exception.",
                got=described(error),
                code=example.code(self._name),
            ) from error


class _HopelessError(unittest.SkipTest):
    """Ends a run in which every example is refused. Hypothesis passes this kind on at once, and shrinks nothing."""


def described(error: Exception) -> str:
    """An exception with its notes, as a part of a report."""
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    shown = lines if len(lines) <= _MOST_LINES else ["[...]", *lines[-_MOST_LINES:]]
    return "\n            ".join(shown)
