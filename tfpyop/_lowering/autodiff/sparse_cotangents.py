"""Cotangents that a rule in TensorFlow ops returns as `tf.IndexedSlices`: their checks."""

from __future__ import annotations

import tensorflow as tf

from tfpyop._lowering.autodiff.recorded_call import RecordedCall
from tfpyop._lowering.tensors import type_of
from tfpyop._rules.slice_indices import require_valid_indices
from tfpyop.errors import ContractError


def checked_slices(call: RecordedCall, value: tf.IndexedSlices, primal: tf.Tensor, what: str) -> tf.IndexedSlices:
    """Return slices with valid indices. Without a dense shape, they get the shape of the primal.

    Args:
      call: The call that is differentiated.
      value: The slices.
      primal: The input that the cotangent belongs to.
      what: The cotangent in errors.

    Raises:
      ContractError: The numbers of values and indices differ, or an index is invalid.
    """
    values, indices = tf.convert_to_tensor(value.values), tf.convert_to_tensor(value.indices)
    shape = tf.shape(primal) if value.dense_shape is None else tf.convert_to_tensor(value.dense_shape)
    if not indices.shape.is_compatible_with([None]) or not indices.shape.is_compatible_with(values.shape[:1]):
        raise ContractError(
            f"{what} has different numbers of values and indices.",
            expected="tf.IndexedSlices with a vector of indices, one for each of its values",
            got=f"values {type_of(values)} and indices {type_of(indices)}",
            remedy="Return tf.IndexedSlices(values, indices, dense_shape), in which values[k] belongs to "
            "dense[indices[k]].",
        )
    size = tf.cast(shape[0], indices.dtype)
    indices = require_valid_indices(indices, size, owner=f"gradient of {call.op.subject}", what=what)
    return tf.IndexedSlices(values, indices, shape)
