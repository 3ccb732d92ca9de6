"""`Op`: the object that users hold. It passes on to the definition, and decides nothing itself."""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import wrapt

from tfpyop._import_hooks import keras_layer
from tfpyop._registry.bind import bind, lowering
from tfpyop._registry.op_def import REGISTRY, OpDef, Transform
from tfpyop._registry.token import Token
from tfpyop._rules.declaration import declare_native, declare_numpy_rule, declare_rule
from tfpyop._spec.source_location import Site, is_in_class
from tfpyop.errors import ExportWarning, RegistrationError, nearest

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
Function = TypeVar("Function", bound=Callable[..., Any])

if TYPE_CHECKING:

    class _Proxy:
        """What type checkers know of the proxy: wrapt's own types would let any attribute pass."""

        __name__: str
        __qualname__: str
        __wrapped__: Any

        def __init__(self, wrapped: Any) -> None: ...

else:
    _Proxy = wrapt.ObjectProxy


class Op(_Proxy, Generic[P, R]):
    """A numpy function that is also a TensorFlow op. Made by `differentiable_op`.

    It looks like the function (`__name__`, `__doc__`, signature) and is called like it, with tensors.
    """

    autograph_info__ = MappingProxyType[str, Any]({})  # AutoGraph's mark for what it must call as it is

    _self_definition: OpDef
    _self_owners: tuple[type, ...] = ()
    """The classes that have this op as a method."""
    _self_unbound: Op[..., Any] | None = None
    """For the op of an instance: the op of the method."""
    _self_is_in_class = False
    """Whether the function was defined in the body of a class, and is not bound."""

    def __init__(self, definition: OpDef, *, unbound: Op[..., Any] | None = None) -> None:
        super().__init__(definition.function)
        set_own = super().__setattr__
        set_own("_self_definition", definition)
        if unbound is not None:
            set_own("_self_unbound", unbound)
        elif is_in_class(definition.function):
            set_own("_self_is_in_class", True)

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
    def signature(self) -> str | None:
        """The signature as text, None if there is none."""
        signature = self._self_definition.spec.signature
        return None if signature is None else signature.text

    @property
    def output_dtypes(self) -> Any:
        """The declared dtypes, arranged like the outputs; None stands for the result type of the inputs."""
        spec = self._self_definition.spec
        return spec.tree.unflatten(spec.dtypes)

    @property
    def gradient_name(self) -> str:
        """What the gradient names of this op's call sites in graphs begin with."""
        return self.name

    @property
    def __signature__(self) -> inspect.Signature:
        """The function's parameters; for functions that do not tell theirs, any inputs and any static values."""
        return self._self_definition.spec.parameters.signature or inspect.signature(lambda *inputs, **static: None)

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
        if (self._self_is_in_class or self._self_owners) and args and self._self_is_method_call(args[0]):
            # called through its class, or as a classmethod by a Python that does not chain descriptors
            bound: Op[..., Any] = self.__get__(args[0], type(args[0]))
            return bound(*args[1:], **kwargs)
        return definition.arrange(bind(*definition.bind_arguments(args, kwargs)))

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
        declare_rule(self._self_definition, Transform.VJP, rule, self._site_of(rule, sys._getframe(1)))
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
        site = self._site_of(rule, sys._getframe(1))
        op: Op[..., Any] = declare_numpy_rule(self._self_definition, Transform.VJP, rule, site).op
        return op

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
        declare_rule(self._self_definition, Transform.JVP, rule, self._site_of(rule, sys._getframe(1)))
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
        site = self._site_of(rule, sys._getframe(1))
        op: Op[..., Any] = declare_numpy_rule(self._self_definition, Transform.JVP, rule, site).op
        return op

    def _site_of(self, rule: Any, frame: FrameType) -> Site:
        """Return where a rule is attached.

        Raises:
          RegistrationError: The rule is defined here with the name of the op, which it would overwrite.
        """
        code = getattr(inspect.unwrap(rule), "__code__", None)
        is_defined_here = code is not None and code in frame.f_code.co_consts
        known = frame.f_locals.get(rule.__name__) if is_defined_here else None
        if type(known) is Op and op_def_of(known) in (self._self_definition, *self._self_definition.forward_ops):
            raise RegistrationError(
                "the rule has the same name as the op and would overwrite it.",
                subject=op_def_of(known).subject,
                remedy="Give the rule another name.",
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
        declare_native(self._self_definition, function, self._site_of(function, sys._getframe(1)))
        return function

    # -- in Keras

    def as_layer(self, *, name: str | None = None, **static: Any) -> Any:
        """The op as a Keras layer, for Sequential models and where a layer is required.

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
        self._self_definition.spec.require_static(static)
        layer = keras_layer()
        return layer(self._self_definition.specialize(None, static), **({} if name is None else {"name": name}))

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
        return Op(self._self_definition.bind_instance(instance), unbound=self)

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
                f"{self._self_definition.subject}: Keras saves this op by the bare name {self.__name__!r}, because the "
                "model uses the op as a function: as activation=, loss= or in a Lambda layer. Loading the model will "
                "fail.\n  Use op.as_layer() after the layer, or register the op in its own module: "
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
                raise _UnknownAttributeError(self._self_definition, name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Ops have no attributes but their own, and what looks like one is the function's."""
        if not name.startswith("_self_"):
            raise AttributeError(
                f"cannot set attributes of {self!r}. Set {name!r} on the function: op.numpy.{name} = ..."
            )
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        """As for setting: attributes are the function's."""
        raise AttributeError(f"cannot delete {name!r}: {self!r} does not store attributes")

    def __copy__(self) -> Op[P, R]:
        """Ops, like functions, are not copied."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Op[P, R]:
        """Ops, like functions, are not copied."""
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle by name, as functions are."""
        entry = self._self_definition
        if entry.is_local or not REGISTRY.holds(entry.name, entry):
            raise RegistrationError(
                "the op cannot be pickled, because its name is valid in this process only.",
                subject=entry.subject,
                remedy="Define the op at the top level of a module, or pass name=.",
            )
        return _unpickle, (entry.module, entry.name)

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


class _UnknownAttributeError(AttributeError):
    """An attribute that neither an op nor its function has. The text is made when it is read: `hasattr` reads none."""

    def __init__(self, definition: OpDef, name: str) -> None:
        super().__init__(definition, name)
        self.name = name

    def __str__(self) -> str:
        definition, name = self.args
        offered = [offered for offered in vars(Op) if not offered.startswith(("_", "autograph", "get_build"))]
        return (
            f"{definition.subject}: neither the op nor its function has an attribute {name!r}. {nearest(name, offered)}"
        )


def op_def_of(op: Op[..., Any]) -> OpDef:
    """Return the definition of an op, for this package. wrapt keeps attributes of its own under `_self_`."""
    definition: OpDef = op._self_definition
    return definition


class OpsView(Mapping[str, Op[..., Any]]):
    """A read-only view of the registered ops by name."""

    def __getitem__(self, name: str) -> Op[..., Any]:
        """Return the op of this name; raise KeyError if there is none."""
        if name not in REGISTRY.names():
            raise KeyError(name)
        op: Op[..., Any] = REGISTRY.find(name).op
        return op

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in the order of their definition."""
        return iter(REGISTRY.names())

    def __len__(self) -> int:
        """Return the number of registered ops."""
        return len(REGISTRY.names())


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
