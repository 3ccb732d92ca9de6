"""The check of order: results and derivatives do not depend on other calls before them or in between."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._spec.coercion import Array, is_differentiable
from tfpyop._spec.tree import flatten
from tfpyop.errors import GradientError, SignatureError
from tfpyop.testing._call_checks import require_equal
from tfpyop.testing._check_runner import KEEPS_STATE, CheckRunner, described
from tfpyop.testing._derivatives import generator_of, weights_like
from tfpyop.testing._examples import Arguments, Rows
from tfpyop.testing._failures import is_refusal
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._ops import concrete_op_of, flat_function, plain_outputs, rules_of, spec_of
from tfpyop.testing._property import Property, Steps, check_function
from tfpyop.testing._strategies import pairs

_USUAL = 12
"""Default number of pairs. Mistakes with state hardly depend on values."""
_MOST_TRACED = 3
"""Maximum number of pairs that are traced together."""
_SLACK = 1024
"""Maximum difference in units of the dtype's precision: graphs may add terms in another order."""
_STALE = (
    "the rule uses a value that the last call of the function stored, for example in a global variable: use op.inputs, "
    "op.outputs or residuals="
)
_BAKED_IN = (
    "the rule computes with a Python value that is fixed when the graph is traced: compute with op.inputs in "
    "TensorFlow ops, or use numpy_gradient"
)
_CACHED = "a cache whose key has the bytes of the inputs, but not their shapes: add x.shape and x.dtype to the key"
_APART = 1e-9
"""Relative difference of numbers that give other bytes, and nearly the same results."""

Gradients = list[Array | None]


@check_function()
def check_order(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check that results and derivatives do not depend on the order of calls.

    Proves, for the drawn pairs of calls A and B, that the gradients are the same if both calls come before both
    gradients, in one tape and in one graph; that a graph that was traced for A gives the right results for B; that
    A returns the same before and after B; and that A can be called with the same numbers in another shape.

    Args:
      op: The op. Ops with `stateful=True` are skipped.
      arguments: Strategy for the arguments. Default: as in `check_gradient`.
      max_examples: Number of pairs of calls. Default: 12.
      seed: Seed that makes every run draw the same examples.
      modes: A selection of "eager" and "graph". Default: both.

    Returns:
      The outcome, with the number of pairs.

    Raises:
      CheckError: A result or derivative depends on another call. The report names the output or the input.
    """
    chosen = checked_modes(modes)
    check = CheckRunner(op, "check_order", max_examples=max_examples, seed=seed, usual=_USUAL)
    if spec_of(op).is_stateful:
        return check.skipped("the op is declared stateful")
    if "eager" not in chosen and "graph" not in chosen:
        return check.skipped("none of the modes applies to this op")
    graphs: dict[Any, Any] = {}
    traced: list[list[_Call]] = []

    def body(rows: Rows) -> None:
        calls = [_Call.of(check, op, row) for row in rows.arguments]
        if "eager" in chosen:
            calls[0].require_same_outputs(check)
            _require_same_shapes(check, op, rows.arguments[0])
        if not any(call.has_gradient for call in calls):
            return
        if "eager" in chosen:
            _require_interleaved(check, calls, mode="eager")
        if "graph" in chosen:
            if len(traced) < _MOST_TRACED:
                traced.append(calls)
                _require_interleaved(check, calls, mode="graph")
            _require_reusable(check, calls, graphs)

    yield Property(check, pairs(op, arguments).map(lambda rows: Rows(rows.arguments[:2])), body, shrinks=False)
    return check.passed()


class _Call:
    """One call of an op, with its outputs and its gradient without other calls in between.

    Args:
      op: The op.
      arguments: The arguments of the call.
      tensors: The inputs.
      outputs: The outputs.
    """

    def __init__(self, op: Op[..., Any], arguments: Arguments, tensors: list[tf.Tensor], outputs: list[Array]) -> None:
        self._op, self._arguments = op, arguments
        self.tensors, self.outputs = tensors, outputs
        self.function = flat_function(op, arguments)
        self.weights = weights_like(outputs, generator_of([tensor.numpy() for tensor in tensors], 1))
        self.gradients: Gradients = [None] * len(tensors)
        self.has_gradient = False

    @classmethod
    def of(cls, check: CheckRunner, op: Op[..., Any], arguments: Arguments) -> _Call:
        """Make a call and its gradient. Reject the example if the function or the rule refuses it."""
        try:
            return cls.made(op, arguments)
        except Exception as error:
            check.reject(error)

    @classmethod
    def made(cls, op: Op[..., Any], arguments: Arguments) -> _Call:
        """Make a call and its gradient."""
        _, leaves = concrete_op_of(op, arguments)
        call = cls(op, arguments, [tf.constant(leaf) for leaf in leaves], plain_outputs(op, arguments))
        if rules_of(op).vjp is not None and any(weight is not None for weight in call.weights):
            call.gradients = _numpy(call.gradient_of(*call.tensors))
            call.has_gradient = any(gradient is not None for gradient in call.gradients)
        return call

    @property
    def key(self) -> Any:
        """The ranks, dtypes and static values that calls in one graph share."""
        return (
            tuple((tensor.dtype, tensor.shape.rank) for tensor in self.tensors),
            repr(dict(self._arguments.static)),
            tuple(weight is None for weight in self.weights),
        )

    def gradient_of(self, *tensors: tf.Tensor, weights: Sequence[Any] | None = None) -> list[Any]:
        """Return the gradients at other tensors, for the cotangents of this call or other cotangents."""
        with tf.GradientTape() as tape:
            tape.watch([tensor for tensor in tensors if _is_floating(tensor)])
            outputs = self.function(tensors)
        return _pulled(tape, outputs, self.weights if weights is None else weights, tensors)

    def require_same_outputs(self, check: CheckRunner) -> None:
        """Raise a failure if the function does not return the same as before the calls in between."""
        try:
            again = plain_outputs(self._op, self._arguments)
        except Exception as error:
            raise check.failure(
                "the function raises for inputs for which it did not raise before another call.",
                got=described(error),
                cause=KEEPS_STATE,
            ) from error
        problem = "the same call returns another result after another call"
        require_equal(check, self.outputs, again, problem, is_exact=False, cause=KEEPS_STATE)

    def require_gradients(self, check: CheckRunner, got: Sequence[Any], problem: str, *, mode: str, cause: str) -> None:
        """Raise a failure unless gradients are the gradients without other calls."""
        pairs_of = [
            (np.zeros_like(b) if a is None else a, np.zeros_like(a) if b is None else b)
            for a, b in zip(self.gradients, got, strict=True)
            if a is not None or b is not None
        ]
        expected, found = [a for a, _ in pairs_of], [b for _, b in pairs_of]
        require_equal(
            check, expected, found, problem, mode=mode, is_exact=False, slack=_SLACK, noun="cotangent", cause=cause
        )


def _require_interleaved(check: CheckRunner, calls: Sequence[_Call], *, mode: str) -> None:
    """Raise a failure if the gradient of a call changes because another call follows it."""

    def both() -> list[list[Any]]:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([tensor for call in calls for tensor in call.tensors if _is_floating(tensor)])
            outputs = [call.function(call.tensors) for call in calls]
        with tf.control_dependencies([tensor for listed in outputs for tensor in listed]):
            return [
                _pulled(tape, listed, call.weights, call.tensors) for call, listed in zip(calls, outputs, strict=True)
            ]

    function = both if mode == "eager" else tf.function(both, autograph=False).get_concrete_function()
    try:
        found = [_numpy(gradients) for gradients in function()]
    except GradientError as error:
        check.reject(error)
    except Exception as error:
        raise check.failure(
            "the gradient of a call raises after another call.", mode=mode, got=described(error), cause=_STALE
        ) from error
    for call, gradients in zip(calls, found, strict=True):
        call.require_gradients(
            check, gradients, "the gradient of a call changes if another call follows it", mode=mode, cause=_STALE
        )


def _require_reusable(check: CheckRunner, calls: Sequence[_Call], graphs: dict[Any, Any]) -> None:
    """Raise a failure if a graph that was traced before gives other gradients than eager calls."""
    for call in (*calls, calls[0]):
        graph = graphs.get(call.key)
        if graph is None:
            graph = graphs[call.key] = _traced(call)
        try:
            found = _numpy(graph(*call.tensors, *[weight for weight in call.weights if weight is not None]))
        except Exception as error:
            if not is_refusal(error):
                raise
            raise check.failure(
                "a graph that was traced before raises, but an eager call does not.",
                mode="graph",
                got=described(error),
                cause=_BAKED_IN,
            ) from error
        problem = "the gradient in a graph that was traced for other values differs from the eager gradient"
        call.require_gradients(check, found, problem, mode="graph", cause=_BAKED_IN)


def _traced(call: _Call) -> Any:
    """Trace the gradient of a call for all values, and for all sizes of the same ranks."""
    n_inputs = len(call.tensors)

    def gradient(*tensors: tf.Tensor) -> list[Any]:
        given = iter(tensors[n_inputs:])
        weights = [None if weight is None else next(given) for weight in call.weights]
        return call.gradient_of(*tensors[:n_inputs], weights=weights)

    like = [*call.tensors, *[tf.constant(weight) for weight in call.weights if weight is not None]]
    specs = [tf.TensorSpec([None] * tensor.shape.rank, tensor.dtype) for tensor in like]
    return tf.function(gradient, autograph=False).get_concrete_function(*specs)


def _require_same_shapes(check: CheckRunner, op: Op[..., Any], arguments: Arguments) -> None:
    """Raise a failure if a call raises only because a call with the same numbers in another shape came before it."""
    for other in _reshaped(op, arguments):
        error = _error_of(op, other)
        if error is None or _error_of(op, _other_numbers(other)) is not None:
            continue
        shapes = ", ".join(str(np.shape(leaf)) for leaf in other.leaves)
        with check.named(Rows((arguments, other))):
            raise check.failure(
                "a call raises after a call with the same numbers in another shape.",
                expected=f"results for inputs of shapes {shapes}, as for other numbers in these shapes",
                got=described(error),
                cause=_CACHED,
            )


def _error_of(op: Op[..., Any], arguments: Arguments) -> Exception | None:
    """Return the exception that a call or its derivatives raise, or None."""
    try:
        _Call.made(op, arguments)
    except Exception as error:
        return error
    return None


def _other_numbers(arguments: Arguments) -> Arguments:
    """Return arguments whose floating-point numbers differ a little."""
    return arguments.map(
        lambda value: value * value.dtype.type(1 + _APART) if is_differentiable(value.dtype) else value
    )


def _reshaped(op: Op[..., Any], arguments: Arguments) -> Iterator[Arguments]:
    """Yield arguments with the same numbers in other shapes, as far as the signature allows."""
    signature = concrete_op_of(op, arguments)[0].signature
    arrays = [np.asarray(value) for value in arguments.leaves] if _is_flat(arguments) else []
    if signature is None or not arrays or all(array.size < 2 for array in arrays):
        return
    reversed_shapes = tuple(array.shape[::-1] for array in arrays)
    in_rows = tuple((1, *array.shape) for array in arrays)
    in_columns = tuple(
        (array.shape[-1], math.prod(array.shape[:-1])) if array.ndim > 1 else array.shape for array in arrays
    )
    for shapes in dict.fromkeys((reversed_shapes, in_rows, in_columns)):
        if shapes == tuple(array.shape for array in arrays):
            continue
        try:
            signature.output_shapes(signature.bind(shapes))
        except (SignatureError, ZeroDivisionError):
            continue
        reshaped = [np.ascontiguousarray(array).reshape(shape) for array, shape in zip(arrays, shapes, strict=True)]
        yield Arguments(flatten(arguments.args)[1].unflatten(reshaped), arguments.static)


def _is_flat(arguments: Arguments) -> bool:
    return not any(isinstance(value, dict | tuple | list) for value in arguments.args)


def _is_floating(tensor: tf.Tensor) -> bool:
    return bool(tensor.dtype.is_floating or tensor.dtype.is_complex)


def _pulled(
    tape: tf.GradientTape, outputs: Sequence[tf.Tensor], weights: Sequence[Any], tensors: Sequence[tf.Tensor]
) -> list[Any]:
    """Return the gradients of outputs for these cotangents."""
    used = [(output, weight) for output, weight in zip(outputs, weights, strict=True) if weight is not None]
    gradients: list[Any] = tape.gradient(
        [output for output, _ in used],
        list(tensors),
        output_gradients=[tf.convert_to_tensor(weight) for _, weight in used],
    )
    return gradients


def _numpy(gradients: Sequence[Any]) -> Gradients:
    return [None if gradient is None else gradient.numpy() for gradient in gradients]
