"""Implicit rules: declare the equation that the outputs solve, from which the VJP rule and the JVP rule follow."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, Literal

from tfpyop._registry.op_def import OpDef, PlainRule, TensorFlowRule, Transform
from tfpyop._registry.rule_op_def import RuleOpDef
from tfpyop._rules.declaration import Wrt, names_of_inputs, require_callable
from tfpyop._rules.implicit_derivatives import ImplicitDerivative, StationaryDerivative
from tfpyop._rules.linear_system import EquationOptions
from tfpyop._spec.coercion import is_differentiable
from tfpyop._spec.source_location import Site
from tfpyop.errors import RegistrationError, nearest

Solver = Literal["cg", "normal-cg"] | Callable[[Callable[[Any], Any], Any], Any]
"""The values of `solve=`."""
SOLVERS = ("cg", "normal-cg")
"""The solvers that `solve=` accepts by name."""
_KINDS = {"implicit": ImplicitDerivative, "stationary": StationaryDerivative}


def declare_equation(op: OpDef, decorator: str, rule: Any, site: Site, wrt: Wrt, *, solve: Any, verify: Any) -> None:
    """Declare the equation that the outputs solve, or the objective whose gradient by the outputs is zero.

    Args:
      op: The op.
      decorator: The name of the decorator, `implicit` or `stationary`.
      rule: The user's function of a call that returns the residuals or the objective.
      site: Where the rule was attached.
      wrt: The parameters for whose inputs the rule is. None: all.
      solve: `"cg"`, `"normal-cg"`, a function `solve(matvec, b)`, or None.
      verify: The largest absolute value of the residual, or None.

    Raises:
      RegistrationError: The rule is not a function, the op already has a rule for one direction (and these inputs), or
        cannot have such a rule; `wrt` does not name parameters; or `solve` or `verify` is invalid.
    """
    require_callable(op, rule, "a rule", decorator)
    names = names_of_inputs(op, wrt)
    _require_possible(op, decorator)
    derivative = _KINDS[decorator]
    _require_limit(op, verify, derivative.zero)
    _require_solver(op, solve)
    kind = f"{decorator} rule"
    options = EquationOptions(
        f"{kind} of {op.subject}", None if verify is None else float(verify), solve, derivative.zero
    )
    rules: dict[Transform, PlainRule] = {
        transform: TensorFlowRule(
            site,
            derivative(rule, transform, names, options),
            kind,
            decorator=decorator,
            takes_vectors=False,
            has_numpy_form=False,
        )
        for transform in Transform
    }
    op.attach_all(rules, names)


def _require_possible(op: OpDef, decorator: str) -> None:
    if isinstance(op, RuleOpDef):
        raise RegistrationError(
            f"@op.{decorator} is not available for the op of a numpy rule.",
            subject=op.subject,
            remedy="Attach a rule with @rule.gradient (TensorFlow ops) or @rule.numpy_gradient (arrays).",
        )
    floating = [
        name
        for name, residual in op.spec.residuals.items()
        if residual.dtype is None or is_differentiable(residual.dtype)
    ]
    if floating:
        raise RegistrationError(
            f"the op saves the residual {floating[0]!r}, which TensorFlow cannot differentiate in @op.{decorator}.",
            subject=op.subject,
            remedy="Compute the value in the rule, from op.inputs and op.outputs, and remove it from residuals=.",
        )


def _require_solver(op: OpDef, solver: Any) -> None:
    if solver is None or solver in SOLVERS or (callable(solver) and not isinstance(solver, str)):
        return
    raise RegistrationError(
        "solve= is invalid.",
        subject=op.subject,
        expected=f"{', '.join(map(repr, SOLVERS))}, or a function, called as solve(matvec, b)",
        got=f"{solver!r:.80}",
        remedy=nearest(solver, SOLVERS) if isinstance(solver, str) else "Omit solve= to solve with a matrix.",
    )


def _require_limit(op: OpDef, verify: Any, zero: str) -> None:
    is_number = isinstance(verify, numbers.Real) and not isinstance(verify, bool)
    if verify is not None and not (is_number and 0 < verify < math.inf):
        raise RegistrationError(
            "verify= is invalid.",
            subject=op.subject,
            expected=f"the largest absolute value of the {zero}, a positive number",
            got=f"{verify!r:.80}",
            remedy="Pass a number, such as verify=1e-6, or omit verify=.",
        )
