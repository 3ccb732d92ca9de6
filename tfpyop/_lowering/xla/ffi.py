"""The FFI boundary: compiled code calls one Python handler through XLA's foreign function interface.

Owns the registration, the handler and the conversion of exceptions. Must not depend on ops. The handler must always
return to C. If an exception escapes it, ctypes returns garbage, and the process crashes.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import tensorflow as tf

from tfpyop._locks import SafeLock
from tfpyop._lowering._tensorflow import TESTED
from tfpyop._lowering.status import CANCELLED, shortened, status_of
from tfpyop._lowering.xla import newer_version
from tfpyop._lowering.xla.call_descriptor import unreadable_call
from tfpyop._lowering.xla.exception_table import guarded_from_the_start
from tfpyop._lowering.xla.layouts import (
    LAYOUTS,
    ApiVersion,
    Layout,
    known_layout,
    possible_layout,
    registration,
)
from tfpyop._lowering.xla.structs import (
    INTEGERS,
    MEMORY,
    POINTERS,
    Api,
    ErrorArguments,
    Extension,
    Frame,
    MetadataExtension,
    Span,
    read_frame,
    reader,
)
from tfpyop.errors import UnsupportedError

TARGET = "tfpyop_host_call"
"""The call target of custom calls in modules."""

_TESTED_API = "XLA FFI {}.{} to {}.{}".format(*min(LAYOUTS), *max(LAYOUTS))

Run = Callable[[bytes, Frame], None]
"""A function that runs one call, given the site's text and the call frame as read by `read_frame`."""


_Function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
_METADATA_EXTENSION = 1
_TEXT = 4
"""The type of text attributes."""
_INTERRUPTED = ErrorArguments(
    ctypes.sizeof(ErrorArguments), None, b"interrupted while an exception was reported", CANCELLED
)
_INTERRUPTED_ADDRESS = ctypes.addressof(_INTERRUPTED)
_MOST_CHARACTERS = 2000
"""Maximum length of an error text. TensorFlow takes a minute to read an XLA error text of 40,000 characters."""

_HANDLERS: list[Any] = []
"""References to the handlers, which XLA calls as long as the process lives."""
_WARNINGS: list[str] = []
"""Warnings to log when the next op is compiled."""
_LOCK = SafeLock()
_LOGGER = logging.getLogger("tfpyop")


def register(run: Run, *, is_compiling: bool) -> None:
    """Register `run` as the function that compiled code calls, once per process.

    Args:
      run: The function.
      is_compiling: Whether an op is being compiled. A version of XLA that is newer than this package is tested only
        then, because the test takes seconds. At other times, the version is used if an earlier test has passed.

    Raises:
      UnsupportedError: The structs in this package are not known to match the XLA of this TensorFlow.
    """
    with _LOCK:
        if not _HANDLERS:
            api = load_api()
            layout = _layout(version_of(api), is_compiling=is_compiling)
            connect(api, layout, handler(api, run), target=TARGET)
        while is_compiling and _WARNINGS:
            _LOGGER.warning(_WARNINGS.pop())


def _layout(version: ApiVersion, *, is_compiling: bool) -> Layout:
    """Return the layout of a version.

    Raises:
      UnsupportedError: The version is older than the versions in the table, or it is newer and failed the self-test.
    """
    known = known_layout(version)
    if known is not None:
        return known
    layout = possible_layout(version)
    if layout is None:
        raise _unsupported(str(version))
    problem = newer_version.problem(version, layout, may_test=is_compiling)
    if problem:
        raise _unsupported(f"{version}, {problem}")
    _WARNINGS[:] = [
        f"TensorFlow {tf.__version__} has {version}. This version of tfpyop was tested on {_TESTED_API}. A self-test "
        "in another process passed, so ops can be compiled. Install a newer version of tfpyop if one is available."
    ]
    return layout


def connect(api: Api, layout: Layout, handle: Callable[[int], int | None], *, target: str) -> None:
    """Pass the handler of a call target to XLA.

    Raises:
      UnsupportedError: XLA refused the handler.
    """
    function = _Function(handle)
    arguments: Any = registration(layout.stages)()
    arguments.struct_size = ctypes.sizeof(arguments)
    arguments.name, arguments.platform = Span.of(target.encode()), Span.of(b"Host")
    arguments.bundle.execute = ctypes.cast(function, ctypes.c_void_p).value
    error = _Function(api.handler_register)(ctypes.addressof(arguments))
    if error:
        raise UnsupportedError(
            "XLA refused the handler for host calls.",
            got=f"TensorFlow {tf.__version__}",
            remedy="Call the op outside functions with jit_compile=True, or attach a TensorFlow implementation with "
            "@op.native and call the op within tfpyop.prefer_native().",
        )
    _HANDLERS.append(function)


def load_api() -> Api:
    """Return XLA's table of functions.

    Raises:
      UnsupportedError: TensorFlow's library does not export it.
    """
    try:
        library = ctypes.CDLL(os.path.join(tf.sysconfig.get_lib(), _library_name()))
        get_api = library["_ZN3xla3ffi12GetXlaFfiApiEv"]
    except (OSError, AttributeError) as error:
        raise _unsupported(str(error)) from None
    get_api.restype = ctypes.c_void_p
    return Api.from_address(get_api())


def version_of(api: Api) -> ApiVersion:
    """Return the version that XLA reports."""
    return ApiVersion(api.version.major, api.version.minor, api.struct_size)


def _unsupported(got: str) -> UnsupportedError:
    return UnsupportedError(
        "XLA in this TensorFlow version cannot call Python.",
        expected=f"{_TESTED_API}, as in TensorFlow {TESTED}",
        got=f"TensorFlow {tf.__version__}: {got}",
        remedy="Install one of these versions or a newer tfpyop, call the op outside functions with jit_compile=True, "
        "or attach a TensorFlow implementation with @op.native and call the op within tfpyop.prefer_native().",
    )


def _library_name() -> str:
    return "libtensorflow_cc.2.dylib" if sys.platform == "darwin" else "libtensorflow_cc.so.2"


def handler(api: Api, run: Run) -> Callable[[int], int | None]:
    """Return the function that XLA calls with the address of a call frame. It returns an error address, or None."""
    create_error = _Function(api.error_create)
    version = (api.version.major, api.version.minor)
    read_span = reader(Span, "start", "length")

    def handle(address: int) -> int | None:
        try:
            frame = read_frame(address)
            extension, _, _, _, _, n_attributes, types, attributes = frame
            if extension and _answer(extension, version):
                return None
            if n_attributes != 1 or INTEGERS[types >> 2] != _TEXT:
                raise unreadable_call(f"{n_attributes} attributes, or one that is not text")
            start, length = read_span(POINTERS[attributes >> 3])
            run(MEMORY[start : start + length], frame)
            return None
        except BaseException as error:
            return _returned(create_error, error)

    handle.__code__ = guarded_from_the_start(handle.__code__)
    return handle


def _answer(extension: int, version: tuple[int, int]) -> bool:
    """Write the API version if XLA requests it, which it does once. Return whether XLA requested it."""
    if Extension.from_address(extension).type != _METADATA_EXTENSION:
        return False
    metadata = MetadataExtension.from_address(extension).metadata.contents
    metadata.version.major, metadata.version.minor = version
    return True


def _returned(create_error: Any, error: BaseException) -> int:
    """Convert an exception to an XLA error and return its address. Raise interrupts and exits in the caller, too."""
    try:
        code = status_of(error)
        if code == CANCELLED:
            _raise_in_caller(error)
        text = (
            shortened(str(error) or type(error).__name__, _MOST_CHARACTERS)
            .replace("\0", "\\0")
            .encode(errors="backslashreplace")
        )
        arguments = ErrorArguments(ctypes.sizeof(ErrorArguments), None, text, code)
        address: int = create_error(ctypes.addressof(arguments))
        return address
    except BaseException:  # a second Ctrl-C, or a __str__ that raises
        fallback: int = create_error(_INTERRUPTED_ADDRESS)
        return fallback


def _raise_in_caller(error: BaseException) -> None:
    """Raise exceptions such as KeyboardInterrupt where Python called into C, instead of the error returned there.

    The text of a status could not do this. If another thread made the call, this frame does not exist.
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


_returned.__code__ = guarded_from_the_start(_returned.__code__)
