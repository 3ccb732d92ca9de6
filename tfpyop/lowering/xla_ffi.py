"""The FFI boundary: compiled code calls one Python handler through the C structs of XLA's `xla/ffi/api/c_api.h`.

Owns every struct and every rule about the memory behind them; knows nothing of ops. A handler must return to C under
all circumstances: what escapes it makes ctypes return garbage, and the process dies.
"""

from __future__ import annotations

import ctypes
import operator
import os
import sys
import threading
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any

import tensorflow as tf

from tfpyop.errors import UnsupportedError

TARGET = "tfpyop_host_call"
"""What modules name in their custom calls."""

TESTED_API = {(0, 1, 88), (0, 1, 192), (0, 2, 192)}
"""Major and minor version and struct size of the API in TensorFlow 2.18 and 2.19, in 2.20, and in 2.21."""

Run = Callable[[bytes, Sequence[int], Sequence[int]], None]
"""Runs one call: from the site's text, the addresses of argument buffers, and those of result buffers."""


class _Version(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
    ]


class _Api(ctypes.Structure):
    """The fields in use; there are more, and `struct_size` counts them all."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("version", _Version),
        ("internal_api", ctypes.c_void_p),
        ("error_create", ctypes.c_void_p),
        ("error_get_message", ctypes.c_void_p),
        ("error_destroy", ctypes.c_void_p),
        ("handler_register", ctypes.c_void_p),
    ]


class _Extension(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
    ]


class _Metadata(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("version", _Version),
        ("traits", ctypes.c_uint32),
    ]


class _MetadataExtension(ctypes.Structure):
    _fields_ = [("base", _Extension), ("metadata", ctypes.POINTER(_Metadata))]


class _Span(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    @classmethod
    def of(cls, text: bytes) -> _Span:
        return cls(ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p), len(text))


class _Buffers(ctypes.Structure):
    """XLA_FFI_Args and XLA_FFI_Rets, which are alike."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("types", ctypes.c_void_p),
        ("items", ctypes.POINTER(ctypes.c_void_p)),
    ]


class _Attributes(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("types", ctypes.c_void_p),
        ("names", ctypes.c_void_p),
        ("items", ctypes.POINTER(ctypes.c_void_p)),
    ]


class _CallFrame(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("api", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
    ]


class Buffer(ctypes.Structure):
    """One argument or result of a call."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
    ]

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of all dimensions."""
        return tuple(self.sizes[: self.rank])


class _Bundle(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("instantiate", "prepare", "initialize", "execute")]


class _RegisterArguments(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("name", _Span),
        ("platform", _Span),
        ("bundle", _Bundle),
        ("traits", ctypes.c_uint32),
    ]


class _ErrorArguments(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("message", ctypes.c_char_p),
        ("code", ctypes.c_int),
    ]


_MEMORY = memoryview((ctypes.c_char * (1 << 60)).from_address(0)).cast("B")
"""All memory there can be, by address: reading it makes no objects of ctypes, of which a call would need a dozen."""
_WORDS = _MEMORY.cast("Q")
_WORD = 8
_FRAME = ctypes.sizeof(_CallFrame) // _WORD


def _place(*path: tuple[type[ctypes.Structure], str]) -> int:
    """The number of the word in which a field begins."""
    offset: int = sum(getattr(structure, field).offset for structure, field in path)
    return offset // _WORD


_FRAME_FIELDS = operator.itemgetter(
    _place((_CallFrame, "extension_start")),
    _place((_CallFrame, "arguments"), (_Buffers, "size")),
    _place((_CallFrame, "arguments"), (_Buffers, "items")),
    _place((_CallFrame, "results"), (_Buffers, "size")),
    _place((_CallFrame, "results"), (_Buffers, "items")),
    _place((_CallFrame, "attributes"), (_Attributes, "items")),
)
_DATA = _place((Buffer, "data"))


def _words(address: int, count: int) -> list[int]:
    """So many words of memory from an address on, which structs of the API are aligned to."""
    first = address // _WORD
    return _WORDS[first : first + count].tolist()


def data_of(buffer: int) -> int:
    """The address of the elements of the buffer at an address; 0 if it may have none."""
    return _WORDS[buffer // _WORD + _DATA]


def memory_at(address: int, n_bytes: int) -> memoryview:
    """Memory from an address on, which can be written."""
    return _MEMORY[address : address + n_bytes]


_Function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
_METADATA_EXTENSION = 1
_CANCELLED, _UNKNOWN, _INVALID_ARGUMENT, _RESOURCE_EXHAUSTED, _UNIMPLEMENTED = 1, 2, 3, 8, 12
_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (MemoryError, _RESOURCE_EXHAUSTED),
    (NotImplementedError, _UNIMPLEMENTED),
    (ValueError, _INVALID_ARGUMENT),
    (TypeError, _INVALID_ARGUMENT),
    (Exception, _UNKNOWN),
)
"""The status that TensorFlow gives an exception of tf.numpy_function too. All else is somebody's wish to stop."""

_INTERRUPTED = _ErrorArguments(
    ctypes.sizeof(_ErrorArguments), None, b"interrupted while an exception was reported", _CANCELLED
)
_INTERRUPTED_ADDRESS = ctypes.addressof(_INTERRUPTED)
_MOST_CHARACTERS = 2000

_KEPT: list[Any] = []
"""Handlers, which XLA calls as long as the process lives."""
_LOCK = threading.Lock()


def register(run: Run) -> None:
    """Let compiled code call `run`; once per process.

    Raises:
      UnsupportedError: This TensorFlow's XLA is not one that the structs here are known to fit.
    """
    with _LOCK:
        if _KEPT:
            return
        api = _load_api()
        handler = _Function(_handler(api, run))
        bundle = _Bundle(None, None, None, ctypes.cast(handler, ctypes.c_void_p).value)
        arguments = _RegisterArguments(
            ctypes.sizeof(_RegisterArguments), None, _Span.of(TARGET.encode()), _Span.of(b"Host"), bundle, 0
        )
        error = _Function(api.handler_register)(ctypes.addressof(arguments))
        if error:
            raise UnsupportedError("XLA refused the handler for host calls.", got=f"TensorFlow {tf.__version__}")
        _KEPT.append(handler)


def _load_api() -> _Api:
    try:
        library = ctypes.CDLL(os.path.join(tf.sysconfig.get_lib(), _library_name()))
        get_api = library["_ZN3xla3ffi12GetXlaFfiApiEv"]
    except (OSError, AttributeError) as error:
        raise _unsupported(str(error)) from None
    get_api.restype = ctypes.c_void_p
    api = _Api.from_address(get_api())
    check_version(api.version.major, api.version.minor, api.struct_size)
    return api


def check_version(major: int, minor: int, struct_size: int) -> None:
    """Raise UnsupportedError for an API other than those that were tested."""
    if (major, minor, struct_size) not in TESTED_API:
        raise _unsupported(f"XLA FFI {major}.{minor} with a struct of {struct_size} bytes")


def _unsupported(got: str) -> UnsupportedError:
    return UnsupportedError(
        "this TensorFlow's XLA cannot call Python.",
        expected="XLA FFI 0.1 or 0.2, as TensorFlow 2.18 to 2.21 have it",
        got=f"TensorFlow {tf.__version__}: {got}",
        remedy="Install one of these or a newer tfpyop, call the op outside of jit_compile=True, or attach a "
        "TensorFlow implementation with @op.native.",
    )


def _library_name() -> str:
    return "libtensorflow_cc.2.dylib" if sys.platform == "darwin" else "libtensorflow_cc.so.2"


def _handler(api: _Api, run: Run) -> Callable[[int], int | None]:
    """The function that XLA calls with the address of a call frame; it returns the address of an error, or None."""
    create_error = _Function(api.error_create)
    version = (api.version.major, api.version.minor)

    def handle(address: int) -> int | None:
        try:
            extension, n_arguments, arguments, n_results, results, attributes = _FRAME_FIELDS(_words(address, _FRAME))
            if extension and _answer(extension, version):
                return None
            start, length = _words(_words(attributes, 1)[0], 2)
            text = _MEMORY[start : start + length].tobytes()
            run(text, _words(arguments, n_arguments), _words(results, n_results))
            return None
        except BaseException as error:
            return _returned(create_error, error)

    handle.__code__ = _guarded_from_the_start(handle.__code__)
    return handle


def _answer(extension: int, version: tuple[int, int]) -> bool:
    """Tell our API version if XLA asks for it, which it does once."""
    if _Extension.from_address(extension).type != _METADATA_EXTENSION:
        return False
    metadata = _MetadataExtension.from_address(extension).metadata.contents
    metadata.version.major, metadata.version.minor = version
    return True


def _returned(create_error: Any, error: BaseException) -> int:
    """Make an exception an error of XLA's. One that is to stop the program is raised in the calling frame, too."""
    try:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), _CANCELLED)
        if code == _CANCELLED:
            _raise_in_caller(error)
        text = _shortened(str(error) or type(error).__name__).replace("\0", "\\0").encode(errors="backslashreplace")
        arguments = _ErrorArguments(ctypes.sizeof(_ErrorArguments), None, text, code)
        address: int = create_error(ctypes.addressof(arguments))
        return address
    except BaseException:  # a second Ctrl-C, or a __str__ that raises
        fallback: int = create_error(_INTERRUPTED_ADDRESS)
        return fallback


def _shortened(text: str) -> str:
    """A text without its middle if it is long: TensorFlow takes a minute to read 40,000 characters of XLA's."""
    if len(text) <= _MOST_CHARACTERS:
        return text
    half = _MOST_CHARACTERS // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"


def _raise_in_caller(error: BaseException) -> None:
    """Raise KeyboardInterrupt and the like where Python called into C, instead of the error that comes back there.

    The text of a status could not do that. Where another thread made the call there is no such frame.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    if frame is None:
        return
    caller, previous, previous_local = frame, sys.gettrace(), frame.f_trace

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        if frame is caller:
            sys.settrace(previous)
            caller.f_trace = previous_local
            raise error.with_traceback(None)

    caller.f_trace = trace
    sys.settrace(trace)


def _guarded_from_the_start(code: CodeType) -> CodeType:
    """The code of a function that is one try statement, with its first instructions under that try as well.

    Python looks for Ctrl-C as it enters a function, and raises before the try begins (since 3.11, whose exception table
    this extends; 3.10 waits for the try).
    """
    if sys.version_info < (3, 11):
        return code
    table = code.co_exceptiontable
    (start, _, *rest), _ = _read_entry(table)
    return code.replace(co_exceptiontable=_write_entry([0, start, *rest]) + table)


def _read_entry(table: bytes) -> tuple[list[int], int]:
    """The first entry: start, length, target, and depth with a flag, in big-endian groups of six bits."""
    numbers, position = [], 0
    for _ in range(4):
        number = 0
        while True:
            byte = table[position]
            position += 1
            number = number << 6 | byte & 0x3F
            if not byte & 0x40:
                break
        numbers.append(number)
    return numbers, position


def _write_entry(numbers: Sequence[int]) -> bytes:
    """The reverse; the first byte of an entry is marked."""
    written = bytearray()
    for number in numbers:
        groups = [number >> shift & 0x3F for shift in range(max(number.bit_length() - 1, 0) // 6 * 6, -1, -6)]
        written += bytes([group | 0x40 for group in groups[:-1]] + groups[-1:])
    written[0] |= 0x80
    return bytes(written)


_returned.__code__ = _guarded_from_the_start(_returned.__code__)
