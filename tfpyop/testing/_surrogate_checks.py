"""Checks of surrogate rules, which are not the derivatives of their function: validity and linearity."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfpyop import Op
from tfpyop.testing._check_runner import CheckRunner
from tfpyop.testing._comparisons import Point
from tfpyop.testing._derivatives import direction_of, generator_of, jvp, weights_like
from tfpyop.testing._examples import Arguments
from tfpyop.testing._gradient_checker import GradientChecker
from tfpyop.testing._linearity import require_linear

REASON = "surrogate=True: the rules are not compared with derivatives, only checked for validity and linearity"
"""The note on a passed check of a surrogate rule."""


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
