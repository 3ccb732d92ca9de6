"""Check the rules that users declare, and attach them to ops."""

from __future__ import annotations

from typing import Any

from tfpyop._registry.op_def import NumpyRule, OpDef, TensorFlowRule, Transform
from tfpyop._registry.rule_op_def import RuleOpDef
from tfpyop._spec.source_location import Site
from tfpyop.errors import RegistrationError

_DECORATORS = {Transform.VJP: "gradient", Transform.JVP: "jvp"}


def declare_rule(op: OpDef, transform: Transform, rule: Any, site: Site) -> None:
    """Declare a rule in TensorFlow ops.

    Raises:
      RegistrationError: The rule is not a function, the op already has a rule for this direction, or cannot have rules.
    """
    _require_callable(op, rule, "a rule", _DECORATORS[transform])
    op.attach(transform, TensorFlowRule(site, rule))


def declare_numpy_rule(op: OpDef, transform: Transform, rule: Any, site: Site) -> OpDef:
    """Declare a rule in numpy and return its op.

    Raises:
      RegistrationError: The rule is not a function, the op already has a rule for this direction, or cannot have rules.
    """
    _require_callable(op, rule, "a rule", f"numpy_{_DECORATORS[transform]}")
    rule_op = RuleOpDef(rule, op, transform, site)
    op.attach(transform, NumpyRule(site, rule_op))
    return rule_op


def declare_native(op: OpDef, implementation: Any, site: Site) -> None:
    """Declare the native implementation.

    Raises:
      RegistrationError: The implementation is not a function, the op already has one, or the op is bound to an
        instance.
    """
    _require_callable(op, implementation, "an implementation", "native")
    op.attach_native(TensorFlowRule(site, implementation))


def _require_callable(op: OpDef, rule: Any, what: str, decorator: str) -> None:
    if not callable(rule):
        raise RegistrationError(
            f"{rule!r:.80} is not {what}.",
            subject=op.subject,
            remedy=f"Use the decorator without parentheses: @op.{decorator}",
        )
