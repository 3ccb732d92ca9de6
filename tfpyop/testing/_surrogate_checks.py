"""Checks of surrogate rules, which are not the derivatives of their function: validity and linearity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfpyop import Op
from tfpyop._spec.coercion import Array
from tfpyop.testing._check_runner import CheckRunner
from tfpyop.testing._comparisons import SUBNORMAL, Point, Vectors, first_of, tolerance_of
from tfpyop.testing._derivatives import direction_of, generator_of, jvp, weights_like
from tfpyop.testing._examples import Arguments
from tfpyop.testing._gradient_checker import GradientChecker

REASON = "surrogate=True: the rules are not compared with derivatives, only checked for validity and linearity"
"""The note on a passed check of a surrogate rule."""
_FACTORS = (0.75, -1.5)
"""The factors of the two vectors in the check of linearity."""


class SurrogateGradientChecker(GradientChecker):
    """Check that the surrogate gradient of an op is valid, and linear in the cotangents."""

    def __call__(self, arguments: Arguments) -> None:
        """Raise CheckError if a cotangent is invalid, or does not depend linearly on the cotangents of the outputs."""
        at = Point.of(self._check, self._op, arguments)
        require_linear(
            self._check,
            lambda weights: self._gradients(at, weights),
            [weights_like(at.outputs, generator_of(at.arrays, seed)) for seed in (1, 2)],
            lambda number: f"the cotangent of {self._input(at, number)} is not linear in the cotangents of the outputs",
            mode=self._mode,
        )

    def require_all_judged(self) -> None:
        """Do nothing: every example is judged."""


def check_surrogate_jvp(check: CheckRunner, op: Op[..., Any], arguments: Arguments) -> None:
    """Raise CheckError if a tangent of an op with a surrogate JVP rule is not linear in the tangents of the inputs."""
    at = Point.of(check, op, arguments)
    first = direction_of(at.arrays, at.varied)
    scaled = [None if move is None else np.arange(1, move.size + 1).reshape(move.shape) * move for move in first]
    require_linear(
        check,
        lambda vectors: jvp(at.push, at.tensors, vectors),
        [first, scaled],
        lambda number: f"the tangent of output {number} is not linear in the tangents of the inputs",
    )


def require_linear(
    check: CheckRunner,
    rule: Callable[[Vectors], Sequence[Array | None]],
    vectors: Sequence[Vectors],
    problem: Callable[[int], str],
    **details: Any,
) -> None:
    """Raise CheckError unless a rule is linear in its vectors.

    Args:
      check: The check.
      rule: Returns the results of the rule for vectors.
      vectors: Two lists of vectors.
      problem: Returns the problem for the index of a result.
      **details: Further details of the failure.
    """
    left, right = _FACTORS
    pairs = list(zip(*vectors, strict=True))
    combined = [None if u is None or v is None else _like(left * u + right * v, u) for u, v in pairs]
    results = zip(rule(vectors[0]), rule(vectors[1]), rule(combined), strict=True)
    for number, (first, second, both) in enumerate(results):
        if first is None or second is None or both is None:
            if not (first is None and second is None and both is None):
                raise check.failure(f"{problem(number)}: it is None for some of them.", **details)
            continue
        expected = np.asarray(left * first + right * second)
        scale = np.abs(left * first) + np.abs(right * second)
        tolerance = tolerance_of(both) * (scale + np.max(scale, initial=0.0)) + SUBNORMAL
        with np.errstate(invalid="ignore"):
            wrong = np.isfinite(expected) & ~(np.abs(both - expected) <= tolerance)
        if wrong.any():
            index = first_of(wrong)
            raise check.failure(
                f"{problem(number)}, at element {list(index)}.",
                expected=f"{expected[index]:.9g}, the combination of the results for two vectors",
                got=f"{both[index]:.9g}",
                **details,
            )


def _like(array: Array, model: Array) -> Array:
    return array.astype(np.asarray(model).dtype, copy=False)
