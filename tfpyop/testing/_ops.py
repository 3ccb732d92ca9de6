"""Access of the testing package to an op: its inputs by name, its host function, and calls with flat values.

This is the only module of the package that uses internals of an `Op`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import tensorflow as tf

from tfpyop import Op
from tfpyop._host.function import HostFunction
from tfpyop._op import op_def_of
from tfpyop._registry.bind import bind
from tfpyop._registry.op_def import (
    ConcreteOp,
    NumpyRule,
    OpDef,
    RuleSet,
    SplitRule,
    TensorFlowRule,
    Transform,
    parts_of,
)
from tfpyop._registry.rule_op_def import numbers_of
from tfpyop._rules.implicit_derivatives import implicit_derivative
from tfpyop._rules.numerical import NumericalRule
from tfpyop._spec.coercion import Array, is_differentiable
from tfpyop._spec.op_spec import OpSpec
from tfpyop._spec.rule_context import RuleContext
from tfpyop._spec.rule_outputs import RuleInputs
from tfpyop.errors import RegistrationError
from tfpyop.testing._examples import Arguments

Flat = Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]
"""A function of flat tensors that returns flat tensors."""


UNBOUND = "the op is an unbound method: check the op of an instance"
"""The reason why the op of a method is skipped when all ops of a module are checked."""


def spec_of(op: Op[..., Any]) -> OpSpec:
    """Return the spec of an op. Raise RegistrationError if the object is not an op."""
    spec: OpSpec = _definition_of(op).spec
    return spec


def _definition_of(op: Op[..., Any]) -> OpDef:
    if type(op) is not Op:
        remedy = "Pass an op that differentiable_op returned."
        if isinstance(op, ModuleType | str):
            remedy += " To check all ops of a module, use make_test_class(module)."
        raise RegistrationError(f"{op!r:.80} is not an op.", remedy=remedy)
    return op_def_of(op)


def is_unbound_method(op: Op[..., Any]) -> bool:
    """Return whether the op is a method accessed through its class, which takes an instance as its first argument."""
    return bool(op._owners) and not op_def_of(op).is_bound


def rules_of(op: Op[..., Any]) -> RuleSet:
    """Return the rules that are attached to the op."""
    rules: RuleSet = _definition_of(op).rules
    return rules


@dataclass(frozen=True, slots=True)
class UserRule:
    """A derivative rule as the user wrote it.

    Attributes:
      function: What the user attached.
      site: Where it was attached.
      is_remote: Whether the workers of an executor run it.
    """

    function: Callable[..., Any]
    site: str
    is_remote: bool


def user_rules(op: Op[..., Any]) -> list[UserRule]:
    """Return the derivative rules that users wrote, with the rules of numpy rules. A Jacobian rule is listed twice."""
    return list(_user_rules(rules_of(op)))


def _user_rules(rules: RuleSet) -> Iterator[UserRule]:
    for rule in rules.plain():
        function: Any = rule.function if isinstance(rule, TensorFlowRule) else None
        is_remote = False
        if isinstance(rule, NumpyRule):
            function, is_remote = rule.op.function, rule.op.spec.executor is not None
            yield from _user_rules(rule.op.rules)
        if function is not None and not isinstance(getattr(function, "__func__", function), NumericalRule):
            yield UserRule(function, str(rule.site), is_remote)


def has_jacobian(op: Op[..., Any]) -> bool:
    """Return whether the op has a Jacobian rule."""
    return any(rule.kind == "Jacobian rule" for rule in op.rules)


def linear_inputs(op: Op[..., Any], arguments: Arguments) -> list[tuple[tuple[str, ...], Sequence[int]]]:
    """Return the names of the parameters that each adjoint rule is for (none: all), and the indices of their inputs."""
    concrete_op, leaves = concrete_op_of(op, arguments)
    n_inputs = len(leaves)
    parts = [names for names in parts_of(concrete_op.rules.vjp) if rules_of(op).is_linear(names)]
    return [(names, numbers_of(concrete_op, names, n_inputs) if names else range(n_inputs)) for names in parts]


def lacks_second_derivative(op: Op[..., Any]) -> bool:
    """Return whether all gradient rules of the op are numpy rules without gradient rules of their own."""
    rules = rules_of(op)
    return not rules.has_adjoint and all(
        isinstance(part, NumpyRule) and part.op.rules.vjp is None and part.op.rules.native is None
        for part in parts_of(rules.vjp).values()
    )


def equations_of(op: Op[..., Any]) -> list[Callable[[RuleContext], list[Any]]]:
    """Return, for each implicit or stationary rule of the op, a function that returns the Newton step of a call."""
    found: list[Callable[[RuleContext], list[Any]]] = []
    for part in parts_of(rules_of(op).vjp).values():
        implicit = implicit_derivative(part)
        if implicit is not None:
            rule, bound = implicit
            found.append(partial(rule.newton_step, *bound))
    return found


def context_of(op: Op[..., Any], arguments: Arguments, arrays: Sequence[Array]) -> RuleContext:
    """Return the context that a rule in TensorFlow ops receives for a call with these inputs."""
    concrete_op, _ = concrete_op_of(op, arguments)
    results = [tf.constant(result) for result in concrete_op.host(arrays)]
    outputs = concrete_op.visible(results)
    parts = RuleInputs([tf.constant(array) for array in arrays], outputs, results[len(outputs) :], ())
    return concrete_op.context(parts, tuple([is_differentiable(array.dtype) for array in arrays]))


def subject_of(op: Op[..., Any]) -> str:
    """Return the name and location of the op for errors."""
    return spec_of(op).subject


def input_label(op: Op[..., Any], number: int, n_inputs: int) -> str:
    """Return the name of an input in reports: its number and, if each parameter is one input, its name."""
    names = spec_of(op).parameters.input_names
    return f"input {number} ({names[number]})" if len(names) == n_inputs else f"input {number}"


def concrete_op_of(op: Op[..., Any], arguments: Arguments) -> tuple[ConcreteOp, Sequence[Any]]:
    """Return the concrete op for a call, and the flat inputs of the call."""
    definition = op_def_of(op)
    return definition.bind_arguments(arguments.args, arguments.static)


def flat_function(op: Op[..., Any], arguments: Arguments, transform: Transform = Transform.VJP) -> Flat:
    """Return the op as a function of flat tensors, with the static values and the nesting of a call.

    Derivatives in this direction by inputs that have none are stopped, because they raise.
    """
    concrete_op, _ = concrete_op_of(op, arguments)
    undefined = undefined_inputs(op, arguments, transform)

    def function(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        inputs = [tf.stop_gradient(tensor) if number in undefined else tensor for number, tensor in enumerate(tensors)]
        return list(bind(concrete_op, inputs))

    return function


def undefined_inputs(op: Op[..., Any], arguments: Arguments, transform: Transform) -> Sequence[int]:
    """Return the indices of the flat inputs by which the op has no derivative in one direction.

    The op declares these inputs non-differentiable, or no rule is for them.
    """
    concrete_op, leaves = concrete_op_of(op, arguments)
    named = numbers_of(concrete_op, spec_of(op).undefined, len(leaves))
    return sorted({*named, *_inputs_without_rule(concrete_op, transform, len(leaves))})


def _inputs_without_rule(op: ConcreteOp, transform: Transform, n_inputs: int) -> set[int]:
    """Return the indices of the inputs that none of the rules for some inputs is for."""
    if not isinstance(op.rules.of(transform), SplitRule):
        return set()
    rules = [*parts_of(op.rules.of(transform)).items()]
    if transform is Transform.JVP:  # derived from these gradient rules
        is_elementwise = op.signature is not None and op.signature.is_elementwise
        rules += [
            pair for pair in parts_of(op.rules.vjp).items() if is_elementwise or isinstance(pair[1], TensorFlowRule)
        ]
    known = [number for names, _ in rules for number in (numbers_of(op, names, n_inputs) if names else range(n_inputs))]
    return set(range(n_inputs)).difference(known)


def plain_outputs(op: Op[..., Any], arguments: Arguments) -> list[Array]:
    """Return the outputs of the op's function for a call on the host, checked against the spec, without residuals."""
    concrete_op, leaves = concrete_op_of(op, arguments)
    return list(concrete_op.visible(concrete_op.host([tf.constant(leaf).numpy() for leaf in leaves])))


def tensors_of(op: Op[..., Any], arguments: Arguments) -> tuple[HostFunction, list[Array]]:
    """Return the host function for a call, and the flat inputs as TensorFlow passes them."""
    concrete_op, leaves = concrete_op_of(op, arguments)
    return concrete_op.host, [tf.constant(leaf).numpy() for leaf in leaves]
