"""Borrowed buffers: the memory that XLA passes to one call, checked against the declaration in the call's text.

The text comes from a model file, which may be damaged or malicious, and two sites with the same text may have different
buffers. Every call therefore compares all buffers before any memory is accessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pickle import PickleBuffer
from typing import Any

import numpy as np

from tfpyop._lowering.xla.call_descriptor import ELEMENT_TYPES, CallDescriptor
from tfpyop._lowering.xla.structs import ARRAY_MEMORY, ARRAY_MEMORY_START, Buffer, Frame, pointers, reader, sizes
from tfpyop._spec.coercion import Array
from tfpyop._spec.outputs import ArraySpec, ArraySpecs, is_compatible
from tfpyop.errors import UnsupportedError, describe

_READ_ONLY: Any = PickleBuffer(memoryview(ARRAY_MEMORY).toreadonly())
"""The same memory for inputs. numpy arrays on a read-only PickleBuffer cannot be made writable again."""

_Shape = tuple[int, ...]
_BufferType = tuple[int, _Shape]
"""XLA's number of an element type, and a shape."""

_ORDER = ArraySpec(np.dtype(np.int32), ())
"""The type of the argument and the result that keep stateful calls in order."""
_NAMES = {number: name for name, (_, number) in ELEMENT_TYPES.items()}
_MOST_LISTED = 8

_array = np.ndarray
_read_buffer = reader(Buffer, "dtype", "data", "rank", "sizes")


class CallBuffers:
    """The buffers of all calls from equal sites.

    Attributes:
      inputs: The types of the arguments, with all sizes.
      outputs: The types of the results.
    """

    def __init__(self, declared: CallDescriptor, frame: Frame) -> None:
        """Take sizes that the declaration leaves open from the buffers of the first call.

        Args:
          declared: The declaration in the text of the sites.
          frame: The call frame of the first call.

        Raises:
          UnsupportedError: The buffers do not match the declaration.
        """
        order = [_ORDER] * declared.is_ordered
        types = [*declared.inputs, *order], [*declared.outputs, *order]
        actual = _actual_types(frame)
        if not all(map(_are_declared, actual, types)):
            raise _mismatch(types, actual)
        self.inputs, self.outputs = (
            [ArraySpec(type_.dtype, shape) for type_, (_, shape) in zip(side, found, strict=False)]
            for side, found in zip((declared.inputs, declared.outputs), actual, strict=True)
        )
        self._types = types
        self._end_of_inputs = len(self.inputs)  # after inputs and outputs comes the order of stateful calls
        self._end_of_outputs = len(types[0]) + len(self.outputs)
        self._n_arguments, self._n_results = map(len, actual)
        self._read_arguments, self._read_results = pointers(self._n_arguments), pointers(self._n_results)
        self._expected = [
            (element_type, len(shape), sizes(len(shape)), shape, type_.dtype, memory)
            for side, found, memory in zip(types, actual, (_READ_ONLY, ARRAY_MEMORY), strict=True)
            for type_, (element_type, shape) in zip(side, found, strict=True)
        ]

    def arrays(self, frame: Frame) -> tuple[list[Array], list[Array]]:
        """Return arrays on the arguments and the results of a call, after comparing its buffers with the declaration.

        Raises:
          UnsupportedError: A buffer has another dtype, rank or size, or the number of buffers differs.
        """
        _, n_arguments, arguments, n_results, results, _, _, _ = frame
        if n_arguments != self._n_arguments or n_results != self._n_results:
            raise _mismatch(self._types, _actual_types(frame))
        arrays: list[Array] = []
        buffers = self._read_arguments(arguments) + self._read_results(results)
        for (element_type, rank, read_sizes, shape, dtype, memory), buffer in zip(self._expected, buffers):  # noqa: B905 - of equal lengths, and run by every call
            got_type, data, got_rank, sizes_address = _read_buffer(buffer)
            if got_type != element_type or got_rank != rank or read_sizes(sizes_address) != shape:
                raise _mismatch(self._types, _actual_types(frame))
            if not data:
                if 0 not in shape:  # only an empty array may have no memory
                    raise _mismatch(self._types, _actual_types(frame))
                data = ARRAY_MEMORY_START
            arrays.append(_array(shape, dtype, memory, data - ARRAY_MEMORY_START))
        return arrays[: self._end_of_inputs], arrays[n_arguments : self._end_of_outputs]


def shapes_of(frame: Frame) -> list[_Shape]:
    """Return the shapes of the arguments of a call."""
    return [shape for _, shape in _types_of(*frame[1:3])]


def _actual_types(frame: Frame) -> tuple[list[_BufferType], list[_BufferType]]:
    """Return the types of the arguments and the types of the results of a call."""
    return _types_of(*frame[1:3]), _types_of(*frame[3:5])


def _types_of(count: int, address: int) -> list[_BufferType]:
    types: list[_BufferType] = []
    for buffer in pointers(count)(address):
        element_type, _, rank, sizes_address = _read_buffer(buffer)
        types.append((element_type, sizes(rank)(sizes_address)))
    return types


def _are_declared(actual: Sequence[_BufferType], declared: ArraySpecs) -> bool:
    return len(actual) == len(declared) and all(
        element_type == ELEMENT_TYPES[type_.dtype.name][1] and is_compatible(shape, type_.shape)
        for (element_type, shape), type_ in zip(actual, declared, strict=True)
    )


def _mismatch(expected: Sequence[ArraySpecs], actual: Sequence[Sequence[_BufferType]]) -> UnsupportedError:
    got = [[describe(_NAMES.get(number, f"type {number}"), shape) for number, shape in side] for side in actual]
    return UnsupportedError(
        "the arrays of a compiled call do not match the model's declaration.",
        expected=" -> ".join(_listed(list(map(str, side))) for side in expected),
        got=" -> ".join(map(_listed, got)),
        remedy="The file may be damaged, or a newer tfpyop wrote it. Save the model again with this version.",
    )


def _listed(types: Sequence[str]) -> str:
    """Return a list of types as text, shortened to the first few types."""
    text = ", ".join(types[:_MOST_LISTED])
    rest = len(types) - _MOST_LISTED
    return (f"{text} and {rest} more" if rest > 0 else text) or "nothing"
