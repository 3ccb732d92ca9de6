"""What the testing package asks of an op: its inputs by name, its host function, and calls with flat values.

The one place that looks behind the face of an `Op`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import tensorflow as tf

from tfpyop import Op
from tfpyop._host.function import HostFunction
from tfpyop._op import op_def_of
from tfpyop._registry.bind import bind
from tfpyop._registry.op_def import ConcreteOp, RuleSet
from tfpyop._spec.coercion import Array
from tfpyop._spec.op_spec import OpSpec
from tfpyop.errors import RegistrationError
from tfpyop.testing._examples import Arguments

Flat = Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]
"""A function of flat tensors that returns flat tensors."""


UNBOUND = "the op is an unbound method: check the op of an instance"
"""Why the op of a method is passed over where all ops of a module are checked."""


def spec_of(op: Op[..., Any]) -> OpSpec:
    """The op as it was made.

    Raises:
      RegistrationError: It is not an op.
    """
    if type(op) is not Op:
        remedy = "Pass an op that differentiable_op returned."
        if isinstance(op, ModuleType | str):
            remedy += " To check all ops of a module, use make_test_class(module)."
        raise RegistrationError(f"{op!r:.80} is not an op.", remedy=remedy)
    definition: OpSpec = op_def_of(op).spec
    return definition


def is_unbound_method(op: Op[..., Any]) -> bool:
    """Whether the op is a method as its class has it, which takes an instance first."""
    return bool(op._self_owners) and not op_def_of(op).is_bound


def rules_of(op: Op[..., Any]) -> RuleSet:
    """The derivative rules that are attached to the op."""
    rules: RuleSet = op_def_of(op).rules
    return rules


def subject_of(op: Op[..., Any]) -> str:
    """How errors name the op."""
    return spec_of(op).subject


def concrete_op_of(op: Op[..., Any], arguments: Arguments) -> tuple[ConcreteOp, Sequence[Any]]:
    """The op for such a call, and the flat inputs of the call."""
    entry = op_def_of(op)
    return entry.bind_arguments(arguments.args, arguments.static)


def flat_function(op: Op[..., Any], arguments: Arguments) -> Flat:
    """The op as a function of flat tensors, with the static values and the nesting of a call."""
    host_op, _ = concrete_op_of(op, arguments)
    return lambda tensors: list(bind(host_op, tensors))


def plain_outputs(op: Op[..., Any], arguments: Arguments) -> list[Array]:
    """What the op's function returns for a call on the host, held to the promise, without residuals."""
    host_op, leaves = concrete_op_of(op, arguments)
    return list(host_op.visible(host_op.host([tf.constant(leaf).numpy() for leaf in leaves])))


def tensors_of(op: Op[..., Any], arguments: Arguments) -> tuple[HostFunction, list[Array]]:
    """The host function for such a call, and the flat inputs as TensorFlow hands them over."""
    host_op, leaves = concrete_op_of(op, arguments)
    return host_op.host, [tf.constant(leaf).numpy() for leaf in leaves]
