"""The errors for derivatives that nobody has defined, or that TensorFlow cannot follow."""

from __future__ import annotations

from tfpyop._registry.op_def import ConcreteOp, Transform
from tfpyop._registry.rule_op_def import RuleOpDef
from tfpyop._rules.numerical import NumericalRule
from tfpyop.errors import GradientError


def residual_differentiated(op: ConcreteOp) -> GradientError:
    """The error for a second derivative through a residual."""
    return GradientError(
        "a derivative rule was differentiated through a residual.",
        subject=op.subject,
        remedy="Second derivatives cannot pass through residuals, which only the host knows how to make. Use only "
        "op.inputs and op.outputs in this rule, or attach one to what @op.numpy_gradient returned: @that.gradient.",
    )


def missing_gradient(op: ConcreteOp) -> GradientError:
    """The error for a gradient nobody has defined."""
    if op.forward_op is not None:
        return missing_second_derivative(op)
    forward = (
        " Forward mode around a tf.function goes through the gradient rule too: attach one, or open the "
        "accumulator inside of the function."
    )
    return GradientError(
        "its gradient was asked for, but it has no gradient rule.",
        subject=op.subject,
        remedy="Attach one with @op.gradient (TensorFlow ops) or @op.numpy_gradient (arrays). If its derivative is "
        "zero everywhere, declare non_differentiable=True; to cut the graph here, use tf.stop_gradient."
        f"{'' if op.rules.jvp is None else forward}",
    )


def missing_second_derivative(op: ConcreteOp) -> GradientError:
    """The error for differentiating a numpy rule that has no rule of its own."""
    definition = op.definition
    assert isinstance(definition, RuleOpDef)
    rule = definition.function
    if isinstance(rule, NumericalRule):
        return GradientError(
            f"a second derivative was asked for, but derivatives from values ({rule.option}) go to first order only.",
            subject=op.subject,
            remedy="Write a rule with @op.gradient (TensorFlow ops), or one with @op.numpy_gradient (arrays) and "
            "another for what that returned.",
        )
    name, other = ("gradient", "numpy_gradient") if definition.transform is Transform.VJP else ("jvp", "jvp")
    return GradientError(
        "a second derivative was asked for, but this numpy rule has no rule of its own.",
        subject=op.subject,
        remedy=f"Attach one to what @op.numpy_{name} returned, with @that.gradient or @that.{other}, or write "
        f"the first rule in TensorFlow ops with @op.{name}.",
    )


def detached_rule(op: ConcreteOp) -> GradientError:
    """The error for the derivative of a rule that TensorFlow cannot differentiate."""
    return GradientError(
        "a derivative of one of its rules was asked for, but what the rule returns does not depend on what it is "
        "given in a way that TensorFlow can follow.",
        subject=op.subject,
        remedy="Use TensorFlow ops only in it (no numpy, .numpy() or tf.numpy_function), and return None where "
        "there is no dependence; or make it a numpy rule with @op.numpy_gradient. For forward mode, a JVP rule "
        "will do: @op.jvp or @op.numpy_jvp.",
    )


def missing_jvp(op: ConcreteOp) -> GradientError:
    """The error for forward mode through an op without a JVP."""
    if op.forward_op is not None and op.rules.vjp is None:
        return missing_second_derivative(op)
    return GradientError(
        "forward mode was asked for, but the op has no JVP rule, and none follows from its gradient rule.",
        subject=op.subject,
        remedy="Attach one with @op.jvp (TensorFlow ops) or @op.numpy_jvp (arrays), or write the gradient rule in "
        "TensorFlow ops with @op.gradient.",
    )
