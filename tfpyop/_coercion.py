"""Dtype rules: which dtype a value takes on the way in and on the way out, and which casts are refused.

In: tensors keep theirs; Python numbers and float64 arrays follow the floating dtype of the tensors. Out: declared, or
the result type of the inputs; a result may be cast to it only within its kind, and no finite value may become infinite.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tfpyop.errors import CoercionError, RegistrationError, describe

Array = np.ndarray[Any, Any]
DType = np.dtype[Any]

STRING = np.dtype(object)
"""How numpy holds what TensorFlow calls a string: objects, each of them bytes."""

_KINDS = "buifc"
"""Kinds of numbers, each of which may be cast to itself and to those behind it."""

_EXTENSION_KINDS = {"bfloat16": "f", "float8": "f", "int4": "i", "uint4": "u", "int2": "i", "uint2": "u"}


def dtype_kind(dtype: DType) -> str:
    """`b`, `u`, `i`, `f` or `c` for numbers, numpy's letter for the rest; knows the dtypes ml_dtypes adds."""
    if dtype.kind != "V":
        return dtype.kind
    return next((kind for name, kind in _EXTENSION_KINDS.items() if dtype.name.startswith(name)), "V")


def is_differentiable(dtype: DType) -> bool:
    """Whether derivatives exist for this dtype: floating and complex."""
    return dtype_kind(dtype) in "fc"


def parse_dtype(value: Any) -> DType | None:
    """Read a dtype as users write it: a numpy or TensorFlow dtype, a name, a type; None stays None."""
    if value is None:
        return None
    value = getattr(value, "as_numpy_dtype", value)
    if value in ("string", str, bytes, object):
        return STRING
    if isinstance(value, str) and value.startswith(("bfloat16", "float8")):
        import ml_dtypes

        value = getattr(ml_dtypes, value, value)
    try:
        dtype: DType = np.dtype(value)
    except TypeError:
        dtype = np.dtype("V0")
    if dtype_kind(dtype) not in _KINDS:
        raise RegistrationError(
            f"{value!r} is no dtype of a tensor.", remedy='Give for example np.float32, tf.int64 or "string".'
        )
    return dtype


def result_dtype(dtypes: Iterable[DType]) -> DType:
    """The dtype of a result that nobody declared.

    Floating and complex inputs decide alone if there are any, so that an integer parameter does not widen float32.
    """
    numbers = [dtype for dtype in dtypes if dtype_kind(dtype) in _KINDS]
    deciding = [dtype for dtype in numbers if is_differentiable(dtype)] or numbers
    try:
        return np.result_type(*deciding)
    except (TypeError, ValueError):
        raise CoercionError(
            "the output dtype does not follow from the inputs.",
            got=", ".join(str(dtype) for dtype in deciding) or "no numeric input",
            remedy="Declare it, for example with dtype=np.float32.",
        ) from None


def floating_partner(dtypes: Iterable[DType]) -> DType | None:
    """The real floating dtype that numbers without a dtype of their own take from the tensors beside them."""
    floating = [dtype for dtype in dtypes if is_differentiable(dtype)]
    return real_dtype(result_dtype(floating)) if floating else None


def real_dtype(dtype: DType) -> DType:
    """The dtype of the real part: complex64 to float32, complex128 to float64, others unchanged."""
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def complex_dtype(dtype: DType) -> DType:
    """The complex dtype of at least this floating dtype's precision."""
    return np.dtype(np.complex128 if dtype == np.float64 else np.complex64)


def as_input(value: Any, partner: DType | None, *, what: str) -> Array:
    """Give a value that is no tensor the dtype it has as an input.

    Args:
      value: A Python number, string, list of these, or a numpy array.
      partner: What `floating_partner` says of the tensors of the same call.
      what: How errors call the value.
    """
    array = _as_array(value, what)
    kind = dtype_kind(array.dtype)
    if kind in "USO":
        return _as_strings(array)
    if kind not in _KINDS:
        raise CoercionError(
            f"{what} has a dtype that no tensor has.",
            expected="numbers, booleans or strings",
            got=describe(array.dtype, array.shape),
            remedy="Convert it with numpy first, for example with .astype(np.int64).",
        )
    is_python_value = not isinstance(value, np.ndarray | np.generic)
    if kind == "i" and is_python_value:
        if partner is not None:
            return cast(array, partner, what=what)
        return array.astype(np.int32) if _fits(array, np.dtype(np.int32)) else array
    if kind == "f" and array.dtype.itemsize >= 8 and array.dtype.kind == "f":
        return cast(array, partner or np.dtype(np.float32), what=what)
    if kind == "c" and array.dtype.itemsize >= 16:
        return cast(array, complex_dtype(partner or np.dtype(np.float32)), what=what)
    return array


def fit(value: Any, dtype: DType, *, what: str) -> Array:
    """Turn what a function returned into an array of the promised dtype, or refuse.

    Raises:
      CoercionError: The value is no array, is of another kind, or holds a finite number too large for the dtype.
    """
    array = value if type(value) is np.ndarray else _as_array(value, what)
    if array.dtype == dtype and dtype != STRING:
        return array
    kind, wanted = dtype_kind(array.dtype), dtype_kind(dtype)
    if dtype == STRING and kind in "USO":
        return _as_strings(array)
    if kind in _KINDS and wanted in _KINDS and _KINDS.index(kind) <= _KINDS.index(wanted):
        return cast(array, dtype, what=what)
    raise CoercionError(
        f"{what} has the wrong dtype.",
        expected=describe(dtype, array.shape),
        got=describe(array.dtype, array.shape),
        remedy=_remedy(array.dtype, dtype),
    )


def cast(array: Array, dtype: DType, *, what: str) -> Array:
    """Cast within a kind; a finite value that the dtype cannot hold is an error, neither inf nor wrapped around."""
    if array.dtype == dtype:
        return array
    if dtype_kind(dtype) in "ui":
        if not _fits(array, dtype):
            raise _overflow(array, dtype, what)
        return array.astype(dtype)
    try:
        with np.errstate(over="raise"):
            result = array.astype(dtype)
    except FloatingPointError:
        raise _overflow(array, dtype, what) from None
    is_extension = "V" in (dtype.kind, array.dtype.kind)  # their casts do not report overflow
    if is_extension and not np.isfinite(result).all() and (np.isfinite(array) & ~np.isfinite(result)).any():
        raise _overflow(array, dtype, what)
    return result


def widen(array: Array, compute_dtype: DType, *, what: str) -> Array:
    """Cast a floating or complex array to the dtype a function computes in; others pass unchanged."""
    kind = dtype_kind(array.dtype)
    if kind == "f":
        return cast(array, compute_dtype, what=what)
    return cast(array, complex_dtype(compute_dtype), what=what) if kind == "c" else array


def ufunc_output_dtypes(function: np.ufunc, dtypes: Sequence[DType]) -> tuple[DType, ...]:
    """What a ufunc returns for these inputs, with floating results in the floating dtype of the inputs."""
    partner = floating_partner(dtypes) or np.dtype(np.float32)
    try:
        resolved = function.resolve_dtypes((*dtypes, *[None] * function.nout))[function.nin :]
    except (TypeError, ValueError):
        raise CoercionError(
            f"{function.__name__} has no loop for these input dtypes.", got=", ".join(map(str, dtypes))
        ) from None
    floating = {"f": partner, "c": complex_dtype(partner)}
    return tuple(floating.get(dtype_kind(dtype), dtype) for dtype in resolved)


def _as_array(value: Any, what: str) -> Array:
    if isinstance(value, str | bytes):
        return np.array(value, dtype=object)
    try:
        array = np.asarray(value)
    except ValueError:
        raise CoercionError(
            f"{what} is a nested list with rows of different lengths, which makes no array.",
            remedy="Pad the rows, or pass them as separate inputs.",
        ) from None
    if array.dtype == object and not _holds_strings(array):
        raise CoercionError(
            f"{what} is no tensor, array, number or string.",
            got=f"{type(value).__name__}: {value!r:.80}",
            remedy="If it is an input, convert it to an array; if not, make its parameter keyword-only or name it in "
            "static_argnames.",
        )
    return array


def _holds_strings(array: Array) -> bool:
    return all(isinstance(item, str | bytes) for item in array.flat)


def _as_strings(array: Array) -> Array:
    """Strings as TensorFlow takes them: an object array of bytes, text in UTF-8."""
    result = np.empty(array.shape, dtype=object)
    for index, item in np.ndenumerate(array):
        result[index] = item.encode() if isinstance(item, str) else bytes(item)
    return result


def _fits(array: Array, dtype: DType) -> bool:
    if array.size == 0 or dtype_kind(array.dtype) == "b":
        return True
    limits = np.iinfo(dtype)
    return bool(int(array.min()) >= limits.min and int(array.max()) <= limits.max)


def _overflow(array: Array, dtype: DType, what: str) -> CoercionError:
    magnitudes = np.abs(array[np.isfinite(array)].astype(np.complex128 if array.dtype.kind == "c" else np.float64))
    return CoercionError(
        f"{what} has a finite value that is too large for {dtype}.",
        expected=describe(dtype, array.shape),
        got=f"{describe(array.dtype, array.shape)} with a magnitude of {magnitudes.max():.3g}",
        remedy=f"Declare a wider dtype, for example dtype=np.{array.dtype}, or scale the values.",
    )


def _remedy(actual: DType, promised: DType) -> str:
    if dtype_kind(actual) == "c":
        return f"Return the real part, or declare dtype=np.{complex_dtype(real_dtype(actual))}."
    if actual == STRING or actual.kind in "US":
        return 'Declare dtype="string".'
    if promised == STRING:
        return f"Return strings, or declare dtype=np.{actual}."
    return f"Declare dtype=np.{actual}, or convert the result in the function."
