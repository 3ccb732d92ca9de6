"""Mutation testing of rules: run mutants of an op's rules against its checks, and report what no check noticed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfpyop import Op
from tfpyop._spec.coercion import Array
from tfpyop.testing._check_runner import CheckRunner, Outcome, quickly
from tfpyop.testing._comparisons import Point, arrays_of
from tfpyop.testing._derivatives import direction_of, generator_of, jvp, vjp, weights_like
from tfpyop.testing._drawing import draw_each
from tfpyop.testing._examples import Arguments
from tfpyop.testing._gradient_checks import FirstGradient
from tfpyop.testing._mutants import Variant, has_variants, variants_of
from tfpyop.testing._ops import UserRule, rules_of, spec_of, user_rules
from tfpyop.testing._rule_source import FunctionSource, LineRecorder, SourceError, content_of, innermost, running
from tfpyop.testing._strategies import smooth_arguments

_JUDGES = ("check_gradient", "check_jvp", "check_adjoint", "check_needs", "check_second_order", "check_batching")
"""The checks that run rules, in the order in which they judge a mutant."""
_MOST_MUTANTS = 150
"""Maximum number of mutants of an op that are run."""
_N_COMPARED = 25
"""Number of examples at which a mutant that no check noticed is compared with the rule."""
_SAME = 1e-9
"""The largest difference of two results, relative to the largest result, at which a mutant changed nothing."""


Derivatives = Sequence[Array | None] | None
"""Derivatives of one kind; None if the rule raised."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A variant of a rule with one mistake.

    Attributes:
      location: The file and line of the mistake.
      kind: The kind of mistake, such as `sign`, `factor`, `dropped term`, `changed axis` or `wrong input`.
      before: The expression in the rule.
      after: The expression in the mutant.
      status: `"found"` if a check failed, `"survived"` if all checks passed, `"no effect"` if the mutant gave the same
        derivatives as the rule at all examples, so that no check can find it there.
      check: The check that failed.
      never_ran: Whether the line never ran in any check.
    """

    location: str
    kind: str
    before: str
    after: str
    status: Literal["found", "survived", "no effect"]
    check: str | None = None
    never_ran: bool = False

    def __str__(self) -> str:
        """Return the mutant in one line."""
        never = " (this line never ran)" if self.never_ran else ""
        return f"{self.location}: {self.kind}: {self.before}  ->  {self.after}{never}"


@dataclass(frozen=True, slots=True)
class MutationReport:
    """The results of running mutants of an op's rules against its checks.

    Attributes:
      mutants: The mutants that were run.
      n_left_out: Number of mutants that were not run, because there were too many.
      unavailable: The rules without mutants, each with the reason.
    """

    mutants: tuple[Mutant, ...] = ()
    n_left_out: int = 0
    unavailable: tuple[str, ...] = ()

    @property
    def survivors(self) -> list[Mutant]:
        """The mutants that changed derivatives, or never ran, and that no check found."""
        return [mutant for mutant in self.mutants if mutant.status == "survived"]

    def __str__(self) -> str:
        """Return the counts, every survivor, and the rules without mutants."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.mutants:
            counts = {status: sum(m.status == status for m in self.mutants) for status in ("found", "no effect")}
            same = f", {counts['no effect']} had no effect" * bool(counts["no effect"])
            left_out = f" ({self.n_left_out} more were not run)" * bool(self.n_left_out)
            n_survived = len(self.survivors)
            yield (
                f"Mutants: {counts['found']} of {len(self.mutants)} wrong variants of the rules were found{same}, "
                f"{n_survived} survived{left_out}{':' if n_survived else ''}"
            )
            yield from (f"  {mutant}" for mutant in self.survivors)
        yield from (f"No mutants: {reason}" for reason in self.unavailable)


@dataclass(frozen=True, slots=True)
class RuleSources:
    """The sources of the rules of an op.

    Attributes:
      sources: One source for each function.
      unavailable: The rules without a source, each with the reason.
    """

    sources: tuple[FunctionSource, ...]
    unavailable: tuple[str, ...]

    @classmethod
    def of(cls, op: Op[..., Any]) -> RuleSources:
        """Find the sources of the rules that the user wrote."""
        found: dict[FunctionType, FunctionSource] = {}
        unavailable: dict[str, str] = {}
        for rule in user_rules(op):
            sources, reason = _sources_or_reason(op, rule)
            for source in sources:
                found.setdefault(source.function, source)
            if reason is not None:
                unavailable[rule.site] = f"rule at {rule.site}: {reason}"
        return cls(tuple(found.values()), tuple(unavailable.values()))


class Lines:
    """Record which lines of rules run."""

    def __init__(self, sources: Iterable[FunctionSource]) -> None:
        self._recorders: list[LineRecorder] = []
        for source in sources:
            with contextlib.suppress(SourceError):
                self._recorders.append(LineRecorder(source))

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record the lines that run in the block."""
        with contextlib.ExitStack() as stack:
            for recorder in self._recorders:
                stack.enter_context(recorder.recording())
            yield

    def not_run(self) -> Iterator[tuple[FunctionSource, list[int], bool]]:
        """Yield each function of which lines did not run, these lines, and whether no line ran."""
        for recorder in self._recorders:
            if recorder.lines_not_run:
                yield recorder.source, recorder.lines_not_run, not recorder.has_run


def run_mutants(
    op: Op[..., Any],
    sources: RuleSources,
    lines: Lines,
    *,
    outcomes: Sequence[Outcome],
    judge: Callable[[str], Outcome],
    options: Mapping[str, Any],
) -> MutationReport:
    """Run mutants of the rules of an op against its checks.

    Args:
      op: The op. Its checks have passed.
      sources: The sources of its rules.
      lines: The lines that ran in the checks.
      outcomes: The outcomes of the checks.
      judge: Runs a check by name, quickly, and returns its outcome.
      options: The options of the checks.
    """
    passed = [outcome.check for outcome in outcomes if outcome.status == "passed"]
    judges = [name for name in _JUDGES if name in passed]
    if not sources.sources and not sources.unavailable:
        return MutationReport(unavailable=("the op has no rule that you wrote",))
    if not judges:
        return MutationReport(unavailable=("no check that runs rules was requested and passed",))
    variants = [variant for source in sources.sources for variant in _variants(op, source)]
    chosen = variants
    if len(variants) > _MOST_MUTANTS:
        chosen = [variants[number * len(variants) // _MOST_MUTANTS] for number in range(_MOST_MUTANTS)]
    never_ran = {(source.function, line) for source, numbers, _ in lines.not_run() for line in numbers}
    compared = _Compared(op, options, has_second_order="check_second_order" in judges)
    mutants = []
    for variant in chosen:
        is_dead = (variant.source.function, variant.statement) in never_ran
        differing = frozenset() if is_dead else compared.differing(variant)
        is_same = not is_dead and not differing
        in_order = judges[:1] if is_same else sorted(judges, key=lambda name: name not in differing)
        found = None if is_dead else _check_that_finds(variant, in_order, judge)
        status: Literal["found", "survived", "no effect"] = "no effect" if is_same else "survived"
        mutants.append(
            Mutant(
                _location(variant.source.function, variant.line),
                variant.kind,
                variant.before,
                variant.after,
                status if found is None else "found",
                found,
                is_dead,
            )
        )
    return MutationReport(tuple(mutants), len(variants) - len(chosen), sources.unavailable)


def lines_text(source: FunctionSource, numbers: Sequence[int]) -> str:
    """Return lines of a function as text, such as `lines 3, 5-7 of ops.py`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    text = ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)
    file = _location(source.function, numbers[0]).rpartition(":")[0]
    return f"line{'s' * (len(numbers) > 1)} {text} of {file}"


def _variants(op: Op[..., Any], source: FunctionSource) -> list[Variant]:
    return variants_of(source, n_inputs=spec_of(op).n_inputs or len(spec_of(op).parameters.input_names) or None)


def _sources_or_reason(op: Op[..., Any], rule: UserRule) -> tuple[list[FunctionSource], str | None]:
    """Return the sources of a rule, or the reason why there are none."""
    try:
        return list(_sources(op, rule)), None
    except SourceError as error:
        return [], str(error)


def _sources(op: Op[..., Any], rule: UserRule) -> Iterator[FunctionSource]:
    """Yield the source of a rule. If there is nothing to change in it, as in a decorator, yield what it calls."""
    if rule.is_remote:
        raise SourceError("the workers of executor= run it, and have only the original rule")
    function = innermost(rule.function)
    if function.__module__.partition(".")[0] == "tfpyop":  # derived by the package
        return
    source = FunctionSource.of(function)
    inner = [] if has_variants(source) else [content_of(cell) for cell in function.__closure__ or ()]
    inner = [one for one in inner if isinstance(one, FunctionType) and one is not op.numpy]
    if not inner:
        yield source
    for one in inner:
        yield FunctionSource.of(innermost(one))


def _check_that_finds(variant: Variant, judges: Sequence[str], judge: Callable[[str], Outcome]) -> str | None:
    """Return the first check that fails for a mutant."""
    with running(variant.source.function, variant.code), quickly():
        return next((name for name in judges if judge(name).status == "failed"), None)


class _Compared:
    """Compare the derivatives of mutants with the derivatives of the rule, at the same examples."""

    def __init__(self, op: Op[..., Any], options: Mapping[str, Any], *, has_second_order: bool) -> None:
        self._op = op
        self._options = options
        self._has_second_order = has_second_order
        self._points: list[tuple[Point, Mapping[str, Derivatives]]] | None = None

    def differing(self, variant: Variant) -> frozenset[str]:
        """Return the checks of the derivatives that differ at the first example at which any derivative differs."""
        if self._points is None:
            self._points = [(at, self._derivatives(at)) for at in self._draw()]
        for at, expected in self._points:
            with running(variant.source.function, variant.code):
                got = self._derivatives(at)
            differing = frozenset(name for name in expected if not _alike(expected[name], got[name]))
            if differing:
                return differing
        return frozenset()

    def _draw(self) -> list[Point]:
        check = CheckRunner(self._op, "mutants", max_examples=_N_COMPARED, seed=None)
        strategy = self._options.get("arguments")
        points: list[Point] = []

        def draw(arguments: Arguments) -> None:
            points.append(Point.of(check, self._op, arguments))

        drawn = smooth_arguments(self._op) if strategy is None else strategy
        draw_each(drawn, draw, at_most=_N_COMPARED, seed=self._options.get("seed") or 0)
        return points

    def _derivatives(self, at: Point) -> dict[str, Derivatives]:
        """Return all derivatives that the rules have at a point, by the check that judges them."""
        weights = weights_like(at.outputs, generator_of(at.arrays, 1))
        first = FirstGradient(at, weights)
        wanted = [array for array, is_wanted in zip(at.arrays, at.wanted, strict=True) if is_wanted]
        found: dict[str, Derivatives] = {}
        if rules_of(self._op).vjp is not None:
            found["check_gradient"] = _unless_raised(lambda: arrays_of(vjp(at.call, at.tensors, weights)))
            numbers = range(len(at.tensors)) if len(at.tensors) > 1 else ()  # a rule may skip what is not needed
            found["check_needs"] = _unless_raised(
                lambda: [one for number in numbers for one in self._by_one_input(at, number, weights)]
            )
        if rules_of(self._op).jvp is not None:
            found["check_jvp"] = _unless_raised(lambda: jvp(at.push, at.tensors, direction_of(at.arrays, at.varied)))
        if self._has_second_order:
            found["check_second_order"] = _unless_raised(
                lambda: first.pulled_back(weights_like(wanted, generator_of(at.arrays, 2)))
            )
        return found

    def _by_one_input(self, at: Point, number: int, weights: Sequence[Array | None]) -> list[Array | None]:
        def call(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            return at.call([*at.tensors[:number], tensors[0], *at.tensors[number + 1 :]])

        return arrays_of(vjp(call, [at.tensors[number]], weights)) if at.wanted[number] else []


def _unless_raised(derivatives: Callable[[], Derivatives]) -> Derivatives:
    """Return derivatives; None if a rule raises, which may be any exception."""
    try:
        return derivatives()
    except Exception:
        return None


def _alike(expected: Derivatives, got: Derivatives) -> bool:
    if expected is None or got is None:
        return expected is got
    pairs = zip(expected, got, strict=True)
    return all(
        one is other if one is None or other is None else one.shape == other.shape and _equal(one, other)
        for one, other in pairs
    )


def _equal(one: Array, other: Array) -> bool:
    largest = float(np.max(np.abs(one[np.isfinite(one)]), initial=0.0))
    return bool(np.allclose(one, other, rtol=0, atol=_SAME * largest, equal_nan=True))


def _location(function: FunctionType, line: int) -> str:
    path = Path(function.__code__.co_filename)
    with contextlib.suppress(ValueError, OSError):  # not below the working directory, or there is none
        path = path.relative_to(Path.cwd())
    return f"{path}:{line}"
