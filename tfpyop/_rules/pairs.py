"""Pairs of rules: attach the missing rule of a pair together with the known rule, if the op's options request it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfpyop._registry.op_def import OPTIONS, NumpyRule, OpDef, PlainRule, TensorFlowRule, Transform, option_text
from tfpyop._registry.rule_op_def import RuleOpDef
from tfpyop._rules.transposed_numpy import NumpyTranspose
from tfpyop._rules.transposed_tensorflow import TensorFlowTranspose
from tfpyop.errors import RegistrationError


def requested_transform(options: Mapping[str, Any]) -> Transform | None:
    """Return the direction whose rule the options request from the rule for the other direction.

    Raises:
      RegistrationError: Both directions are requested.
    """
    requested = [transform for transform, (option, value) in OPTIONS.items() if _is_text(options[option], value)]
    if len(requested) == 2:
        raise RegistrationError(
            f"{option_text(Transform.VJP)} and {option_text(Transform.JVP)} derive each rule from the other one.",
            remedy="Remove one of the two, and attach a rule for the other direction.",
        )
    return requested[0] if requested else None


def with_derived_rule(
    op: OpDef, transform: Transform, rule: TensorFlowRule | NumpyRule, names: tuple[str, ...]
) -> Mapping[Transform, PlainRule]:
    """Return a rule, with the rule for the other direction if the options of the op request it."""
    derived = op.rules.derived
    if derived is None or derived is transform:
        return {transform: rule}
    site = rule.site
    kind = option_text(derived)
    other: PlainRule
    if isinstance(rule, TensorFlowRule):
        decorator = "jvp" if derived is Transform.VJP else "gradient"
        transpose = TensorFlowTranspose(rule.function, derived, names)
        other = TensorFlowRule(site, transpose, kind, decorator=decorator, annotates=True)
    else:
        is_looped = not op.spec.is_vectorized
        function = NumpyTranspose(
            rule.op.function, derived, names, loops_itself=is_looped, takes_rows=op.spec.takes_rows
        )
        other = NumpyRule(site, RuleOpDef(function, op, derived, site, wrt=names, loops_itself=is_looped), kind)
    return {transform: rule, derived: other}


def _is_text(value: Any, text: str) -> bool:
    return isinstance(value, str) and value == text
