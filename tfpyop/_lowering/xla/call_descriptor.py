"""Call descriptors: the text that XLA carries with a compiled call, with the token and the types of the arrays.

Owns the text and the numbers of XLA's dtypes. Must not depend on TensorFlow.
"""

from __future__ import annotations

from dataclasses import dataclass

from tfpyop._registry.token import unreadable
from tfpyop._spec.coercion import parse_dtype
from tfpyop._spec.outputs import ArraySpec, ArraySpecs
from tfpyop.errors import RegistrationError, Shape, UnsupportedError

ELEMENT_TYPES = {
    "bool": ("i1", 1),
    "int8": ("i8", 2),
    "int16": ("i16", 3),
    "int32": ("i32", 4),
    "int64": ("i64", 5),
    "uint8": ("ui8", 6),
    "uint16": ("ui16", 7),
    "uint32": ("ui32", 8),
    "uint64": ("ui64", 9),
    "float16": ("f16", 10),
    "bfloat16": ("bf16", 16),
    "float32": ("f32", 11),
    "float64": ("f64", 12),
    "complex64": ("complex<f32>", 15),
    "complex128": ("complex<f64>", 18),
    "float8_e5m2": ("f8E5M2", 19),
    "float8_e4m3fn": ("f8E4M3FN", 20),
    "float8_e4m3b11fnuz": ("f8E4M3B11FNUZ", 23),
    "float8_e5m2fnuz": ("f8E5M2FNUZ", 24),
    "float8_e4m3fnuz": ("f8E4M3FNUZ", 25),
}
"""The MLIR type and the XLA number of each dtype, by name."""


@dataclass(frozen=True, slots=True)
class CallDescriptor:
    """The host function of one compiled call, and the types of its inputs and outputs."""

    token: str
    inputs: ArraySpecs
    outputs: ArraySpecs
    is_ordered: bool = False
    """Whether a last input and a last output without content keep the order of calls."""

    @property
    def text(self) -> str:
        """All fields in one line. Equal for equal calls."""
        inputs, outputs = (",".join(map(_type_text, types)) for types in (self.inputs, self.outputs))
        return f"{self.token}|{inputs}->{outputs}{'!' * self.is_ordered}"

    @classmethod
    def parse(cls, site: bytes) -> CallDescriptor:
        """Parse text that `text` returned.

        Raises:
          UnsupportedError: The text is damaged.
        """
        try:
            token, _, types = site.decode().rpartition("|")
            inputs, outputs = (_read_types(side) for side in types.removesuffix("!").split("->"))
        except (ValueError, RegistrationError) as error:
            raise unreadable_call(repr(site[:200])) from error
        return cls(token, inputs, outputs, types.endswith("!"))


def _type_text(type_: ArraySpec) -> str:
    return f"{type_.dtype.name}[{' '.join('?' if size is None else str(size) for size in type_.shape or ())}]"


def _read_types(text: str) -> list[ArraySpec]:
    return [_read_type(part) for part in text.split(",")] if text else []


def _read_type(text: str) -> ArraySpec:
    """Parse what `_type_text` returned. Reject other spellings that Python or numpy would accept."""
    name, _, sizes = text.removesuffix("]").partition("[")
    dtype = parse_dtype(name)
    shape: Shape = tuple(None if size == "?" else int(size) for size in sizes.split())
    type_ = None if dtype is None or name not in ELEMENT_TYPES else ArraySpec(dtype, shape)
    if type_ is None or _type_text(type_) != text:
        raise ValueError(text)
    return type_


def unreadable_call(got: str) -> UnsupportedError:
    """Return the error for a compiled call whose text is invalid in this version."""
    return unreadable(got, what="the call data in a compiled model")
