"""Versions of XLA's foreign function interface, and what differs between their structs.

Owns the table of versions. `python -m tests.ffi_layout` compares it with the headers that TensorFlow ships. Must not
depend on TensorFlow.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

from tfpyop._lowering.xla.structs import Span


class ApiVersion(NamedTuple):
    """Store the version of XLA's interface, and the size of its table of functions in bytes, as XLA reports them."""

    major: int
    minor: int
    size: int

    def __str__(self) -> str:
        return f"XLA FFI {self.major}.{self.minor} with a struct of {self.size} bytes"


@dataclass(frozen=True, slots=True)
class Layout:
    """Store what differs between the versions of the interface.

    Attributes:
      sizes: The sizes of the table of functions, in bytes. Minor versions append functions.
      stages: The stages of a call, each of which may have a handler, in the order of XLA_FFI_Handler_Bundle.
    """

    sizes: tuple[int, ...]
    stages: tuple[str, ...]


_FOUR = ("instantiate", "prepare", "initialize", "execute")
LAYOUTS = {
    (0, 1): Layout((88, 192), _FOUR),
    (0, 2): Layout((192,), _FOUR),
    (0, 3): Layout((192,), _FOUR),
    (0, 4): Layout((200,), (*_FOUR, "record")),
    (0, 5): Layout((208,), (*_FOUR, "record")),
}
"""By major and minor version. TensorFlow 2.18 and 2.19 have 0.1 with 88 bytes, 2.20 has 0.1 with 192 bytes, 2.21 has
0.2, 2.22.0rc0 has 0.4, and the nightly builds of 2.23 have 0.5. Only jaxlib was released with 0.3."""


def known_layout(version: ApiVersion) -> Layout | None:
    """Return the layout of a version in the table, or None if the version is not there."""
    layout = LAYOUTS.get((version.major, version.minor))
    return layout if layout is not None and version.size in layout.sizes else None


def possible_layout(version: ApiVersion) -> Layout | None:
    """Return the layout that a newer version has if its structs are compatible; None if the version is not newer.

    Minor versions append functions, so the table of functions of a newer version is not smaller.
    """
    newest = max(LAYOUTS)
    layout = LAYOUTS[newest]
    is_newer = version.major == newest[0] and version.minor >= newest[1] and version.size >= max(layout.sizes)
    return layout if is_newer else None


@functools.cache
def registration(stages: tuple[str, ...]) -> type[ctypes.Structure]:
    """Return the class of XLA_FFI_Handler_Register_Args, whose bundle has a handler for each of these stages."""
    bundle = type("Bundle", (ctypes.Structure,), {"_fields_": [(stage, ctypes.c_void_p) for stage in stages]})
    fields: list[Any] = [
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("name", Span),
        ("platform", Span),
        ("bundle", bundle),
        ("traits", ctypes.c_uint32),
    ]
    return type("RegisterArguments", (ctypes.Structure,), {"_fields_": fields})
