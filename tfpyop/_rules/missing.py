"""Make the errors for derivatives that are not defined, or that TensorFlow cannot compute."""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType

from tfpyop._registry.op_def import ConcreteOp, SplitRule, Transform, option_text
from tfpyop._registry.rule_op_def import RuleOpDef
from tfpyop._rules.jacobian_products import JacobianProduct
from tfpyop._rules.numerical import NumericalRule
from tfpyop._rules.transposed_rule import TransposedRule
from tfpyop.errors import GradientError

_IF_DATA = (
    "If this is data, its gradient was computed but not used, because the tape is around a tf.function: open the tape "
    "inside the function, or pass the data through tf.stop_gradient in it."
)


def residual_differentiated(op: ConcreteOp) -> GradientError:
    """Return the error for a second derivative through a residual."""
    return GradientError(
        "cannot differentiate a derivative rule through a residual.",
        subject=op.subject,
        remedy="Use only op.inputs and op.outputs in this rule, or attach a gradient rule to the object that "
        "@op.numpy_gradient returned: @rule.gradient. TensorFlow cannot differentiate residuals, because only the "
        "host function computes them.",
    )


def missing_gradient(op: ConcreteOp) -> GradientError:
    """Return the error for a gradient that is not defined."""
    if op.forward_op is not None:
        return missing_second_derivative(op)
    if op.rules.derived is Transform.VJP:  # and there is nothing to derive it from
        return GradientError(
            f"cannot compute the gradient: {option_text(Transform.VJP)} needs a JVP rule, but the op has none.",
            subject=op.subject,
            remedy="Attach a rule with @op.jvp (TensorFlow ops) or @op.numpy_jvp (arrays).",
        )
    jacobian = ", or the Jacobian with @op.jacobian or @op.numpy_jacobian"
    from_jvp = (
        f" To derive it from the JVP rule, pass {option_text(Transform.VJP)} to differentiable_op: a gradient then "
        "evaluates the JVP rule for each core element of the inputs."
    )
    forward = (
        " Forward mode around a tf.function also requires a gradient rule. Alternatively, open the accumulator inside "
        "the function."
    )
    return GradientError(
        "cannot compute the gradient: the op has no gradient rule.",
        subject=op.subject,
        remedy="Attach a rule with @op.gradient (TensorFlow ops) or @op.numpy_gradient (arrays)"
        f"{jacobian if op.rules.jvp is None else ''}.{'' if op.rules.jvp is None else from_jvp} If the derivative is "
        "zero everywhere, declare non_differentiable=True. To stop gradients here, use tf.stop_gradient."
        f"{'' if op.rules.jvp is None else forward}",
    )


def inputs_without_rule(
    op: ConcreteOp, kind: str, names: Sequence[str], known: Sequence[str], *, is_certain: bool = True
) -> GradientError:
    """Return the error for inputs that none of the rules for some inputs is for.

    Args:
      op: The op.
      kind: The name of the decorator, such as `gradient`.
      names: The parameters without a rule.
      known: The parameters with a rule.
      is_certain: Whether the derivative was requested. False if TensorFlow may compute it without using it.
    """
    missing, wrt = ", ".join(map(repr, names)), repr(names[0]) if len(names) == 1 else repr(tuple(names))
    attach = f"a rule with @op.{kind}(wrt={wrt}) or @op.numpy_{kind}(wrt={wrt})"
    if op.rules.has_adjoint:
        attach += f", or with @op.adjoint(linear_in={wrt}) if the op is linear there too"
    return GradientError(
        f"no {kind} rule is for {missing}.",
        subject=op.subject,
        expected="one rule for each floating input",
        got=f"rules for {', '.join(map(repr, known))}",
        remedy=f"Attach {attach}. If no output depends on the input, the rule returns None."
        if is_certain
        else f"{_IF_DATA} Otherwise attach {attach}.",
    )


def missing_for_some_inputs(op: ConcreteOp) -> GradientError:
    """Return the error for the gradient by inputs that none of the gradient rules for some inputs is for."""
    rule, names = op.rules.vjp, op.definition.spec.parameters.input_names
    known = [name for part in rule.parts for name in part] if isinstance(rule, SplitRule) else []
    missing = [name for name in names if name not in ("self", "cls", *known)]
    return inputs_without_rule(op, "gradient", missing, known, is_certain=False)


def undefined_derivative(op: ConcreteOp) -> GradientError:
    """Return the error for the derivative by inputs that are declared non-differentiable."""
    names = op.definition.spec.undefined
    return GradientError(
        f"the derivative by {' or '.join(map(repr, names))} is not defined.",
        subject=op.subject,
        expected="no request for this derivative",
        got=f"the op declares non_differentiable={names!r}",
        remedy="Do not differentiate by this input: pass it through tf.stop_gradient. If the tape is around a "
        "tf.function that takes this input, open the tape inside the function instead.",
    )


def undefined_by_rule(op: ConcreteOp) -> GradientError:
    """Return the error for a derivative for which a rule in TensorFlow ops returned UNDEFINED."""
    return GradientError(
        "a requested derivative is not defined: a rule of the op returned UNDEFINED for it.",
        subject=op.subject,
        remedy="Do not request this derivative: pass the input through tf.stop_gradient.",
    )


def missing_second_derivative(op: ConcreteOp) -> GradientError:
    """Return the error for the derivative of a numpy rule that has no rule of its own."""
    definition = op.definition
    assert isinstance(definition, RuleOpDef)
    rule = definition.function
    if isinstance(rule, NumericalRule):
        return GradientError(
            f"cannot compute a second derivative: {rule.option} provides first derivatives only.",
            subject=op.subject,
            remedy="Write a rule with @op.gradient (TensorFlow ops). Or write a rule with @op.numpy_gradient "
            "(arrays), and attach a second rule to the object that it returns.",
        )
    if isinstance(rule, MethodType):
        rule = rule.__func__
    if isinstance(rule, TransposedRule):
        known, other = (("JVP", "jvp"), "gradient") if rule.is_vjp else (("gradient", "gradient"), "jvp")
        return GradientError(
            f"cannot compute a second derivative: {option_text(rule.transform)} with a {known[0]} rule in numpy "
            "provides first derivatives only.",
            subject=op.subject,
            remedy=f"Write the {known[0]} rule in TensorFlow ops with @op.{known[1]}. Or remove "
            f"{option_text(rule.transform)}, and attach a {'gradient' if rule.is_vjp else 'JVP'} rule in TensorFlow "
            f"ops with @op.{other}.",
        )
    if isinstance(rule, JacobianProduct):
        return GradientError(
            "cannot compute a second derivative: this numpy Jacobian has no gradient rule.",
            subject=op.subject,
            remedy="Write the Jacobian in TensorFlow ops with @op.jacobian. Or, for the derivative of the gradient, "
            "attach a rule to the object that @op.numpy_jacobian returned, with @rule.gradient or "
            "@rule.numpy_gradient.",
        )
    name, other = ("gradient", "numpy_gradient") if definition.transform is Transform.VJP else ("jvp", "jvp")
    return GradientError(
        "cannot compute a second derivative: this numpy rule has no gradient rule.",
        subject=op.subject,
        remedy=f"Attach a rule to the object that @op.numpy_{name} returned, with @rule.gradient or @rule.{other}, or "
        f"write the first rule in TensorFlow ops with @op.{name}.",
    )


def detached_rule(op: ConcreteOp) -> GradientError:
    """Return the error for the derivative of a rule that TensorFlow cannot differentiate."""
    return GradientError(
        "cannot differentiate one of the op's rules: TensorFlow cannot trace how the results of the rule depend on "
        "its inputs.",
        subject=op.subject,
        remedy="Use only TensorFlow ops in the rule (no numpy, .numpy() or tf.numpy_function), and return None where "
        "there is no dependence. Or make it a numpy rule with @op.numpy_gradient. For forward mode, a JVP rule is "
        "enough: @op.jvp or @op.numpy_jvp.",
    )


def missing_jvp(op: ConcreteOp) -> GradientError:
    """Return the error for forward mode through an op without a JVP."""
    if op.forward_op is not None and op.rules.vjp is None:
        return missing_second_derivative(op)
    if op.rules.derived is Transform.JVP:  # and there is nothing to derive it from
        return GradientError(
            f"cannot compute the forward-mode derivative: {option_text(Transform.JVP)} needs a gradient rule, but the "
            "op has none.",
            subject=op.subject,
            remedy="Attach a rule with @op.gradient (TensorFlow ops) or @op.numpy_gradient (arrays).",
        )
    attach = "Attach a rule with @op.jvp (TensorFlow ops) or @op.numpy_jvp (arrays)"
    if op.rules.vjp is not None and op.forward_op is None:
        return GradientError(
            "cannot compute the forward-mode derivative: the op has no JVP rule, and its gradient rule is in numpy.",
            subject=op.subject,
            remedy=f"{attach}. To derive it from the gradient rule, pass {option_text(Transform.JVP)} to "
            "differentiable_op: a tangent then evaluates the gradient rule for each core element of the outputs. Or "
            "write the gradient rule in TensorFlow ops with @op.gradient, or replace it by the Jacobian with "
            "@op.jacobian or @op.numpy_jacobian.",
        )
    jacobian = "" if op.forward_op is not None else ", or the Jacobian with @op.jacobian or @op.numpy_jacobian"
    return GradientError(
        "cannot compute the forward-mode derivative: the op has no JVP rule and no gradient rule to derive one from.",
        subject=op.subject,
        remedy=f"{attach}, or write the gradient rule in TensorFlow ops with @op.gradient{jacobian}.",
    )
