"""Check the values that a derivative rule returns, in TensorFlow ops or in numpy: their number, shapes and dtypes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from tfpyop._spec.coercion import Array, DType, advise_rule, as_array, coerce_output, dtype_kind, is_half
from tfpyop._spec.outputs import ArraySpec, is_compatible
from tfpyop._spec.signature import Signature
from tfpyop.errors import ContractError, Shape, describe_kind, describe_shape, message_of

T = TypeVar("T")
Places = Sequence[int | None]
"""For each input as a rule sees them, its index among the flat inputs of the call; None for an input left out."""

OF_TUPLES = "op.inputs and op.outputs are tuples. Unpack them: (x,) = op.inputs."
"""The note for a rule that uses a tuple as if it were an array."""
OWN_OP = "make the numpy part an op of its own with differentiable_op"
"""The remedy for numpy in rules that have no form in numpy."""
_VECTOR_REMEDY = "Return an array or tensor for it, or None where there is no dependence."
_OF_TUPLE = re.compile(
    r"can't multiply sequence by non-int|(operand type|operand for|instances of|not) .*'tuple'"
    r"|'tuple' object has no attribute"
)


def placed(values: Sequence[T], places: Places) -> list[T | None]:
    """Return one value for each place: a value of the flat inputs, or None for an input that the call leaves out."""
    return [None if place is None else values[place] for place in places]


def without_missing(values: Sequence[T], places: Places) -> list[T]:
    """Return values that a rule takes or returns, without those for inputs that the call leaves out."""
    return [value for value, place in zip(values, places, strict=True) if place is not None]


def describe_rule_call(vector: str, n_vectors: int, *, is_bound: bool) -> str:
    """Render how a rule is called, with names for its cotangents or tangents."""
    names = [vector] if n_vectors == 1 else [f"{vector} {number}" for number in range(n_vectors)]
    return f"rule({', '.join([*(['self'] if is_bound else []), 'op', *names])})"


def takes_tuple_for_array(error: Exception) -> bool:
    """Return whether a rule raised this exception because it used the tuple `op.inputs` as an array."""
    return isinstance(error, TypeError | AttributeError) and _OF_TUPLE.search(message_of(error)) is not None


def rule_values(result: Any, n_values: int, kind: str, like: str) -> Sequence[Any]:
    """Return the cotangents or tangents from a rule's result: a sequence, or a single value that stands for a 1-tuple.

    Raises:
      ContractError: The rule did not return one value for each input (or output).
    """
    rule = "gradient" if kind == "cotangent" else "JVP"
    if result is None:
        raise ContractError(
            f"the {rule} rule returned None.",
            expected=f"{n_values}, one {kind} for each of op.{like}",
            got="None",
            remedy="Check that the rule has a return statement. If there is no dependence at all, return "
            f"{(None,) * n_values}.",
        )
    values = result if isinstance(result, tuple | list) else (result,)
    if len(values) != n_values:
        raise ContractError(
            f"the {rule} rule returned the wrong number of {kind}s.",
            expected=f"{n_values}, one for each of op.{like}",
            got=f"{describe_kind(result)} of {len(values)}" if values is result else f"one {type(result).__name__}",
            remedy=f"Return a tuple in the order of op.{like}, with None where there is no dependence.",
        )
    return values


def broadcast_shapes_of(signature: Signature | None, primals: Sequence[Shape | None]) -> Sequence[Shape | None]:
    """Return the shape of each primal after its loop dimensions are broadcast; its own shape without a signature."""
    if signature is None:
        return primals
    binding = signature.bind(primals)
    return [binding.shape(core) for core in signature.inputs]


def summed_axes(shape: Shape, primal: Shape) -> tuple[int, ...]:
    """Return the axes over which a cotangent of the broadcast shape is summed to get the shape of the primal."""
    extra = len(shape) - len(primal)
    stretched = (axis + extra for axis, size in enumerate(primal) if size == 1 and shape[axis + extra] != 1)
    return (*range(extra), *stretched)


def wrong_cotangent_shape(
    number: int, n_inputs: int, primal: ArraySpec, broadcast: Shape | None, got: ArraySpec
) -> ContractError:
    """Return the error for a cotangent that has neither the primal's shape nor the broadcast shape."""
    expected = str(primal)
    if broadcast != primal.shape:
        expected += f" or the broadcast shape {describe_shape(broadcast)}"
    remedy = (
        "Return each cotangent in the shape of its input. Broadcast loop dimensions may stay; tfpyop sums over them."
    )
    if primal.shape is not None and got.shape == (n_inputs, *primal.shape) and broadcast == primal.shape:
        remedy += f" {OF_TUPLES}"
    return ContractError(
        f"the cotangent of input {number} has the wrong shape.", expected=expected, got=str(got), remedy=remedy
    )


def wrong_tangent_shape(number: int, output: ArraySpec, got: ArraySpec) -> ContractError:
    """Return the error for a tangent whose shape differs from the shape of its output."""
    return ContractError(
        f"tangent {number} has the wrong shape.",
        expected=str(output),
        got=str(got),
        remedy="Return each tangent in the shape of its output.",
    )


def coerce_cotangent(value: Any, primal: ArraySpec, number: int, n_inputs: int, broadcast: Shape | None) -> Array:
    """Cast a cotangent and check its shape. Sum a cotangent of the broadcast shape over the loop dimensions.

    The number of the input is for error messages.
    """
    what = f"the cotangent of input {number}"
    array = as_array(value, what, remedy=_VECTOR_REMEDY)
    if array.shape != primal.shape:
        if array.shape != broadcast:
            raise wrong_cotangent_shape(number, n_inputs, primal, broadcast, ArraySpec.of(array))
        assert primal.shape is not None
        array = np.sum(array, axis=summed_axes(array.shape, primal.shape)).reshape(primal.shape)
    return fit_vector(array, primal.dtype, what, f"op.inputs[{number}]")


def coerce_tangent(value: Any, output: ArraySpec, number: int) -> Array:
    """Cast a tangent and check its shape."""
    array = fit_vector(value, output.dtype, f"tangent {number}", f"op.outputs[{number}]")
    if not is_compatible(array.shape, output.shape):
        raise wrong_tangent_shape(number, output, ArraySpec.of(array))
    return array


def fit_vector(value: Any, dtype: DType, what: str, place: str) -> Array:
    """Cast a cotangent or tangent to this dtype. In half precision, values that are too large become infinite.

    TensorFlow behaves in the same way. Training in mixed precision scales losses until gradients overflow, and then
    looks for values that are not finite.

    Args:
      value: The cotangent or tangent.
      dtype: The dtype.
      what: The name of the value in errors.
      place: The value of the call whose dtype it is, such as `op.inputs[0]`.
    """
    array = as_array(value, what, remedy=_VECTOR_REMEDY)
    if is_half(dtype) and dtype_kind(array.dtype) == "f":
        with np.errstate(over="ignore"):
            return array.astype(dtype, copy=False)
    return coerce_output(array, dtype, what=what, advise=advise_rule(place))
