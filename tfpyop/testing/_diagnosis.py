"""Diagnosis: the likely cause of a wrong cotangent, from how it relates to the right one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfpyop._coercion import Array
from tfpyop.errors import ContractError

_FACTORS = {2.0: "a factor of 2 too much", 0.5: "a factor of 2 is missing", 3.0: "a factor of 3 too much"}


def likely_cause(
    got: Array, right: Array, *, others: Sequence[Array | None], doubled: Array | None, number: int
) -> str | None:
    """What explains a wrong cotangent of one input, if it can be told.

    Args:
      got: What the rule returned.
      right: The numerical cotangent.
      others: The numerical cotangents of all inputs, None where there is none.
      doubled: What the rule returns for twice the cotangents of the outputs.
      number: Which input.
    """
    if not np.any(got):
        return "the rule returns None or zeros for an input that matters"
    candidates = [
        ("the wrong sign", got, -right),
        *((text, got, factor * right) for factor, text in _FACTORS.items()),
        ("it is transposed", got, np.swapaxes(right, -1, -2) if right.ndim >= 2 else None),
        ("the conjugate is missing, or too much", got, np.conj(right)),
        *((f"it is the cotangent of input {n}", got, other) for n, other in enumerate(others) if n != number),
        ("the rule does not use the cotangent it is given", doubled, got),
        ("the rule uses the cotangent twice", doubled, 4 * got),
        ("the sign is wrong for some elements only", np.abs(got), np.abs(right)),
    ]
    return next((text for text, left, other in candidates if _alike(left, other)), None)


def cause_of_refusal(error: ContractError) -> str | None:
    """What explains that a cotangent has the wrong shape, if it can be told."""
    expected, got = (str(side).count(",") + ("[]" not in str(side)) for side in (error.expected, error.got))
    if "wrong shape" not in error.problem or got <= expected:
        return None
    return "it is not reduced over dimensions that broadcasting added to this input: sum over them with tf.reduce_sum"


def _alike(left: Array | None, right: Array | None) -> bool:
    if left is None or right is None:
        return False
    scale = float(np.max(np.abs(right), initial=0.0))
    return left.shape == right.shape and bool(np.allclose(left, right, rtol=1e-4, atol=1e-6 * scale))
