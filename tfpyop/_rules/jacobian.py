"""Jacobian rules: declare the Jacobian of an op, from which its VJP rule and its JVP rule follow.

The Jacobian has a block for each output and input. A block has the loop dimensions of the call, then the core
dimensions of the output, then the core dimensions of the input.
"""

from __future__ import annotations

from typing import Any

from tfpyop._registry.op_def import NumpyRule, OpDef, PlainRule, TensorFlowRule, Transform
from tfpyop._registry.rule_op_def import RuleOpDef
from tfpyop._rules.declaration import Wrt, names_of_inputs, require_callable
from tfpyop._rules.jacobian_products import NumpyProduct, TensorFlowProduct
from tfpyop._spec.source_location import Site
from tfpyop.errors import RegistrationError

_KIND = "Jacobian rule"


def declare_jacobian(op: OpDef, rule: Any, site: Site, wrt: Wrt = None) -> None:
    """Declare the Jacobian in TensorFlow ops.

    Raises:
      RegistrationError: The rule is not a function, the op already has a rule for one direction (and these inputs), or
        cannot have a Jacobian; or `wrt` does not name parameters.
    """
    names = _checked_names(op, rule, "jacobian", wrt)
    rules: dict[Transform, PlainRule] = {
        transform: TensorFlowRule(
            site,
            TensorFlowProduct(rule, transform, names),
            _KIND,
            decorator="jacobian",
            takes_vectors=False,
        )
        for transform in Transform
    }
    op.attach_all(rules, names)


def declare_numpy_jacobian(op: OpDef, rule: Any, site: Site, wrt: Wrt = None) -> OpDef:
    """Declare the Jacobian in numpy, and return the op of the VJP rule that follows from it.

    Raises:
      RegistrationError: The rule is not a function, the op already has a rule for one direction (and these inputs), or
        cannot have a Jacobian; or `wrt` does not name parameters.
    """
    names = _checked_names(op, rule, "numpy_jacobian", wrt)
    is_looped = not op.spec.is_vectorized
    rules: dict[Transform, NumpyRule] = {}
    for transform in Transform:
        product = NumpyProduct(rule, transform, names, loops_itself=is_looped)
        rule_op = RuleOpDef(product, op, transform, site, wrt=names, loops_itself=is_looped)
        rules[transform] = NumpyRule(site, rule_op, _KIND)
    op.attach_all({**rules}, names)
    return rules[Transform.VJP].op


def _checked_names(op: OpDef, rule: Any, decorator: str, wrt: Wrt) -> tuple[str, ...]:
    """Return the names of parameters in `wrt`, after checking that the op can have this Jacobian rule."""
    require_callable(op, rule, "a rule", decorator)
    if isinstance(op, RuleOpDef):
        raise RegistrationError(
            "the op of a numpy rule cannot have a Jacobian rule, because it has no signature.",
            subject=op.subject,
            remedy="Attach a rule with @rule.gradient (TensorFlow ops) or @rule.numpy_gradient (arrays).",
        )
    return names_of_inputs(op, wrt)
