"""The check of threads: calls in several threads return the same as calls one after the other."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._spec.coercion import Array
from tfpyop.testing._call_checks import function_outputs, require_equal
from tfpyop.testing._check_runner import CheckRunner, quietly
from tfpyop.testing._derivatives import generator_of, vjp, weights_like
from tfpyop.testing._examples import Arguments, Rows
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._ops import concrete_op_of, flat_function, plain_outputs, rules_of, spec_of
from tfpyop.testing._property import Property, Steps, check_function
from tfpyop.testing._strategies import rows as draw_rows

_N_THREADS = 4
_USUAL = 8
_N_CALLS = 25
"""Number of calls of the op in each thread, for one pair of arguments."""
_N_LARGE_CALLS = 60
"""Number of calls of the function in each thread, with large arrays."""
_N_GRADIENTS = 40
_MOST_SECONDS, _FEWEST_SECONDS = 0.1, 0.02
"""The time for the calls of one kind with one pair of arguments, after which every thread stops."""
_MOST_SECONDS_IN_TOTAL = 1.5
"""The time after which the remaining pairs get the shorter of these times."""
_SLOW = 0.05
"""The time of one call with gradient, in seconds, from which threads compute gradients of the drawn arrays only.

A function that takes core dimensions only gets at most so many rows that all of them take this time.
"""
_LARGE = 20_000
"""Number of elements from which numpy lets other threads run while it computes."""
_MOST_ROWS = 512
"""Number of rows for a function that takes core dimensions only, which is called for each row."""
_CAUSE = (
    "calls share an array or a variable, for example a global buffer: create it in the call, or use threading.local"
)


@check_function()
def check_threads(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check that parallel calls in several threads return the same as sequential calls.

    Threads call the op, its function with large arrays, and its gradient, with two different arguments of the same
    shapes at a time. Large arrays are copies of the drawn arrays along a new loop dimension. The check proves little if
    the threads do not happen to overlap. It makes Python switch threads as often as possible.

    Args:
      op: The op. Ops with `stateful=True` are skipped.
      arguments: Strategy for the arguments. Default: `arguments(op)`.
      max_examples: Number of different pairs of arguments. Default: eight.
      seed: Seed that makes every run draw the same examples.
      modes: Not used, because calls are eager.

    Returns:
      The outcome, with the number of pairs.

    Raises:
      CheckError: A call in parallel with other calls returned another result.
    """
    checked_modes(modes)
    check = CheckRunner(op, "check_threads", max_examples=max_examples, seed=seed, usual=_USUAL)
    if spec_of(op).is_stateful:
        return check.skipped("the op is declared stateful")
    pairs: list[list[_Case]] = []

    def collect(rows: Rows) -> None:
        pairs.append([_Case.of(check, op, arguments) for arguments in rows.arguments[:2]])

    yield Property(check, draw_rows(op, arguments), collect, shrinks=False)
    with quietly(), _switching_often(), ThreadPoolExecutor(_N_THREADS) as pool:
        end = time.perf_counter() + _MOST_SECONDS_IN_TOTAL
        for pair in pairs:
            _Stress(check, op, pair).run(pool, _MOST_SECONDS if time.perf_counter() < end else _FEWEST_SECONDS)
    return check.passed()


@dataclass(frozen=True, slots=True)
class _Case:
    """Arguments, with the results of calls one after the other.

    Attributes:
      arguments: The arguments.
      outputs: The outputs.
      large: The same arguments along a new loop dimension; None if the op takes no loop dimensions.
      large_outputs: The outputs for the large arguments; empty if there are none.
      differentiated: The arguments of the gradient: the large ones, unless there are none or gradients are slow.
      gradients: The gradient at these arguments; empty if there is none.
    """

    arguments: Arguments
    outputs: list[Array]
    large: Arguments | None
    large_outputs: list[Array]
    differentiated: Arguments
    gradients: list[Array]

    @classmethod
    def of(cls, check: CheckRunner, op: Op[..., Any], arguments: Arguments) -> _Case:
        """Make the calls. Reject the example if the function refuses it."""
        start = time.perf_counter()
        outputs = function_outputs(check, op, arguments)
        gradients: list[Array] = []
        with contextlib.suppress(Exception):  # other checks report exceptions of rules
            gradients = gradients_of(op, arguments, outputs)
        seconds = time.perf_counter() - start
        differentiated, large_outputs = arguments, list[Array]()
        large = _repeated(op, arguments, max(min(int(_SLOW / seconds), _MOST_ROWS), 2))
        if large is not None:
            try:
                large_outputs = plain_outputs(op, large)
            except Exception:  # other checks report loop dimensions that do not work
                large = None
        if gradients and large is not None and seconds < _SLOW:
            with contextlib.suppress(Exception):  # as above
                gradients = gradients_of(op, large, large_outputs)
                differentiated = large
        return cls(arguments, outputs, large, large_outputs, differentiated, gradients)


class _Stress:
    """Calls in several threads with one pair of arguments.

    Args:
      check: The check.
      op: The op.
      pair: The arguments. Threads use them in turn.
    """

    def __init__(self, check: CheckRunner, op: Op[..., Any], pair: Sequence[_Case]) -> None:
        self._check, self._op, self._pair = check, op, pair

    def run(self, pool: ThreadPoolExecutor, seconds: float) -> None:
        """Raise CheckError if a call returns another result than before.

        Args:
          pool: The threads.
          seconds: The time for each kind of call.
        """
        for call, n_calls in [
            (self._call_op, _N_CALLS),
            (self._call_function, _N_LARGE_CALLS),
            (self._call_gradient, _N_GRADIENTS),
        ]:
            barrier = threading.Barrier(_N_THREADS)

            def repeat(first: int, call: Any = call, n_calls: int = n_calls, barrier: Any = barrier) -> None:
                barrier.wait()
                end = time.perf_counter() + seconds
                for number in range(n_calls):
                    case = self._pair[(first + number) % len(self._pair)]
                    with self._check.named(Rows(tuple(case.arguments for case in self._pair))):
                        call(case)
                    if time.perf_counter() > end:
                        break

            for future in [pool.submit(repeat, number) for number in range(_N_THREADS)]:
                future.result()

    def _call_op(self, case: _Case) -> None:
        got = [tensor.numpy() for tensor in tf.nest.flatten(self._op(*case.arguments.tensors, **case.arguments.static))]
        self._require(case.outputs, got, "a call")

    def _call_function(self, case: _Case) -> None:
        if case.large is not None:
            got = plain_outputs(self._op, case.large)
            self._require(case.large_outputs, got, "a call with these numbers along a new loop dimension")

    def _call_gradient(self, case: _Case) -> None:
        if case.gradients:
            outputs = case.outputs if case.differentiated is case.arguments else case.large_outputs
            got = gradients_of(self._op, case.differentiated, outputs)
            self._require(case.gradients, got, "a gradient", is_exact=False, noun="cotangent")

    def _require(
        self, expected: list[Array], got: list[Array], what: str, *, is_exact: bool = True, noun: str = "output"
    ) -> None:
        problem = f"{what} that runs in parallel with calls in other threads differs"
        require_equal(self._check, expected, got, problem, is_exact=is_exact, noun=noun, cause=_CAUSE)


def gradients_of(op: Op[..., Any], arguments: Arguments, outputs: Sequence[Array]) -> list[Array]:
    """Return the gradient by all inputs for fixed cotangents, without inputs that it does not depend on."""
    if rules_of(op).vjp is None:
        return []
    _, leaves = concrete_op_of(op, arguments)
    tensors = [tf.constant(leaf) for leaf in leaves]
    weights = weights_like(outputs, generator_of([tensor.numpy() for tensor in tensors], 1))
    gradients = vjp(flat_function(op, arguments), tensors, weights)
    return [gradient.numpy() for gradient in gradients if gradient is not None]


def _repeated(op: Op[..., Any], arguments: Arguments, most_rows: int) -> Arguments | None:
    """Return large arguments with the same numbers, along a new loop dimension of all inputs.

    A function that takes core dimensions only gets at most `most_rows` elements of the loop dimensions.
    """
    spec = spec_of(op)
    concrete_op, leaves = concrete_op_of(op, arguments)
    shapes, signature = [np.shape(leaf) for leaf in leaves], concrete_op.signature
    if signature is None or signature.bind(shapes).missing:  # a new dimension would be taken for a missing one
        return None
    ranks = signature.core_ranks(shapes)
    loops = [shape[: len(shape) - rank] for shape, rank in zip(shapes, ranks, strict=True)]
    loop = np.broadcast_shapes(*loops)
    cores = [shape[len(own) :] for shape, own in zip(shapes, loops, strict=True)]
    size = max((int(np.prod(loop + core)) for core in cores), default=0)
    if not size:
        return None
    n_copies = -(-_LARGE // size) if spec.is_vectorized else max(most_rows // max(int(np.prod(loop)), 1), 1)
    numbers = iter(range(len(shapes)))

    def grown(value: Any) -> Array:
        number = next(numbers)
        return np.array(np.broadcast_to(np.asarray(value), (n_copies, *loop, *cores[number])))

    return arguments.map(grown)


@contextlib.contextmanager
def _switching_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
