"""Composites: TensorFlow values that are not a single array, and how to get their tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop._lowering._tensorflow import CompositeTensor
from tfpyop.errors import CoercionError

WITHOUT_VALUES = (tf.resource, tf.variant)
"""The dtypes of tensors that refer to something other than an array."""
_PLAIN = frozenset({bool, int, float, complex, str, bytes, np.ndarray})
"""The types of most values, which need no further inspection."""


def refuse_composites(leaf: Any, number: int) -> None:
    """Raise if an input is not a single array, or is a list that contains a composite.

    Raises:
      CoercionError: The message says how to get the tensors of the value.
    """
    found = next((value for value in _values_in(leaf) if _is_composite(value)), None)
    if found is not None:
        kind = type(found).__name__
        what = f"a {kind}" if found is leaf else f"a list that contains a {kind}"
        raise CoercionError(f"input {number} is {what}, which cannot be passed as an array.", remedy=_way_out(found))
    _refuse_handles([value for value in _values_in(leaf) if isinstance(value, tf.Tensor)], number)


def _values_in(leaf: Any) -> Iterator[Any]:
    """Iterate over the values in nested lists, except for plain values."""
    if isinstance(leaf, list | tuple):
        for item in leaf:
            yield from _values_in(item)
    elif type(leaf) not in _PLAIN:
        yield leaf


def _refuse_handles(tensors: Sequence[tf.Tensor], number: int) -> None:
    """Raise if a tensor has no values, but is a handle of a variable, dataset or list.

    Raises:
      CoercionError: The message says what to pass instead.
    """
    for tensor in tensors:
        if tensor.dtype in WITHOUT_VALUES:
            raise handle_error(f"input {number}", tensor.dtype)


def handle_error(what: str, dtype: tf.DType) -> CoercionError:
    """Return the error for a tensor without values."""
    return CoercionError(
        f"{what} is a tensor of dtype {dtype.base_dtype.name}, which has no values.",
        expected="a tensor of numbers, booleans or strings",
        remedy="Pass the object that the tensor refers to: the tf.Variable itself, or the tensors in a dataset or "
        "list.",
    )


def _is_composite(value: Any) -> bool:
    if isinstance(value, tf.IndexedSlices):
        return value.dense_shape is None  # with a dense shape, the value is a single array
    return isinstance(value, CompositeTensor | tf.TensorArray | tf.distribute.DistributedValues) and not isinstance(
        value, tf.Variable
    )


def _way_out(value: Any) -> str:
    """Return the advice for a value that is not a single array."""
    if isinstance(value, tf.IndexedSlices):
        return (
            "Without dense_shape=, the size of the tensor is unknown. Use tf.IndexedSlices(values, indices, "
            "dense_shape), or pass its .values and .indices."
        )
    if isinstance(value, tf.RaggedTensor):
        return (
            "Convert it with .to_tensor(), or pass its .flat_values. An elementwise op, "
            'signature="()->()", accepts ragged tensors directly.'
        )
    if isinstance(value, tf.sparse.SparseTensor):
        return "Convert it with tf.sparse.to_dense(x), or pass its .values and .indices."
    if isinstance(value, tf.data.Dataset):
        return "Call the op on the elements: dataset.map(op)."
    if isinstance(value, tf.data.Iterator):
        return "Pass an element: next(iterator)."
    if isinstance(value, tf.experimental.Optional):
        return "Pass its value: x.get_value(), if x.has_value()."
    if isinstance(value, tf.distribute.DistributedValues):
        return (
            "Call the op on the value of each replica: strategy.run(op, args=(x,)). Outside a replica context, "
            "strategy.experimental_local_results(x) returns the values as a tuple."
        )
    if isinstance(value, tf.TensorArray):
        return "Convert it to a tensor with .stack() or .concat()."
    return "Pass its tensors as separate inputs."
