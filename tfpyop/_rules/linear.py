"""Adjoint rules: the derivatives of ops that are linear in all or some of their inputs.

The adjoint is the VJP. The JVP is the op itself on tangents. The adjoint is linear too, and its adjoint is the op, so
every higher order follows.
"""

from __future__ import annotations

from typing import Any

from tfpyop._registry.op_def import ADJOINT, ConcreteOp, LinearRule, NumpyRule, OpDef, TensorFlowRule, Transform
from tfpyop._registry.rule_op_def import RuleOpDef
from tfpyop._rules.declaration import Wrt, names_of_inputs, require_callable
from tfpyop._spec.coercion import DType
from tfpyop._spec.missing_outputs import WithoutOutputs
from tfpyop._spec.source_location import Site
from tfpyop.errors import GradientError, RegistrationError


def declare_adjoint(op: OpDef, rule: Any, site: Site, linear_in: Wrt = None) -> None:
    """Declare an adjoint rule in TensorFlow ops.

    Raises:
      RegistrationError: The rule is not a function, the op already has a VJP or JVP rule for these inputs, or cannot
        have an adjoint; or `linear_in` does not name inputs.
    """
    names = _linear_names(op, rule, linear_in, "adjoint")
    vjp = TensorFlowRule(site, rule, ADJOINT, decorator="adjoint")
    op.attach_all({Transform.VJP: vjp, Transform.JVP: LinearRule(site)}, names)


def declare_numpy_adjoint(op: OpDef, rule: Any, site: Site, linear_in: Wrt = None) -> OpDef:
    """Declare an adjoint rule in numpy and return its op.

    Raises:
      RegistrationError: As for `declare_adjoint`.
    """
    names = _linear_names(op, rule, linear_in, "numpy_adjoint")
    rule_op = RuleOpDef(rule, op, Transform.VJP, site, wrt=names, without_outputs=WithoutOutputs.LINEAR)
    op.attach_all({Transform.VJP: NumpyRule(site, rule_op, ADJOINT), Transform.JVP: LinearRule(site)}, names)
    return rule_op


def integer_input(op: ConcreteOp, name: str, dtype: DType) -> GradientError:
    """Return the error for a call with an integer input in which the op is declared linear."""
    return GradientError(
        f"linear_in= names {name!r}, but an input of this parameter is not a floating-point number.",
        subject=op.subject,
        expected="floating or complex inputs",
        got=str(dtype),
        remedy=f"Remove {name!r} from linear_in=, or cast the input. Integers have no derivatives.",
    )


def _linear_names(op: OpDef, rule: Any, linear_in: Wrt, decorator: str) -> tuple[str, ...]:
    """Check an adjoint rule and return the names in `linear_in`."""
    require_callable(op, rule, "a rule", decorator, option="linear_in")
    if isinstance(op, RuleOpDef):
        raise RegistrationError(
            f"@op.{decorator} is not available for the op of a numpy rule.",
            subject=op.subject,
            remedy="The adjoint of an adjoint rule is the op itself, and needs no rule. For the derivative of another "
            "numpy rule, use @rule.gradient or @rule.numpy_gradient.",
        )
    if op.spec.is_stateful:
        raise RegistrationError(
            "a stateful op cannot have an adjoint rule.",
            subject=op.subject,
            remedy="The JVP would call the function again, with another state. Use @op.gradient or @op.numpy_gradient.",
        )
    return names_of_inputs(op, linear_in, option="linear_in")
