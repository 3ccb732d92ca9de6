"""Checks of calls: that an op returns what it declares, returns the same in every mode, and works over rows."""

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
from tfpyop.testing._check_runner import KEEPS_STATE, CheckRunner, described
from tfpyop.testing._destinations import require_written
from tfpyop.testing._examples import Arguments, Rows
from tfpyop.testing._failures import CheckError
from tfpyop.testing._many_points import Batch
from tfpyop.testing._modes import MODES, Caller, checked_modes, is_applicable
from tfpyop.testing._ops import concrete_op_of, plain_outputs, spec_of
from tfpyop.testing._property import Property, Steps, check_function
from tfpyop.testing._refused_dtypes import RefusedDtypes
from tfpyop.testing._strategies import arguments as draw_arguments
from tfpyop.testing._strategies import rows as draw_rows
from tfpyop.testing._sweep_points import Sweeper

_MOST_COMPILED = 10
"""Maximum number of examples in the XLA mode. Compilation for new sizes takes about 50 ms."""
_MOST_TRACED = 30
"""Maximum number of examples in a graph. Graphs run the same function, and few kinds of inputs are traced."""
_SLACK = 64
"""Maximum difference between two implementations of the same function, in units of the dtype's precision."""
_SLACK_OF_SUMS = 1024
"""The same limit if sums of about a hundred terms are added in another order."""


@check_function(modes=MODES)
def check_contract(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check that the outputs of the function have the declared number, dtypes and shapes.

    Proves, for the drawn examples, that calls in every mode succeed and return what signature and dtype declare. The
    examples include empty, 0-d, size-one and broadcast inputs. If the function raises for an empty input, the example
    is rejected.

    Args:
      op: The op.
      arguments: Strategy for the arguments. Default: `arguments(op)`.
      max_examples: Number of examples. Default: set by the Hypothesis profile; at most 30 in a graph and ten with XLA.
      seed: Seed that makes every run draw the same examples.
      modes: A selection of "eager", "graph", "XLA" and "native". Default: all that apply.

    Returns:
      The outcome, with the number of examples.

    Raises:
      CheckError: The declaration is violated. The report contains the simplest call that shows it.
    """
    check = CheckRunner(op, "check_contract", max_examples=max_examples, seed=seed)

    refusals = RefusedDtypes(check)

    def body(mode: str, caller: Caller, arguments: Arguments) -> None:
        with refusals.noted(arguments):
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

    outcome = yield from _in_modes(check, op, body, arguments=arguments, modes=modes)
    refusals.require_accepted()
    return outcome


@check_function(modes=MODES)
def check_parity(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check that the op returns the same values in every mode: eager, in a graph, compiled by XLA, and native.

    Proves, for the drawn examples, that no mode changes a value. Values must be identical where the same function runs,
    and equal to the precision of the dtype for the implementation that `@op.native` attached.

    Args:
      op: The op. Ops with `stateful=True` are skipped.
      arguments: Strategy for the arguments. Default: `arguments(op)`.
      max_examples: Number of examples. Default: set by the Hypothesis profile; at most 30 in a graph and ten with XLA.
      seed: Seed that makes every run draw the same examples.
      modes: A selection of "eager", "graph", "XLA" and "native". Default: all that apply.

    Returns:
      The outcome, with the number of examples.

    Raises:
      CheckError: Two modes differ. The report names the output and the element.
    """
    check = CheckRunner(op, "check_parity", max_examples=max_examples, seed=seed)
    if spec_of(op).is_stateful:
        return check.skipped("the op is declared stateful")

    strategy = draw_arguments(op) if arguments is None else arguments
    sweeper = Sweeper(check, op, strategy, seed=seed)

    def body(mode: str, caller: Caller, arguments: Arguments) -> None:
        sweeper.note(arguments)
        expected = function_outputs(check, op, arguments)
        got = _called(check, mode, caller, arguments)
        _require_written(check, op, arguments, mode)
        require_equal(
            check, expected, got, f"the {mode} call differs from the function", mode=mode, is_exact=mode != "native"
        )

    yield from _in_modes(check, op, body, arguments=strategy, modes=modes)
    if "native" in checked_modes(modes) and is_applicable(op, "native"):
        caller = Caller(op, "native")

        def different_rows(batch: Batch) -> Array:
            pairs = zip(plain_outputs(op, batch.as_arguments), caller(batch.as_arguments), strict=True)
            differs = [_differs(*pair, is_exact=False).reshape(len(batch), -1).any(axis=1) for pair in pairs]
            return np.flatnonzero(np.logical_or.reduce(differs))

        sweeper.run_rows(different_rows, functools.partial(body, "native", caller))
    return check.passed()


@check_function()
def check_batching(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check that `tf.vectorized_map` of the op returns the same as a Python loop over the rows.

    Proves, for the drawn examples, that the function handles loop dimensions as its signature declares.

    Args:
      op: The op. Ops with `stateful=True` are skipped.
      arguments: Strategy for the arguments of one row. Default: `arguments(op)`. If it draws other shapes for the
        second row, the first row is reversed and used instead.
      max_examples: Number of examples. Default: ten, because every example is traced.
      seed: Seed that makes every run draw the same examples.
      modes: Not used, because rows are batched in a graph.

    Returns:
      The outcome, with the number of examples.

    Raises:
      CheckError: Rows differ. The report names the output and the element.
    """
    checked_modes(modes)
    check = CheckRunner(op, "check_batching", max_examples=max_examples, seed=seed, usual=_MOST_COMPILED)
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
        stacked = [tf.constant(array) for array in Arguments(rows.stacked).leaves]

        def over_rows() -> Any:
            return tf.vectorized_map(lambda row: op(*rows.of_row(row), **rows.static), stacked, warn=False)

        got = tf.function(over_rows, autograph=False).get_concrete_function()()
        arrays = [tensor.numpy() for tensor in tf.nest.flatten(got)]
        problem = "vectorized_map differs from a loop over rows"
        try:
            require_equal(check, expected, arrays, problem, is_exact=False, slack=_SLACK_OF_SUMS)
        except CheckError as failure:
            failure.cause = cause(rows.arguments[0], looped[0])
            raise

    yield Property(check, draw_rows(op, arguments), body, shrinks=False)
    return check.passed()


def require_equal(
    check: CheckRunner,
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
    """Raise a failure for the first element in which arrays differ. NaN equals NaN.

    Args:
      check: The check that compares the arrays.
      expected: The correct arrays.
      got: The actual arrays.
      problem: The problem that a difference shows, as the beginning of a sentence.
      mode: The mode of the call.
      is_exact: Whether the arrays must be identical, except for subnormal numbers and signs of zero.
      slack: Maximum difference in units of the dtype's precision, if the arrays need not be identical.
      noun: What each array is.
      cause: The likely cause of a difference.
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
    if is_exact:  # except for subnormal numbers, which XLA replaces by zero
        wanted, got = _flushed(wanted), _flushed(got)
        return np.asarray((wanted != got) & ~(np.isnan(wanted) & np.isnan(got)))
    eps = float(finfo(wanted.dtype).eps)
    tolerance = min(slack * eps, max(_SLACK * eps, eps**0.5))
    largest = np.max(np.abs(wanted), where=np.isfinite(wanted), initial=0.0)
    with np.errstate(all="ignore"):
        close = np.isclose(got, wanted, rtol=tolerance, atol=float(tolerance * largest), equal_nan=True)
    return np.asarray(~close)


def _flushed(values: Array) -> Array:
    """Return the values with subnormal numbers replaced by zero, also in complex numbers."""
    smallest = float(finfo(values.dtype).smallest_normal)
    if values.dtype.kind == "c":
        real, imaginary = (np.where(np.abs(part) < smallest, 0, part) for part in (values.real, values.imag))
        return np.asarray(real + 1j * imaginary)
    return np.where(np.abs(values) < smallest, np.zeros_like(values), values)


def _in_modes(
    check: CheckRunner,
    op: Op[..., Any],
    body: Any,
    *,
    arguments: SearchStrategy[Arguments] | None,
    modes: Sequence[str] | None,
) -> Steps:
    """Run the body in every mode that applies."""
    strategy = draw_arguments(op) if arguments is None else arguments
    applicable = [mode for mode in checked_modes(modes) if is_applicable(op, mode)]
    if not applicable:
        return check.skipped("none of the modes applies to this op")
    for mode in applicable:
        caller = Caller(op, mode)
        is_costly = mode == "XLA"
        most = {"XLA": _MOST_COMPILED, "graph": _MOST_TRACED}
        yield Property(
            check,
            strategy,
            functools.partial(body, mode, caller),
            shrinks=not is_costly,
            at_most=most.get(mode),
        )
    return check.passed()


def function_outputs(check: CheckRunner, op: Op[..., Any], arguments: Arguments) -> list[Array]:
    """Return the outputs of the function. Reject the example if the function refuses it."""
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
    """Return whether the arguments match the signature of the op."""
    concrete_op, leaves = concrete_op_of(op, arguments)
    types = [ArraySpec.of(tf.constant(leaf).numpy()) for leaf in leaves]
    try:
        concrete_op.host.infer_outputs(types)
    except SignatureError:
        return False
    return True


def _require_written(check: CheckRunner, op: Op[..., Any], arguments: Arguments, mode: str) -> None:
    """Raise a failure if the results depend on the previous contents of destinations. Skip the native mode."""
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


def _called(check: CheckRunner, mode: str, caller: Caller, arguments: Arguments) -> list[Array]:
    try:
        return caller(arguments)
    except UnsupportedError as error:
        check.skip_example(error.problem)
    except Exception as error:
        raise check.failure(
            "the call raises, but the function itself does not.", mode=mode, got=described(error)
        ) from error
