"""Diagnosis: the likely cause of a wrong cotangent, inferred from its relation to the correct cotangent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfpyop._numdiff.directional import Function
from tfpyop._spec.coercion import Array, is_differentiable
from tfpyop.errors import CoercionError, ContractError
from tfpyop.testing._drawn import DRAWS_COMPLEX
from tfpyop.testing._failures import is_refusal

_FACTORS = {2.0: "there is an extra factor of 2", 0.5: "a factor of 2 is missing", 3.0: "there is an extra factor of 3"}
_OTHER_INPUT = "this is the cotangent of input"
_MIXED = (
    "the function mixes loop dimensions: its outputs depend on more input elements than the signature allows. Declare "
    'these dimensions as core dimensions, for example "(n)->(n)"'
)


def likely_causes(
    got: Array,
    right: Array,
    *,
    others: Sequence[Array | None] = (),
    doubled: Array | None = None,
    conjugated: Array | None = None,
) -> list[str]:
    """Return the likely causes of a wrong cotangent of one input at one example, the most likely cause first.

    Args:
      got: The cotangent that the rule returned.
      right: The numerical cotangent.
      others: The numerical cotangents of the other inputs, by input. None for missing cotangents and for this input.
      doubled: The cotangent that the rule returns for twice the cotangents of the outputs.
      conjugated: The cotangent that the rule returns for the conjugates of the cotangents of the outputs.
    """
    candidates = [
        ("the rule returns None or zeros, but the derivative is not zero", got, np.zeros_like(right)),
        ("the wrong sign", got, -right),
        *((text, got, factor * right) for factor, text in _FACTORS.items()),
        ("the cotangent is transposed", got, np.swapaxes(right, -1, -2) if right.ndim >= 2 else None),
        *((f"{_OTHER_INPUT} {n}", got, _summed(other, got.shape)) for n, other in enumerate(others)),
        ("the rule does not use the cotangent that it gets", doubled, got),
        ("the rule uses the cotangent twice", doubled, 4 * got),
    ]
    if right.dtype.kind == "c":
        missing = None if conjugated is None else np.conj(conjugated)
        candidates.append(("a conjugate is missing or superfluous", missing, right))
    else:
        flipped = np.abs(got) if np.any(got * right < 0) else None
        candidates.append(("the sign is wrong for some elements only", flipped, np.abs(right)))
    return [text for text, left, other in candidates if _alike(left, other)]


def is_about_shape(cause: str) -> bool:
    """Return whether a cause can be seen only at examples in which the same inputs have equal shapes."""
    return cause.startswith(_OTHER_INPUT)


def cause_of_mixing(function: Function, point: Sequence[Array]) -> list[str]:
    """Return the cause of a wrong rule in a list if the function mixes loop dimensions, else an empty list.

    This adds a loop dimension of size two, and moves one loop element of all inputs. No other loop element of the
    outputs may change.
    """
    ranks = [values.ndim - rank for values, rank in zip(point, function.input_ranks, strict=True)]
    loop = (2, *np.broadcast_shapes(*(values.shape[:rank] for values, rank in zip(point, ranks, strict=True))))
    here = [
        np.array(np.broadcast_to(values, loop + values.shape[rank:])) for values, rank in zip(point, ranks, strict=True)
    ]
    for end in (0, -1):
        element = (end,) * len(loop)
        there = [values.copy() for values in here]
        for values in there:
            if is_differentiable(values.dtype):
                values[element] += 1e-3 * np.where(values[element] == 0, 1, np.abs(values[element]))
        try:
            outputs = list(zip(function.call(here), function.call(there), strict=True))
        except Exception as error:
            if not is_refusal(error):
                raise
            return []  # the function may raise next to the point
        is_other = np.ones(loop, bool)
        is_other[element] = False
        if any(a.shape[: len(loop)] != loop or b.shape != a.shape for a, b in outputs):
            return []  # the function breaks its signature, which check_contract reports
        if not all(np.allclose(a[is_other], b[is_other], rtol=1e-9, atol=0, equal_nan=True) for a, b in outputs):
            return [_MIXED]
    return []


def cause_of_refusal(error: ContractError) -> str | None:
    """Return the cause of a wrong cotangent shape, or None if it is unknown."""
    expected, got = (str(side).count(",") + ("[]" not in str(side)) for side in (error.expected, error.got))
    if "wrong shape" not in error.problem or got <= expected:
        return None
    return "the cotangent still has dimensions that broadcasting added to this input: sum over them with tf.reduce_sum"


def cause_of_exception(error: Exception) -> str | None:
    """Return the cause of an exception in a call, or None if it is unknown."""
    if not isinstance(error, CoercionError) or not error.problem.startswith(("the cotangent of", "tangent ")):
        return None
    if "complex" not in str(error.got) or "complex" in str(error.expected):
        return None
    return (
        "this example has real inputs, and the rule returns complex values for them. To check complex inputs only, "
        f"pass arguments={DRAWS_COMPLEX}"
    )


def _summed(values: Array | None, shape: tuple[int, ...]) -> Array | None:
    """Return the sum over the dimensions that are missing in a shape or have size one there, as after broadcasting."""
    n_leading = 0 if values is None else values.ndim - len(shape)
    if values is None or n_leading < 0:
        return values
    own = values.shape[n_leading:]
    ones = [n_leading + axis for axis, (size, other) in enumerate(zip(own, shape, strict=True)) if other == 1 != size]
    total: Array = values.sum(axis=tuple(ones), keepdims=True).sum(axis=tuple(range(n_leading)))
    return total


def _alike(left: Array | None, right: Array | None) -> bool:
    """Return whether two cotangents are equal, apart from elements that are not finite in one of them."""
    if left is None or right is None or left.shape != right.shape:
        return False
    finite = np.isfinite(left) & np.isfinite(right)
    scale = float(np.max(np.abs(right), where=finite, initial=0.0))
    is_telling = bool(np.any(finite)) or not left.size
    return is_telling and bool(np.allclose(left[finite], right[finite], rtol=1e-4, atol=1e-6 * scale))
