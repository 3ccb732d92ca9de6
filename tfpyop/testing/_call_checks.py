"""Checks of calls: that an op keeps its promises, gives the same in every mode, and works over rows."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._spec.coercion import Array, dtype_kind, finfo
from tfpyop._spec.outputs import ArraySpec
from tfpyop.errors import SignatureError, TfpyopError, UnsupportedError
from tfpyop.testing._destinations import require_written
from tfpyop.testing._examples import Arguments, Rows
from tfpyop.testing._failures import CheckError
from tfpyop.testing._modes import Caller, checked_modes, is_applicable
from tfpyop.testing._ops import concrete_op_of, plain_outputs, spec_of
from tfpyop.testing._outcomes import KEEPS_STATE, Outcome, Property, described
from tfpyop.testing._strategies import arguments as draw_arguments
from tfpyop.testing._strategies import rows as draw_rows

_MOST_COMPILED = 10
"""How many examples XLA compiles for; each of new sizes takes it some 50 ms."""
_SLACK = 64
"""The units of a dtype's precision by which two implementations of the same may differ."""
_SLACK_OF_SUMS = 1024
"""The same where sums of some hundred terms are added in another order."""


def check_contract(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Outcome:
    """Check that the function keeps what the op promises: number, dtypes and shapes of the outputs.

    Proves, for the examples drawn, that calls in every mode are served, also with empty, 0-d, size-one and broadcast
    inputs, and return what signature and dtype say. A function that raises on an empty input is not held to it.

    Args:
      op: The op.
      arguments: Draws the arguments. Default: `arguments(op)`.
      max_examples: How many to draw. Default: as the Hypothesis profile says; ten at most where XLA compiles.
      seed: Makes the examples the same in every run.
      modes: Of "eager", "graph", "XLA" and "native". Default: those that apply.

    Returns:
      The outcome, with the number of examples.

    Raises:
      CheckError: A promise is broken; the report holds the simplest call that shows it.
    """
    check = Property(op, "check_contract", max_examples=max_examples, seed=seed)

    def body(mode: str, caller: Caller, arguments: Arguments) -> None:
        promised = [ArraySpec.of(array) for array in function_outputs(check, op, arguments)]
        got = [ArraySpec.of(array) for array in _called(check, mode, caller, arguments)]
        _require_written(check, op, arguments, mode)
        if got != promised:
            raise check.failure(
                "the outputs do not have the declared dtypes or shapes.",
                mode=mode,
                expected=", ".join(map(str, promised)),
                got=", ".join(map(str, got)),
            )

    return _in_modes(check, op, body, arguments=arguments, modes=modes)


def check_parity(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Outcome:
    """Check that the op gives the same values in every mode: eagerly, in a graph, compiled by XLA, and natively.

    Proves, for the examples drawn, that no mode changes a value: exactly where the same function runs, and to the
    precision of the dtype for the implementation that `@op.native` attached.

    Args:
      op: The op. One that is `stateful=True` is skipped.
      arguments: Draws the arguments. Default: `arguments(op)`.
      max_examples: How many to draw. Default: as the Hypothesis profile says; ten at most where XLA compiles.
      seed: Makes the examples the same in every run.
      modes: Of "eager", "graph", "XLA" and "native". Default: those that apply.

    Returns:
      The outcome, with the number of examples.

    Raises:
      CheckError: Two modes differ; the report names output and element.
    """
    check = Property(op, "check_parity", max_examples=max_examples, seed=seed)
    if spec_of(op).is_stateful:
        return check.skipped("the op is declared stateful")

    def body(mode: str, caller: Caller, arguments: Arguments) -> None:
        expected = function_outputs(check, op, arguments)
        got = _called(check, mode, caller, arguments)
        _require_written(check, op, arguments, mode)
        require_equal(
            check, expected, got, f"the {mode} call differs from the function", mode=mode, is_exact=mode != "native"
        )

    return _in_modes(check, op, body, arguments=arguments, modes=modes)


def check_batching(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Outcome:
    """Check that the op over rows, by `tf.vectorized_map`, gives what a Python loop over the rows gives.

    Proves, for the examples drawn, that the function works on loop dimensions as its signature says.

    Args:
      op: The op. One that is `stateful=True` is skipped.
      arguments: Draws the arguments of one row. Default: `arguments(op)`. Where it draws other shapes for the second
        row, that is the first one reversed.
      max_examples: How many to draw. Default: ten, because each is traced.
      seed: Makes the examples the same in every run.
      modes: Not used; rows are batched in a graph.

    Returns:
      The outcome, with the number of examples.

    Raises:
      CheckError: Rows come out different; the report names output and element.
    """
    checked_modes(modes)
    check = Property(op, "check_batching", max_examples=max_examples, seed=seed, usual=_MOST_COMPILED)
    if spec_of(op).is_stateful:
        return check.skipped("the op is declared stateful, and TensorFlow does not vectorize stateful ops")

    def cause(row: Arguments, outputs: Sequence[Array]) -> str | None:
        again = function_outputs(check, op, row)
        if any(_differs(*pair, is_exact=True).any() for pair in zip(outputs, again, strict=True)):
            return KEEPS_STATE
        if spec_of(op).signature is None or not spec_of(op).is_vectorized:
            return None
        return (
            "the function works across rows, for example x.sum() instead of x.sum(-1). If the function accepts only "
            "one row, pass vectorized=False"
        )

    def body(rows: Rows) -> None:
        looped = [function_outputs(check, op, row) for row in rows.arguments]
        expected = [np.stack(outputs) for outputs in zip(*looped, strict=True)]
        stacked = tf.nest.map_structure(tf.constant, rows.stacked)

        def over_rows() -> Any:
            return tf.vectorized_map(lambda args: op(*args, **rows.static), stacked, warn=False)

        got = tf.function(over_rows, autograph=False).get_concrete_function()()
        arrays = [tensor.numpy() for tensor in tf.nest.flatten(got)]
        problem = "vectorized_map differs from a loop over rows"
        try:
            require_equal(check, expected, arrays, problem, is_exact=False, slack=_SLACK_OF_SUMS)
        except CheckError as failure:
            failure.cause = cause(rows.arguments[0], looped[0])
            raise

    check.run(draw_rows(op, arguments), body, shrinks=False)
    return check.passed()


def require_equal(
    check: Property,
    expected: Sequence[Array],
    got: Sequence[Array],
    problem: str,
    *,
    mode: str | None = None,
    is_exact: bool = True,
    slack: int = _SLACK,
    noun: str = "output",
    cause: str | None = None,
) -> None:
    """Raise a failure for the first element in which arrays differ; NaN equals NaN.

    Args:
      check: The check that compares them.
      expected: The arrays as they should be.
      got: What came instead.
      problem: What it means if they differ, as the beginning of a sentence.
      mode: In which mode.
      is_exact: Whether they must be the same, but for subnormal numbers and signs of zero.
      slack: By how many units of the dtype's precision they may differ, if they need not be the same.
      noun: What one of the arrays is.
      cause: Why they may differ.
    """
    if len(expected) != len(got):
        raise check.failure(
            f"{problem} in the number of {noun}s.", mode=mode, expected=str(len(expected)), got=str(len(got))
        )
    for number, (wanted, array) in enumerate(zip(expected, got, strict=True)):
        if wanted.dtype != array.dtype or wanted.shape != array.shape:
            raise check.failure(
                f"{problem} in {noun} {number}.",
                mode=mode,
                expected=str(ArraySpec.of(wanted)),
                got=str(ArraySpec.of(array)),
            )
        differs = _differs(wanted, array, is_exact, slack)
        if differs.any():
            index = tuple(map(int, np.argwhere(differs)[0])) if differs.ndim else ()
            raise check.failure(
                f"{problem} in {noun} {number}, element {list(index)}.",
                mode=mode,
                expected=repr(wanted[index].item() if hasattr(wanted[index], "item") else wanted[index]),
                got=repr(array[index].item() if hasattr(array[index], "item") else array[index]),
                cause=cause,
            )


def _differs(wanted: Array, got: Array, is_exact: bool, slack: int = _SLACK) -> Array:
    if dtype_kind(wanted.dtype) not in "fc":
        return np.asarray(wanted != got)
    if is_exact:  # but for numbers below the normal ones, for which XLA takes zero
        wanted, got = _flushed(wanted), _flushed(got)
        return np.asarray((wanted != got) & ~(np.isnan(wanted) & np.isnan(got)))
    eps = float(finfo(wanted.dtype).eps)
    tolerance = min(slack * eps, max(_SLACK * eps, eps**0.5))
    largest = np.max(np.abs(wanted), where=np.isfinite(wanted), initial=0.0)
    with np.errstate(all="ignore"):
        close = np.isclose(got, wanted, rtol=tolerance, atol=float(tolerance * largest), equal_nan=True)
    return np.asarray(~close)


def _flushed(values: Array) -> Array:
    """Values with zero for subnormal numbers, also in complex ones."""
    smallest = float(finfo(values.dtype).smallest_normal)
    if values.dtype.kind == "c":
        real, imaginary = (np.where(np.abs(part) < smallest, 0, part) for part in (values.real, values.imag))
        return np.asarray(real + 1j * imaginary)
    return np.where(np.abs(values) < smallest, np.zeros_like(values), values)


def _in_modes(
    check: Property,
    op: Op[..., Any],
    body: Any,
    *,
    arguments: SearchStrategy[Arguments] | None,
    modes: Sequence[str] | None,
) -> Outcome:
    """Run a body in every mode that applies."""
    strategy = draw_arguments(op) if arguments is None else arguments
    applicable = [mode for mode in checked_modes(modes) if is_applicable(op, mode)]
    if not applicable:
        return check.skipped("none of the modes applies to this op")
    for mode in applicable:
        caller = Caller(op, mode)
        is_costly = mode == "XLA"
        check.run(
            strategy,
            functools.partial(body, mode, caller),
            shrinks=not is_costly,
            at_most=_MOST_COMPILED if is_costly else None,
        )
    return check.passed()


def function_outputs(check: Property, op: Op[..., Any], arguments: Arguments) -> list[Array]:
    """What the function returns; an example that it refuses is rejected."""
    try:
        return plain_outputs(op, arguments)
    except TfpyopError as error:
        if isinstance(error, SignatureError) and not _fits_signature(op, arguments):
            raise check.failure(
                "a drawn call does not match the signature.",
                got=described(error),
                cause="inputs that depend on each other were drawn separately: draw them together, with one strategy "
                "of Arguments",
            ) from error
        raise check.failure("the function breaks the contract of the op.", got=described(error)) from error
    except Exception as error:
        check.reject(error)


def _fits_signature(op: Op[..., Any], arguments: Arguments) -> bool:
    """Whether a call can be one of the op at all."""
    host_op, leaves = concrete_op_of(op, arguments)
    types = [ArraySpec.of(tf.constant(leaf).numpy()) for leaf in leaves]
    try:
        host_op.host.output_types(types)
    except SignatureError:
        return False
    return True


def _require_written(check: Property, op: Op[..., Any], arguments: Arguments, mode: str) -> None:
    """Raise a failure if the results depend on what destinations held; native implementations have none."""
    if mode == "native":
        return
    try:
        require_written(check, op, arguments, mode=mode)
    except CheckError:
        raise
    except Exception as error:
        raise check.failure(
            "the function raises if out= was filled before the call, but not otherwise.",
            mode=mode,
            got=described(error),
            cause="the function reads out= before it writes to it",
        ) from error


def _called(check: Property, mode: str, caller: Caller, arguments: Arguments) -> list[Array]:
    try:
        return caller(arguments)
    except UnsupportedError as error:
        check.pass_over(error.problem)
    except Exception as error:
        raise check.failure(
            "the call raises, but the function itself does not.", mode=mode, got=described(error)
        ) from error
