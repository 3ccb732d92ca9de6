"""The structs of XLA's foreign function interface, as declared in `xla/ffi/api/c_api.h`, and in-place reading.

Owns a buffer over the memory of this process. Only read addresses that are known to be valid.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import sys
from collections.abc import Callable
from typing import Any

_N_BYTES = sys.maxsize // 8 * 8

MEMORY: Any = (ctypes.c_char * _N_BYTES).from_address(0)
"""All memory of this process, by address. Creating an object for each struct would cost more than the call."""
POINTERS = memoryview(MEMORY).cast("B").cast("Q")
"""The same memory as pointers, indexed by address divided by 8. For one pointer, this is faster than `pointers`."""
INTEGERS = memoryview(MEMORY).cast("B").cast("i")
"""The same memory as C integers, indexed by address divided by 4."""

ARRAY_MEMORY_START = 1
ARRAY_MEMORY: Any = (ctypes.c_char * sys.maxsize).from_address(ARRAY_MEMORY_START)
"""The same memory for numpy arrays. It starts at address 1, because numpy rejects a buffer at address 0."""

Frame = tuple[int, ...]
"""The values that `read_frame` reads: the address of an extension, or 0; the number of arguments and the address of
their pointers; the same two values for the results; the number of attributes, and the addresses of their types and
pointers. The tuple is passed whole, because unpacking it again would slow down every call."""


_HEADER: Any = (("struct_size", ctypes.c_size_t), ("extension_start", ctypes.c_void_p))
"""The first fields of most structs."""


class Version(ctypes.Structure):
    """XLA_FFI_Api_Version."""

    _fields_ = [
        *_HEADER,
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
    ]


class Api(ctypes.Structure):
    """XLA_FFI_Api, with only the fields in use. The struct has more fields; `struct_size` includes all of them."""

    _fields_ = [
        *_HEADER,
        ("version", Version),
        ("internal_api", ctypes.c_void_p),
        ("error_create", ctypes.c_void_p),
        ("error_get_message", ctypes.c_void_p),
        ("error_destroy", ctypes.c_void_p),
        ("handler_register", ctypes.c_void_p),
    ]


class Extension(ctypes.Structure):
    """XLA_FFI_Extension_Base."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
    ]


class Metadata(ctypes.Structure):
    """XLA_FFI_Metadata."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("version", Version),
        ("traits", ctypes.c_uint32),
    ]


class MetadataExtension(ctypes.Structure):
    """XLA_FFI_Metadata_Extension."""

    _fields_ = [("base", Extension), ("metadata", ctypes.POINTER(Metadata))]


class Span(ctypes.Structure):
    """XLA_FFI_ByteSpan."""

    _fields_ = [("start", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    @classmethod
    def of(cls, text: bytes) -> Span:
        """Return the span of a text. The caller must keep the text alive."""
        return cls(ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p), len(text))


class Buffers(ctypes.Structure):
    """XLA_FFI_Args and XLA_FFI_Rets, which have the same fields."""

    _fields_ = [
        *_HEADER,
        ("size", ctypes.c_int64),
        ("types", ctypes.c_void_p),
        ("items", ctypes.POINTER(ctypes.c_void_p)),
    ]


class Attributes(ctypes.Structure):
    """XLA_FFI_Attrs."""

    _fields_ = [
        *_HEADER,
        ("size", ctypes.c_int64),
        ("types", ctypes.c_void_p),
        ("names", ctypes.c_void_p),
        ("items", ctypes.POINTER(ctypes.c_void_p)),
    ]


class CallFrame(ctypes.Structure):
    """XLA_FFI_CallFrame, with its nested structs."""

    _fields_ = [
        *_HEADER,
        ("api", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("arguments", Buffers),
        ("results", Buffers),
        ("attributes", Attributes),
    ]


class Buffer(ctypes.Structure):
    """XLA_FFI_Buffer: one argument or result of a call."""

    _fields_ = [
        *_HEADER,
        ("dtype", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("sizes", ctypes.c_void_p),
    ]


class ErrorArguments(ctypes.Structure):
    """XLA_FFI_Error_Create_Args."""

    _fields_ = [
        *_HEADER,
        ("message", ctypes.c_char_p),
        ("code", ctypes.c_int),
    ]


_CODES = {ctypes.c_int: "i", ctypes.c_int64: "q", ctypes.c_size_t: "Q", ctypes.c_void_p: "Q"}
"""The `struct` format codes of the C types of fields. All other fields are read as pointers."""


def reader(kind: type[ctypes.Structure], *fields: str) -> Callable[[int], tuple[int, ...]]:
    """Return a function that reads fields of the struct at an address, in order. `a.b` is a field of a field."""
    layout, end = "=", 0
    for field in fields:
        start, owner = 0, kind
        for name in field.split("."):
            start += getattr(owner, name).offset
            owner = dict(owner._fields_)[name]  # type: ignore[arg-type,assignment]  # fields may have a width
        layout += f"{start - end}x{_CODES.get(owner, 'Q')}"
        end = start + ctypes.sizeof(owner)
    return functools.partial(struct.Struct(layout).unpack_from, MEMORY)


@functools.cache
def pointers(count: int) -> Callable[[int], tuple[int, ...]]:
    """Return a function that reads `count` pointers at an address."""
    return functools.partial(struct.Struct(f"={count}Q").unpack_from, MEMORY)


@functools.cache
def sizes(rank: int) -> Callable[[int], tuple[int, ...]]:
    """Return a function that reads the sizes of `rank` dimensions at an address."""
    return functools.partial(struct.Struct(f"={rank}q").unpack_from, MEMORY)


read_frame: Callable[[int], Frame] = reader(
    CallFrame,
    "extension_start",
    *("arguments.size", "arguments.items", "results.size", "results.items"),
    *("attributes.size", "attributes.types", "attributes.items"),
)
