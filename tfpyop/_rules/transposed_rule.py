"""Derive the missing rule of a pair: the VJP rule from a JVP rule, or the JVP rule from a VJP rule, on request.

The known rule is called with basis vectors, all at once in a further loop dimension. The inner products of its results
with the given vectors are the vectors that the derived rule returns. In the real inner product of TensorFlow's complex
cotangents, (c, J t) = (A c, t), so both directions are the same computation. A complex element has two basis vectors, 1
and i, because the function may not be analytic.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from tfpyop._registry.op_def import ConcreteOp, Transform, dtype_of, option_text
from tfpyop._rules.derived_rule import DerivedRule, shape_of
from tfpyop._spec.coercion import Array, in_float64, is_differentiable, is_half
from tfpyop._spec.rule_context import RuleContext, as_seen_by_rules
from tfpyop._spec.rule_values import describe_rule_call, rule_values, without_missing
from tfpyop._spec.undefined import UNDEFINED, undefined_vector
from tfpyop.errors import GradientError, annotate

_MOST_CONFIRMED = 16
_ROUGH, _ROUGH_OF_HALF = 1e-2, 0.2
"""The difference of results, relative to the sum of the magnitudes of their terms, that rounding does not explain."""


class TransposedRule(DerivedRule):
    """Compute a VJP from a JVP rule, or a JVP from a VJP rule, by basis vectors. Called like a rule for its direction.

    Args:
      rule: The user's rule for the other direction.
      transform: The direction that is derived.
      wrt: The parameters for whose inputs the rule is. Default: all.
      loops_itself: Whether the user's rule takes core dimensions only.
      takes_rows: Whether the user's rule takes exactly one loop dimension.
    """

    _confirmed: tuple[Hashable, ...] = ()
    """The kinds of calls for which the rule is known to return the same for one vector as for many."""

    @property
    def what(self) -> str:
        """The option that requests the rule, for error messages."""
        return option_text(self.transform)

    @property
    def is_vjp(self) -> bool:
        """Whether the derived rule is a VJP rule."""
        return self.transform is Transform.VJP

    def sides(self, op: RuleContext, numbers: Sequence[int]) -> tuple[Sequence[Any], Sequence[Any]]:
        """Return the values that the basis vectors belong to, and the values that the results of the rule belong to."""
        inputs = [op.inputs[number] for number in numbers]
        return (inputs, op.outputs) if self.is_vjp else (op.outputs, inputs)

    def wanted_values(self, op: RuleContext, numbers: Sequence[int], returned: Any) -> Sequence[tuple[int, Any]]:
        """Return the vectors that the user's rule returned, each with the index of its output or input.

        A vector is None if it is zero, not needed, or belongs to integers.

        Args:
          op: The call of the user's rule.
          numbers: The indices of the inputs that the rule is for.
          returned: What the user's rule returned.

        Raises:
          ContractError: The number of vectors is wrong.
          GradientError: A vector that is needed is UNDEFINED.
        """
        kind, like = (
            ("tangent", "outputs") if self.is_vjp else ("cotangent", "inputs in wrt=" if self.wrt else "inputs")
        )
        places = range(len(op.outputs)) if self.is_vjp else self.places(op)
        values = without_missing(rule_values(returned, len(places), kind, like), places)
        found: list[tuple[int, Any]] = []
        results = self.sides(op, numbers)[1]
        for number, result, value in zip(without_missing(places, places), results, values, strict=True):
            assert number is not None
            is_wanted = is_differentiable(dtype_of(result)) and (self.is_vjp or op.needs[number])
            if is_wanted and value is UNDEFINED:
                raise undefined_vector(kind, number if self.is_vjp else self.place(op, number))
            found.append((number, value if is_wanted else None))
        return found

    def is_confirmed(self, op: RuleContext) -> bool:
        """Return whether the rule need not be called with a single vector, because it was for inputs like these."""
        assert isinstance(op._op, ConcreteOp)
        return self._kind(op) in self._confirmed or op._op.definition.spec.is_stateful

    def confirm(self, op: RuleContext, alone: Sequence[Array | None], among: Sequence[Array | None]) -> None:
        """Compare the results of the rule for one vector with its results for the same vector among many.

        A rule that mixes loop dimensions, such as `matrix @ tangent`, is wrong for many vectors only.

        Args:
          op: The call.
          alone: The results for one vector; None for zero.
          among: The terms of the results for the same vector, by linearity, in a first dimension.

        Raises:
          GradientError: The results differ.
        """
        is_rough = any(is_half(dtype_of(value)) for value in (*op.inputs, *op.outputs))
        for one, terms in zip(alone, among, strict=True):
            left = np.zeros(()) if one is None else one
            right = np.zeros((1,)) if terms is None else terms
            scale = np.abs(right).sum(axis=0).max(initial=0.0)
            apart = np.abs(left - right.sum(axis=0))
            tolerance = (_ROUGH_OF_HALF if is_rough else _ROUGH) * max(scale, np.abs(left).max(initial=0.0))
            if np.isfinite(scale) and np.any(apart > tolerance):
                raise GradientError(
                    f"the {self._known} rule returns something else for one vector than for several vectors at once.",
                    got=f"a difference of {apart.max():.3g}, with numbers up to {scale:.3g}",
                    remedy=f"{self._explanation} Work along the last dimensions, as in "
                    "(matrix @ vector[..., None])[..., 0] and values.sum(-1). If the function and its rules take core "
                    "dimensions only, pass vectorized=False. The rule must also be linear in the vectors.",
                )
        self._confirmed = (*self._confirmed, self._kind(op))[-_MOST_CONFIRMED:]  # one assignment, to be thread-safe

    def _kind(self, op: RuleContext) -> Hashable:
        return (*[(dtype_of(value).str, shape_of(value)) for value in op.inputs], op.needs)

    def _evaluate(self, bound: Sequence[Any], op: RuleContext, vectors: Sequence[Any] = ()) -> Any:
        """Call the user's rule. Add a note to its exceptions that shows how the rule was called."""
        if self.is_vjp:
            given = iter(vectors)
            vectors = [None if place is None else next(given) for place in self.places(op)]
        try:
            return self.rule(*bound, as_seen_by_rules(op), *vectors)
        except Exception as error:
            called = describe_rule_call("tangent" if self.is_vjp else "cotangent", len(vectors), is_bound=bool(bound))
            annotate(error, f"Raised in the {self._known} rule, called as {called}. {self._explanation}")
            raise

    @property
    def _known(self) -> str:
        return "JVP" if self.is_vjp else "gradient"

    @property
    def _explanation(self) -> str:
        place = (
            "in further rows of all values"
            if self.takes_rows
            else "in a further loop dimension of all values if the rule supports loop dimensions"
        )
        return f"{self.what} calls the {self._known} rule with basis vectors, {place}."

    def explain(self, error: Exception) -> None:
        """Add the note on basis vectors to an error about the result of the user's rule."""
        annotate(error, self._explanation)


def weights_of_basis(n_vectors: int) -> Array:
    """Return the weights with which basis vectors add up to the vector that confirms a rule."""
    generator = np.random.default_rng(0)
    return np.asarray(generator.uniform(0.5, 1.5, n_vectors) * generator.choice([-1.0, 1.0], n_vectors))


def weighted(weights: Array, columns: Array) -> Array:
    """Return the columns, in the first dimension, times their weights, in double precision."""
    return weights.reshape(-1, *[1] * (columns.ndim - 1)) * in_float64(columns)
