"""`differentiable_op` and `Op`: what users hold. They wire the other parts together and decide nothing themselves."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType, MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypedDict, TypeVar, overload

import numpy as np
import wrapt

from tfpyop._arguments import Parameters
from tfpyop._coercion import Array, DType, dtype_kind, parse_dtype
from tfpyop._host import HostFunction, OpPromise, Promise, check_shape_result
from tfpyop._registry import REGISTRY, Site, make_token
from tfpyop._rules import CotangentPromise, HostOp, Rules, rule_caller
from tfpyop._signature import Signature
from tfpyop._structure import LEAF, Structure, flat, flatten
from tfpyop.errors import RegistrationError, Shape, TfpyopError

P = ParamSpec("P")
R = TypeVar("R")
Function = TypeVar("Function", bound=Callable[..., Any])


if TYPE_CHECKING:
    from typing_extensions import Unpack

    _Proxy = wrapt.ObjectProxy[Any]
else:
    _Proxy = wrapt.ObjectProxy


class OpOptions(TypedDict, total=False):
    """The keywords of `differentiable_op`, for type checkers."""

    signature: str | None
    shape: Callable[..., Any] | None
    dtype: Any
    compute_dtype: Any
    grad: Callable[..., Any] | None
    numpy_grad: Callable[..., Any] | None
    stateful: bool
    non_differentiable: bool
    static_argnames: Sequence[str] | str
    name: str | None


@dataclass(frozen=True, slots=True)
class Definition:
    """Everything known about an op when it is made; immutable."""

    name: str
    is_local: bool
    """Whether the name holds for this process only."""
    site: Site
    signature: Signature | None
    dtypes: tuple[DType | None, ...]
    structure: Structure
    """How the outputs are arranged."""
    parameters: Parameters
    shape: Callable[..., Any] | None = None
    compute_dtype: DType | None = None
    stateful: bool = False
    static_argnames: tuple[str, ...] = ()
    module: str = ""
    """The module whose import makes the op."""
    is_bound: bool = False
    primal: Op[..., Any] | None = None
    """For the op of a numpy rule: the op it belongs to."""

    @property
    def subject(self) -> str:
        """How errors name the op."""
        return f"op {self.name!r} ({self.site})"


class Op(_Proxy, Generic[P, R]):
    """A numpy function that is also a TensorFlow op. Made by `differentiable_op`.

    It looks like the function (`__name__`, `__doc__`, signature) and is called like it, with tensors.
    """

    autograph_info__: Mapping[str, Any] = {}  # AutoGraph's mark for what it must call as it is

    def __init__(self, function: Callable[P, R], definition: Definition, rules: Rules) -> None:
        super().__init__(function)
        self._self_definition = definition
        self._self_rules = rules
        self._self_plain: HostOp | None = None

    # -- as registered

    @property
    def name(self) -> str:
        """The name the op is registered under, `module:qualname` unless given."""
        return self._self_definition.name

    @property
    def numpy(self) -> Callable[P, R]:
        """The plain function, untouched; also `__wrapped__`."""
        function: Callable[P, R] = self.__wrapped__
        return function

    @property
    def __signature__(self) -> inspect.Signature:
        """The function's parameters; for functions that do not tell theirs, any inputs and any static values."""
        return self._self_definition.parameters.signature or inspect.signature(lambda *inputs, **static: None)

    @property
    def signature(self) -> str | None:
        """The signature as text, None if there is none."""
        signature = self._self_definition.signature
        return None if signature is None else signature.text

    @property
    def output_dtypes(self) -> Any:
        """The declared dtypes, arranged like the outputs; None stands for the result type of the inputs."""
        definition = self._self_definition
        return definition.structure.pack(definition.dtypes)

    @property
    def gradient_name(self) -> str:
        """What the gradient names of this op's call sites in graphs begin with."""
        return self.name

    @property
    def module(self) -> str:
        """The module whose import registers the op."""
        return self._self_definition.module

    # -- calls

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the op with tensors, variables, arrays or numbers, in whatever context this is.

        Returns:
          Tensors, arranged like `dtype=` if that was given, else one tensor or a tuple of them.

        Raises:
          TypeError: The arguments do not fit the function.
          TfpyopError: Inputs or outputs break the contract of the op.
        """
        definition = self._self_definition
        signature = definition.signature
        try:
            division = definition.parameters.divide(args, kwargs, None if signature is None else len(signature.inputs))
        except TypeError as error:
            raise TypeError(f"{definition.subject}: {error}") from None
        outputs = _lowering().call(self._host_op(division.structure, division.static), division.leaves)
        return definition.structure.pack(outputs) if definition.primal is None else _one_or_tuple(outputs)

    def call_flat(self, leaves: Sequence[Any], static: Mapping[str, Any]) -> list[Any]:
        """Call the op with flat inputs, static values as rules have them, and get flat outputs."""
        outputs: list[Any] = _lowering().call(self._host_op(flat(len(leaves)), static), leaves)
        return outputs

    # -- rules

    def gradient(self, rule: Function) -> Function:
        """Attach the VJP rule in TensorFlow ops; returns it unchanged.

        Args:
          rule: `rule(op, *cotangents)` with one cotangent for each output (None for integer outputs), each with that
            output's shape and dtype. `op` has `inputs`, `outputs` and `static`. Returns one cotangent for each input: a
            tensor of the input's shape (or the shape its loop dimensions broadcast to), or None if no output depends
            on it; one value may stand for a 1-tuple. The rule of a method takes `self` first.

        Raises:
          RegistrationError: The op has a rule already, or is declared non-differentiable.

        >>> square = differentiable_op(lambda x: x * x, signature="()->()")
        >>> @square.gradient
        ... def square_gradient(op, cotangent):
        ...     return 2 * op.inputs[0] * cotangent
        """
        self._set_gradient(rule, Site.of(rule, sys._getframe(1)))
        return rule

    def numpy_gradient(self, rule: Callable[..., Any]) -> Op[..., Any]:
        """Attach the VJP rule as a numpy function; returns the op made of it.

        The op takes the inputs, the outputs and the cotangents of this one, and returns the cotangents of the floating
        inputs. It can be given a `gradient` of its own, for second derivatives.

        Args:
          rule: As for `gradient`, but arrays in, arrays out. None stands for a cotangent of zeros.

        Raises:
          RegistrationError: The op has a rule already, or is declared non-differentiable.

        >>> square = differentiable_op(lambda x: x * x, signature="()->()")
        >>> @square.numpy_gradient
        ... def square_gradient(op, cotangent):
        ...     return 2 * op.inputs[0] * cotangent
        """
        return self._set_numpy_gradient(rule, Site.of(rule, sys._getframe(1)))

    def _set_gradient(self, rule: Callable[..., Any], site: Site) -> None:
        self._check_new_rule(rule, site)
        self._self_rules.gradient = rule
        self._self_rules.gradient_site = site
        self._self_rules.numpy_gradient = None

    def _set_numpy_gradient(self, rule: Callable[..., Any], site: Site) -> Op[..., Any]:
        self._check_new_rule(rule, site)
        primal = self._self_definition
        definition = Definition(
            name=f"{self.name}/vjp",
            is_local=primal.is_local,
            site=site,
            signature=None if primal.signature is None else primal.signature.gradient,
            dtypes=(None,),
            structure=LEAF,
            parameters=_RULE_PARAMETERS,
            compute_dtype=primal.compute_dtype,
            module=primal.module,
            primal=self,
        )
        rule_op: Op[..., Any] = Op(rule, definition, Rules())
        if not definition.is_local:
            REGISTRY.register(definition.name, rule_op, site)
        self._self_rules.numpy_gradient = rule_op
        self._self_rules.gradient_site = site
        self._self_rules.gradient = None
        return rule_op

    def _check_new_rule(self, rule: Any, site: Site) -> None:
        rules = self._self_rules
        problem = remedy = None
        if not callable(rule):
            problem, remedy = f"{rule!r:.80} is no gradient rule.", "Use @op.gradient without parentheses."
        elif rules.non_differentiable:
            problem, remedy = "it is declared non_differentiable, but given a gradient rule.", "Remove one of the two."
        elif self._self_definition.is_bound:
            problem = "a gradient rule was attached to a bound method, where it would be lost."
            remedy = "Attach it in the body of the class; the rule of a method takes self first."
        elif rules.gradient_site is not None and not site.replaces(rules.gradient_site):
            problem = f"it has a gradient rule already, from {rules.gradient_site}; another came at {site}."
            remedy = "Remove one of the two."
        if problem is not None:
            raise RegistrationError(problem, subject=self._self_definition.subject, remedy=remedy)

    # -- as a function among Python's

    def __get__(self, instance: Any, owner: type | None = None) -> Op[..., Any]:
        """Bind to an instance, as functions do: each access gives an op of that instance."""
        function = self.__wrapped__
        if instance is None or not hasattr(type(function), "__get__"):
            return self
        return self._bind(function.__get__(instance, owner), instance)

    def _bind(self, function: Callable[..., Any], instance: Any) -> Op[..., Any]:
        definition = self._self_definition
        rules = self._self_rules
        rule, rule_op = rules.gradient, rules.numpy_gradient
        bound_rules = replace(
            rules,
            gradient=None if rule is None else MethodType(rule, instance),
            numpy_gradient=None if rule_op is None else rule_op.__get__(instance),
        )
        parameters = definition.parameters
        if definition.primal is None:
            parameters = Parameters.of(function, definition.static_argnames)
        bound = replace(definition, is_local=True, is_bound=True, parameters=parameters)
        return Op(function, bound, bound_rules)

    def __copy__(self) -> Op[P, R]:
        """Ops, like functions, are not copied."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Op[P, R]:
        """Ops, like functions, are not copied."""
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle by name, as functions are."""
        definition = self._self_definition
        if definition.is_local or not REGISTRY.holds(self.name, self):
            raise RegistrationError(
                "it cannot be pickled, because its name holds for this process only.",
                subject=definition.subject,
                remedy="Define it at the top level of a module.",
            )
        return _unpickle, (definition.module, self.name)

    def __repr__(self) -> str:
        """Show name and signature."""
        signature = f", signature={self.signature!r}" if self.signature else ""
        return f"<tfpyop.Op {self.name!r}{signature}>"

    # -- host functions

    def host_from_payload(self, payload: str) -> HostFunction:
        """The host function a token with this payload stands for."""
        structure, static = self._self_definition.parameters.read_payload(payload)
        return self._host_op(structure or flat(0), static).host

    def _host_op(self, structure: Structure, static: Mapping[str, Any]) -> HostOp:
        """The op with its static values fixed, as lowerings take it."""
        if structure.is_flat and not static:
            if self._self_plain is None:
                self._self_plain = self._make_host_op(None, static)
            return self._self_plain
        return self._make_host_op(None if structure.is_flat else structure, static)

    def _make_host_op(self, structure: Structure | None, static: Mapping[str, Any]) -> HostOp:
        definition = self._self_definition
        host = HostFunction(
            definition.subject,
            self._token(structure, static),
            function=self._adapter(structure, static),
            promise=self._promise(static),
            compute_dtype=definition.compute_dtype,
            is_stateful=definition.stateful,
        )
        return HostOp(self.name, REGISTRY.add_host(host.token, host), self._self_rules, definition.signature, static)

    def _token(self, structure: Structure | None, static: Mapping[str, Any]) -> str:
        definition = self._self_definition
        try:
            payload = definition.parameters.payload(structure or LEAF, static)
        except ValueError:
            return make_token(REGISTRY.unique(self.name), "")
        if definition.is_local or not REGISTRY.holds(self.name, self):
            return make_token(REGISTRY.unique(self.name), payload)
        return make_token(self.name, payload)

    def _adapter(self, structure: Structure | None, static: Mapping[str, Any]) -> Callable[[list[Array]], Any]:
        definition = self._self_definition
        function = self.__wrapped__
        promise = self._promise(static)
        if isinstance(promise, CotangentPromise):
            return rule_caller(function, promise, self.name, static)
        parameters = definition.parameters

        def call(arrays: list[Array]) -> Any:
            args, kwargs = parameters.assemble(arrays if structure is None else structure.pack(arrays), static)
            return function(*args, **kwargs)

        return call

    def _promise(self, static: Mapping[str, Any]) -> Promise:
        definition = self._self_definition
        if definition.primal is not None:
            primal = definition.primal
            return CotangentPromise(primal._promise(static), primal._self_definition.signature)
        shape = definition.shape
        n_outputs = len(definition.dtypes)

        def shapes(inputs: Sequence[Shape]) -> Sequence[Shape]:
            assert shape is not None
            return check_shape_result(shape(*inputs, **static), n_outputs)

        function = self.__wrapped__
        return OpPromise(
            definition.signature,
            None if shape is None else shapes,
            definition.dtypes,
            definition.structure,
            function if isinstance(function, np.ufunc) else None,
        )


@overload
def differentiable_op(function: Callable[P, R], /, **options: Unpack[OpOptions]) -> Op[P, R]: ...


@overload
def differentiable_op(
    function: None = None, /, **options: Unpack[OpOptions]
) -> Callable[[Callable[P, R]], Op[P, R]]: ...


def differentiable_op(
    function: Any = None,
    /,
    *,
    signature: str | None = None,
    shape: Callable[..., Any] | None = None,
    dtype: Any = None,
    compute_dtype: Any = None,
    grad: Callable[..., Any] | None = None,
    numpy_grad: Callable[..., Any] | None = None,
    stateful: bool = False,
    non_differentiable: bool = False,
    static_argnames: Sequence[str] | str = (),
    name: str | None = None,
) -> Any:
    """Make a differentiable TensorFlow op of a numpy function.

    Use it as `@differentiable_op`, as `@differentiable_op(...)`, or as `differentiable_op(np.hypot, ...)`. Positional
    parameters of the function are tensors, keyword-only ones are static Python values.

    Args:
      function: Takes arrays and returns arrays, numbers or lists of numbers. Inputs are read-only. Tuples, dicts,
        namedtuples and dataclasses of tensors are taken apart and given back in the same form.
      signature: The core dimensions of inputs and outputs in NumPy's gufunc language, `"(m,k),(k,n)->(m,n)"`; further
        leading dimensions are loop dimensions and broadcast. Outputs may compute sizes (`"(n),(m)->(n+m-1)"`) or name
        a size known at run time (`"(n)->(k)"`). Default: a ufunc's own; else shapes are unknown.
      shape: Instead of a signature: `shape(*input_shapes, **static)` gives the output's shape, or a tuple of shapes.
      dtype: The output dtype; for several outputs one for all, or a tuple or dict of them, which then is the form of
        the result. Default, also for a None among them: the result type of the inputs.
      compute_dtype: Floating inputs are cast to this dtype before the function sees them.
      grad: The VJP rule in TensorFlow ops, as `Op.gradient` takes it.
      numpy_grad: The VJP rule in numpy, as `Op.numpy_gradient` takes it.
      stateful: Run once for every call, in program order. Default: calls may be folded, dropped and reordered.
      non_differentiable: Gradients are None, as for integer inputs. Default: asking for a missing gradient is an error.
      static_argnames: Names of further static parameters.
      name: The name in graphs and saved models. Default: `module:qualname`.

    Returns:
      An `Op`, or a decorator that makes one.

    Raises:
      SignatureError: The signature cannot be read.
      RegistrationError: Another op has this name, or options contradict each other or the function.

    >>> import numpy as np
    >>> hypot = differentiable_op(np.hypot)
    >>> hypot(3.0, 4.0).numpy()
    np.float32(5.0)
    """
    options = {
        "signature": signature,
        "shape": shape,
        "dtype": dtype,
        "compute_dtype": compute_dtype,
        "grad": grad,
        "numpy_grad": numpy_grad,
        "stateful": stateful,
        "non_differentiable": non_differentiable,
        "static_argnames": (static_argnames,) if isinstance(static_argnames, str) else tuple(static_argnames),
        "name": name,
    }
    if function is not None:
        return _make_op(function, sys._getframe(1), **options)
    return lambda function: _make_op(function, sys._getframe(1), **options)


def _make_op(
    function: Any,
    frame: FrameType,
    *,
    signature: str | None,
    shape: Callable[..., Any] | None,
    dtype: Any,
    compute_dtype: Any,
    grad: Callable[..., Any] | None,
    numpy_grad: Callable[..., Any] | None,
    stateful: bool,
    non_differentiable: bool,
    static_argnames: tuple[str, ...],
    name: str | None,
) -> Op[..., Any]:
    _check_function(function)
    site = Site.of(function, frame)
    derived_name, module, is_local = _name_of(function, frame)
    subject = f"op {name or derived_name!r} ({site})"
    try:
        if name is not None and not re.fullmatch(r"[\w.:/<>-]+", name):
            raise RegistrationError(
                f"{name!r} is no name for an op.", remedy="Use letters, digits and any of . : / - _"
            )
        if grad is not None and numpy_grad is not None:
            raise RegistrationError("both grad= and numpy_grad= are given.", remedy="Remove one of the two.")
        if signature is not None and shape is not None:
            raise RegistrationError("both signature= and shape= are given.", remedy="Remove one of the two.")
        parsed = _signature_of(function, signature, shape)
        dtypes, structure = _outputs_of(parsed, dtype)
        parameters = Parameters.of(function, static_argnames)
        _check_input_count(parameters, parsed)
        definition = Definition(
            name=name or derived_name,
            is_local=is_local and name is None,
            site=site,
            signature=parsed,
            dtypes=dtypes,
            structure=structure,
            parameters=parameters,
            shape=shape,
            compute_dtype=_floating_dtype(compute_dtype),
            stateful=stateful,
            static_argnames=static_argnames,
            module=module,
        )
        op: Op[..., Any] = Op(function, definition, Rules(non_differentiable=non_differentiable))
        if not definition.is_local:
            REGISTRY.register(definition.name, op, site)
    except TfpyopError as error:
        error.subject = error.subject or subject
        raise error from None
    if grad is not None:
        op._set_gradient(grad, site)
    if numpy_grad is not None:
        op._set_numpy_gradient(numpy_grad, site)
    return op


def _check_function(function: Any) -> None:
    if isinstance(function, staticmethod | classmethod):
        raise RegistrationError(
            f"differentiable_op was given a {type(function).__name__} object.",
            remedy=f"Put @{type(function).__name__} above @differentiable_op, not below.",
        )
    if not callable(function):
        raise RegistrationError(
            "differentiable_op takes a function.",
            got=f"{function!r:.80}",
            remedy='Options are keywords: @differentiable_op(signature="()->()").',
        )
    if type(function) is Op:
        raise RegistrationError(f"{function!r} is an op already.", remedy="Give op.numpy to make another op of it.")


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


def _is_in_call(frame: FrameType) -> bool:
    """Whether a frame runs a function, rather than the body of a module or class."""
    return bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)


def _is_being_defined(function: Any, frame: FrameType | None) -> bool:
    """Whether the body of the function's own module runs further up the stack, as under somebody else's decorator."""
    namespace = getattr(function, "__globals__", None)
    while frame is not None:
        if frame.f_globals is namespace and not _is_in_call(frame):
            return True
        frame = frame.f_back
    return False


def _signature_of(function: Any, text: str | None, shape: Callable[..., Any] | None) -> Signature | None:
    if text is not None:
        return Signature.parse(text)
    return Signature.from_ufunc(function) if isinstance(function, np.ufunc) and shape is None else None


def _outputs_of(signature: Signature | None, dtype: Any) -> tuple[tuple[DType | None, ...], Structure]:
    """The dtypes of the outputs and how they are arranged, from `dtype=` and the signature."""
    declared, structure = flatten(tuple(dtype) if isinstance(dtype, list) else dtype, none_is_leaf=True)
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


def _check_input_count(parameters: Parameters, signature: Signature | None) -> None:
    """A method counts `self` too, so one parameter more than the signature has inputs is left to the call."""
    if signature is not None and parameters.n_required > len(signature.inputs) + 1:
        raise RegistrationError(
            "the function takes more arrays than the signature has inputs.",
            expected=f"{len(signature.inputs)} inputs, as signature {signature.text!r} says",
            got=f"parameters {', '.join(parameter.name for parameter in parameters.tensors)}",
            remedy="Add inputs to the signature, or make parameters static with static_argnames or by keyword-only.",
        )


def _floating_dtype(value: Any) -> DType | None:
    dtype = parse_dtype(value)
    if dtype is not None and dtype_kind(dtype) != "f":
        raise RegistrationError(
            "compute_dtype is no floating dtype.",
            got=str(dtype),
            remedy='Use "float32" or "float64"; complex inputs follow.',
        )
    return dtype


def get_op(name: str) -> Op[..., Any]:
    """The registered op of this name.

    Args:
      name: As `Op.name` gives it, for example `"acme.ops:solve"`.

    Raises:
      RegistrationError: There is none; the message lists the nearest names.
    """
    op: Op[..., Any] = REGISTRY.find(name)
    return op


def _one_or_tuple(outputs: Sequence[Any]) -> Any:
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _unpickle(module: str, name: str) -> Op[..., Any]:
    importlib.import_module(module)
    return get_op(name)


def _lowering() -> Any:
    """The lowerings, loaded with TensorFlow on the first call of any op."""
    return importlib.import_module("tfpyop.lowering")


_RULE_PARAMETERS = Parameters(None)
