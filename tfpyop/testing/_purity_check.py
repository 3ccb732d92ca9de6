"""The check of purity: calls must not affect their inputs or other calls."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis.errors import UnsatisfiedAssumption
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._host.function import flattened
from tfpyop._registry.op_def import ConcreteOp
from tfpyop._spec.coercion import Array, dtype_kind
from tfpyop.testing._call_checks import require_equal
from tfpyop.testing._check_runner import KEEPS_STATE, CheckRunner
from tfpyop.testing._events import reject_example
from tfpyop.testing._examples import Arguments
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._ops import concrete_op_of, spec_of
from tfpyop.testing._property import Property, Steps, check_function
from tfpyop.testing._strategies import arguments as draw_arguments


@check_function()
def check_purity(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check that the function depends only on its inputs, and changes nothing.

    Proves, for the drawn examples, that the same inputs give the same outputs even after other calls, that the function
    does not write to its inputs, and that a later call does not overwrite an earlier result.

    Args:
      op: The op. Ops with `stateful=True` are skipped.
      arguments: Strategy for the arguments. Default: `arguments(op)`.
      max_examples: Number of examples. Default: set by the Hypothesis profile.
      seed: Seed that makes every run draw the same examples.
      modes: Not used, because the function is called without TensorFlow.

    Returns:
      The outcome, with the number of examples.

    Raises:
      CheckError: The function is not pure. The report shows the effect.
    """
    checked_modes(modes)
    check = CheckRunner(op, "check_purity", max_examples=max_examples, seed=seed)
    if spec_of(op).is_stateful:
        return check.skipped("the op is declared stateful")

    def body(arguments: Arguments) -> None:
        first, first_inputs = raw_call(check, op, arguments)
        kept = [np.array(output) for output in first]
        _, fresh_inputs = _raw_inputs(op, arguments)
        for number, (array, before) in enumerate(zip(first_inputs, fresh_inputs, strict=True)):
            if not np.array_equal(array, before, equal_nan=dtype_kind(array.dtype) in "fc"):
                raise check.failure(
                    f"the function writes to input {number}.", cause="an in-place operation: work on x.copy()"
                )
        with contextlib.suppress(UnsatisfiedAssumption):  # the function may reject the other arguments
            raw_call(check, op, other_arguments(arguments))
        require_equal(check, kept, first, "a later call overwrites an earlier result")
        again, _ = raw_call(check, op, arguments)
        require_equal(check, kept, again, "a second call with the same inputs gives another result", cause=KEEPS_STATE)

    yield Property(check, draw_arguments(op) if arguments is None else arguments, body)
    return check.passed()


def _raw_inputs(op: Op[..., Any], arguments: Arguments) -> tuple[ConcreteOp, list[Array]]:
    """Return writable inputs with the loop dimensions that the function takes: all of them, one of them, or none.

    For a function that takes only core dimensions, return the inputs of one loop element.
    """
    concrete_op, leaves = concrete_op_of(op, arguments)
    inputs = [np.array(tf.constant(leaf).numpy()) for leaf in leaves]
    spec, signature = spec_of(op), concrete_op.signature
    if signature is None or (spec.is_vectorized and not spec.takes_rows):
        return concrete_op, inputs
    ranks = signature.core_ranks([array.shape for array in inputs])
    split = [(array, array.ndim - rank) for array, rank in zip(inputs, ranks, strict=True)]
    loop = np.broadcast_shapes(*(array.shape[:n_loop] for array, n_loop in split))
    if 0 in loop:
        reject_example("there is no loop element")
    if not spec.takes_rows:
        return concrete_op, [np.array(array[(0,) * n_loop]) for array, n_loop in split]
    return concrete_op, [np.array(array) for array in flattened(inputs, loop, ranks)]


def raw_call(check: CheckRunner, op: Op[..., Any], arguments: Arguments) -> tuple[list[Array], list[Array]]:
    """Return the function's results for writable inputs, and these inputs after the call."""
    concrete_op, inputs = _raw_inputs(op, arguments)
    spec = spec_of(op)
    more = {"out": None} if spec.parameters.takes_out else {}
    try:
        result = spec.call(op.numpy, inputs, concrete_op.tree, concrete_op.static, **more)
    except Exception as error:
        check.reject(error)
    if spec.object_names:  # objects cannot be compared: check_residuals compares derivatives
        outputs, residuals = result
        result = outputs, {name: value for name, value in residuals.items() if name not in spec.object_names}
    return [np.asarray(value) for value in tf.nest.flatten(result)], inputs


def other_arguments(arguments: Arguments) -> Arguments:
    """Return other arguments of the same shapes, which may lie outside the domain."""
    return arguments.map(lambda value: _turned(np.asarray(value)))


def _turned(array: Array) -> Array:
    turned = np.flip(array)
    return turned if array.dtype.kind in "OSU" else (turned * 0.75).astype(array.dtype)
