"""Ops of tfpyop itself for rules that solve linear systems: the solution, and checks of values, on the host.

In TensorFlow ops, a singular system would give infinite numbers under XLA. On the host it raises in every mode.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tfpyop._registry.bind import bind, lowering
from tfpyop._registry.function_op_def import FunctionOpDef
from tfpyop._registry.op_def import REGISTRY, RuleSet, TensorFlowRule
from tfpyop._spec.coercion import Array
from tfpyop._spec.op_spec import OpSpec
from tfpyop._spec.parameters import Parameters
from tfpyop._spec.rule_context import RuleContext
from tfpyop._spec.signature import Signature
from tfpyop._spec.source_location import Site
from tfpyop.errors import GradientError

_SINGULAR_REMEDY = (
    "The outputs have no unique derivative by the inputs here. Check that the residual depends on every output, and "
    "that no other solution is close to this one."
)


def solve(matrix: Any, right: Any, *, owner: str, precision: float, skips_zeros: bool) -> Any:
    """Return the solution of real linear systems. The matrices are the Jacobians of a residual by the outputs.

    Args:
      matrix: The matrices, a tensor of shape `[..., n, n]`.
      right: The right-hand sides, a tensor of shape `[..., n]`.
      owner: The rule and op that need the solution, for errors.
      precision: The relative rounding error of the matrices. A matrix with a smaller reciprocal condition number is
        singular.
      skips_zeros: Whether the solution for a right-hand side of zeros is zero, even if the matrix is singular.

    Raises:
      GradientError: A matrix is singular or not finite. In a graph, it is raised when the graph runs.
    """
    static = {"owner": owner, "precision": precision, "skips_zeros": skips_zeros}
    (solution,) = bind(_SOLVE.specialize(None, static), [matrix, right])
    return solution


def require_small(value: Any, error: Any, *, owner: str, limit: float, what: str) -> Any:
    """Return a tensor of shape `[..., n]` unchanged, after checking errors of the same shape.

    Args:
      value: The tensor.
      error: The errors.
      owner: The rule and op that need the value, for errors.
      limit: The largest absolute value of an error.
      what: Which check this is: a key of `_CHECKS`.

    Raises:
      GradientError: An error is too large or not a number. In a graph, it is raised when the graph runs.
    """
    (checked,) = bind(_CHECKED.specialize(None, {"owner": owner, "limit": limit, "what": what}), [value, error])
    return checked


def _solve(matrix: Array, right: Array, *, owner: str, precision: float, skips_zeros: bool) -> Array:
    loop, n = np.broadcast_shapes(matrix.shape[:-2], right.shape[:-1]), right.shape[-1]
    if 0 in (*loop, n):
        return np.zeros((*loop, n), right.dtype)
    is_skipped = np.broadcast_to(np.all(right == 0, -1) & skips_zeros, loop)
    matrix = np.where(is_skipped[..., None, None], np.eye(n, dtype=matrix.dtype), matrix)
    reciprocals = _reciprocal_conditions(matrix)
    is_singular: Array = np.logical_not(reciprocals > precision)
    if is_singular.any():
        index = tuple(int(place) for place in np.argwhere(is_singular)[0])
        is_finite = bool(np.isfinite(matrix[index]).all())
        where = f", at element {list(index)} of the loop dimensions" if loop else ""
        raise GradientError(
            f"the Jacobian of the residual by the outputs is {'singular' if is_finite else 'not finite'}.",
            subject=owner,
            expected=f"a reciprocal condition number larger than {precision:.1g}",
            got=f"{reciprocals[index]:.1g}{where}" if is_finite else f"infinity or NaN{where}",
            remedy=_SINGULAR_REMEDY if is_finite else "Check that the residual is differentiable at the solution.",
        )
    return np.asarray(np.linalg.solve(matrix, right[..., None])[..., 0])


def _reciprocal_conditions(matrix: Array) -> Array:
    """Return the reciprocal condition number of each matrix, independent of the units of rows and columns."""
    scaled = matrix
    with np.errstate(all="ignore"):
        for axis in (-1, -2):
            scaled = scaled / np.max(np.abs(scaled), axis, keepdims=True)
        is_known: Array = np.all(np.isfinite(scaled), axis=(-1, -2))
        known = np.where(is_known[..., None, None], scaled, 0)
        return np.asarray(np.where(is_known, 1 / np.linalg.cond(known, 1), 0))


def _checked(value: Array, error: Array, *, owner: str, limit: float, what: str) -> Array:
    is_wrong: Array = np.logical_not(np.abs(error) <= limit)
    if is_wrong.any():
        place = tuple(int(index) for index in np.argwhere(is_wrong)[0])
        where = f", at element {list(place[:-1])} of the loop dimensions" if error.ndim > 1 else ""
        raise _CHECKS[what](owner, limit, f"{np.abs(error[place]):.3g}{where}")
    checked: Array = np.broadcast_to(value, np.broadcast_shapes(value.shape, error.shape))
    return checked


def _wrong_residual(owner: str, limit: float, got: str) -> GradientError:
    return GradientError(
        "the residual is not zero at the value that the function returned.",
        subject=owner,
        expected=f"absolute values up to {limit:.3g}",
        got=got,
        remedy="Check that the residual belongs to the equation that the function solves. Reduce the tolerance of the "
        "solver, or increase verify=, the largest absolute value of the residual that is allowed.",
    )


def _wrong_solution(owner: str, limit: float, got: str) -> GradientError:
    return GradientError(
        "the linear solver in solve= found no solution. The Jacobian of the residual by the outputs may be singular.",
        subject=owner,
        expected=f"an error relative to the right-hand side up to {limit:.3g}",
        got=got,
        remedy="If the Jacobian is invertible, allow more iterations in the solver, or omit solve=.",
    )


def _wrong_gradient(owner: str, limit: float, got: str) -> GradientError:
    return GradientError(
        "the gradient of the objective is not zero at the value that the function returned.",
        subject=owner,
        expected=f"absolute values up to {limit:.3g}",
        got=got,
        remedy="Check that the function returns a stationary point of this objective. Reduce the tolerance of the "
        "optimizer, or increase verify=, the largest absolute value of the gradient that is allowed.",
    )


_CHECKS = {
    "residual": _wrong_residual,
    "gradient of the objective": _wrong_gradient,
    "linear": _wrong_solution,
}


def _solve_vjp(op: RuleContext, cotangent: Any) -> tuple[Any, Any]:
    tf = lowering().tf
    by_right = _again(op, tf.linalg.matrix_transpose(op.inputs[0]), cotangent)
    return -by_right[..., :, None] * op.outputs[0][..., None, :], by_right


def _solve_jvp(op: RuleContext, of_matrix: Any, of_right: Any) -> Any:
    tf = lowering().tf
    return _again(op, op.inputs[0], of_right - tf.linalg.matvec(of_matrix, op.outputs[0]))


def _again(op: RuleContext, matrix: Any, right: Any) -> Any:
    return solve(matrix, right, owner=op.static.owner, precision=op.static.precision, skips_zeros=True)


def _define(function: Callable[..., Any], signature: str, vjp: Callable[..., Any], jvp: Callable[..., Any]) -> Any:
    """Define an op of tfpyop itself, which is found by its token but is not listed for users."""
    site = Site.of(function, sys._getframe())
    name = f"tfpyop:{function.__name__.strip('_')}"
    spec = OpSpec(
        name,
        "tfpyop",
        False,
        site,
        Parameters.of(function, ()),
        signature=Signature.parse(signature),
        compute_dtype=np.dtype(np.float64),
    )
    rules = RuleSet(TensorFlowRule(site, vjp), TensorFlowRule(site, jvp))
    definition = FunctionOpDef(function, spec, rules, lambda definition: definition)
    REGISTRY.add_internal(definition)
    return definition


_SOLVE = _define(_solve, "(n,n),(n)->(n)", _solve_vjp, _solve_jvp)
_CHECKED = _define(
    _checked,
    "(n),(n)->(n)",
    lambda op, cotangent: (cotangent, None),
    lambda op, of_value, of_error: of_value,
)
