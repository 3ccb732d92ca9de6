"""Fast conversion of the usual inputs of eager calls: tensors, variables, arrays and numbers.

All other inputs are left to `tensors`, which also reports errors.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop._lowering._tensorflow import EagerTensor, ResourceVariable, datatype_of, read_variable, tensor_of_array
from tfpyop._lowering.tensors import detached, numpy_dtype, tensor_of_value
from tfpyop._spec.coercion import Array, DTypeContext, coerce_input
from tfpyop.errors import TfpyopError

_NUMBERS = (float, int, bool)
_MAX_ARRAYS = 1024
_arrays: dict[Any, Array] = {}
"""The arrays of Python numbers. Calls use few numbers, and finding an array is faster than making one."""


def usual_tensors(leaves: Sequence[Any]) -> list[EagerTensor] | None:
    """Make eager tensors of the inputs of one call; return None if an input is not of a usual kind."""
    tensors: list[Any] = []
    has_values = False
    for leaf in leaves:
        kind = type(leaf)
        if kind is EagerTensor:
            tensors.append(leaf)
        elif kind is ResourceVariable:
            try:
                tensors.append(read_variable(leaf))
            except (TypeError, ValueError, tf.errors.OpError):  # raised again by `as_tensors`, which names the op
                return None
        elif kind is np.ndarray or kind in _NUMBERS:
            tensors.append(None)
            has_values = True
        else:
            return None
    if not has_values:
        return tensors
    try:
        partners = _partners(tuple([datatype_of(tensor) for tensor in tensors if tensor is not None]))
        for number, leaf in enumerate(leaves):
            if tensors[number] is None:
                tensors[number] = _tensor(leaf, partners, number)
    except TfpyopError:  # raised again by `as_tensors`, which names the op
        return None
    return tensors


@functools.lru_cache(maxsize=1024)
def _partners(datatypes: tuple[int, ...]) -> DTypeContext:
    return DTypeContext.of([numpy_dtype(tf.as_dtype(datatype)) for datatype in datatypes])


def _tensor(leaf: Any, partners: DTypeContext, number: int) -> EagerTensor:
    if type(leaf) is np.ndarray:
        dtype = leaf.dtype
        is_floating = partners.floating is not None and dtype == partners.floating  # for numpy, float64 equals None
        keeps_dtype = is_floating or dtype.char in "fbBhHiIlLqQ?"
        if keeps_dtype and dtype.isnative:
            return tensor_of_array(detached(leaf))
        return tensor_of_value(leaf, partners, number)
    key = (type(leaf), leaf or repr(leaf), partners)  # 0.0 equals -0.0
    array = _arrays.get(key)
    if array is None:
        if len(_arrays) >= _MAX_ARRAYS:
            _arrays.clear()
        array = _arrays[key] = coerce_input(leaf, partners, what=f"input {number}")
    return tensor_of_array(array)  # a tensor of its own: tapes identify tensors by identity
