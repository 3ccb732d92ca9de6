"""The check of cost: derivatives call the function and the rules as often as the kind of rule implies, and not more."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop.testing._call_counter import CallCounter
from tfpyop.testing._check_runner import CheckRunner
from tfpyop.testing._comparisons import Point
from tfpyop.testing._derivatives import direction_of, generator_of, jvp, vjp, weights_like
from tfpyop.testing._examples import Arguments
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._ops import has_jacobian, input_label, rules_of, spec_of, user_rules
from tfpyop.testing._property import Property, Steps, check_function
from tfpyop.testing._rule_source import SourceError
from tfpyop.testing._strategies import smooth_arguments

_USUAL = 3
"""Default number of examples. Unnecessary calls hardly depend on values."""
_FEWEST = 2
"""Number of examples that must all have repeated calls. Different calls may have equal arguments at one example."""
_MOST_INPUTS = 4
"""Maximum number of inputs by which gradients are computed one by one."""
_JVP = "a JVP"
_AGAIN = "a rule calls the op or its function again: use op.outputs, or pass what the rule needs by residuals="
_MOST_ELEMENTS = 64
"""Maximum number of elements of an output of which the Jacobian is computed."""


@check_function(modes=("eager", "graph"))
def check_cost(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check that derivatives do not call the function or a rule more often than necessary.

    Counts the calls of the function and of each rule in a gradient by all inputs, a gradient by one input, a JVP if
    there is a JVP rule, and a Jacobian if there is a Jacobian rule. Finds rules that call the op or its function again
    for the inputs of the call, although `op.outputs` has the result. Also finds rules that run more than once in a
    gradient or Jacobian. With `vectorized=False`, one call for each element of the loop dimensions is necessary.
    Graphs merge equal calls of a pure op, which are not found there.

    Calls for other inputs or static arguments are not counted. Nor are calls by the workers of an executor.

    Args:
      op: The op. Skipped if it has no derivative rule that you wrote, is declared stateful, or its function is not in
        Python code.
      arguments: Strategy for the arguments. Default: as in `check_gradient`.
      max_examples: Number of examples. Default: 3. At least two are needed.
      seed: Seed that makes every run draw the same examples.
      modes: A selection of "eager" and "graph". Default: both.

    Returns:
      The outcome, with the number of examples in all modes together.

    Raises:
      CheckError: There are more calls than necessary. The report names the derivative and both counts.
    """
    chosen = [mode for mode in checked_modes(modes) if mode in ("eager", "graph")]
    check = CheckRunner(op, "check_cost", max_examples=max_examples, seed=seed, usual=_USUAL)
    if not user_rules(op):
        return check.skipped("the op has no derivative rule that you wrote")
    if spec_of(op).is_stateful:
        return check.skipped("the op is declared stateful")
    if not chosen:
        return check.skipped("none of the modes applies to this op")
    try:
        counters = _Counters.of(op)
    except SourceError:
        return check.skipped("calls of the function cannot be counted, because it is not in Python code")
    for mode in chosen:
        costs = _Costs(check, op, mode, counters)
        yield Property(check, smooth_arguments(op) if arguments is None else arguments, costs.add, shrinks=False)
        costs.require()
    return check.passed()


@dataclass(frozen=True, slots=True)
class _Counters:
    """Counters of the function and the rules of an op.

    Attributes:
      function: The counter of the function.
      rules: The counters of the rules, each with the number of times that the rule is attached.
    """

    function: CallCounter
    rules: list[tuple[CallCounter, int]]

    @classmethod
    def of(cls, op: Op[..., Any]) -> _Counters:
        """Return the counters of an op. Raise SourceError if its function cannot be counted."""
        function = CallCounter(op.numpy)
        attached: Counter[Any] = Counter()
        rules: dict[Any, CallCounter] = {}
        for rule in user_rules(op):
            with contextlib.suppress(SourceError):
                counter = CallCounter(rule.function)
                if counter.function.__module__.partition(".")[0] != "tfpyop":  # derived by the package
                    rules.setdefault(counter.function, counter)
                    attached[counter.function] += 1
        rules.pop(function.function, None)
        return cls(function, [(counter, attached[inner]) for inner, counter in rules.items()])

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count calls in the block."""
        with contextlib.ExitStack() as stack:
            for counter in (self.function, *(counter for counter, _ in self.rules)):
                stack.enter_context(counter.counting())
            yield


@dataclass(frozen=True, slots=True)
class _Excess:
    """More calls than necessary: what is called, both numbers, and the example."""

    called: str
    expected: int
    got: int
    arguments: Arguments


class _Costs:
    """Count the calls in derivatives of an op in one mode, at one example after the other."""

    def __init__(self, check: CheckRunner, op: Op[..., Any], mode: str, counters: _Counters) -> None:
        self._check, self._op, self._mode, self._counters = check, op, mode, counters
        self._found: dict[str, list[_Excess | None]] = {}

    def add(self, arguments: Arguments) -> None:
        """Count the calls at an example."""
        at = Point.of(self._check, self._op, arguments).moved()  # generic values: no two calls are the same by chance
        if not all(array.size for array in at.arrays):
            self._check.skip_example("the example is empty")
        try:
            with self._counters.counting():
                at.call(at.tensors)
            forward = Counter(self._counters.function.calls)
            for what, derivative in self._derivatives(at):
                run = self._prepared(derivative)
                with self._counters.counting():
                    run()
                excess = self._excess(what, forward, arguments)
                self._found.setdefault(what, []).append(excess)
        except Exception as error:  # no derivative there, or outside of the domain
            self._check.reject(error)

    def require(self) -> None:
        """Raise CheckError for the first derivative with more calls than necessary at all examples."""
        for what, found in self._found.items():
            excesses = [excess for excess in found if excess is not None]
            if len(excesses) < max(_FEWEST, len(found)):
                continue
            shown = excesses[0]
            is_function = shown.called == "the function"
            raise self._check.failure(
                f"{what} calls {shown.called} {'again for the same inputs' if is_function else 'more than once'}.",
                mode=self._mode,
                expected=_calls(shown.expected),
                got=_calls(shown.got),
                cause=_AGAIN if is_function else "the rule calls itself, or is called by another rule",
                code=self._check.script_of(shown.arguments, shown.arguments, mode=self._mode),
            )

    def _excess(self, what: str, forward: Counter[Hashable], arguments: Arguments) -> _Excess | None:
        calls = self._counters.function.calls
        n_forward = sum(forward.values())
        repeated = sum(max(0, calls[key] - n) for key, n in forward.items())
        if repeated:
            return _Excess("the function", n_forward, n_forward + repeated, arguments)
        # in a graph, a rule in TensorFlow ops has run before; with vectorized=False, the host calls rules in a loop; a
        # JVP that follows from a gradient rule may call it twice
        if self._mode == "eager" and spec_of(self._op).is_vectorized and what != _JVP:
            for counter, n_attached in self._counters.rules:
                if counter.n_calls > n_attached:
                    name = f"the rule {counter.function.__name__}"
                    return _Excess(name, n_attached, counter.n_calls, arguments)
        return None

    def _derivatives(self, at: Point) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield each derivative with its name."""
        rules, weights = rules_of(self._op), weights_like(at.outputs, generator_of(at.arrays, 1))
        wanted = [number for number, is_wanted in enumerate(at.wanted) if is_wanted]
        if rules.vjp is not None:
            yield "a gradient", lambda: vjp(at.call, at.tensors, weights)
            for number in wanted if 1 < len(wanted) <= _MOST_INPUTS else ():
                label = input_label(self._op, number, len(at.tensors))
                yield f"a gradient by {label}", functools.partial(_by_one_input, at, number, weights)
        if rules.jvp is not None and self._mode == "eager":
            yield _JVP, lambda: jvp(at.push, at.tensors, direction_of(at.arrays, at.varied))
        is_small = all(output.size <= _MOST_ELEMENTS for output in at.outputs)
        if has_jacobian(self._op) and is_small and wanted:
            yield "a Jacobian", lambda: _jacobian(at, wanted)

    def _prepared(self, derivative: Callable[[], Any]) -> Callable[[], Any]:
        """Return the derivative in this mode. Tracing has run before."""
        if self._mode == "eager":
            return derivative
        function = tf.function(derivative, autograph=False).get_concrete_function()
        return lambda: function()


def _by_one_input(at: Point, number: int, weights: Sequence[Any]) -> Any:
    def call(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return at.call([*at.tensors[:number], *tensors, *at.tensors[number + 1 :]])

    return vjp(call, [at.tensors[number]], weights)


def _jacobian(at: Point, wanted: Sequence[int]) -> Any:
    sources = [at.tensors[number] for number in wanted]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(sources)
        outputs = at.call(at.tensors)
    target = next(output for output in outputs if output.dtype.is_floating or output.dtype.is_complex)
    return tape.jacobian(target, sources)


def _calls(number: int) -> str:
    return f"{number} call{'s' * (number != 1)}"
