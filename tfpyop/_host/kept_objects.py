"""Keep the Python objects that functions pass to their rules, and find them by handles, numbers in arrays.

The memory of a handle array holds the objects. TensorFlow adopts this memory, so the objects live as long as the
tensor of the handle, in a tape or in a running graph. Handles are hints: an object is used only for a call of the same
function with the same inputs. Otherwise the function is called again.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfpyop._spec.coercion import Array, dtype_kind
from tfpyop._spec.outputs import HANDLE
from tfpyop.errors import ContractError, describe

MOST_RECENT = 16
"""The number of calls of a function whose objects are kept where no tensor holds them: under XLA, or created again."""
_ALIGNMENT = 64
_TOLERANCE = 1e-2
"""Relative difference of outputs that counts as rounding: with compute_dtype=, outputs may have been bfloat16."""


class KeptCall:
    """The objects of one call, with the inputs that they belong to.

    Attributes:
      owner: The objects of the function that was called.
      inputs: The inputs of the call. No code writes to them.
      objects: The objects by name.
      generation: The generation of the store in which the call was made.
    """

    __slots__ = ("__weakref__", "generation", "inputs", "objects", "owner")

    def __init__(self, owner: KeptObjects, inputs: Sequence[Array], objects: Mapping[str, Any]) -> None:
        self.owner = owner
        self.inputs = inputs
        self.objects = objects
        self.generation = _STORE.generation

    def belongs_to(self, owner: KeptObjects, inputs: Sequence[Array]) -> bool:
        """Return whether the objects come from a call of this function with these inputs, and were not forgotten."""
        is_valid = self.owner is owner and self.generation == _STORE.generation
        return is_valid and len(self.inputs) == len(inputs) and all(map(_is_same, self.inputs, inputs))


class KeptObjects:
    """Keep the objects of the calls of one function."""

    def __init__(self) -> None:
        self._recent: tuple[Mapping[int, KeptCall], ...] = ()

    def keep(self, inputs: Sequence[Array], objects: Mapping[str, Any]) -> Array:
        """Return the handle of new objects, which live as long as its memory."""
        call, serial = KeptCall(self, inputs, objects), next(_SERIALS)
        _STORE.calls[serial] = call
        return _handles(serial, (), {serial: call})

    def find(self, handles: Array, inputs: Sequence[Array]) -> Mapping[str, Any] | None:
        """Return the objects for a call with these inputs; None if the handles do not lead to them."""
        if _STORE.n_ignoring:
            return None
        serial = _serial_of(handles)
        call = _STORE.calls.get(serial)
        if call is not None and call.belongs_to(self, inputs):
            return call.objects
        for calls in self._recent:
            recent = calls.get(serial)
            if recent is not None and recent.belongs_to(self, inputs):
                return recent.objects
        return None

    def retain(self, handles: Array, created: Array) -> Mapping[str, Any]:
        """Return objects that were created again, and keep them for the handles of the lost objects.

        Args:
          handles: The handles that did not lead to objects.
          created: The handle of the new objects.
        """
        (call,) = calls_of(created).values()
        serial = _serial_of(handles)
        if serial:  # a handle of 0 says that there were never objects in this process
            self.keep_recent({serial: call})
        return call.objects

    def keep_recent(self, calls: Mapping[int, KeptCall]) -> None:
        """Keep the objects of one call of the op, among the most recent."""
        self._recent = (*self._recent, calls)[-MOST_RECENT:]  # one assignment, to be thread-safe


class _Memory(np.ndarray[Any, Any]):
    """The memory of handles. It holds the calls, by their handles."""

    calls: Mapping[int, KeptCall]


class _Store:
    """The calls whose objects exist, by their handles. Calls of earlier generations are forgotten."""

    def __init__(self) -> None:
        self.calls: weakref.WeakValueDictionary[int, KeptCall] = weakref.WeakValueDictionary()
        self.generation = 0
        self.n_ignoring = 0

    def forget(self) -> None:
        """Forget all calls. A forked process must not use the objects of its parent, such as connections."""
        self.generation += 1


_STORE = _Store()
_SERIALS = itertools.count(1)  # 0 is the handle of no object

if hasattr(os, "register_at_fork"):  # on platforms that can fork
    os.register_at_fork(after_in_child=_STORE.forget)


def forget_handles() -> None:
    """Make every handle invalid, so that rules create their objects again."""
    _STORE.forget()


@contextlib.contextmanager
def ignoring_objects() -> Iterator[None]:
    """Make rules create their objects again, although these exist."""
    _STORE.n_ignoring += 1
    try:
        yield
    finally:
        _STORE.n_ignoring -= 1


def are_handles(array: Array) -> bool:
    """Return whether an array has handles whose objects it holds."""
    return bool(calls_of(array))


def calls_of(array: Array) -> Mapping[int, KeptCall]:
    """Return the calls that the memory of an array holds, by their handles."""
    base = array.base if array.dtype is HANDLE else None
    while base is not None and type(base) is not _Memory:
        base = base.base if isinstance(base, np.ndarray) else None
    return {} if base is None else base.calls


def copied(array: Array) -> Array:
    """Return a copy of an array, or the array itself if it has handles, which no other code can write to."""
    return array if are_handles(array) else np.array(array)


def stacked(arrays: Sequence[Array]) -> Array:
    """Stack arrays. Handles keep their objects; a handle without objects becomes 0."""
    result = np.stack(arrays)
    found = [calls_of(array) for array in arrays]
    if not any(found):
        return result
    values = [array if calls else np.zeros_like(array) for array, calls in zip(arrays, found, strict=True)]
    return _handles(np.stack(values), result.shape, {serial: call for calls in found for serial, call in calls.items()})


def repeated(array: Array, shape: tuple[int, ...]) -> Array:
    """Return the handle of one call for every element of a batch."""
    return _handles(array.reshape(()), shape, calls_of(array))


def retain(handles: Array) -> None:
    """Keep the objects of handles whose memory no tensor adopts, among the most recent of their function."""
    calls = calls_of(handles)
    for call in calls.values():
        call.owner.keep_recent(calls)
        return


def require_same_outputs(outputs: Sequence[Array], created: Sequence[Array]) -> None:
    """Compare the outputs of two calls with the same inputs, up to rounding.

    Raises:
      ContractError: The outputs differ, so the objects of the second call are not the objects of the first call.
    """
    for number, (output, again) in enumerate(zip(outputs, created, strict=False)):  # residuals follow
        if output.shape == again.shape and not _is_close(output, again):
            raise ContractError(
                f"output {number} changed when the function was called again to create an object for a rule.",
                expected="the same outputs for the same inputs",
                got=f"a different value of {describe(again.dtype, again.shape)}",
                remedy="Make the function depend on its inputs only, or save arrays instead of a Python object: "
                'residuals={"lu": ("(n,n)", np.float64)}.',
            )


def _is_close(output: Array, again: Array) -> bool:
    if dtype_kind(output.dtype) not in "fc":
        return np.array_equal(output, again)
    with np.errstate(all="ignore"):
        largest = np.max(np.abs(output), where=np.isfinite(output), initial=0.0)
        close = np.isclose(again, output, rtol=_TOLERANCE, atol=_TOLERANCE * float(largest), equal_nan=True)
    return bool(np.all(close))


def _handles(values: Any, shape: tuple[int, ...], calls: Mapping[int, KeptCall]) -> Array:
    """Return an array of handles whose memory holds the calls, aligned so that TensorFlow adopts it."""
    memory = _Memory(math.prod(shape) * HANDLE.itemsize + _ALIGNMENT, np.uint8)
    memory.calls = calls
    start = -memory.__array_interface__["data"][0] % _ALIGNMENT
    array: Array = np.ndarray(shape, HANDLE, buffer=memory, offset=start)
    array[...] = values
    return array


def _serial_of(handles: Array) -> int:
    """Return the handle if all handles are the same; otherwise 0."""
    if handles.size == 0:
        return 0
    serial = int(handles.flat[0])
    return serial if handles.size == 1 or bool((handles == serial).all()) else 0


def _is_same(kept: Array, array: Array) -> bool:
    """Return whether two inputs have the same bytes. Arrays in the same memory are not compared."""
    if kept.dtype != array.dtype or kept.shape != array.shape:
        return False
    if kept.dtype.hasobject:
        return np.array_equal(kept, array)
    one, other = kept.__array_interface__, array.__array_interface__
    if one["data"][0] == other["data"][0] and kept.strides == array.strides:
        return True
    return np.array_equal(_bytes_of(kept), _bytes_of(array))


def _bytes_of(array: Array) -> Array:
    """Return the memory of an array as integers, because NaN differs from NaN and 0.0 equals -0.0."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint64 if flat.itemsize % 8 == 0 else np.uint8)
