"""`differentiable_op` and `Op`: what users hold. They wire the other parts together and decide nothing themselves."""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Executor
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, TypedDict, TypeVar, overload

import numpy as np
import wrapt

from tfpyop._import_hooks import keras_layer
from tfpyop._numdiff.directional import Method
from tfpyop._registry.bind import lowering
from tfpyop._registry.op_def import Entry
from tfpyop._registry.registry import REGISTRY, OpsView
from tfpyop._registry.rules import Rules
from tfpyop._registry.token import Token
from tfpyop._rules.numerical import METHODS, from_values, read_method
from tfpyop._spec.op_spec import Definition, Options, is_in_class, read_flag
from tfpyop._spec.source_location import Site
from tfpyop.errors import ExportWarning, RegistrationError, nearest

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
Function = TypeVar("Function", bound=Callable[..., Any])

if TYPE_CHECKING:
    from typing_extensions import Unpack

    class _Proxy:
        """What type checkers know of the proxy: wrapt's own types would let any attribute pass."""

        __name__: str
        __qualname__: str
        __wrapped__: Any

        def __init__(self, wrapped: Any) -> None: ...

else:
    _Proxy = wrapt.ObjectProxy


class OpOptions(TypedDict, total=False):
    """The keywords of `differentiable_op`, for type checkers."""

    signature: str | None
    shape: Callable[..., Any] | None
    dtype: Any
    compute_dtype: Any
    grad: Callable[..., Any] | Method | Literal["numerical", "complex-step"] | None
    numpy_grad: Callable[..., Any] | None
    jvp: Callable[..., Any] | None
    numpy_jvp: Callable[..., Any] | None
    residuals: Mapping[str, tuple[str, Any]] | None
    vectorized: bool
    executor: Executor | Callable[[], Executor] | None
    stateful: bool
    prefer: Literal["native", "numpy"] | None
    non_differentiable: bool
    static_argnames: str | Sequence[str] | Set[str]
    domain: str | Mapping[str, str | None] | None
    name: str | None


class Op(_Proxy, Generic[P, R]):
    """A numpy function that is also a TensorFlow op. Made by `differentiable_op`.

    It looks like the function (`__name__`, `__doc__`, signature) and is called like it, with tensors.
    """

    autograph_info__ = MappingProxyType[str, Any]({})  # AutoGraph's mark for what it must call as it is

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.function)
        self._self_entry = entry
        self._self_owners: tuple[type, ...] = ()
        self._self_unbound: Op[..., Any] | None = None
        self._self_is_in_class = is_in_class(entry.function)

    # -- as registered

    @property
    def name(self) -> str:
        """The name the op is registered under, `module:qualname` unless given."""
        return self._self_entry.name

    @property
    def numpy(self) -> Callable[P, R]:
        """The plain function, untouched; also `__wrapped__`."""
        function: Callable[P, R] = self.__wrapped__
        return function

    @property
    def signature(self) -> str | None:
        """The signature as text, None if there is none."""
        signature = self._self_entry.definition.signature
        return None if signature is None else signature.text

    @property
    def output_dtypes(self) -> Any:
        """The declared dtypes, arranged like the outputs; None stands for the result type of the inputs."""
        definition = self._self_entry.definition
        return definition.structure.pack(definition.dtypes)

    @property
    def gradient_name(self) -> str:
        """What the gradient names of this op's call sites in graphs begin with."""
        return self.name

    @property
    def __signature__(self) -> inspect.Signature:
        """The function's parameters; for functions that do not tell theirs, any inputs and any static values."""
        return self._self_entry.definition.parameters.signature or inspect.signature(lambda *inputs, **static: None)

    # -- calls

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the op with tensors, variables, arrays or numbers, in whatever context this is.

        Returns:
          Tensors, arranged like `dtype=` if that was given, else one tensor or a tuple of them.

        Raises:
          TypeError: The arguments do not fit the function.
          TfpyopError: Inputs or outputs break the contract of the op.
        """
        entry = self._self_entry
        if (self._self_is_in_class or self._self_owners) and args and self._self_is_method_call(args[0]):
            # called through its class, or as a classmethod by a Python that does not chain descriptors
            bound: Op[..., Any] = self.__get__(args[0], type(args[0]))
            return bound(*args[1:], **kwargs)
        return entry.pack(entry.call_flat(*entry.divide(args, kwargs)))

    def _self_is_method_call(self, first: Any) -> bool:
        """Whether the first argument is the instance of a class that has this op as a method, or a class itself."""
        return isinstance(first, self._self_owners) or (self._self_is_in_class and isinstance(first, type))

    # -- rules

    def gradient(self, rule: Function) -> Function:
        """Attach the VJP rule in TensorFlow ops.

        Args:
          rule: `rule(op, *cotangents)` with one cotangent for each output (None for integer outputs), each with that
            output's shape and dtype. `op` has `inputs`, `outputs`, `residuals` and `static`, see `RuleContext`. Returns
            one cotangent for each input: a tensor of the input's shape (or the shape its loop dimensions broadcast
            to), or None if no output depends on it; one value may stand for a 1-tuple. A complex cotangent follows
            TensorFlow: for an analytic function, the conjugate of the derivative times the cotangent. The rule of a
            method takes `self` first.

        Returns:
          The rule, unchanged.

        Raises:
          RegistrationError: The op has a rule already, or is declared non-differentiable.

        >>> import tensorflow as tf
        >>> square = differentiable_op(lambda x: x * x, signature="()->()")
        >>> @square.gradient
        ... def square_gradient(op, cotangent):
        ...     return 2 * op.inputs[0] * cotangent
        >>> x = tf.Variable(3.0)
        >>> with tf.GradientTape() as tape:
        ...     y = square(x)
        >>> tape.gradient(y, x).numpy()
        np.float32(6.0)
        """
        self._self_entry.attach("vjp", rule, self._site_of(rule, sys._getframe(1)), is_numpy=False)
        return rule

    def numpy_gradient(self, rule: Callable[..., Any]) -> Op[..., Any]:
        """Attach the VJP rule as a numpy function.

        Args:
          rule: As for `gradient`, but arrays in, arrays out. None stands for a cotangent of zeros.

        Returns:
          The op made of the rule. It takes inputs, outputs, residuals and cotangents of this op, all flat, and returns
          the cotangents of the floating inputs. It can be given a `gradient` of its own, for second derivatives.

        Raises:
          RegistrationError: The op has a rule already, or is declared non-differentiable.

        >>> square = differentiable_op(lambda x: x * x, signature="()->()")
        >>> @square.numpy_gradient
        ... def square_gradient(op, cotangent):
        ...     return 2 * op.inputs[0] * cotangent
        >>> square_gradient(3.0, 9.0, 1.0).numpy()
        np.float32(6.0)
        """
        return _op_of(self._self_entry.attach("vjp", rule, self._site_of(rule, sys._getframe(1)), is_numpy=True))

    def jvp(self, rule: Function) -> Function:
        """Attach the JVP rule, for forward mode, in TensorFlow ops.

        Args:
          rule: `rule(op, *tangents)` with one tangent for each input (None for integer inputs), zero where the input is
            not watched. Returns one tangent for each output, of its shape; None for integer outputs.

        Returns:
          The rule, unchanged.

        Raises:
          RegistrationError: The op has a rule already, or is declared non-differentiable.

        >>> import tensorflow as tf
        >>> square = differentiable_op(lambda x: x * x, signature="()->()")
        >>> @square.jvp
        ... def square_jvp(op, tangent):
        ...     return 2 * op.inputs[0] * tangent
        >>> x = tf.constant(3.0)
        >>> with tf.autodiff.ForwardAccumulator(x, tf.constant(1.0)) as accumulator:
        ...     y = square(x)
        >>> accumulator.jvp(y).numpy()
        np.float32(6.0)
        """
        self._self_entry.attach("jvp", rule, self._site_of(rule, sys._getframe(1)), is_numpy=False)
        return rule

    def numpy_jvp(self, rule: Callable[..., Any]) -> Op[..., Any]:
        """Attach the JVP rule as a numpy function.

        Args:
          rule: As for `jvp`, but arrays in, arrays out. None stands for a tangent of zeros.

        Returns:
          The op made of the rule. It takes inputs, outputs, residuals and tangents, all flat, and returns the tangents
          of the floating outputs.

        Raises:
          RegistrationError: The op has a rule already, or is declared non-differentiable.

        >>> square = differentiable_op(lambda x: x * x, signature="()->()")
        >>> @square.numpy_jvp
        ... def square_jvp(op, tangent):
        ...     return 2 * op.inputs[0] * tangent
        >>> square_jvp(3.0, 9.0, 1.0).numpy()
        np.float32(6.0)
        """
        return _op_of(self._self_entry.attach("jvp", rule, self._site_of(rule, sys._getframe(1)), is_numpy=True))

    def _site_of(self, rule: Any, frame: FrameType) -> Site:
        """Where a rule is attached; RegistrationError if it is defined by the name of the op, and takes its place."""
        code = getattr(inspect.unwrap(rule), "__code__", None)
        is_defined_here = code is not None and code in frame.f_code.co_consts
        known = frame.f_locals.get(rule.__name__) if is_defined_here else None
        if type(known) is Op and entry_of(known) in (self._self_entry, *self._self_entry.primals):
            raise RegistrationError(
                "what is attached has the op's name, and would take its place.",
                subject=entry_of(known).subject,
                remedy="Give it another name: what is defined last has the name.",
            )
        return Site.of(rule, frame)

    # -- the native implementation

    def native(self, function: Function) -> Function:
        """Attach the same function in TensorFlow ops.

        It is called where Python cannot run: in functions that XLA compiles for an accelerator; and on request, by
        `tfpyop.prefer_native()` or `prefer="native"`. The op's derivative rules hold for it too; without any, or with
        rules that need Python or residuals there, TensorFlow differentiates it.

        Args:
          function: Takes tensors and static values as the numpy function does, and returns tensors of the same shapes
            and dtypes as the op.

        Returns:
          The function, unchanged.

        Raises:
          RegistrationError: The op has a native implementation already.

        >>> import tensorflow as tf
        >>> square = differentiable_op(lambda x: x * x, signature="()->()", prefer="native")
        >>> @square.native
        ... def square_native(x):
        ...     return tf.square(x)
        >>> square(3.0).numpy()
        np.float32(9.0)
        """
        self._self_entry.attach("native", function, self._site_of(function, sys._getframe(1)), is_numpy=False)
        return function

    # -- in Keras

    def as_layer(self, *, name: str | None = None, **static: Any) -> Any:
        """The op as a Keras layer, for Sequential models and where a layer is asked for.

        In functional models the op itself can be called. The layer takes its inputs one after the other or in a list,
        has no weights, and follows Keras' dtype policy as other layers do.

        Args:
          name: The name of the layer. Default: that of the op, made unique.
          **static: Values of static parameters.

        Returns:
          A `keras.layers.Layer`, which is saved with a model by the name of the op.

        Raises:
          RegistrationError: The op has no static parameter of this name.

        >>> from tfpyop import differentiable_op
        >>> double = differentiable_op(lambda x: 2 * x, signature="()->()", grad=lambda op, grad: 2 * grad)
        >>> import keras
        >>> keras.Sequential([keras.Input((3,)), double.as_layer()]).output_shape
        (None, 3)
        """
        self._self_entry.definition.require_static(static)
        layer = keras_layer()
        return layer(self._self_entry.host_op(None, static), **({} if name is None else {"name": name}))

    # -- as a function among Python's

    def __set_name__(self, owner: type, name: str) -> None:
        """Learn of a class that has this as a method; called by Python when the class is made."""
        if hasattr(type(self.__wrapped__), "__get__"):
            self._self_owners += (owner,)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Op[..., R]: ...  # it may be a classmethod

    @overload
    def __get__(self: Op[Concatenate[Any, Q], R], instance: object, owner: type | None = None) -> Op[Q, R]: ...

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind to an instance, as functions do: each access gives an op of that instance."""
        if instance is None or not hasattr(type(self.__wrapped__), "__get__"):
            return self
        bound: Op[..., Any] = Op(self._self_entry.bound(instance))
        bound._self_unbound = self
        return bound

    @property
    def __func__(self) -> Op[..., Any]:
        """Of the op of an instance: what was bound, whose parameters `inspect` reads as it does for methods."""
        if self._self_unbound is None:
            raise AttributeError("__func__")
        return self._self_unbound

    def __eq__(self, other: object) -> bool:
        """Ops are equal if they are the same: one function may make several."""
        return self is other

    def __ne__(self, other: object) -> bool:
        """The opposite; the proxy would compare the functions."""
        return self is not other

    def __hash__(self) -> int:
        """By identity, as functions have it."""
        return id(self)

    def get_build_config(self) -> None:
        """Warn that Keras would not find the op again. Keras calls this when it saves an object.

        Where Keras takes a function, such as `activation=` or `loss=`, it saves the bare name of that, unless the
        function is registered with Keras.
        """
        keras = sys.modules["keras"]
        if keras.saving.get_registered_name(self) == self.__name__:
            warnings.warn(
                f"{self._self_entry.subject}: Keras saves it by the bare name {self.__name__!r}, because the model has "
                "it in the place of a function, as activation=, loss= or in a Lambda layer. Loading the model fails.\n"
                "  Put op.as_layer() behind the layer, or register the op in its own module: "
                "keras.saving.register_keras_serializable(package=__name__)(op).",
                ExportWarning,
                stacklevel=2,
            )

    if not TYPE_CHECKING:  # which would take any name for an attribute

        def __getattr__(self, name: str) -> Any:
            """The function's attributes, where the op has none of that name."""
            try:
                return getattr(self.__wrapped__, name)
            except AttributeError:
                offered = [offered for offered in vars(Op) if not offered.startswith(("_", "autograph", "get_build"))]
                raise AttributeError(
                    f"{self._self_entry.subject}: neither the op nor its function has an attribute {name!r}. "
                    f"{nearest(name, offered)}"
                ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Ops have no attributes but their own, and what looks like one is the function's."""
        if not name.startswith("_self_"):
            raise AttributeError(f"{self!r} takes no attributes; set {name!r} on the function: op.numpy.{name} = ...")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        """As for setting: attributes are the function's."""
        raise AttributeError(f"{self!r} has no attribute of its own named {name!r} to delete")

    def __copy__(self) -> Op[P, R]:
        """Ops, like functions, are not copied."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Op[P, R]:
        """Ops, like functions, are not copied."""
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle by name, as functions are."""
        entry = self._self_entry
        if entry.is_local or not REGISTRY.holds(entry.name, entry):
            raise RegistrationError(
                "it cannot be pickled, because its name holds for this process only.",
                subject=entry.subject,
                remedy="Define it at the top level of a module, or give it a name=.",
            )
        return _unpickle, (entry.definition.module, entry.name)

    def __dir__(self) -> list[str]:
        """What the op offers, and what the function does."""
        return sorted({*dir(type(self)), *dir(self.__wrapped__)})

    def __str__(self) -> str:
        """Show name and signature."""
        return repr(self)

    def __format__(self, specification: str) -> str:
        """Show name and signature in an f-string."""
        return format(repr(self), specification)

    def __repr__(self) -> str:
        """Show name and signature."""
        signature = f", signature={self.signature!r}" if self.signature else ""
        return f"<tfpyop.Op {self.name!r}{signature}>"

    def __tf_tracing_type__(self, context: Any) -> Any:
        """What tf.function knows this argument by: the op itself, not the function it wraps."""
        return lowering().tracing_type(self)


@overload
def differentiable_op(function: np.ufunc, /, **options: Unpack[OpOptions]) -> Op[..., Any]: ...


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
    grad: Callable[..., Any] | Method | Literal["numerical", "complex-step"] | None = None,
    numpy_grad: Callable[..., Any] | None = None,
    jvp: Callable[..., Any] | None = None,
    numpy_jvp: Callable[..., Any] | None = None,
    residuals: Mapping[str, tuple[str, Any]] | None = None,
    vectorized: bool = True,
    executor: Executor | Callable[[], Executor] | None = None,
    stateful: bool = False,
    prefer: Literal["native", "numpy"] | None = None,
    non_differentiable: bool = False,
    static_argnames: str | Sequence[str] | Set[str] = (),
    domain: str | Mapping[str, str | None] | None = None,
    name: str | None = None,
) -> Any:
    """Make a differentiable TensorFlow op of a numpy function.

    Use it as `@differentiable_op`, as `@differentiable_op(...)`, or as `differentiable_op(np.hypot, ...)`. Positional
    parameters of the function are tensors, unless their default is text or another object that no tensor can be made
    of. Keyword-only ones are static Python values.

    Args:
      function: Takes arrays and returns arrays, numbers or lists of numbers. Inputs are read-only. Tuples, dicts,
        namedtuples and dataclasses of tensors are taken apart and given back in the same form.
      signature: The core dimensions of inputs and outputs in NumPy's gufunc language, `"(m,k),(k,n)->(m,n)"`; further
        leading dimensions are loop dimensions and broadcast, and the function must work on them as NumPy's do.
        Outputs may compute sizes (`"(n),(m)->(n+m-1)"`) or name a size known at run time (`"(n)->(k)"`). Default: a
        ufunc's own; else shapes are unknown.
      shape: Instead of a signature: `shape(*input_shapes, **static)` gives the output's shape, or a tuple of shapes.
      dtype: The output dtype; for several outputs one for all, or a tuple or dict of them, which then is the form of
        the result. Default, also for a None among them: the result type of the inputs.
      compute_dtype: Floating inputs are cast to this dtype before the function sees them, complex ones to its complex
        counterpart. Default: none.
      grad: The VJP rule in TensorFlow ops, as `Op.gradient` takes it. Or how to get VJP and JVP from values of the
        function alone: `"numerical"`, `"complex-step"`, or what `tfpyop.numerical` or `tfpyop.complex_step` returned.
      numpy_grad: The VJP rule in numpy, as `Op.numpy_gradient` takes it.
      jvp: The JVP rule in TensorFlow ops, as `Op.jvp` takes it.
      numpy_jvp: The JVP rule in numpy, as `Op.numpy_jvp` takes it.
      residuals: What the function keeps for its rules, `{"lu": ("(n,n)", np.float64)}`: core dimensions in the sizes of
        the signature, and dtype. The function then returns `(outputs, {"lu": ...})`. Default: nothing.
      vectorized: Whether the function works on loop dimensions. If not, it and its numpy rules are called with core
        dimensions only, once for every element of the loop dimensions. Default: it does.
      executor: With `vectorized=False`, runs the elements of loop dimensions, also for numpy rules, in threads,
        processes or on a cluster: a `concurrent.futures.Executor`, as `tfpyop.parallel.process_pool` makes one, or a
        function that makes one on first use. Default: one element after the other, here.
      stateful: Run once for every call, in program order. Default: calls may be folded, dropped and reordered.
      prefer: `"native"` to call what `@op.native` attaches by default; it must be there. Default: the function.
      non_differentiable: Gradients are None, as for integer inputs. Default: asking for a missing gradient is an error.
      static_argnames: Names of further static parameters.
      domain: Where inputs may lie, for tests that draw them: `"(0, inf)"`, `"[-1, 1]"`, `"integers [0, 10]"`, one for
        all inputs, or a dict of such by parameter (None: anywhere). Calls are not held to it. Default: anywhere.
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
    options = Options(
        signature=signature,
        shape=shape,
        dtype=dtype,
        compute_dtype=compute_dtype,
        residuals=residuals,
        vectorized=vectorized,
        executor=executor,
        stateful=stateful,
        prefer=prefer,
        static_argnames=static_argnames,
        domain=domain,
        name=name,
    )
    given = {"grad": grad, "numpy_grad": numpy_grad, "jvp": jvp, "numpy_jvp": numpy_jvp}

    def make(function: Any, frame: FrameType) -> Op[..., Any]:
        if type(function) is Op:
            raise RegistrationError(f"{function!r} is an op already.", remedy="Give op.numpy to make another op of it.")
        definition = Definition.of(function, frame, options)
        try:
            rules = Rules(non_differentiable=read_flag("non_differentiable", non_differentiable))
            entry = Entry(function, definition, rules)
            _attach(entry, given)
            op = _op_of(entry)
            if not entry.is_local:
                REGISTRY.register(entry.name, entry, entry.site)
        except RegistrationError as error:
            raise error.about(definition.subject) from None
        return op

    if function is not None:
        return make(function, sys._getframe(1))
    return lambda function: make(function, sys._getframe(1))


differentiable_op.autograph_info__ = {}  # type: ignore[attr-defined]  # the same mark


def entry_of(op: Op[..., Any]) -> Entry:
    """What is behind the face of an op, for the library itself. wrapt keeps attributes of its own under `_self_`."""
    entry: Entry = op._self_entry
    return entry


def _op_of(entry: Entry) -> Op[..., Any]:
    """Make the op of an entry, and let it be found there, as `get_op` does."""
    op: Op[..., Any] = Op(entry)
    entry.op = op
    return op


def _attach(entry: Entry, given: Mapping[str, Any]) -> None:
    """Attach the rules given with the definition, by option."""
    method = read_method(given["grad"])
    rules = {option: rule for option, rule in given.items() if rule is not None}
    if method is not None:
        if len(rules) > 1:
            raise RegistrationError(
                "grad= asks for derivatives from values, but a rule is given too.", remedy="Remove one of the two."
            )
        gradient, jvp = from_values(method, entry.definition.full_signature)
        rules = {"numpy_grad": gradient, "numpy_jvp": jvp}
    for option, rule in rules.items():
        kind = "jvp" if option.endswith("jvp") else "vjp"
        is_numpy = option.startswith("numpy_")
        if is_numpy and option.removeprefix("numpy_") in rules:
            raise RegistrationError(f"two {kind.upper()} rules are given.", remedy="Remove one of the two.")
        if not callable(rule):
            raise _no_rule(option, rule)
        attached = entry.attach(kind, rule, entry.site, is_numpy=is_numpy)
        if is_numpy:
            _op_of(attached)


def _no_rule(option: str, value: Any) -> RegistrationError:
    """The error for an option that is not a function; a wish for derivatives from values belongs into grad=."""
    is_method = isinstance(value, str) and value in METHODS
    is_wish = is_method or value is True or type(value) is float  # a switch, or a step
    vectors = "tangents" if option.endswith("jvp") else "cotangents"
    methods = f", or {' or '.join(map(repr, METHODS))}" if option == "grad" else ""
    return RegistrationError(
        f"{option}={value!r:.80} is not a rule.",
        expected=f"a function, called as rule(op, *{vectors}){methods}",
        remedy=f"Did you mean grad={value if is_method else 'numerical'!r}?" if is_wish else None,
    )


def get_op(name: str) -> Op[..., Any]:
    """The registered op of this name.

    Args:
      name: As `Op.name` gives it, for example `"acme.ops:solve"`.

    Raises:
      RegistrationError: There is none; the message lists the nearest names.
    """
    op: Op[..., Any] = REGISTRY.find(name).op
    return op


def registered_ops() -> Mapping[str, Op[..., Any]]:
    """A read-only mapping from names to the ops of this process, in the order of their definition."""
    return OpsView()


def _unpickle(module: str, name: str) -> Op[..., Any]:
    importlib.import_module(module)
    try:
        return get_op(name)
    except RegistrationError:
        raise REGISTRY.missing(Token(name, module=module)) from None
