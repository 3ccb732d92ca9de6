"""Solutions of the linear systems of implicit rules, whose derivatives are solutions of other linear systems.

With J x = b, the VJP of x is the solution u of J^T u = v as the cotangent of b, and the derivative of -u^T J x as the
cotangent of J. The JVP solves J dx = db - dJ x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import tensorflow as tf

from tfpyop._lowering._tensorflow import (
    map_rows,
    record_operation,
    record_operation_backprop_only,
    stop_recording,
    wrap_for_pfor,
)
from tfpyop._lowering.autodiff.gradient_node import (
    add_forwarded,
    forwarded_inputs,
    identity_with_gradient,
    register_gradient,
    sum_of,
    unreadable_gradient,
)
from tfpyop._lowering.autodiff.iterative_solve import iterate, product_of
from tfpyop._lowering.autodiff.linearization import Linearization, Vectors
from tfpyop._lowering.autodiff.vectors import map_over
from tfpyop._lowering.xla.compilation import compiling, is_compiling
from tfpyop._registry.bind import LinearSystem
from tfpyop._registry.op_def import ConcreteOp
from tfpyop._rules.implicit_derivatives import linear_system_of, solver_of
from tfpyop._spec.rule_outputs import RuleInputs
from tfpyop._spec.tree import Json
from tfpyop.errors import GradientError

_KIND = "linear solution"


def solve_iteratively(system: LinearSystem, right: tf.Tensor, *, is_transposed: bool) -> tf.Tensor:
    """Return the solution of a linear system, with its derivatives. See `iterate`."""
    call = system.call
    kind = _Kind(is_transposed, system.names, len(call.inputs), len(call.outputs))
    tensors = [right, *call.inputs, *call.outputs, *call.residuals]
    return _recorded(system.op, kind, iterate(system, right, is_transposed=is_transposed), tensors)


@dataclass(frozen=True, slots=True)
class _Kind:
    """State which system a solution belongs to, in a form that can be written into a saved model.

    The system follows from the op and the tensors of a call. Next to these is the right-hand side.
    """

    is_transposed: bool
    names: tuple[str, ...]
    """The parameters for whose inputs the rule is; empty for all."""
    n_inputs: int
    n_outputs: int
    n_levels: int = 0
    """The number of calls of `vectorized_map` that have stacked the tensors."""

    @classmethod
    def parse(cls, detail: Any, n_tensors: int) -> _Kind:
        """Parse the detail of a gradient node. Raise UnsupportedError if it is invalid."""
        try:
            kind = cls(**{**detail, "names": tuple(detail["names"])})
        except (TypeError, LookupError) as error:
            raise unreadable_gradient(f"{detail!r:.80}") from error
        counts = (kind.n_inputs, kind.n_outputs, kind.n_levels)
        is_typed = type(kind.is_transposed) is bool and all(isinstance(name, str) for name in kind.names)
        is_possible = all(type(count) is int and count >= 0 for count in counts)
        if not is_typed or not is_possible or 2 + kind.n_inputs + kind.n_outputs > n_tensors:
            raise unreadable_gradient(f"{detail!r:.80}")
        return kind

    def write(self) -> Json:
        """Return the kind as the detail of a gradient node."""
        return {**asdict(self), "names": list(self.names)}

    def system(self, op: ConcreteOp, tensors: Sequence[tf.Tensor]) -> LinearSystem:
        """Return the system for the tensors of one call."""
        n_residuals = len(tensors) - self.n_inputs - self.n_outputs
        call = RuleInputs.flat(tensors, self.n_inputs, self.n_outputs, n_residuals)
        return linear_system_of(op, self.names, call)


def _recorded(op: ConcreteOp, kind: _Kind, solution: tf.Tensor, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return a solution that depends on the tensors: right-hand side, inputs, outputs and residuals of the call."""
    is_compiled = is_compiling()
    with stop_recording():
        if not tf.executing_eagerly():
            over_rows = partial(_over_rows, op, kind)
            passed = identity_with_gradient(op, [solution, *tensors], _KIND, kind.write(), over_rows=over_rows)
            solution = passed[0]

    def backward(cotangent: Any) -> list[Any]:
        with compiling(is_compiled):
            return _cotangents(op, kind, solution, tensors, tf.convert_to_tensor(cotangent))

    def forward(*tangents: Any) -> list[Any]:
        with compiling(is_compiled):
            linked = tf.identity(solution)  # the solution is recorded on tapes only later
            record_operation_backprop_only(_KIND, [linked], tensors, backward)
            return [_tangent(op, kind, linked, tensors, tangents)]

    record_operation(_KIND, [solution], tensors, backward, forward)
    return solution


@register_gradient(_KIND)
def _gradient(op: ConcreteOp, node: tf.Operation, cotangents: Sequence[Any], detail: Any) -> list[Any]:
    """Return the cotangents of the node that a solution and the tensors that it depends on pass through."""
    kind = _Kind.parse(detail, len(node.outputs))
    tensors, found = forwarded_inputs(node, 1), [None] * (len(node.outputs) - 1)
    if cotangents[0] is not None:
        found = _cotangents(op, kind, node.outputs[0], tensors, tf.convert_to_tensor(cotangents[0]))
    return [None, *add_forwarded(found, cotangents[1:])]


def _cotangents(
    op: ConcreteOp, kind: _Kind, solution: tf.Tensor, tensors: Sequence[tf.Tensor], cotangent: tf.Tensor
) -> list[tf.Tensor | None]:
    """Return the cotangents of the tensors that a solution depends on."""
    return _of_rows(_row_cotangents, op, kind, [solution, cotangent, *tensors], kind.n_levels)


def _tangent(
    op: ConcreteOp, kind: _Kind, solution: tf.Tensor, tensors: Sequence[tf.Tensor], tangents: Vectors
) -> tf.Tensor | None:
    """Return the tangent of a solution."""
    dense = [None if tangent is None else tf.convert_to_tensor(tangent) for tangent in tangents]
    return _of_rows(_row_tangent, op, kind, [solution, *tensors, *dense], kind.n_levels)[0]


def _of_rows(
    function: Callable[..., list[tf.Tensor | None]],
    op: ConcreteOp,
    kind: _Kind,
    values: Sequence[tf.Tensor | None],
    n_levels: int,
) -> list[tf.Tensor | None]:
    if n_levels:
        of_row = partial(_of_rows, function, op, kind, n_levels=n_levels - 1)
        return map_over(map_rows, lambda row: of_row(values=row), values, [True] * len(values))
    return function(op, kind, values)


def _row_cotangents(op: ConcreteOp, kind: _Kind, values: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    solution, cotangent, _, *tensors = map(tf.identity, values)
    system = kind.system(op, tensors)
    by_right = solve_iteratively(system, cotangent, is_transposed=not kind.is_transposed)
    by_point = _residual(kind, system, solution).vjp([-by_right])
    found: list[tf.Tensor | None] = [None] * len(tensors)
    for place, vector in zip(system.places, by_point, strict=True):
        found[place] = vector
    return [by_right, *found]


def _row_tangent(op: ConcreteOp, kind: _Kind, values: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    n_tensors = len(values) // 2
    solution, _, *tensors = [tf.identity(value) for value in values[: n_tensors + 1] if value is not None]
    of_right, *tangents = values[n_tensors + 1 :]  # copied above: the accumulator at work does not watch the copies
    system = kind.system(op, tensors)
    (moved,) = _residual(kind, system, solution).jvp([tangents[place] for place in system.places])
    change = sum_of(of_right, None if moved is None else -moved)
    if change is None:
        return [tf.zeros_like(solution)]
    return [solve_iteratively(system, change, is_transposed=kind.is_transposed)]


def _residual(kind: _Kind, system: LinearSystem, solution: tf.Tensor) -> Linearization:
    """Return the product of the matrix and the solution, as a function of the tensors that the matrix depends on."""

    def function(point: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        product = product_of(system, Linearization(system.function, point), is_transposed=kind.is_transposed)
        return [product(solution)]

    return Linearization(function, system.point)


def _over_rows(op: ConcreteOp, kind: _Kind, pfor_input: Any) -> list[Any]:
    """Convert the node of a solution in `vectorized_map`. Raise GradientError if XLA cannot compile the iterations."""
    solver = solver_of(op, kind.names)
    if isinstance(solver, str) and is_compiling():
        raise GradientError(
            f"solve={solver!r} is not available in vectorized_map in a function that XLA compiles.",
            subject=op.subject,
            remedy="TensorFlow cannot compile a loop that ends at different times in different rows. Omit solve=, or "
            "map without XLA. A Jacobian with experimental_use_pfor=False needs no vectorized_map.",
        )
    pfor_input.stack_inputs()
    solution, *tensors = [item.t for item in pfor_input.inputs]
    recorded = _recorded(op, replace(kind, n_levels=kind.n_levels + 1), solution, tensors)
    return [wrap_for_pfor(tensor, True) for tensor in (recorded, *tensors)]
