"""Define the dtype rules: the dtypes of inputs and outputs, and the casts that are allowed.

Inputs: tensors keep their dtype. Python floats and float64 arrays take the floating dtype of the tensors in the same
call, or float32 if there is none. Python integers take a dtype from these tensors too, never from their own values.
Outputs: the dtype is the declared dtype or the result type of the inputs. A result is cast only within its kind or to a
wider kind, and no finite value may become infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfpyop._spec.array_like import Array as Array
from tfpyop._spec.array_like import to_array
from tfpyop.errors import CoercionError, RegistrationError, describe, shown

DType = np.dtype[Any]

STRING = np.dtype(object)
"""numpy's dtype for TensorFlow strings: objects, each of type bytes."""

_KINDS = "buifc"
"""The kinds of numbers. A dtype of one kind may be cast to the same kind and to the kinds after it."""

_INPUT_REMEDY = (
    "If it is an input, convert it to an array. If not, make its parameter keyword-only, or name it in static_argnames."
)
_RETURN_REMEDY = (
    "Return an array. For several outputs, name them in the signature, or give dtype= as a tuple or dict of the same "
    "form."
)

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
    if dtype_kind(dtype) not in _KINDS or dtype.name in ("longdouble", "clongdouble", "float128", "complex256"):
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
    numbers = [dtype for dtype in dtypes if dtype_kind(dtype) in _KINDS]
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


def coerce_input(value: Any, partners: DTypeContext, *, what: str) -> Array:
    """Convert a value that is not a tensor to the dtype that it has as an input.

    Args:
      value: A Python number, a string, a list of numbers or strings, or a numpy array.
      partners: The dtypes of the tensors in the same call.
      what: The name of the value in error messages.
    """
    array = to_array(value, what=what, remedy=_INPUT_REMEDY)
    kind = dtype_kind(array.dtype)
    if kind in "USO":
        return _as_strings(array, what)
    if kind not in _KINDS:
        raise CoercionError(
            f"{what} has a dtype that TensorFlow does not support.",
            expected="numbers, booleans or strings",
            got=describe(array.dtype, array.shape),
            remedy="Convert it with numpy first, for example x.astype(np.int64).",
        )
    if kind in "ui" and not isinstance(value, np.ndarray | np.generic):
        return _cast_python_integers(array, partners, what)
    if kind == "f" and array.dtype.itemsize >= 8 and array.dtype.kind == "f":
        return cast(array, partners.floating or np.dtype(np.float32), what=what, advise=_advise_input)
    if kind == "c" and array.dtype.itemsize >= 16:
        return cast(array, complex_dtype(partners.floating or np.dtype(np.float32)), what=what, advise=_advise_input)
    return array


def _cast_python_integers(array: Array, partners: DTypeContext, what: str) -> Array:
    """Cast Python integers to a dtype that does not depend on their values."""
    if partners.floating is not None:
        return cast(array, partners.floating, what=what, advise=_advise_input)
    dtype = np.dtype(np.int32) if partners.integer is None else partners.integer
    if _fits(array, dtype):
        return array.astype(dtype)
    rule = "become int32" if partners.integer is None else "take the dtype of the integer tensors in the call"
    raise _overflow(array, dtype, what, f"Python integers {rule}. For another dtype, pass np.{array.dtype}(x).")


Advice = Callable[[DType, DType], str]
"""A function that returns the remedy for a result of the wrong kind, from its actual and its expected dtype."""


def advise_undeclared(actual: DType, promised: DType) -> str:
    """Return the remedy for an output whose dtype is inferred from the inputs."""
    if dtype_kind(actual) == "f" and promised != STRING:
        return f"Pass floating inputs (2.0 instead of 2), convert the result, or declare dtype={_written(actual)}."
    return advise_declared(actual, promised)


def advise_declared(actual: DType, promised: DType) -> str:
    """Return the remedy for an output whose dtype the user declared."""
    if dtype_kind(actual) == "c":
        complex_ = complex_dtype(real_dtype(actual))
        return f"Return the real part, or declare dtype={_written(complex_)}."
    if actual == STRING or actual.kind in "US":
        return 'Declare dtype="string".'
    if promised == STRING:
        return f"Return strings, or declare dtype={_written(actual)}."
    if dtype_kind(actual) not in _KINDS:
        return "Return numbers: TensorFlow does not support this dtype."
    return f"Declare dtype={_written(actual)}, or convert the result in the function."


def advise_residual(name: str) -> Advice:
    """Return the function that makes the remedy for a residual."""

    def advise(actual: DType, promised: DType) -> str:
        return f'Declare residuals={{"{name}": (..., {_written(actual)})}}, or convert it in the function.'

    return advise


def advise_rule(actual: DType, promised: DType) -> str:
    """Return the remedy for a value that a rule returned."""
    return "Convert it in the rule, for example with np.real."


def coerce_output(value: Any, dtype: DType, *, what: str, advise: Advice = advise_undeclared) -> Array:
    """Convert a value that a function returned to an array of the expected dtype, or raise an error.

    Args:
      value: The returned value.
      dtype: The expected dtype.
      what: The name of the value in error messages.
      advise: Returns the remedy in the error message if the value is of another kind.

    Raises:
      CoercionError: The value is not an array, is of another kind, or holds a finite number too large for the dtype.
    """
    array = value if type(value) is np.ndarray and value.dtype.kind not in "OT" else as_array(value, what)
    if array.dtype == dtype and dtype != STRING:
        return array
    kind, wanted = dtype_kind(array.dtype), dtype_kind(dtype)
    if dtype == STRING and kind in "USO":
        return _as_strings(array, what)
    if kind == "i" and wanted == "u" and not isinstance(value, np.ndarray | np.generic):
        return cast(array, dtype, what=what)
    if kind in _KINDS and wanted in _KINDS and _KINDS.index(kind) <= _KINDS.index(wanted):
        return cast(array, dtype, what=what)
    raise CoercionError(
        f"{what} has the wrong dtype.",
        expected=describe(dtype, array.shape),
        got=describe(array.dtype, array.shape),
        remedy=advise(array.dtype, dtype),
    )


def _advise_input(actual: DType, wanted: DType) -> str:
    """For an input that is not a tensor, whose value its dtype as an input cannot hold."""
    if dtype_kind(actual) in "ui":
        return f"Pass np.float64(x) if the rounding is acceptable, or np.{actual}(x) to pass integers."
    if _is_long(actual):
        return f"Scale the values, or pass tf.constant(x.astype(np.{_tensor_dtype(actual)}))."
    return f"Scale the values, or pass tf.constant(x, tf.{actual})."


def advise_computed(actual: DType, wanted: DType) -> str:
    """For an input that `compute_dtype=` cannot hold."""
    return f"Scale the values, or change compute_dtype={_written(wanted)}."


def _advise_scaling(actual: DType, wanted: DType) -> str:
    return f"Scale the values, or use {_tensor_dtype(actual)} for tensors and dtype=."


def _tensor_dtype(dtype: DType) -> DType:
    """The widest dtype of tensors for numbers of this dtype: they have no long doubles."""
    return {"f": np.dtype(np.float64), "c": np.dtype(np.complex128)}[dtype.kind] if _is_long(dtype) else dtype


def _is_long(dtype: DType) -> bool:
    return dtype.kind in "fc" and real_dtype(dtype).itemsize > 8


def is_half(dtype: DType) -> bool:
    """Return whether a dtype is float16 or bfloat16."""
    return dtype.itemsize == 2 and dtype_kind(dtype) == "f"


def as_array(value: Any, what: str, *, remedy: str = _RETURN_REMEDY) -> Array:
    """Convert a value that a function returned to an array without a change of dtype, or raise CoercionError."""
    return to_array(value, what=what, remedy=remedy)


def cast(array: Array, dtype: DType, *, what: str, advise: Advice | None = None) -> Array:
    """Cast an array to the same kind or a wider kind.

    Raises:
      CoercionError: A finite value is too large for the dtype, or an integer has no exact floating representation.
    """
    if array.dtype == dtype:
        return array
    remedy = (advise or _advise_scaling)(array.dtype, dtype)
    if dtype_kind(dtype) in "ui":
        if not _fits(array, dtype):
            raise _overflow(array, dtype, what, remedy)
        return array.astype(dtype)
    try:
        with np.errstate(all="ignore", over="raise"):
            result = array.astype(dtype)
    except FloatingPointError:
        raise _overflow(array, dtype, what, remedy) from None
    is_extension = "V" in (dtype.kind, array.dtype.kind)  # their casts do not report overflow
    if dtype_kind(array.dtype) in "ui" and not _holds_exactly(result, array):
        rounded = f"x.astype({'ml_dtypes' if dtype.kind == 'V' else 'np'}.{dtype})"
        raise CoercionError(
            f"{what} has integers that {dtype} cannot hold exactly.",
            expected=describe(dtype, array.shape),
            got=describe(array.dtype, array.shape),
            remedy=advise(array.dtype, dtype)
            if advise
            else f"Declare dtype={_written(array.dtype)}, or round explicitly: {rounded}.",
        )
    if is_extension and not np.isfinite(result).all() and (np.isfinite(array) & ~np.isfinite(result)).any():
        raise _overflow(array, dtype, what, remedy)
    return result


def _holds_exactly(result: Array, integers: Array) -> bool:
    with np.errstate(all="ignore"):
        return np.array_equal(result.real.astype(integers.dtype), integers)


def widen(array: Array, compute_dtype: DType, *, what: str, advise: Advice | None = None) -> Array:
    """Cast a floating or complex array to the dtype in which a function computes. Return other arrays unchanged."""
    kind = dtype_kind(array.dtype)
    if kind == "f":
        return cast(array, compute_dtype, what=what, advise=advise)
    return cast(array, complex_dtype(compute_dtype), what=what, advise=advise) if kind == "c" else array


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


def _as_strings(array: Array, what: str) -> Array:
    """Convert strings to the form that TensorFlow accepts: an object array of bytes, with text encoded in UTF-8."""
    result = np.empty(array.shape, dtype=object)
    try:
        for index, item in np.ndenumerate(array):
            result[index] = item.encode() if isinstance(item, str) else bytes(item)
    except UnicodeEncodeError as error:
        raise CoercionError(
            f"{what} has text that UTF-8 cannot encode.",
            got=shown(str(error.object)),
            remedy='Encode the text first, for example text.encode(errors="surrogateescape").',
        ) from None
    return result


def _fits(array: Array, dtype: DType) -> bool:
    if array.size == 0 or dtype_kind(array.dtype) == "b":
        return True
    smallest, largest = _integer_limits(dtype)
    return int(array.min()) >= smallest and int(array.max()) <= largest


def _integer_limits(dtype: DType) -> tuple[int, int]:
    if dtype.kind == "V":
        import ml_dtypes

        limits = ml_dtypes.iinfo(dtype)
    else:
        limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _overflow(array: Array, dtype: DType, what: str, remedy: str) -> CoercionError:
    parts = [part[np.isfinite(part)] for part in (array.real, array.imag)]
    extremes = [extreme for part in parts if part.size for extreme in (part.min(), part.max())]
    if dtype_kind(dtype) in "ui":
        smallest, _ = _integer_limits(dtype)
        least, most = extremes[:2]
        outside = least if int(least) < smallest else most
    else:
        outside = max(extremes, key=lambda extreme: abs(extreme.item()))
    if _is_long(array.dtype) and not np.isfinite(np.float64(outside)):
        remedy = "Scale the values: no dtype of tensors has numbers of this size."
    return CoercionError(
        f"{what} has a finite value outside the range of {dtype}.",
        expected=describe(dtype, array.shape),
        got=f"{describe(array.dtype, array.shape)} with {_short(outside)}",
        remedy=remedy,
    )


def _short(number: Any) -> str:
    """Render a number by three digits, also one that no Python float can hold."""
    if _is_long(number.dtype):
        return np.format_float_scientific(number, precision=2, trim="-").replace(".e", "e")
    return f"{number.item():.3g}"


def _written(dtype: DType) -> str:
    """Return a dtype as Python source text."""
    if dtype.kind in "OSU":
        return '"string"'
    return f'"{dtype}"' if dtype.kind == "V" else f"np.{dtype}"
