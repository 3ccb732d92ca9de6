"""Read and check the options of `differentiable_op`."""

from __future__ import annotations

import contextlib
import keyword
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfpyop._spec.coercion import DType, dtype_kind, parse_dtype
from tfpyop._spec.executor_source import ExecutorSource
from tfpyop._spec.outputs import HANDLE
from tfpyop._spec.parameters import Parameters
from tfpyop._spec.signature import Signature
from tfpyop._spec.tree import LEAF, TreeSpec, flat, flatten
from tfpyop.errors import RegistrationError, SignatureError


def check_function(function: Any) -> None:
    if isinstance(function, staticmethod | classmethod):
        kind = type(function).__name__
        raise RegistrationError(
            f"differentiable_op got a {kind} object instead of a function.",
            remedy=f"Put @{kind} above @differentiable_op.",
        )
    if not callable(function):
        raise RegistrationError(
            "the argument of differentiable_op is not a function.",
            got=f"{function!r:.80}",
            remedy='Pass options as keywords: @differentiable_op(signature="()->()").',
        )


def read_names(value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, tuple | list | set | frozenset) or not all(isinstance(name, str) for name in names):
        raise RegistrationError(
            "static_argnames= is not a sequence of names.",
            got=f"{value!r:.80}",
            remedy='For example static_argnames=("axis",).',
        )
    return tuple(names)


def read_signature(function: Any, text: Any, shape: Any, sizes: Any) -> Signature | None:
    if text is None:
        return Signature.from_ufunc(function) if isinstance(function, np.ufunc) and shape is None else None
    if not isinstance(text, str):
        raise RegistrationError(
            "signature= is not a string.", got=f"{text!r:.80}", remedy='Pass a string, for example "(n),(n)->()".'
        )
    if shape is not None:
        raise RegistrationError("signature= and shape= cannot be used together.", remedy="Remove one of the two.")
    return Signature.parse(text, frozenset(sizes) if isinstance(sizes, Mapping) else frozenset())


def read_shape_function(shape: Any) -> Callable[..., Any] | None:
    if shape is not None and not callable(shape):
        raise RegistrationError(
            "shape= is not a function.",
            got=f"{shape!r:.80}",
            remedy="Pass a function, for example shape=lambda x: x for an output with the shape of the input, or pass "
            "a signature=.",
        )
    function: Callable[..., Any] | None = shape
    return function


def read_outputs(
    signature: Signature | None, dtype: Any
) -> tuple[Signature | None, tuple[DType | None, ...], TreeSpec]:
    """Return the signature with all outputs, their dtypes and their nesting, from the signature and `dtype=`."""
    try:
        declared, structure = flatten(tuple(dtype) if isinstance(dtype, list) else dtype, is_declaration=True)
    except TypeError as error:
        raise RegistrationError(
            f"dtype= is invalid: {error}.", remedy="Pass a dtype, or a tuple or dict of dtypes."
        ) from None
    dtypes = tuple(map(parse_dtype, declared))
    if signature is None:
        return None, dtypes, structure
    if signature.repeated_output is not None:
        n_fewest = max(len(signature.outputs) - 1, 1)
        if structure.kind == "leaf" or len(dtypes) < n_fewest:
            raise RegistrationError(
                "signature= leaves the number of outputs open, and dtype= does not determine it.",
                expected=f"a tuple or dict of {n_fewest} or more dtypes for signature {signature.text!r}",
                got=f"dtype={dtype!r:.80}",
                remedy='Pass a dtype for each output, for example dtype=("float32",) * 3. None stands for the result '
                "type of the inputs.",
            )
        signature = signature.with_n_outputs(len(dtypes))
    n_outputs = len(signature.outputs)
    if structure.kind == "leaf":
        return signature, dtypes * n_outputs, LEAF if n_outputs == 1 else flat(n_outputs)
    if len(dtypes) != n_outputs:
        raise RegistrationError(
            "dtype= and signature= disagree about the number of outputs.",
            expected=f"{n_outputs} dtypes for signature {signature.text!r}",
            got=str(len(dtypes)),
        )
    return signature, dtypes, structure


@dataclass(frozen=True, slots=True)
class Residual:
    """Store the declaration of a residual.

    Attributes:
      core: The core dimensions, in parentheses.
      dtype: The dtype in TensorFlow. None stands for the result type of the inputs.
      is_object: Whether it is a Python object. TensorFlow gets a handle of the object.
    """

    core: str
    dtype: DType | None
    is_object: bool = False


def read_residuals(
    residuals: Any, signature: Signature | None, shape: Any = None, *, is_stateful: bool = False
) -> Mapping[str, Residual]:
    if residuals is None:
        return {}
    example = 'Declare it for example as residuals={"lu": ("(n,n)", np.float64)}, or as {"lu": object}.'
    if not isinstance(residuals, Mapping):
        raise RegistrationError("residuals= is not a dict.", got=f"{residuals!r:.80}", remedy=example)
    if signature is None and shape is None:
        raise RegistrationError(
            "residuals= requires a signature.",
            remedy='Pass a signature, for example signature="(n,n),(n)->(n)". '
            "Residuals use the names of its dimensions.",
        )
    read = {}
    for name, declared in residuals.items():
        if declared is object:
            read[_residual_name(name)] = Residual("()", HANDLE, is_object=True)
            continue
        is_pair = isinstance(declared, tuple) and len(declared) == 2 and isinstance(declared[0], str)
        dtype = parse_dtype(declared[1]) if is_pair else None
        if not is_pair:
            raise RegistrationError(
                f"the declaration of residual {name!r} is neither a pair of core dimensions and a dtype, nor object.",
                got=f"{declared!r:.80}",
                remedy=example,
            )
        _residual_name(name)
        if not _is_core(declared[0], signature):
            raise SignatureError(
                f"cannot parse the core dimensions of residual {name!r}.",
                expected='dimensions in parentheses, for example "(n,n)", with names from the signature or new names',
                got=f"{declared[0]!r:.80}, with " + (f"signature {signature.text!r}" if signature else "shape="),
            )
        read[name] = Residual(declared[0], dtype)
    objects = [name for name, residual in read.items() if residual.is_object]
    if objects and is_stateful:
        raise RegistrationError(
            f"residual {objects[0]!r} is a Python object, but the op is declared stateful.",
            remedy="Remove stateful=True, or save an array instead of the object. If an object no longer exists, the "
            "function is called again, which would change the state.",
        )
    return read


def _residual_name(name: Any) -> str:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise RegistrationError(
            f"the residual name {name!r} is not a Python identifier.",
            remedy="Use letters, digits and _, and no Python keyword, because rules read the residual as "
            "op.residuals.name.",
        )
    return name


def _is_core(text: str, signature: Signature | None) -> bool:
    """Return whether a text is valid as the core dimensions of an additional output of the signature."""
    with contextlib.suppress(SignatureError):  # the caller reports the problem
        if signature is None:
            return len(Signature.parse(f"->{text}").outputs) == 1
        return len(signature.with_outputs([text]).outputs) == len(signature.outputs) + 1
    return False


def read_compute_dtype(value: Any) -> DType | None:
    dtype = parse_dtype(value)
    if dtype is not None and dtype_kind(dtype) != "f":
        raise RegistrationError(
            "compute_dtype= is not a floating dtype.",
            got=str(dtype),
            remedy='Use "float32" or "float64". Complex inputs get the complex dtype of the same precision.',
        )
    return dtype


def read_prefer(value: Any) -> bool:
    if value not in (None, "native", "numpy"):
        raise RegistrationError(
            "prefer= is not the name of an implementation.", expected='"native" or "numpy"', got=f"{value!r:.80}"
        )
    return bool(value == "native")


def read_executor(executor: Any, *, is_vectorized: bool) -> ExecutorSource | None:
    """Return the source of the executor; None if no executor was passed."""
    if executor is None:
        return None
    if not isinstance(executor, Executor) and not callable(executor):
        raise RegistrationError(
            "executor= is not an executor.",
            expected="a concurrent.futures.Executor, or a function that returns one",
            got=f"{executor!r:.80}",
            remedy="Pass for example tfpyop.parallel.process_pool(4) or concurrent.futures.ThreadPoolExecutor().",
        )
    if is_vectorized:
        raise RegistrationError(
            "executor= requires vectorized=False.",
            remedy="Add vectorized=False, and write the function for core dimensions only. The executor runs one call "
            "for each element of the loop dimensions.",
        )
    return ExecutorSource(executor)


def read_flag(option: str, value: Any) -> bool:
    """Read a boolean option.

    Raises:
      RegistrationError: The value is neither True nor False.
    """
    if not isinstance(value, bool | np.bool_):
        raise RegistrationError(
            f"{option}= is neither True nor False.", got=f"{value!r:.80}", remedy="Pass one of them."
        )
    return bool(value)


def read_vectorized(value: Any, signature: Signature | None) -> tuple[bool, bool]:
    """Return whether the function takes loop dimensions, and whether it takes exactly one."""
    takes_rows = isinstance(value, str) and value == "rows"
    if not takes_rows and not isinstance(value, bool | np.bool_):
        raise RegistrationError(
            "vectorized= is neither True nor False nor 'rows'.", got=f"{value!r:.80}", remedy="Pass one of them."
        )
    if (takes_rows or not value) and signature is None:
        does = "flattens all other dimensions into one" if takes_rows else "loops over all other dimensions"
        raise RegistrationError(
            f"vectorized={value!r} requires a signature.",
            remedy=f'Pass the core dimensions of the function, for example signature="(n,n)->(n)". The host {does}.',
        )
    if takes_rows and signature is not None and not signature.has_certain_input:
        raise RegistrationError(
            "vectorized='rows' requires an input in every call, because loop dimensions come from inputs.",
            got=f"signature {signature.text!r}",
            remedy="Remove vectorized=.",
        )
    if takes_rows and signature is not None and any(each.optional for core in signature.inputs for each in core):
        raise RegistrationError(
            "vectorized='rows' does not support optional core dimensions.",
            got=f"signature {signature.text!r}",
            remedy="Remove the question marks in the signature, or remove vectorized=.",
        )
    return bool(value), takes_rows


def check_input_count(parameters: Parameters, signature: Signature | None, *, is_method: bool) -> None:
    """Raise RegistrationError if the function has too many required tensor parameters for the signature.

    One extra parameter is allowed, because it may take None, which is not an input. A method has another extra
    parameter, the instance.

    Each optional input of the signature must have a parameter whose default is None.
    """
    n_others = 2 if is_method else 1
    if signature is not None and parameters.n_required > len(signature.inputs) + n_others:
        raise RegistrationError(
            "the function has more required tensor parameters than the signature has inputs.",
            expected=f"{len(signature.inputs)} inputs, from signature {signature.text!r}",
            got=f"parameters {', '.join(parameter.name for parameter in parameters.tensors)}",
            remedy="Add inputs to the signature, or make parameters static: keyword-only, or named in static_argnames.",
        )
    if signature is not None:
        _check_optional_inputs(parameters, signature, n_others)


def _check_optional_inputs(parameters: Parameters, signature: Signature, n_others: int) -> None:
    """Raise RegistrationError if an optional input of the signature has no parameter whose default is None.

    If the inputs are nested, the function has fewer parameters than the signature has inputs, and only the number of
    parameters with this default is compared.
    """
    defaults = [parameter.default for parameter in parameters.tensors]
    is_nested = len(defaults) < len(signature.inputs)
    n_found = sum(default is None for default in defaults)
    for position, number in enumerate(sorted(signature.marks.optional)):
        has_default = any(default is None for default in defaults[number : number + n_others])
        if n_found <= position if is_nested else not has_default:
            raise RegistrationError(
                f"input {number} is optional in the signature, but its parameter does not have the default None.",
                expected=f"a parameter with default None, because of the '?' in signature {signature.text!r}",
                got=f"parameters {parameters.signature or 'that Python cannot read'}",
                remedy="Write, for example, def f(x, weights=None), or remove the '?'.",
            )
