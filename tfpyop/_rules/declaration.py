"""Check the rules that users declare, and attach them to ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfpyop._registry.op_def import NumpyRule, OpDef, TensorFlowRule, Transform
from tfpyop._registry.rule_op_def import RuleOpDef
from tfpyop._rules.numerical import NumericalRule
from tfpyop._rules.pairs import with_derived_rule
from tfpyop._spec.missing_outputs import WithoutOutputs
from tfpyop._spec.source_location import Site
from tfpyop.errors import RegistrationError, nearest

Wrt = str | Sequence[str] | None
"""The parameters for whose inputs a rule is: a name, several names, or None for all."""
_DECORATORS = {Transform.VJP: "gradient", Transform.JVP: "jvp"}


def declare_rule(op: OpDef, transform: Transform, rule: Any, site: Site, wrt: Wrt = None) -> None:
    """Declare a rule in TensorFlow ops.

    Raises:
      RegistrationError: The rule is not a function, the op already has a rule for this direction (and these inputs), or
        cannot have rules; or `wrt` does not name parameters.
    """
    require_callable(op, rule, "a rule", _DECORATORS[transform])
    names = names_of_inputs(op, wrt)
    op.attach_all(with_derived_rule(op, transform, TensorFlowRule(site, rule), names), names)


def declare_numpy_rule(
    op: OpDef, transform: Transform, rule: Any, site: Site, wrt: Wrt = None, *, uses_outputs: bool = True
) -> OpDef:
    """Declare a rule in numpy and return its op.

    Raises:
      RegistrationError: The rule is not a function, the op already has a rule for this direction (and these inputs), or
        cannot have rules; `wrt` does not name parameters; or `uses_outputs` is False for a stateful op.
    """
    require_callable(op, rule, "a rule", f"numpy_{_DECORATORS[transform]}")
    names = names_of_inputs(op, wrt)
    without_outputs = None if uses_outputs else WithoutOutputs.OPTION
    if without_outputs is not None and op.spec.is_stateful:
        raise RegistrationError(
            "uses_outputs=False is not available for a stateful op.",
            subject=op.subject,
            remedy="Remove it: some derivatives of the rule would call the function again, with another state.",
        )
    is_numerical = isinstance(rule, NumericalRule)
    rule_op = RuleOpDef(
        rule, op, transform, site, wrt=names, without_outputs=without_outputs, calls_function=is_numerical
    )
    kind = rule.option if isinstance(rule, NumericalRule) else ""
    op.attach_all(with_derived_rule(op, transform, NumpyRule(site, rule_op, kind), names), names)
    return rule_op


def declare_native(op: OpDef, implementation: Any, site: Site) -> None:
    """Declare the native implementation.

    Raises:
      RegistrationError: The implementation is not a function, the op already has one, or the op is bound to an
        instance.
    """
    require_callable(op, implementation, "an implementation", "native")
    op.attach_native(TensorFlowRule(site, implementation))


def names_of_inputs(op: OpDef, wrt: Wrt, *, option: str = "wrt") -> tuple[str, ...]:
    """Return the names of parameters in `wrt` or another option, without names if the rule is for all inputs.

    Raises:
      RegistrationError: The names are not names of inputs, or the inputs of the op have no names.
    """
    if wrt is None:
        return ()
    names = (wrt,) if isinstance(wrt, str) else tuple(wrt) if isinstance(wrt, list | tuple) else ()
    known = [name for name in op.spec.parameters.input_names if name not in ("self", "cls")]
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise RegistrationError(
            f"{option}= is invalid.",
            subject=op.subject,
            expected="the name of a parameter, or a tuple of different names",
            got=f"{wrt!r:.80}",
            remedy=f"Inputs of the op: {', '.join(map(repr, known)) or 'unknown'}.",
        )
    if isinstance(op, RuleOpDef) or op.spec.parameters.signature is None:
        what = "the op of a numpy rule" if isinstance(op, RuleOpDef) else "a function without readable parameters"
        raise RegistrationError(
            f"{option}= is not available for {what}, whose inputs have no names.",
            subject=op.subject,
            remedy=f"Attach one rule for all inputs, without {option}=, and use op.needs in it.",
        )
    for name in names:
        if name not in known:
            is_static = name in op.spec.parameters.static_parameters
            raise RegistrationError(
                f"{option}= names {name!r}, which is {'a static parameter' if is_static else 'not a parameter'}.",
                subject=op.subject,
                remedy=f"Only inputs have derivatives. {nearest(name, known)}" if is_static else nearest(name, known),
            )
    return names


def require_callable(op: OpDef, rule: Any, what: str, decorator: str, *, option: str = "wrt") -> None:
    """Raise RegistrationError if a rule is not a function, with the right use of the decorator."""
    if callable(rule):
        return
    is_name = decorator != "native" and isinstance(rule, str) and rule in op.spec.parameters.input_names
    raise RegistrationError(
        f"{rule!r:.80} is not {what}.",
        subject=op.subject,
        remedy=f"For a rule for some inputs, write @op.{decorator}({option}={rule!r:.80})."
        if is_name
        else f"Use the decorator without parentheses: @op.{decorator}",
    )
