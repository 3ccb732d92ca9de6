"""Why a numerical derivative is not reliable, as far as the function's values next to the point show it.

Used only for errors. It reports what is certain, and otherwise nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tfpyop._spec.array_like import Array

_STEPS = (2.0**-10, 2.0**-20, 2.0**-30, 2.0**-40)
"""The steps that are compared, relative to the magnitude of what is moved."""
_SAME_GAP = 0.01
"""How far the gaps between both sides may differ at a jump, relative to their size."""
_CLEAR = 1e-9
"""How large a jump must be, relative to the values, to be distinguishable from rounding."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a derivative is not reliable.

    Attributes:
      problem: The cause, as a sentence.
      remedy: What the user can do.
    """

    problem: str
    remedy: str


CONTRADICTED = Cause(
    "the function's values next to this point contradict the slope over larger steps.",
    "The function may have low steps, fast waves or a kink next to this point. If it varies on a scale far from the "
    "magnitude of its inputs, set grad=tfpyop.numerical(step=..., smallest=...). Otherwise write a rule.",
)
_ONE_SIDED = Cause(
    "the function is finite on one side of this point only.",
    "The function's domain may end here. Keep the inputs away from this point, or write a rule.",
)
_NOWHERE = Cause(
    "the function is not finite on either side of this point.",
    "If the function is finite closer to this point, choose smaller steps with grad=tfpyop.numerical(step=..., "
    "smallest=...). Otherwise write a rule.",
)
_JUMP = Cause(
    "the function jumps at or next to this point.",
    "The function has no derivative at a jump. Keep the inputs away from this point, or write a rule.",
)
_FLAT = Cause(
    "the function's values do not change next to this point.",
    "The function may round its inputs or its result, or jump near this point. Write a rule.",
)


def find_cause(at: Callable[[float], Array | None]) -> Cause | None:
    """Return why a derivative is not reliable, if the values on both sides show it.

    Args:
      at: Returns the values that the derivative depends on, at a step relative to the magnitude of what is moved; None
        where the function raises.
    """
    sides = [(at(step), at(-step)) for step in _STEPS]
    finite = [tuple(side is not None and bool(np.isfinite(side).all()) for side in pair) for pair in sides]
    if any(is_finite != finite[0] for is_finite in finite):
        return None
    if finite[0] != (True, True):
        return _ONE_SIDED if any(finite[0]) else _NOWHERE
    values = np.array(sides)
    gaps = (values[:, 0] - values[:, 1])[1:]
    if not gaps.size:
        return None
    sizes = np.abs(values).max(axis=(0, 1))
    spread = np.abs(gaps - gaps[-1]).max(axis=0)
    if np.any((np.abs(gaps[-1]) > _CLEAR * sizes) & (spread <= _SAME_GAP * np.abs(gaps[-1]))):
        return _JUMP
    return _FLAT if not np.any(gaps) else None
