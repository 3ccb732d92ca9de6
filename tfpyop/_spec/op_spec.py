"""Definitions: what is known about an op when it is made, read from the function and the options, and checked.

Owns names, the reading of options, and the making of host functions from a definition. Immutable; knows neither rules
that are attached later nor TensorFlow.
"""

from __future__ import annotations

import contextlib
import inspect
import keyword
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

from tfpyop._spec.coercion import STRING, DType, dtype_kind, parse_dtype
from tfpyop._spec.domain import Domain
from tfpyop._spec.executor_source import ExecutorSource
from tfpyop._spec.parameters import Division, Parameters
from tfpyop._spec.signature import Signature
from tfpyop._spec.source_location import Site
from tfpyop._spec.tree import LEAF, Structure, flat, flatten
from tfpyop.errors import RegistrationError, SignatureError, TfpyopError


@dataclass(frozen=True, slots=True)
class Options:
    """The keywords of `differentiable_op` that say what the function is, as the user gave them."""

    signature: Any = None
    shape: Any = None
    dtype: Any = None
    compute_dtype: Any = None
    residuals: Any = None
    vectorized: bool = True
    executor: Any = None
    stateful: bool = False
    prefer: Any = None
    static_argnames: Any = ()
    domain: Any = None
    name: Any = None


@dataclass(frozen=True, slots=True)
class Definition:
    """An op as it was made."""

    name: str
    module: str
    """The module whose import makes the op."""
    is_local: bool
    """Whether the name holds for this process only."""
    site: Site
    parameters: Parameters
    signature: Signature | None
    shape: Callable[..., Any] | None
    dtypes: tuple[DType | None, ...]
    structure: Structure
    """How the outputs are arranged."""
    residuals: Mapping[str, tuple[str, DType]]
    compute_dtype: DType | None
    is_vectorized: bool
    executor: ExecutorSource | None
    """Gives what runs the elements of loop dimensions."""
    is_stateful: bool
    prefers_native: bool
    domain: Domain

    @classmethod
    def of(cls, function: Any, frame: FrameType, options: Options) -> Definition:
        """Read and check a function and its options, given in this frame.

        Raises:
          RegistrationError: The options contradict each other or the function.
          SignatureError: The signature cannot be read.
        """
        _check_function(function)
        site = Site.of(function, frame)
        default_name, module, is_local = _name_of(function, frame)
        name = default_name if options.name is None else options.name
        try:
            _check_name(name)
            signature = _read_signature(function, options)
            dtypes, structure = _read_outputs(signature, options.dtype)
            parameters = Parameters.of(function, _read_names(options.static_argnames))
            _check_input_count(parameters, signature, is_method=is_in_class(function))
            return cls(
                name=name,
                module=module,
                is_local=is_local and options.name is None,
                site=site,
                parameters=parameters,
                signature=signature,
                shape=_read_shape_function(options),
                dtypes=dtypes,
                structure=structure,
                residuals=_read_residuals(options.residuals, signature),
                compute_dtype=_read_compute_dtype(options.compute_dtype),
                is_vectorized=_read_vectorized(options.vectorized, signature),
                executor=_read_executor(options),
                is_stateful=read_flag("stateful", options.stateful),
                prefers_native=_read_prefer(options.prefer),
                domain=Domain.read(options.domain, parameters.input_names),
            )
        except TfpyopError as error:
            raise error.about(f"op {name!r} ({site})") from None

    @property
    def subject(self) -> str:
        """How errors name the op."""
        return f"op {self.name!r} ({self.site})"

    @property
    def n_inputs(self) -> int | None:
        """How many inputs the signature has."""
        return None if self.signature is None else len(self.signature.inputs)

    @property
    def is_compilable(self) -> bool:
        """Whether XLA can compile calls: shapes are known then, and there is no text."""
        is_known = self.signature is not None and not self.signature.run_time_names
        return is_known and STRING not in self.dtypes

    @property
    def full_signature(self) -> Signature | None:
        """The signature with the residuals among the outputs."""
        cores = [core for core, _ in self.residuals.values()]
        return None if self.signature is None else self.signature.with_outputs(cores)

    def divide(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Division:
        """Divide the arguments of a call into tensors and static values."""
        try:
            return self.parameters.divide(args, kwargs, self.n_inputs)
        except TfpyopError as error:
            raise error.about(self.subject) from None
        except TypeError as error:
            parameters = "" if self.parameters.signature is None else f"\n  Parameters: {self.parameters.signature}"
            if self.signature is not None and self.parameters.n_required > len(self.signature.inputs):
                parameters += f"; inputs of signature {self.signature.text!r}: {self.n_inputs}"
            raise TypeError(f"{self.subject}: {error}.{parameters}") from None

    def require_static(self, names: Iterable[str]) -> None:
        """Raise RegistrationError for a name that no static parameter has."""
        try:
            self.parameters.require_static(names)
        except TfpyopError as error:
            raise error.about(self.subject) from None

    def call(
        self,
        function: Callable[..., Any],
        leaves: Sequence[Any],
        structure: Structure | None,
        static: Mapping[str, Any],
        **more: Any,
    ) -> Any:
        """Call a function with the parameters of this one, with flat inputs and static values put in their places."""
        tensors = leaves if structure is None else structure.pack(leaves)
        args, kwargs = self.parameters.assemble(tensors, static)
        return function(*args, **kwargs, **more)


def _check_function(function: Any) -> None:
    if isinstance(function, staticmethod | classmethod):
        kind = type(function).__name__
        raise RegistrationError(
            f"differentiable_op was given a {kind} object.", remedy=f"Put @{kind} above @differentiable_op, not below."
        )
    if not callable(function):
        raise RegistrationError(
            "differentiable_op takes a function.",
            got=f"{function!r:.80}",
            remedy='Options are keywords: @differentiable_op(signature="()->()").',
        )


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[\w.:/<>-]+", name):
        raise RegistrationError(
            f"{name!r} is not a name for an op.", remedy="Give a name= of letters, digits and any of . : / - _"
        )


def _name_of(function: Any, frame: FrameType) -> tuple[str, str, bool]:
    """The op's default name, the module whose import makes it, and whether the name is for this process only.

    A function decorated while its module is executed has a name that every process finds; so has a function of
    another module that is wrapped at the top level of this one. Anything made inside of a function call has not.
    """
    caller: str = frame.f_globals.get("__name__", "__main__")
    qualname = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    owner = getattr(function, "__self__", None)
    if qualname is None or "<" in qualname or not (owner is None or inspect.ismodule(owner)):
        return f"{caller}:{qualname or type(function).__name__}", caller, True
    if not _is_in_call(frame):
        return f"{caller}:{qualname}", caller, False
    home = getattr(function, "__module__", None) or caller
    return f"{home}:{qualname}", home, not _is_being_defined(function, frame)


def is_in_class(function: Any) -> bool:
    """Whether a function was defined in the body of a class."""
    return "." in getattr(function, "__qualname__", "").rpartition("<locals>.")[2]


def _is_in_call(frame: FrameType) -> bool:
    """Whether a frame runs a function, rather than the body of a module or class."""
    return bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)


def _is_being_defined(function: Any, frame: FrameType | None) -> bool:
    """Whether the body of the function's own module runs further up the stack, as under somebody else's decorator."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    namespace = getattr(module, "__dict__", getattr(function, "__globals__", None))
    while frame is not None:
        if frame.f_globals is namespace and not _is_in_call(frame):
            return True
        frame = frame.f_back
    return False


def _read_names(value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, tuple | list | set | frozenset) or not all(isinstance(name, str) for name in names):
        raise RegistrationError(
            "static_argnames= is not a sequence of names.",
            got=f"{value!r:.80}",
            remedy='For example static_argnames=("axis",).',
        )
    return tuple(names)


def _read_signature(function: Any, options: Options) -> Signature | None:
    text = options.signature
    if text is None:
        return Signature.from_ufunc(function) if isinstance(function, np.ufunc) and options.shape is None else None
    if not isinstance(text, str):
        raise RegistrationError("signature= is not text.", got=f"{text!r:.80}", remedy='For example "(n),(n)->()".')
    if options.shape is not None:
        raise RegistrationError("both signature= and shape= are given.", remedy="Remove one of the two.")
    return Signature.parse(text)


def _read_shape_function(options: Options) -> Callable[..., Any] | None:
    if options.shape is not None and not callable(options.shape):
        raise RegistrationError(
            "shape= is not a function.",
            got=f"{options.shape!r:.80}",
            remedy="For example shape=lambda x: x for an output like the input; or give a signature.",
        )
    shape: Callable[..., Any] | None = options.shape
    return shape


def _read_outputs(signature: Signature | None, dtype: Any) -> tuple[tuple[DType | None, ...], Structure]:
    """The dtypes of the outputs and how they are arranged, from `dtype=` and the signature."""
    try:
        declared, structure = flatten(tuple(dtype) if isinstance(dtype, list) else dtype, is_declaration=True)
    except TypeError as error:
        raise RegistrationError(
            f"dtype= cannot be read: {error}.", remedy="Give a dtype, or a tuple or dict of dtypes."
        ) from None
    dtypes = tuple(map(parse_dtype, declared))
    if signature is None:
        return dtypes, structure
    n_outputs = len(signature.outputs)
    if structure.kind == "leaf":
        return dtypes * n_outputs, LEAF if n_outputs == 1 else flat(n_outputs)
    if len(dtypes) != n_outputs:
        raise RegistrationError(
            "dtype= and signature= disagree about the number of outputs.",
            expected=f"{n_outputs} dtypes, for signature {signature.text!r}",
            got=str(len(dtypes)),
        )
    return dtypes, structure


def _read_residuals(residuals: Any, signature: Signature | None) -> Mapping[str, tuple[str, DType]]:
    if residuals is None:
        return {}
    example = 'For example residuals={"lu": ("(n,n)", np.float64)}.'
    if not isinstance(residuals, Mapping):
        raise RegistrationError("residuals= is not a dict.", got=f"{residuals!r:.80}", remedy=example)
    if signature is None:
        raise RegistrationError(
            "residuals need a signature.", remedy='For example signature="(n,n),(n)->(n)", whose sizes they share.'
        )
    read = {}
    for name, declared in residuals.items():
        is_pair = isinstance(declared, tuple) and len(declared) == 2 and isinstance(declared[0], str)
        dtype = parse_dtype(declared[1]) if is_pair else None
        if dtype is None:
            raise RegistrationError(
                f"residual {name!r} is not declared by core dimensions and a dtype.",
                got=f"{declared!r:.80}",
                remedy=example,
            )
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise RegistrationError(
                f"residual {name!r} has a name that is not an identifier.",
                remedy="Rules read it as op.residuals.name: use letters, digits and _, and no keyword of Python.",
            )
        if not _is_core(declared[0], signature):
            raise SignatureError(
                f"the core dimensions of residual {name!r} cannot be read.",
                expected='dimensions in parentheses, for example "(n,n)", in names of the signature or a new one',
                got=f"{declared[0]!r:.80} beside signature {signature.text!r}",
            )
        read[name] = (declared[0], dtype)
    return read


def _is_core(text: str, signature: Signature) -> bool:
    """Whether a text is the core dimensions of one more output of the signature."""
    with contextlib.suppress(SignatureError):  # the caller says what is wrong
        return len(signature.with_outputs([text]).outputs) == len(signature.outputs) + 1
    return False


def _read_compute_dtype(value: Any) -> DType | None:
    dtype = parse_dtype(value)
    if dtype is not None and dtype_kind(dtype) != "f":
        raise RegistrationError(
            "compute_dtype is not a floating dtype.",
            got=str(dtype),
            remedy='Use "float32" or "float64"; complex inputs follow.',
        )
    return dtype


def _read_prefer(value: Any) -> bool:
    if value not in (None, "native", "numpy"):
        raise RegistrationError(
            "prefer= names no implementation.", expected='"native" or "numpy"', got=f"{value!r:.80}"
        )
    return bool(value == "native")


def _read_executor(options: Options) -> ExecutorSource | None:
    """What gives the executor; None if there is none."""
    executor = options.executor
    if executor is None:
        return None
    if not isinstance(executor, Executor) and not callable(executor):
        raise RegistrationError(
            "executor= is not an executor.",
            expected="a concurrent.futures.Executor, or a function that makes one",
            got=f"{executor!r:.80}",
            remedy="For example tfpyop.parallel.process_pool(4), or concurrent.futures.ThreadPoolExecutor().",
        )
    if options.vectorized:
        raise RegistrationError(
            "executor= needs vectorized=False.",
            remedy="It runs the elements of loop dimensions apart, with a function that takes core dimensions only.",
        )
    return ExecutorSource(executor)


def read_flag(option: str, value: Any) -> bool:
    """Read an option that is on or off.

    Raises:
      RegistrationError: It is neither True nor False.
    """
    if not isinstance(value, bool | np.bool_):
        raise RegistrationError(
            f"{option}= is neither True nor False.", got=f"{value!r:.80}", remedy="Give one of them."
        )
    return bool(value)


def _read_vectorized(value: Any, signature: Signature | None) -> bool:
    is_vectorized = read_flag("vectorized", value)
    if not is_vectorized and signature is None:
        raise RegistrationError(
            "vectorized=False needs a signature.",
            remedy='It says which dimensions the function takes, for example signature="(n,n)->(n)"; the host loops '
            "over the others.",
        )
    return is_vectorized


def _check_input_count(parameters: Parameters, signature: Signature | None, *, is_method: bool) -> None:
    """One more than the signature has inputs may take None, which is no input, and one the instance of a method."""
    n_others = 2 if is_method else 1
    if signature is not None and parameters.n_required > len(signature.inputs) + n_others:
        raise RegistrationError(
            "the function takes more arrays than the signature has inputs.",
            expected=f"{len(signature.inputs)} inputs, as signature {signature.text!r} says",
            got=f"parameters {', '.join(parameter.name for parameter in parameters.tensors)}",
            remedy="Add inputs to the signature, or make parameters static with static_argnames or by keyword-only.",
        )
