"""Define the ops: `OpDef` is the definition of an op, and `ConcreteOp` is an op as a lowering calls it.

The types refer to each other and therefore share a file: an op has rules, a numpy rule is an op, and a concrete op
refers to its definition.
"""

from __future__ import annotations

import enum
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import MappingProxyType, MethodType
from typing import Any, NoReturn, TypeVar

import numpy as np

from tfpyop._host.batched import BatchedHostFunction
from tfpyop._host.executor_map import ExecutorMap
from tfpyop._host.function import HostFunction
from tfpyop._registry.registry import NamedOp, Registry
from tfpyop._spec.coercion import Array, DType, is_differentiable
from tfpyop._spec.missing_outputs import MissingOutputs, WithoutOutputs
from tfpyop._spec.op_spec import OpSpec
from tfpyop._spec.payload import InAxes, Needs, with_in_axes
from tfpyop._spec.rule_context import LazyValues, NamedValues, RuleContext, as_seen_by_rules
from tfpyop._spec.rule_outputs import RuleInputs, RuleOutputSpec
from tfpyop._spec.rule_values import Places, placed
from tfpyop._spec.signature import Signature
from tfpyop._spec.source_location import Site
from tfpyop._spec.static_values import NO_STATIC, PLAIN_TYPES, static_values
from tfpyop._spec.tree import TreeSpec
from tfpyop.errors import GradientError, RegistrationError, naming, with_article

T = TypeVar("T")

MAX_CONCRETE_OPS = 1024


class Transform(enum.Enum):
    """List the directions of differentiation. The value is the suffix of the name of a numpy rule's op."""

    VJP = "vjp"
    JVP = "jvp"


OPTIONS: Mapping[Transform, tuple[str, str]] = MappingProxyType(
    {Transform.VJP: ("grad", "from-jvp"), Transform.JVP: ("jvp", "from-vjp")}
)
"""The option and its value that request the rule for a direction from the rule for the other one."""


def option_text(transform: Transform) -> str:
    """Return the option that requests the rule for a direction, as the user writes it."""
    option, value = OPTIONS[transform]
    return f'{option}="{value}"'


@dataclass(frozen=True, slots=True)
class TensorFlowRule:
    """Store a rule in TensorFlow ops, or a native implementation.

    Attributes:
      site: Where the rule was attached.
      function: The rule.
      kind: What the user attached, if the rule is derived from it, such as `Jacobian rule`.
      decorator: The name of the decorator that attached it, if the rule is derived.
      takes_vectors: Whether the user's rule takes cotangents or tangents.
      annotates: Whether the function adds notes to the exceptions of the user's rule itself.
      has_numpy_form: Whether a decorator for the same rule in numpy exists.
    """

    site: Site
    function: Callable[..., Any]
    kind: str = ""
    decorator: str = ""
    takes_vectors: bool = True
    annotates: bool = False
    has_numpy_form: bool = True

    def bound(self, instance: Any) -> TensorFlowRule:
        """Return the rule of a method, bound to an instance."""
        return replace(self, function=MethodType(self.function, instance))


@dataclass(frozen=True, slots=True)
class NumpyRule:
    """Store a rule in numpy as an op. Its inputs are the inputs, outputs, residuals and vectors of the forward op.

    Attributes:
      site: Where the rule was attached.
      op: The op of the rule.
      kind: What the user attached, if the rule is derived from it.
    """

    site: Site
    op: OpDef
    kind: str = ""


ADJOINT = "adjoint rule"
"""The kind of the rules that follow from an adjoint rule."""


@dataclass(frozen=True, slots=True)
class LinearRule:
    """State that the op is linear in the inputs of an adjoint rule. Its JVP by them is the op itself on tangents."""

    site: Site
    kind: str = ADJOINT

    def bound(self, instance: Any) -> LinearRule:
        """Return the rule of a method, bound to an instance."""
        return self


PlainRule = TensorFlowRule | NumpyRule | LinearRule


@dataclass(frozen=True, slots=True)
class SplitRule:
    """Store several rules, each for some of the inputs.

    Attributes:
      parts: The rules, by the names of the parameters whose inputs they are for.
    """

    parts: Mapping[tuple[str, ...], PlainRule]

    @property
    def site(self) -> Site:
        """The site of the first rule."""
        return next(iter(self.parts.values())).site

    @property
    def kind(self) -> str:
        """The kind of the first rule."""
        return next(iter(self.parts.values())).kind


Rule = PlainRule | SplitRule


def parts_of(rule: Rule | None) -> Mapping[tuple[str, ...], PlainRule]:
    """Return the rules that make up a rule, by the names of the parameters that they are for (none: all)."""
    if rule is None:
        return {}
    return rule.parts if isinstance(rule, SplitRule) else {(): rule}


@dataclass(slots=True)
class RuleSet:
    """Store the rules of an op. All its concrete ops share one set. Rules are added to it after the op is defined."""

    vjp: Rule | None = None
    jvp: Rule | None = None
    native: TensorFlowRule | None = None
    """The native implementation: the same function in TensorFlow ops."""
    non_differentiable: bool = False
    derived: Transform | None = None
    """The direction whose rules follow from the rules for the other direction, because an option requests this."""

    def of(self, transform: Transform) -> Rule | None:
        """Return the rule for one direction."""
        return self.vjp if transform is Transform.VJP else self.jvp

    @property
    def has_adjoint(self) -> bool:
        """Whether one of the rules is an adjoint rule."""
        return any(isinstance(part, LinearRule) for part in parts_of(self.jvp).values())

    def is_linear(self, wrt: tuple[str, ...]) -> bool:
        """Return whether an adjoint rule is for the inputs of these parameters (without names: for all inputs)."""
        return isinstance(parts_of(self.jvp).get(wrt), LinearRule)

    def plain(self) -> list[PlainRule]:
        """Return all derivative rules, including the rules for some inputs."""
        return [*parts_of(self.vjp).values(), *parts_of(self.jvp).values()]


@dataclass(frozen=True, eq=False)
class ConcreteOp:
    """Represent an op with fixed static arguments and a fixed nesting of its inputs. Lowerings call concrete ops."""

    definition: NamedOp
    host: HostFunction
    rules: RuleSet
    signature: Signature | None
    """The signature. For a user's function it includes residuals as outputs; for a numpy rule it has inputs only."""
    tree: TreeSpec | None
    """The nesting of the inputs; None if they are flat."""
    static: Mapping[str, Any]
    payload: str | None
    """The call data in the token, next to the name; None if it cannot be written."""
    forward_op: ConcreteOp | None = None
    """For the op of a numpy rule: the op to which the rule belongs."""
    row_op: ConcreteOp | None = None
    """For an op over batches: the op of one row."""
    needs: Needs | None = None
    """For the op of a numpy rule: the `needs` of the rule's calls; None if they are True for all floating inputs."""
    name: str = field(init=False)
    subject: str = field(init=False)
    """The op's name and site for error messages."""
    is_eager_plain: bool = field(init=False)
    """Whether eager inputs need no further check: no static argument can be a tensor, and the function is preferred."""

    def __post_init__(self) -> None:
        """Set the derived fields."""
        object.__setattr__(self, "name", self.definition.name)
        object.__setattr__(self, "subject", self.host.subject)
        is_plain = all(type(value) in PLAIN_TYPES for value in self.static.values())
        object.__setattr__(self, "is_eager_plain", is_plain and not self.definition.spec.prefers_native)

    # -- outputs and residuals

    @cached_property
    def residual_names(self) -> tuple[str, ...]:
        """The names of the outputs that only rules receive."""
        return self.host.output_spec.residual_names

    @property
    def is_batched(self) -> bool:
        """Whether the inputs have batch axes."""
        return self.row_op is not None

    @property
    def is_partial(self) -> bool:
        """Whether this is the op of a numpy rule for calls that do not need everything, without batch axes."""
        return self.needs is not None and not self.is_batched

    def visible(self, results: Sequence[T]) -> Sequence[T]:
        """Return the results of a call without the residuals."""
        return results[: len(results) - len(self.residual_names)]

    # -- derivatives

    def is_differentiable(self, inputs: Sequence[DType], outputs: Sequence[DType]) -> bool:
        """Return whether a call with these dtypes can have a derivative."""
        return (
            not self.rules.non_differentiable
            and any(map(is_differentiable, inputs))
            and any(map(is_differentiable, outputs))
        )

    def context(
        self,
        call: RuleInputs[Any],
        needs: Needs,
        *,
        is_numpy: bool = False,
        without_outputs: WithoutOutputs | None = None,
    ) -> RuleContext:
        """Return the context that the rules of this op receive for one call.

        Args:
          call: The values of the call.
          needs: The inputs that the rule must consider.
          is_numpy: Whether the rule is in numpy. Only numpy rules get objects.
          without_outputs: Why the rule does not get the outputs; None if it gets them.
        """
        name_residuals = partial(self._named_residuals, is_numpy)
        static = NamedValues(self.static, "static argument", self.subject)
        places = self.places([dtype_of(value) for value in call.inputs]) if self.leaves_out_inputs else None
        context = RuleContext(
            self.name,
            tuple(self._with_objects(call.inputs, is_numpy)),
            tuple(call.outputs) if without_outputs is None else MissingOutputs(without_outputs),
            name_residuals(call),
            static,
            needs,
            _call=call,
            _name_residuals=name_residuals,
            _op=self,
            _places=places,
        )
        return as_seen_by_rules(context)

    def _named_residuals(self, is_numpy: bool, call: RuleInputs[Any]) -> NamedValues:
        if not call.residuals:
            return self._no_residuals
        values = dict(zip(self.residual_names, call.residuals, strict=True))
        made = {}
        for name in self.host.output_spec.object_names:
            handle = values.pop(name)
            made[name] = partial(self._object, name, call, handle) if is_numpy else partial(self._refuse_object, name)
        if made:
            return LazyValues(values, "residual", self.subject, made)
        return NamedValues(values, "residual", self.subject)

    def _object(self, name: str, call: RuleInputs[Array], handle: Array) -> Any:
        """Return a Python object among the residuals of a call."""
        is_linear = self.rules.has_adjoint  # an adjoint may get tangents as inputs, with the outputs of the call
        outputs = None if is_linear or not call.outputs else call.outputs
        return self.host.objects(call.inputs, handle, outputs)[name]

    def _refuse_object(self, name: str) -> NoReturn:
        raise GradientError(
            f"residual {name!r} is a Python object, which a rule in TensorFlow ops cannot use.",
            subject=self.subject,
            remedy="Attach the rule with @op.numpy_gradient or @op.numpy_jvp, or save arrays: "
            f'residuals={{"{name}": ("(n,n)", np.float64)}}.',
        )

    def _with_objects(self, inputs: Sequence[Any], is_numpy: bool) -> Sequence[Any]:
        """For the op of a numpy rule: return its inputs with the objects in place of handles; in TensorFlow, with None.

        A rule of the rule receives them.
        """
        op, spec = self.forward_op, self.host.output_spec
        if op is None or not isinstance(spec, RuleOutputSpec) or not op.has_objects:
            return inputs
        parts = spec.split(inputs, [dtype_of(value) for value in inputs])
        named: list[Any] = list(parts.residuals)
        residuals = op._named_residuals(is_numpy, parts)
        for place, name in enumerate(op.residual_names):
            if name in op.host.output_spec.object_names:
                named[place] = residuals[name] if is_numpy else None
        return [*op._with_objects(parts.inputs, is_numpy), *parts.outputs, *named, *parts.vectors]

    @cached_property
    def leaves_out_inputs(self) -> bool:
        """Whether the calls leave out optional inputs, which rules see as None."""
        if self.is_batched:  # its rules are made by tfpyop
            return False
        if self.forward_op is not None:
            return self.forward_op.leaves_out_inputs
        return self.signature is not None and self.signature.places is not None

    def places(self, inputs: Sequence[DType]) -> Places:
        """Return, for each input as rules see them, its index among the flat inputs of a call; None if it is left out.

        Args:
          inputs: The dtypes of the flat inputs.
        """
        if not self.leaves_out_inputs:
            return range(len(inputs))
        if self.forward_op is None:
            assert self.signature is not None
            return self.signature.places or ()
        spec = self.host.output_spec
        assert isinstance(spec, RuleOutputSpec)
        parts = spec.split(range(len(inputs)), inputs)
        of_inputs = self.forward_op.places(inputs[: len(parts.inputs)])
        vectors = parts.vectors if spec.like == "inputs" else placed(parts.vectors, of_inputs)
        return (*of_inputs, *parts.outputs, *parts.residuals, *vectors)

    def place(self, number: int) -> int:
        """Return the number of an input as the caller counts them, for error messages."""
        return number if self.signature is None else self.signature.place(number)

    @cached_property
    def has_objects(self) -> bool:
        """Whether Python objects are among the residuals, or among the inputs of a rule's op."""
        return bool(self.host.object_numbers) or (self.forward_op is not None and self.forward_op.has_objects)

    @cached_property
    def _no_residuals(self) -> NamedValues:
        return NamedValues({}, "residual", self.subject)

    # -- batching

    def batched(self, *in_axes: InAxes) -> ConcreteOp:
        """Return the op over batches. Its rules are the rules of one row; `vectorized_map` replaces them.

        Args:
          *in_axes: Whether each input has a batch axis, outer levels first. The existing levels of a batched op become
            the inner levels.
        """
        if not in_axes:
            return self
        one = self.unbatched()
        inner = self.host.in_axes if isinstance(self.host, BatchedHostFunction) else ()
        levels = in_axes + inner
        host = BatchedHostFunction(one.host, one.signature, levels)
        payload = None if self.payload is None else with_in_axes(self.payload, levels)
        return replace(self, host=host, signature=None, payload=payload, row_op=one)

    def unbatched(self) -> ConcreteOp:
        """Return the op of one row, with its derivative rules."""
        return self if self.row_op is None else self.row_op


def dtype_of(value: Any) -> DType:
    """Return the numpy dtype of an array or tensor."""
    dtype: DType = np.dtype(getattr(value.dtype, "as_numpy_dtype", value.dtype))
    return dtype


class OpDef(NamedOp):
    """Define an op of users. Its concrete ops are created once for each set of static arguments, and cached.

    Attributes:
      function: The user's function, or the numpy rule.
      make_op: Makes the `Op` object for users.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        spec: OpSpec,
        make_op: Callable[[OpDef], Any],
        *,
        is_bound: bool = False,
    ) -> None:
        super().__init__(spec, is_bound=is_bound)
        self.function = function
        self.make_op = make_op
        self._concrete_ops: dict[str, ConcreteOp] = {}

    @cached_property
    def op(self) -> Any:
        """The `Op` object for users."""
        return self.make_op(self)

    @property
    @abstractmethod
    def rules(self) -> RuleSet:
        """The rules declared for the op."""

    @property
    def forward_ops(self) -> tuple[OpDef, ...]:
        """For the op of a numpy rule: the op to which the rule belongs, and so on, up to the user's own op."""
        return ()

    # -- calls

    @abstractmethod
    def bind_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[ConcreteOp, Sequence[Any]]:
        """Return the concrete op for the arguments of a call, and the flat inputs.

        Raises:
          TypeError: The arguments do not match the function's parameters.
        """

    @abstractmethod
    def arrange(self, outputs: Sequence[Any]) -> Any:
        """Return the outputs, nested as the caller receives them."""

    @abstractmethod
    def call_native(self, op: ConcreteOp, tensors: Sequence[Any]) -> Sequence[Any]:
        """Call the native implementation in the same way as the function, and return flat outputs.

        Raises:
          ContractError: The nesting of the outputs differs from the nesting of the op's outputs.
        """

    # -- concrete ops

    def specialize(self, tree: TreeSpec | None, static: Mapping[str, Any]) -> ConcreteOp:
        """Return the concrete op for inputs with this nesting (None: flat) and these static values."""
        payload = ""
        try:
            if tree is not None or static:
                payload = self.spec.parameters.payload(tree, static)
        except ValueError:  # not JSON: the token is local to this process, and saving a model warns
            return self._make_concrete_op(tree, static_values(static), None)
        return self.specialize_from_payload(payload)

    def specialize_from_payload(self, payload: str) -> ConcreteOp:
        """Return the concrete op for a token with this payload. It has its own copies of the static values.

        Raises:
          ValueError: The payload is not a payload of this op.
          UnsupportedError: The parameters of the op have changed since the payload was written.
        """
        op = self._concrete_ops.get(payload)
        if op is None:
            op = self._read_concrete_op(payload)
            if len(self._concrete_ops) >= MAX_CONCRETE_OPS:
                self._concrete_ops.clear()
            self._concrete_ops[payload] = op
        return op

    def _read_concrete_op(self, payload: str) -> ConcreteOp:
        with naming(self.subject):
            tree, static, levels = self.spec.parameters.read_payload(payload)
        signature = self.spec.concrete_signature(tree, NO_STATIC)
        if signature is not None and any(len(in_axes) != len(signature.inputs) for in_axes in levels):
            raise ValueError(f"levels of {[len(in_axes) for in_axes in levels]} inputs, not {len(signature.inputs)}")
        if levels:
            return self.specialize(tree, static).batched(*levels)
        return self._make_concrete_op(tree, static_values(static), payload)

    @abstractmethod
    def _make_concrete_op(self, tree: TreeSpec | None, static: Mapping[str, Any], payload: str | None) -> ConcreteOp:
        """Make the concrete op for inputs with this nesting, and these immutable static values."""

    def _executor_map(self, op: Callable[[], ConcreteOp]) -> ExecutorMap | None:
        """Return the map that runs the elements of loop dimensions; None to run them in this thread."""
        executor = self.spec.executor
        return None if executor is None else ExecutorMap(executor, lambda: REGISTRY.token_of(op()), import_host)

    # -- rules

    def rule_op(self, suffix: str) -> OpDef | None:
        """Return the op of a numpy rule by the suffix of its name; None if it does not exist."""
        transform, *names = suffix.split(".")
        rule = self.rules.of(Transform(transform))
        if isinstance(rule, SplitRule):
            rule = rule.parts.get(tuple(names))
        elif names:
            rule = None
        return rule.op if isinstance(rule, NumpyRule) else None

    def attach_all(self, rules: Mapping[Transform, PlainRule], wrt: tuple[str, ...] = ()) -> None:
        """Attach the rules that follow from one declaration to the op: all of them, or none if there is an error.

        Args:
          rules: The rules, by direction of differentiation.
          wrt: The parameters for whose inputs the rules are. Default: all.

        Raises:
          RegistrationError: The op already has a rule for one of these directions (and these inputs), is declared
            non-differentiable, is bound to an instance, or has an option that requests one of these rules.
        """
        if self.rules.non_differentiable:
            raise RegistrationError(
                "the op is declared non_differentiable, but a rule was attached.",
                subject=self.subject,
                remedy="Remove one of the two.",
            )
        self._require_unbound()
        if not wrt:  # rules for some inputs are compared one by one
            self._require_not_derived(rules)
        attached = {transform: self._joined(transform, rule, wrt) for transform, rule in rules.items()}
        self.rules.vjp = attached.get(Transform.VJP, self.rules.vjp)
        self.rules.jvp = attached.get(Transform.JVP, self.rules.jvp)

    def _require_not_derived(self, rules: Mapping[Transform, PlainRule]) -> None:
        """Raise RegistrationError if an option requests the rule for a direction that one of these rules defines."""
        derived = self.rules.derived
        if derived is None or derived not in rules or rules[derived].kind == option_text(derived):
            return
        names = ("gradient", "JVP") if derived is Transform.VJP else ("JVP", "gradient")
        is_linear = any(isinstance(rule, LinearRule) for rule in rules.values())
        what = "adjoint rule" if is_linear else rules[derived].kind or f"{names[0]} rule"
        defines = ", which defines both," if len(rules) > 1 else ""
        raise RegistrationError(
            f"{option_text(derived)} derives the {names[0]} rule from a {names[1]} rule, but "
            f"{with_article(what)}{defines} is also attached.",
            subject=self.subject,
            remedy=f"Remove one of the two: {option_text(derived)} or the rule.",
        )

    def _joined(self, transform: Transform, rule: PlainRule, wrt: tuple[str, ...]) -> Rule:
        """Return the rule of the op after another rule is attached, next to the known rules for other inputs."""
        known = self.rules.of(transform)
        if not wrt or not isinstance(known, SplitRule):
            self._require_first_rule(known, rule, transform, "")
            return SplitRule({wrt: rule}) if wrt else rule
        parts = dict(known.parts)
        for names, part in list(parts.items()):
            twice = [name for name in wrt if name in names]
            if twice:
                self._require_first_rule(part, rule, transform, f" for {' and '.join(map(repr, twice))}")
                del parts[names]
        return SplitRule({**parts, wrt: rule})

    def _require_first_rule(self, known: Rule | None, rule: PlainRule, transform: Transform, of: str) -> None:
        """Raise RegistrationError like `_require_first`. Name the kinds of rules if they differ.

        Args:
          known: The rule that the op has.
          rule: The rule that is attached.
          transform: The direction of differentiation.
          of: The inputs that both rules are for, as ` for 'x'`, if the rules are for some inputs.
        """
        if known is None or known.kind == rule.kind:
            kind = "" if known is None else known.kind
            self._require_first(known, rule, f"{with_article(kind or 'rule')}{of}" if kind or of else "such a rule")
        elif known.site is self.site or not rule.site.replaces(known.site):
            usual = "gradient rule" if transform is Transform.VJP else "JVP rule"
            what, other = rule.kind or usual, known.kind or usual
            if known.site is self.site and isinstance(known, NumpyRule) and known.kind:  # numerical derivatives
                problem = f"{other} already defines this derivative; {with_article(what)} was attached at {rule.site}."
                raise RegistrationError(
                    problem, subject=self.subject, remedy=f"Remove one of the two: {other} or the rule."
                )
            raise RegistrationError(
                f"the {what} attached at {rule.site} defines the same derivative as the {other} of the op, defined at "
                f"{known.site}.",
                subject=self.subject,
                remedy=f"Remove one of the two.{_of_adjoint(known, rule)}",
            )

    def attach_native(self, implementation: TensorFlowRule) -> None:
        """Attach the native implementation to the op.

        Raises:
          RegistrationError: The op already has a native implementation, or is bound to an instance.
        """
        self._require_unbound()
        self._require_first(self.rules.native, implementation, "a native implementation")
        self.rules.native = implementation

    def _require_unbound(self) -> None:
        if self.is_bound:
            raise RegistrationError(
                "a rule was attached to a bound method, which does not keep it.",
                subject=self.subject,
                remedy="Attach the rule in the class body. The first parameter of a method's rule is self.",
            )

    def _require_first(self, known: Rule | None, rule: Rule, what: str) -> None:
        """Raise RegistrationError if there is another rule, unless its module is being executed again."""
        if known is not None and (known.site is self.site or not rule.site.replaces(known.site)):  # or was an option
            raise RegistrationError(
                f"the op already has {what}, defined at {known.site}; a second one was attached at {rule.site}.",
                subject=self.subject,
                remedy=f"Remove one of the two.{_of_adjoint(known, rule)}",
            )

    @abstractmethod
    def bind_instance(self, instance: Any) -> OpDef:
        """Return the op of a method, bound to an instance."""


def _of_adjoint(known: Rule, rule: Rule) -> str:
    """Return the explanation for a JVP rule next to an adjoint rule, which defines the JVP without a rule for it."""
    parts = [*parts_of(known).values(), *parts_of(rule).values()]
    is_defined_twice = any(isinstance(part, LinearRule) for part in parts)
    return " An adjoint rule defines the JVP too: it is the op itself." if is_defined_twice else ""


REGISTRY: Registry[OpDef, ConcreteOp] = Registry()
"""The ops of this process."""

if hasattr(os, "register_at_fork"):  # on platforms that can fork
    os.register_at_fork(after_in_child=REGISTRY.begin_child)


def import_host(token: str) -> HostFunction:
    """Import the module of an op and return the host function for a token of this op. Workers call this.

    Raises:
      UnsupportedError: The module does not define the op.
    """
    return REGISTRY.import_op(token).host
