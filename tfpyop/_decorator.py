"""`differentiable_op`: makes an op of a function. The options are listed here, once."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Executor
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypedDict, TypeVar, overload

import numpy as np
import wrapt

from tfpyop._numdiff.directional import Method
from tfpyop._op import Op
from tfpyop._registry.function_op_def import FunctionOpDef
from tfpyop._registry.op_def import REGISTRY, RuleSet, Transform
from tfpyop._rules.declaration import declare_numpy_rule, declare_rule
from tfpyop._rules.numerical import METHODS, numerical_rules, parse_method
from tfpyop._spec.op_spec import OpSpec
from tfpyop._spec.options import read_flag
from tfpyop.errors import RegistrationError, nearest

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
    """The options of `differentiable_op`."""

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


_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"vectorized": True, "stateful": False, "non_differentiable": False, "static_argnames": ()}
)
"""The defaults that are not None."""
_RULES: Mapping[str, Transform] = MappingProxyType(
    {"grad": Transform.VJP, "numpy_grad": Transform.VJP, "jvp": Transform.JVP, "numpy_jvp": Transform.JVP}
)
"""The options that declare a rule."""


@overload
def differentiable_op(function: np.ufunc, /, **options: Unpack[OpOptions]) -> Op[..., Any]: ...


@overload
def differentiable_op(function: Callable[P, R], /, **options: Unpack[OpOptions]) -> Op[P, R]: ...


@overload
def differentiable_op(
    function: None = None, /, **options: Unpack[OpOptions]
) -> Callable[[Callable[P, R]], Op[P, R]]: ...


def differentiable_op(function: Any = None, /, **options: Unpack[OpOptions]) -> Any:
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
    complete = _complete(options)

    def make(function: Any, frame: FrameType) -> Op[..., Any]:
        if type(function) is Op:
            raise RegistrationError(
                f"{function!r} is already an op.", remedy="To create another op from its function, pass op.numpy."
            )
        spec = OpSpec.read(function, frame, complete)
        try:
            is_constant = read_flag("non_differentiable", complete["non_differentiable"])
            definition = FunctionOpDef(function, spec, RuleSet(non_differentiable=is_constant), Op)
            _declare_rules(definition, complete)
            if not definition.is_local:
                REGISTRY.register(definition.name, definition)
        except RegistrationError as error:
            raise error.about(spec.subject) from None
        op: Op[..., Any] = definition.op
        return op

    if function is not None:
        return make(function, sys._getframe(1))
    return lambda function: make(function, sys._getframe(1))


differentiable_op.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # the options, for help()
    [
        inspect.Parameter("function", inspect.Parameter.POSITIONAL_ONLY, default=None),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(name), annotation=annotation)
            for name, annotation in OpOptions.__annotations__.items()
        ),
    ],
    return_annotation="Op | Callable[[Callable], Op]",
)
differentiable_op.autograph_info__ = {}  # type: ignore[attr-defined]  # the same mark


def _complete(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return all options, with their defaults.

    Raises:
      RegistrationError: There is no such option.
    """
    known = OpOptions.__annotations__
    for name in options:
        if name not in known:
            raise RegistrationError(f"differentiable_op has no option {name!r}.", remedy=nearest(name, known))
    return {name: options.get(name, _DEFAULTS.get(name)) for name in known}


def _declare_rules(definition: FunctionOpDef, options: Mapping[str, Any]) -> None:
    """Declare the rules that are given as options."""
    method = parse_method(options["grad"])
    rules = {option: options[option] for option in _RULES if options[option] is not None}
    if method is not None:
        if len(rules) > 1:
            raise RegistrationError(
                "grad= requests numerical derivatives, but a rule is also passed.", remedy="Remove one of the two."
            )
        gradient, jvp = numerical_rules(method, definition.spec.full_signature)
        rules = {"numpy_grad": gradient, "numpy_jvp": jvp}
    for option, rule in rules.items():
        transform = _RULES[option]
        is_numpy = option.startswith("numpy_")
        if is_numpy and option.removeprefix("numpy_") in rules:
            raise RegistrationError(f"two {transform.name} rules were passed.", remedy="Remove one of the two.")
        if not callable(rule):
            raise _not_a_rule(option, rule)
        declare = declare_numpy_rule if is_numpy else declare_rule
        declare(definition, transform, rule, definition.site)


def _not_a_rule(option: str, value: Any) -> RegistrationError:
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
