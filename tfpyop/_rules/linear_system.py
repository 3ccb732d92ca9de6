"""The linear system of an implicit rule for one call, for solvers without a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tfpyop._registry.bind import TensorFunction, lowering
from tfpyop._registry.op_def import ConcreteOp
from tfpyop._rules.linear_solve import require_small
from tfpyop._rules.unknowns import Unknowns
from tfpyop._spec.rule_context import RuleContext
from tfpyop._spec.rule_outputs import RuleInputs


@dataclass(frozen=True, slots=True)
class EquationOptions:
    """Store the options of an implicit rule.

    Attributes:
      subject: The rule and the op, for errors.
      verify: The largest absolute value of the residual, or None if it is not checked.
      solver: How linear systems are solved without a matrix: `"cg"`, `"normal-cg"`, or a user's function. None: by a
        matrix for each loop element.
      zero: The quantity that is zero at the solution, in words.
    """

    subject: str
    verify: float | None = None
    solver: Any = None
    zero: str = "residual"


class CallSystem:
    """The Jacobian of the residuals by the outputs of all loop elements.

    Args:
      function: Returns the residuals, for other tensors at the places.
      context: The call.
      places: The indices of the differentiable inputs and outputs among all tensors of the call.
      n_inputs: The number of differentiable inputs.
      unknowns: The outputs as vectors.
      options: The options of the rule.
      names: The parameters for whose inputs the rule is; empty for all.
    """

    def __init__(
        self,
        function: TensorFunction,
        context: RuleContext,
        places: Sequence[int],
        n_inputs: int,
        unknowns: Unknowns,
        options: EquationOptions,
        names: tuple[str, ...],
    ) -> None:
        assert isinstance(context._op, ConcreteOp)
        assert context._call is not None
        self.op = context._op
        self.names = names
        self.call = RuleInputs(context.inputs, context.outputs, context._call.residuals, ())
        self.places = places
        values = [*context.inputs, *context.outputs]
        self.point: Sequence[Any] = [values[place] for place in places]
        self.function = function
        self.n_others = n_inputs
        self.solver = options.solver
        self.precision = unknowns.precision
        self._unknowns = unknowns
        self._subject = options.subject

    def join(self, vectors: Sequence[Any]) -> Any:
        """Return one vector for each output (None: zeros) as one vector."""
        return lowering().tf.reshape(self._unknowns.join(vectors), [-1])

    def split(self, vector: Any) -> list[Any]:
        """Return a vector as one vector for each output."""
        return self._unknowns.split(self._unknowns.as_matrix(vector))

    def require_solved(self, solution: Any, error: Any) -> Any:
        """Return the solution unchanged. Raise GradientError if the relative error is too large."""
        limit = self.precision**0.5
        return require_small(solution, error, owner=self._subject, limit=limit, what="linear")


def with_tensors(op: RuleContext, places: Sequence[int], tensors: Sequence[Any]) -> RuleContext:
    """Return the context with other tensors at these indices of the inputs and outputs."""
    values = [*op.inputs, *op.outputs]
    for place, tensor in zip(places, tensors, strict=True):
        values[place] = tensor
    return replace(op, inputs=tuple(values[: len(op.inputs)]), outputs=tuple(values[len(op.inputs) :]))
