"""Define the dtypes of tensors: their kinds, their names, and the dtypes of results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfpyop.errors import CoercionError, RegistrationError

DType = np.dtype[Any]

STRING = np.dtype(object)
"""numpy's dtype for TensorFlow strings: objects, each of type bytes."""

KINDS = "buifc"
"""The kinds of numbers. A dtype of one kind may be cast to the same kind and to the kinds after it."""

_EXTENSION_KINDS = {
    **dict.fromkeys(["bfloat16", "float8", "float4"], "f"),
    **dict.fromkeys(["int4", "int2"], "i"),
    **dict.fromkeys(["uint4", "uint2"], "u"),
}
"""The kinds of the dtypes that ml_dtypes adds, by the first part of their names."""


def dtype_kind(dtype: DType) -> str:
    """Return `b`, `u`, `i`, `f` or `c` for numbers, including ml_dtypes' dtypes; for other dtypes, numpy's letter."""
    if dtype.kind != "V":
        return dtype.kind
    return next((kind for name, kind in _EXTENSION_KINDS.items() if dtype.name.startswith(name)), "V")


def is_differentiable(dtype: DType) -> bool:
    """Return whether derivatives exist for this dtype. It must be floating or complex."""
    return dtype_kind(dtype) in "fc"


def finfo(dtype: DType) -> Any:
    """Return the result of `np.finfo`, also for the dtypes that ml_dtypes adds."""
    if dtype.kind in "fc":
        return np.finfo(dtype)
    import ml_dtypes

    return ml_dtypes.finfo(dtype)


def parse_dtype(value: Any) -> DType | None:
    """Parse a dtype as users write it: a numpy or TensorFlow dtype, a name or a type. Return None for None."""
    if value is None:
        return None
    given = value
    try:
        value = getattr(value, "as_numpy_dtype", value)
    except KeyError:  # TensorFlow's dtypes of objects that are not arrays
        value = np.dtype([(str(given), np.void)])
    if given is not value and getattr(value, "names", None):  # a quantized dtype or a handle dtype of TensorFlow
        raise RegistrationError(f"{given!r} is not a valid array dtype.", remedy="Pass tensors of numbers or text.")
    if isinstance(value, str) and value == "string":
        return STRING
    if isinstance(value, str) and value.startswith(tuple(_EXTENSION_KINDS)):
        import ml_dtypes

        value = getattr(ml_dtypes, value, value)
    try:
        dtype: DType = np.dtype(value)
    except (TypeError, ValueError, SyntaxError):  # raises below; SyntaxError is for "05f4"
        dtype = np.dtype("V0")
    if dtype.kind in "OSU":
        return STRING
    if dtype_kind(dtype) not in KINDS or dtype.name in ("longdouble", "clongdouble", "float128", "complex256"):
        raise RegistrationError(
            f"{value!r} is not a valid tensor dtype.", remedy='Use for example np.float32, tf.int64 or "string".'
        )
    return dtype.newbyteorder("=") if dtype.kind != "V" else dtype


def result_dtype(dtypes: Iterable[DType]) -> DType:
    """Return the dtype of a result without a declared dtype.

    If there are floating or complex inputs, integer inputs do not count. Thus an integer parameter does not widen
    float32.
    """
    dtypes = list(dtypes)
    numbers = [dtype for dtype in dtypes if dtype_kind(dtype) in KINDS]
    deciding = [dtype for dtype in numbers if is_differentiable(dtype)] or numbers
    try:
        return np.result_type(*deciding)
    except (TypeError, ValueError):
        raise CoercionError(
            "cannot infer the output dtype from the inputs.",
            got=", ".join("string" if dtype == STRING else str(dtype) for dtype in deciding or dtypes) or "no inputs",
            remedy="Pass numbers. If the function reads text, declare the dtype, for example dtype=np.float32."
            if STRING in dtypes
            else "Declare the dtype, for example dtype=np.float32.",
        ) from None


@dataclass(frozen=True, slots=True)
class DTypeContext:
    """Store the dtypes that plain numbers take from the tensors in the same call."""

    floating: DType | None = None
    """The real floating dtype of the tensors, if any tensor is floating or complex."""
    integer: DType | None = None
    """The result type of the integer tensors, if it is an integer dtype and no tensor is floating or complex."""

    @classmethod
    def of(cls, dtypes: Iterable[DType]) -> DTypeContext:
        """Return the partners for the dtypes of the tensors in one call.

        Raises:
          CoercionError: The floating dtypes have no common dtype.
        """
        dtypes = set(dtypes)
        floating = [dtype for dtype in dtypes if is_differentiable(dtype)]
        if floating:
            return cls(floating=real_dtype(_common_floating(floating)))
        return cls(integer=_common_integer([dtype for dtype in dtypes if dtype_kind(dtype) in "ui"]))


def _common_floating(dtypes: Sequence[DType]) -> DType:
    try:
        return np.result_type(*dtypes)
    except (TypeError, ValueError):
        raise CoercionError(
            "cannot infer the dtype of a plain number: the tensors in this call have no common dtype.",
            got=" and ".join(sorted(map(str, dtypes))),
            remedy="Convert the number to a tensor, for example tf.constant(x, tf.float32).",
        ) from None


def _common_integer(dtypes: Sequence[DType]) -> DType | None:
    """Return the result type of integer dtypes; None if it does not exist or is not an integer dtype."""
    try:
        common = np.result_type(*dtypes)
    except (TypeError, ValueError):
        return None
    return common if dtype_kind(common) in "ui" else None


def real_dtype(dtype: DType) -> DType:
    """Return the dtype of the real part: float32 for complex64, float64 for complex128, other dtypes unchanged."""
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def complex_dtype(dtype: DType) -> DType:
    """Return the complex dtype with at least the precision of this floating dtype."""
    return np.dtype(np.complex128 if dtype == np.float64 else np.complex64)


def is_half(dtype: DType) -> bool:
    """Return whether a dtype is float16 or bfloat16."""
    return dtype.itemsize == 2 and dtype_kind(dtype) == "f"


def ufunc_output_dtypes(function: np.ufunc, dtypes: Sequence[DType]) -> tuple[DType, ...]:
    """Return the output dtypes of a ufunc for these inputs. Floating outputs have the floating dtype of the inputs."""
    partner = DTypeContext.of(dtypes).floating or np.dtype(np.float32)
    try:
        resolved = function.resolve_dtypes((*dtypes, *[None] * function.nout))[function.nin :]
    except (TypeError, ValueError):
        raise CoercionError(
            f"{function.__name__} has no loop for these input dtypes.",
            got=", ".join("string" if dtype == STRING else str(dtype) for dtype in dtypes),
            remedy="Use one of these input dtypes: "
            + ", ".join(function.types[:8])
            + ". np.typename explains each letter.",
        ) from None
    floating = {"f": partner, "c": complex_dtype(partner)}
    return tuple(floating.get(dtype_kind(dtype), dtype) for dtype in resolved)
