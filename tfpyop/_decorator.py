"""Define `differentiable_op`, which makes an op from a function, and list its options."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Executor
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypedDict, TypeVar, overload

import numpy as np

from tfpyop._numdiff.directional import Method
from tfpyop._op import Op
from tfpyop._registry.function_op_def import FunctionOpDef
from tfpyop._registry.op_def import OPTIONS, REGISTRY, RuleSet, Transform, option_text
from tfpyop._rules.declaration import declare_numpy_rule, declare_rule
from tfpyop._rules.numerical import METHODS, numerical_rules, parse_method, require_sparsity
from tfpyop._rules.pairs import requested_transform
from tfpyop._spec.op_spec import OpSpec
from tfpyop.errors import RegistrationError, naming, nearest

P = ParamSpec("P")
R = TypeVar("R")

if TYPE_CHECKING:
    from typing_extensions import Unpack


class OpOptions(TypedDict, total=False):
    """List the options of `differentiable_op`."""

    signature: str | None
    sizes: Mapping[str, Callable[..., Any]] | None
    shape: Callable[..., Any] | None
    dtype: Any
    compute_dtype: Any
    grad: Callable[..., Any] | Method | Literal["numerical", "complex-step", "from-jvp"] | None
    numpy_grad: Callable[..., Any] | None
    jvp: Callable[..., Any] | Literal["from-vjp"] | None
    numpy_jvp: Callable[..., Any] | None
    residuals: Mapping[str, tuple[str, Any] | type[object]] | None
    vectorized: bool | Literal["rows"]
    executor: Executor | Callable[[], Executor] | None
    stateful: bool
    prefer: Literal["native", "numpy"] | None
    non_differentiable: bool | str | Sequence[str]
    surrogate: bool
    static_argnames: str | Sequence[str] | Set[str]
    domain: str | Mapping[str, str | None] | None
    name: str | None


_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"vectorized": True, "stateful": False, "non_differentiable": False, "surrogate": False, "static_argnames": ()}
)
"""The defaults that are not None."""
_RULES: Mapping[str, Transform] = MappingProxyType(
    {"grad": Transform.VJP, "numpy_grad": Transform.VJP, "jvp": Transform.JVP, "numpy_jvp": Transform.JVP}
)
"""The options that declare a rule, with the direction of differentiation of each."""


@overload
def differentiable_op(function: np.ufunc, /, **options: Unpack[OpOptions]) -> Op[..., Any]: ...


@overload
def differentiable_op(function: Callable[P, R], /, **options: Unpack[OpOptions]) -> Op[P, R]: ...


@overload
def differentiable_op(**options: Unpack[OpOptions]) -> Callable[[Callable[P, R]], Op[P, R]]: ...


def differentiable_op(function: Any = ..., /, **options: Unpack[OpOptions]) -> Any:
    """Make a differentiable TensorFlow op from a numpy function.

    Use it as `@differentiable_op`, as `@differentiable_op(...)`, or as `differentiable_op(np.hypot, ...)`. Positional
    parameters of the function are tensors, unless their default is text or another object that cannot become a tensor.
    Keyword-only parameters are static Python values.

    Args:
      function: Takes arrays and returns arrays, numbers or lists of numbers. Inputs are read-only. tfpyop flattens
        tuples, dicts, namedtuples and dataclasses of tensors, and passes them to the function in their original form.
      signature: The core dimensions of inputs and outputs in NumPy's gufunc language, for example
        `"(m,k),(k,n)->(m,n)"`. Further leading dimensions are loop dimensions. They broadcast, and the function must
        support them as NumPy functions do. Sizes may be arithmetic (`"(n),(m)->(n+m-1)"`), and an output size may be a
        new name if it is known only at run time (`"(n)->(k)"`). `"(n),()?->(n)"` has an optional input, whose parameter
        has the default None: the function gets None, and so do rules in `op.inputs`. `"(n)*->()"` has any number of
        inputs with the same core, from `*parameters` or a tuple. `"(n)->(n)*"` has as many outputs as `dtype=` has
        dtypes. Default: the signature of a ufunc; for other functions the output shapes are unknown.
      sizes: Functions that compute the sizes of new names in the outputs or residuals, for example
        `sizes={"k": lambda d, *, degree: d**degree}` for the signature `"(n,d)->(k)"`. The positional parameters of a
        function are names of input sizes, and its keyword-only parameters are static parameters of the op. The sizes
        are then known in graphs, XLA and Keras, and calls are checked against them. Default: new names are known only
        at run time.
      shape: A shape function, instead of a signature. `shape(*input_shapes, **static)` returns the shape of the output,
        or a tuple of shapes. In graphs, the input shapes and the results may contain None for unknown sizes. If the
        function raises for None, the output shapes are unknown.
      dtype: The output dtype. For several outputs, pass one dtype for all outputs, or a tuple or dict of dtypes, which
        also sets the form of the result. Default, also for None in a tuple or dict: the result type of the inputs.
      compute_dtype: The dtype to which floating inputs are cast before the function receives them. Complex inputs are
        cast to the corresponding complex dtype. Default: no cast.
      grad: The VJP rule in TensorFlow ops, as for `Op.gradient`. To compute VJP and JVP numerically from values of the
        function, pass `"numerical"`, `"complex-step"`, or the result of `tfpyop.numerical` or `tfpyop.complex_step`.
        To derive the VJP from the JVP rule, pass `"from-jvp"`: a VJP then evaluates the JVP rule for each core element
        of the inputs.
      numpy_grad: The VJP rule in numpy, as for `Op.numpy_gradient`.
      jvp: The JVP rule in TensorFlow ops, as for `Op.jvp`. To derive the JVP from the gradient rule, pass `"from-vjp"`:
        a JVP then evaluates the gradient rule for each core element of the outputs.
      numpy_jvp: The JVP rule in numpy, as for `Op.numpy_jvp`.
      residuals: The values that the function saves for its rules, for example `{"lu": ("(n,n)", np.float64)}`: core
        dimensions with the names of the signature, and a dtype (None: the result type of the inputs). `{"lu": object}`
        declares any Python object, for numpy rules. It is kept as long as the tape or graph needs it. If it no longer
        exists, the function is called again to create it. The function then returns `(outputs, {"lu": ...})`.
        Default: no residuals.
      vectorized: Whether the function supports loop dimensions. If False, the function and its numpy rules receive core
        dimensions only, and are called once for every element of the loop dimensions. If `"rows"`, they receive exactly
        one loop dimension: inputs are broadcast, and all loop dimensions are flattened into one. Default: True.
      executor: With `vectorized=False`, runs the elements of loop dimensions in threads, in processes or on a cluster,
        also for numpy rules. Pass a `concurrent.futures.Executor`, for example `tfpyop.parallel.process_pool()`, or a
        function that creates an executor on first use. Default: the elements run one after the other in the calling
        thread.
      stateful: Whether to run the function once for every call, in program order. Default: False, so that TensorFlow
        may fold, drop and reorder calls.
      prefer: `"native"` to call the implementation attached with `@op.native` by default, which is then required.
        Default: the numpy function.
      non_differentiable: Whether gradients are None, as for integer inputs. Or the names of parameters whose inputs
        have no derivative: requesting this derivative raises an error, and what rules return for these inputs is
        ignored. Default: False. Requesting the gradient of an op without a rule then raises an error.
      surrogate: Whether the rules are deliberately not the derivatives of the function, as for a straight-through
        estimator. `tfpyop.testing` then checks only that they are valid and linear. Default: False.
      static_argnames: Names of further static parameters.
      domain: The valid range of the inputs, for tests that draw inputs: `"(0, inf)"`, `"[-1, 1]"`,
        `"integers [0, 10]"`. Pass one range for all inputs, or a dict from parameter names to ranges (None: any value).
        Calls are not checked against it. Default: any value.
      name: The name in graphs and saved models. An op that an instance or a function call creates has this name as long
        as the op is referenced. Default: `module:qualname`.

    Returns:
      An `Op`, or a decorator that returns an `Op`.

    Raises:
      SignatureError: The signature is invalid.
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
        with naming(spec.subject):
            rules = RuleSet(non_differentiable=spec.is_non_differentiable, derived=requested_transform(complete))
            if spec.is_non_differentiable and rules.derived is not None:
                raise RegistrationError(
                    f"non_differentiable=True contradicts {option_text(rules.derived)}.",
                    remedy="Remove one of the two.",
                )
            definition = FunctionOpDef(function, spec, rules, Op)
            _declare_rules(definition, complete)
            if not definition.is_local:
                REGISTRY.register(definition.name, definition, is_kept=spec.is_kept)
        op: Op[..., Any] = definition.op
        return op

    if function is not ...:  # None is more likely a missing function than no argument
        return make(function, sys._getframe(1))
    return lambda function: make(function, sys._getframe(1))


differentiable_op.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # shows the options in help()
    [
        inspect.Parameter("function", inspect.Parameter.POSITIONAL_ONLY, default=None),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(name), annotation=annotation)
            for name, annotation in OpOptions.__annotations__.items()
        ),
    ],
    return_annotation="Op | Callable[[Callable], Op]",
)
differentiable_op.autograph_info__ = {}  # type: ignore[attr-defined]  # as in Op


def _complete(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return all options, with defaults for the options that were not passed.

    Raises:
      RegistrationError: An option does not exist.
    """
    known = OpOptions.__annotations__
    for name in options:
        if name not in known:
            is_function = name == "function"
            remedy = "Pass the function as the first argument." if is_function else nearest(name, known)
            if name == "sparsity":
                remedy = "Pass it to the method: grad=tfpyop.numerical(sparsity=...)."
            raise RegistrationError(f"differentiable_op has no option {name!r}.", remedy=remedy)
    return {name: options.get(name, _DEFAULTS.get(name)) for name in known}


def _declare_rules(definition: FunctionOpDef, options: Mapping[str, Any]) -> None:
    """Declare the rules that were passed as options."""
    derived = definition.rules.derived
    request = None if derived is None else OPTIONS[derived][0]
    method = None if request == "grad" else parse_method(options["grad"])
    rules = {option: options[option] for option in _RULES if options[option] is not None and option != request}
    if method is not None:
        if definition.spec.is_surrogate:
            raise RegistrationError(
                "surrogate=True says that the rules are not derivatives, but grad= requests numerical derivatives.",
                remedy="Remove one of the two.",
            )
        if len(rules) > 1 or derived is not None:
            raise RegistrationError(
                "grad= requests numerical derivatives, but a rule is also passed.", remedy="Remove one of the two."
            )
        require_sparsity(method, definition.spec.signature)
        gradient, jvp = numerical_rules(method)
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
    """Return the error for an option that is not a function. A request for numerical derivatives belongs in grad=."""
    wishes = {**dict.fromkeys(METHODS, "grad"), **{text: other for other, text in OPTIONS.values()}}
    is_known = isinstance(value, str) and value in wishes
    is_wish = is_known or value is True or type(value) is float  # True, or a step size
    vectors = "tangents" if option.endswith("jvp") else "cotangents"
    values = [name for name, known in wishes.items() if known == option]
    methods = f", or {' or '.join(map(repr, values))}" if values else ""
    return RegistrationError(
        f"{option}={value!r:.80} is not a rule.",
        expected=f"a function, called as rule(op, *{vectors}){methods}",
        remedy=f"Did you mean {wishes.get(value, 'grad')}={value if is_known else 'numerical'!r}?" if is_wish else None,
    )
