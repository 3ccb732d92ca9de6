"""Conversion between tensors and arrays: make tensors of inputs, share tensor memory, make tensors of arrays."""

from __future__ import annotations

import functools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from sys import getrefcount
from typing import Any
from weakref import getweakrefcount

import numpy as np
import tensorflow as tf

from tfpyop._host.function import HostFunction
from tfpyop._host.kept_objects import are_handles
from tfpyop._lowering._tensorflow import (
    CompositeTensor,
    EagerTensor,
    NotOkStatusError,
    datatype_of,
    ensure_initialized,
    has_tensor_conversion,
    shared_memory,
    tensor_of_array,
)
from tfpyop._lowering.composites import WITHOUT_VALUES, handle_error, refuse_composites
from tfpyop._lowering.profiling import run_host
from tfpyop._spec.array_like import require_levels
from tfpyop._spec.coercion import STRING, Array, DType, DTypeContext, coerce_input, coerce_output, dtype_kind
from tfpyop._spec.outputs import HANDLE, ArraySpec
from tfpyop._spec.rule_values import fit_vector
from tfpyop.errors import CoercionError, TfpyopError, UnsupportedError, shown

_ALIGNMENT = 64
_WITHOUT_TENSORS = (str, bytes, bytearray, memoryview, range)
_PLAIN_TYPES = frozenset({bool, int, float, complex, str, bytes, np.ndarray})
_WITHOUT_ARRAYS = frozenset(
    dtype.as_datatype_enum for dtype in (tf.qint8, tf.quint8, tf.qint16, tf.quint16, tf.qint32, *WITHOUT_VALUES)
)
"""TensorFlow's numbers of the rejected dtypes. TensorFlow would convert quantized tensors to plain integers."""
_PATIENCE = 2.0
"""Maximum time to wait, in seconds, for a thread to release memory that it must not keep."""


def as_tensors(leaves: Sequence[Any], subject: str, place: Callable[[int], int]) -> list[tf.Tensor]:
    """Make tensors of the inputs of one call. Tensors keep their dtypes; plain values follow the dtypes of the tensors.

    Args:
      leaves: The inputs.
      subject: The op in error messages.
      place: Returns the number of an input in error messages.

    Raises:
      CoercionError: An input cannot be converted to a tensor.
    """
    try:
        tensors = [_tensor_like(leaf, place(number)) for number, leaf in enumerate(leaves)]
        _require_array_dtypes(tensors, place)
        if all(tensor is not None for tensor in tensors):
            return tensors
        partners = DTypeContext.of(dtype_of(tensor) for tensor in tensors if tensor is not None)
        return [
            tensor_of_value(leaves[number], partners, place(number)) if tensor is None else tensor
            for number, tensor in enumerate(tensors)
        ]
    except TfpyopError as error:
        raise error.with_subject(subject) from error.__cause__


def input_arrays(tensors: Sequence[EagerTensor], place: Callable[[int], int] = int) -> list[Array]:
    """Return the memory of eager tensors as arrays, without copies. Do not write to them.

    Args:
      tensors: The tensors.
      place: Returns the number of an input in error messages.

    Raises:
      CoercionError: A tensor has a dtype that arrays do not support.
    """
    arrays = []
    for tensor in tensors:
        if datatype_of(tensor) in _WITHOUT_ARRAYS:
            _require_array_dtypes(tensors, place)
        try:
            array = shared_memory(tensor)
        except NotOkStatusError:
            array = tensor.numpy()  # raises the error that TensorFlow creates for the status
        arrays.append(array if type(array) is np.ndarray else _as_array(tensor, array))
    return arrays


def _require_array_dtypes(tensors: Sequence[tf.Tensor | None], place: Callable[[int], int]) -> None:
    for number, tensor in enumerate(tensors):
        if tensor is not None:
            numpy_dtype(tensor.dtype, f"input {place(number)}")


def _as_array(tensor: EagerTensor, value: Any) -> Array:
    """Return the array of a 0-d tensor, which TensorFlow passes as a scalar."""
    return np.asarray(value, dtype=STRING if tensor.dtype == tf.string else None)


def tensor_of(array: Array) -> tf.Tensor:
    """Return an eager tensor in host memory for an array whose memory TensorFlow can adopt."""
    return tf.constant(array) if array.dtype == STRING else EagerTensor(array, None, None)


def host_results(host: HostFunction, arrays: Sequence[Any]) -> list[Array]:
    """Run a host function; return arrays that TensorFlow can adopt because nothing else refers to their memory."""
    views, plan = host.prepare(arrays)
    if plan.n_destinations:
        out = [_aligned(type_) for type_ in plan.outputs[: plan.n_destinations]]  # TensorFlow adopts their memory
        return _released(run_host(host, plan, views, out), out)
    return [detached(array) for array in run_host(host, plan, views)]


def _released(arrays: list[Array], out: Sequence[Array]) -> list[Array]:
    """Return arrays without other references to their memory.

    Arrays in `out` are returned without a copy, unless the function kept a reference. TensorFlow adopts sufficiently
    aligned memory and copies all other memory. Of the remaining arrays, only aligned arrays are therefore copied here.
    """
    is_written = [given is array for given, array in zip(out, arrays, strict=False)]
    others = [detached(array) for array in arrays[len(out) :]]
    replaced = [None if written else detached(array) for written, array in zip(is_written, arrays, strict=False)]
    arrays.clear()
    taken = [np.array(array) for array in out] if are_referenced(out) else list(out)
    return [given if array is None else array for given, array in zip(taken, replaced, strict=True)] + others


def detached(array: Array) -> Array:
    """Return the array, or a copy if TensorFlow would adopt its memory. TensorFlow copies all other memory itself.

    Handles keep their memory, which owns the objects.
    """
    if array.dtype is HANDLE and are_handles(array):
        return array
    is_adopted = array.nbytes < 4096 or array.ctypes.data % _adopted_alignment() == 0
    return np.array(array) if is_adopted else array


def are_referenced(arrays: Sequence[Array]) -> bool:
    """Return whether any of these arrays, or a part of one, has a reference besides the list that contains it.

    Return True if this Python does not count references as expected.
    """
    if not _COUNTS_REFERENCES:
        return True
    for array in arrays:
        if getrefcount(array) > _UNKEPT[0] or getweakrefcount(array):
            return True
        base = array.base  # also of views of views; other bases, such as XLA memory, are shared by all calls
        if type(base) is np.ndarray and (getrefcount(base) > _UNKEPT[1] or getweakrefcount(base)):
            return True
    return False


def revoke(arrays: Sequence[Array]) -> None:
    """Make arrays that other code has kept read-only, before their memory is reused.

    A thread that is still writing would destroy the new contents, so this function waits for it. A thread that starts
    to write later gets an exception, unless it has made its own view.
    """
    wait_for_release(arrays, _PATIENCE)
    for array in arrays:
        array.setflags(write=False)


def wait_for_release(arrays: Sequence[Array], seconds: float) -> None:
    """Wait until no other code refers to the arrays, but not longer than `seconds`."""
    end = time.monotonic() + seconds
    while are_referenced(arrays) and time.monotonic() < end:
        time.sleep(0.005)


def _references_unkept() -> tuple[int, int]:
    """Return the reference counts that `are_referenced` sees for an array without other references."""
    for array in [np.empty(1).view()]:
        base = array.base
        return getrefcount(array), getrefcount(base)
    raise AssertionError


def _counts_references() -> bool:
    """Return whether `are_referenced` finds references to an array, to a part of it and to its base, and no others."""
    free, kept, in_part, in_base = ([np.empty(2).view()] for _ in range(4))
    others = kept[0], in_part[0][:1], in_base[0].base
    return not are_referenced(free) and all(map(are_referenced, (kept, in_part, in_base))) and len(others) == 3


_UNKEPT = _references_unkept()
_COUNTS_REFERENCES = True  # read by _counts_references
_COUNTS_REFERENCES = _counts_references()
"""Whether `are_referenced` can be relied on. If not, functions get copies of XLA's memory, and `out` is copied."""


def _aligned(type_: ArraySpec) -> Array:
    n_bytes = math.prod(size or 0 for size in type_.shape or ()) * type_.dtype.itemsize
    memory = np.empty(n_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    array: Array = memory[start : start + n_bytes].view(type_.dtype).reshape(type_.shape or ())
    return array


def dtype_of(tensor: tf.Tensor) -> DType:
    """Return the dtype of a tensor as a numpy dtype."""
    return numpy_dtype(tensor.dtype)


@functools.cache
def numpy_dtype(dtype: tf.DType, what: str = "a tensor") -> DType:
    """Return the numpy dtype of a TensorFlow dtype.

    Args:
      dtype: The dtype of a tensor.
      what: The name of the tensor in errors.

    Raises:
      CoercionError: Arrays do not support this dtype. Quantized integers have a scale that is stored elsewhere.
    """
    if dtype == tf.string:
        return STRING
    name = dtype.base_dtype.name
    if dtype.is_quantized:
        raise CoercionError(
            f"{what} has the quantized dtype {name}, which numpy arrays do not support.",
            expected="numbers, booleans or strings",
            got=name,
            remedy=f"Pass its integers with tf.bitcast(x, tf.{name.replace('q', '')}), or its values with "
            "tf.quantization.dequantize(x, ...).",
        )
    if dtype.base_dtype in WITHOUT_VALUES:
        raise handle_error(what, dtype)
    known: DType = np.dtype(dtype.as_numpy_dtype)
    return known


def type_of(tensor: tf.Tensor) -> ArraySpec:
    """Return the dtype and static shape of a tensor."""
    shape = tensor.shape
    return ArraySpec(dtype_of(tensor), None if shape.rank is None else tuple(shape.as_list()))


@functools.cache
def _adopted_alignment() -> int:
    """Return the smallest alignment at which this build of TensorFlow adopts an array: 64 on x86, measured once."""
    ensure_initialized()
    buffer = np.zeros(512, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    for alignment in (8, 16, 32):
        array = buffer[start + alignment : start + alignment + 64]
        tensor = EagerTensor(array, None, None)
        array[0] = 1
        adopted = bool(tensor.numpy()[0])
        array[0] = 0
        if adopted:
            return alignment
    return _ALIGNMENT


def holds_tensor(value: Any) -> bool:
    """Return whether a value is a tensor, represents one, or is a container that holds one."""
    return next(_tensors_in(value), None) is not None


def _tensors_in(value: Any) -> Iterator[Any]:
    """Iterate over the tensors, and values that represent tensors, in a value and in nested or recursive containers."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if type(item) in _PLAIN_TYPES:
            continue
        if _is_sequence(item) or isinstance(item, dict):
            if id(item) not in seen:
                seen.add(id(item))
                waiting += item.values() if isinstance(item, dict) else item
        elif _is_tensor_like(item):
            yield item


def _is_sequence(value: Any) -> bool:
    """Check for a list, or a value that numpy treats as a list: numpy would convert its tensors without gradients."""
    return isinstance(value, list | tuple) or (isinstance(value, Sequence) and not isinstance(value, _WITHOUT_TENSORS))


def _is_tensor_like(value: Any) -> bool:
    if isinstance(value, tf.Tensor | tf.Variable | tf.IndexedSlices) or hasattr(value, "__tf_tensor__"):
        return True
    return has_tensor_conversion(type(value)) and not isinstance(value, CompositeTensor)


def _tensor_like(leaf: Any, number: int) -> tf.Tensor | None:
    """Return the tensor if the leaf is or represents a tensor, or None if it is a plain value."""
    if type(leaf) is EagerTensor:  # its values are read next
        return leaf
    require_levels(leaf, f"input {number}")
    refuse_composites(leaf, number)
    if isinstance(leaf, tf.Tensor):
        return leaf
    if not holds_tensor(leaf):
        return None
    if any(map(is_symbolic, tf.nest.flatten(leaf))):
        raise UnsupportedError(
            f"input {number} is a list that contains a KerasTensor.",
            got=f"{leaf!r:.120}",
            remedy="Stack the tensors with keras.ops.stack, or pass them as separate inputs or as a tuple.",
        )
    try:
        return _stacked(leaf, _dtype_in(next(_tensors_in(leaf))), f"input {number}")
    except CoercionError:
        raise
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        raise CoercionError(
            f"input {number} is a list of tensors that cannot be stacked.",
            expected="tensors of one shape and dtype",
            got=f"{leaf!r:.120}",
            remedy="Stack the tensors with tf.stack, or pass them as separate inputs or as a tuple.",
        ) from error


def is_symbolic(value: Any) -> bool:
    """Return whether a value is a symbolic tensor of Keras, which exists only if Keras has been imported."""
    keras = sys.modules.get("keras")
    return isinstance(value, getattr(keras, "KerasTensor", ()))


def _stacked(value: Any, dtype: DType, what: str) -> tf.Tensor:
    """Return a tensor for a value or a nested list, in which plain values take the dtype of the tensors."""
    if not holds_tensor(value):
        return tf.constant(coerce_output(value, dtype, what=what, advise=_advise_list))
    if _is_sequence(value):
        return tf.stack([_stacked(item, dtype, what) for item in value])
    return tf.convert_to_tensor(value)


def _advise_list(actual: DType, promised: DType) -> str:
    return (
        "Cast the tensors, or pass values that fit. Plain values in a list take the dtype of the tensors in the list."
    )


def _dtype_in(value: Any) -> DType:
    """Return the dtype of a tensor, or of a value that represents a tensor."""
    return numpy_dtype(tf.as_dtype(value.dtype if hasattr(value, "dtype") else tf.convert_to_tensor(value).dtype))


def tensor_of_vector(value: Any, like: tf.Tensor, what: str, place: str) -> tf.Tensor:
    """Make a tensor of the cotangent or tangent that a rule in TensorFlow ops returned.

    Args:
      value: A tensor, or a plain value, which must follow the rules for arrays.
      like: The input that the cotangent belongs to, or the output that the tangent belongs to.
      what: The name of the value in errors.
      place: The place of `like` in the call, such as `op.inputs[0]`.

    Raises:
      CoercionError: The value is not a tensor of numbers, or is complex where `like` is real.
    """
    dtype = dtype_of(like)
    if not holds_tensor(value) and not isinstance(value, CompositeTensor):
        return tf.constant(fit_vector(value, dtype, what, place))
    require_levels(value, what)
    problem: Exception | None = None
    try:
        tensor: tf.Tensor = tf.convert_to_tensor(value, dtype_hint=like.dtype)
        kind = dtype_kind(dtype_of(tensor))
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        problem, kind = error, ""
    if not kind or kind not in "biufc":
        raise CoercionError(
            f"{what} is not a tensor of numbers.",
            expected=str(type_of(like)),
            got=f"{type(value).__name__}: {shown(value)}",
            remedy="Return a tensor, or None where there is no dependence.",
        ) from problem
    if kind == "c" and dtype_kind(dtype) != "c":
        like_what = "input" if "input" in place else "output"
        raise CoercionError(
            f"{what} is complex, but the {like_what} is real.",
            expected=str(type_of(like)),
            got=str(type_of(tensor)),
            remedy=f"If the {like_what} is real, return the real part: "
            f"tf.math.real(c) if {place}.dtype.is_floating else c.",
        )
    return tensor


def tensor_of_value(leaf: Any, partners: DTypeContext, number: int) -> tf.Tensor:
    """Return a tensor for a plain value. Its dtype follows the other inputs."""
    array = coerce_input(leaf, partners, what=f"input {number}")
    if array.dtype.hasobject or not tf.executing_eagerly():
        return tf.constant(array)
    return tensor_of_array(detached(array))  # tf.constant would copy twice
