"""Properties of derivative rules that need no differences: linearity, and (u, J v) = (u J, v).

Compares results of rules. Does not call ops, and does not draw.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfpyop._spec.coercion import Array
from tfpyop.testing._check_runner import CheckRunner, Script
from tfpyop.testing._comparisons import SUBNORMAL, Vectors, absolute, first_of, largest, tolerance_of
from tfpyop.testing._derivatives import inner
from tfpyop.testing._events import record_error, reject_example

FACTORS = (0.75, -1.5)
"""The factors of the two vectors in the check of linearity."""
NOISE = 1e-12
"""Precision lost by cancellation inside a rule, relative to the largest cotangents and tangents."""


def combined(vectors: Sequence[Vectors]) -> list[Array | None]:
    """Return a linear combination of two lists of vectors. It is None where one of the two vectors is None."""
    left, right = FACTORS
    return [
        None if u is None or v is None else (left * u + right * v).astype(np.asarray(u).dtype, copy=False)
        for u, v in zip(*vectors, strict=True)
    ]


def require_linear(
    check: CheckRunner,
    rule: Callable[[Vectors], Sequence[Array | None]],
    vectors: Sequence[Vectors],
    problem: Callable[[int], str],
    *,
    tolerance: float | None = None,
    script: Callable[[int, tuple[int, ...]], Script] | None = None,
    **details: Any,
) -> None:
    """Raise CheckError unless a rule is linear in its vectors. Reject the example if no result is finite.

    Args:
      check: The check.
      rule: Returns the results of the rule for vectors. None counts as zeros.
      vectors: Two lists of vectors.
      problem: Returns the problem for the index of a result.
      tolerance: The largest relative difference. Default: by the dtype of each result.
      script: Returns the script that shows a wrong element of a result.
      **details: Further details of the failure.
    """
    whole, parts = rule(combined(vectors)), [rule(each) for each in vectors]
    is_finite = []
    for number, (got, first, second) in enumerate(zip(whole, *parts, strict=True)):
        like = next((array for array in (got, first, second) if array is not None), None)
        if like is None:
            continue
        both, one, other = (np.zeros_like(like) if array is None else array for array in (got, first, second))
        terms = FACTORS[0] * one, FACTORS[1] * other
        expected = np.asarray(terms[0] + terms[1])
        is_finite.append(not expected.size or bool(np.isfinite(expected).any()))
        require_close(
            check,
            problem(number),
            both,
            expected,
            scale=np.abs(terms[0]) + np.abs(terms[1]),
            tolerance=tolerance_of(both) if tolerance is None else tolerance,
            noise=NOISE * max(largest(each) for each in vectors),
            note=", the combination of the results for two vectors",
            script=None if script is None else functools.partial(script, number),
            **details,
        )
    if is_finite and not any(is_finite):
        reject_example("no derivative is finite")


def require_close(
    check: CheckRunner,
    problem: str,
    got: Array,
    expected: Array,
    *,
    scale: Array,
    tolerance: float,
    noise: float = 0.0,
    note: str = "",
    script: Callable[[tuple[int, ...]], Script] | None = None,
    **details: Any,
) -> None:
    """Raise CheckError unless two results are equal where the expected result is finite.

    Args:
      check: The check.
      problem: The problem.
      got: The result of the rule.
      expected: The expected result.
      scale: The magnitude of the terms of each element.
      tolerance: The largest difference, relative to the scale of the element and to the largest scale.
      noise: The largest difference that does not depend on the scale.
      note: A text that follows the expected number.
      script: Returns the script that shows a wrong element.
      **details: Further details of the failure.
    """
    most = np.max(scale, initial=0.0, where=np.isfinite(scale))
    with np.errstate(invalid="ignore"):
        ratios = np.abs(got - expected) / (tolerance * (scale + most) + noise + SUBNORMAL)
    largest = float(np.max(ratios, initial=0.0, where=np.isfinite(ratios)))
    check.aim_at(largest, problem)
    record_error(largest, 1.0)
    wrong = np.isfinite(expected) & ~(ratios <= 1)
    if wrong.any():
        index = first_of(wrong)
        raise check.failure(
            f"{problem}, at element {list(index)}.",
            expected=f"{expected[index]:.9g}{note}",
            got=f"{got[index]:.9g}",
            script=None if script is None else script(index),
            **details,
        )


def require_transposed(
    check: CheckRunner,
    products: tuple[Vectors, Vectors, Vectors, Vectors],
    *,
    tolerance: float,
    noise: float = NOISE,
    is_kink: Callable[[], bool] = lambda: False,
    script: Script | None = None,
) -> None:
    """Raise CheckError unless the JVP rule and the gradient rule satisfy (u, J v) = (u J, v).

    Args:
      check: The check.
      products: The cotangents u, the tangents J v, the cotangents u J, and the tangents v.
      tolerance: The largest difference, relative to the terms of both sums.
      noise: The largest difference, relative to the largest element of u and v.
      script: The script that shows a contradiction.
      is_kink: Returns whether the rules may differ here, because the function has no derivative.
    """
    found = contradiction(*products, tolerance=tolerance, noise=noise)
    if found is not None and not is_kink():
        forward, backward = found
        raise check.failure(
            "the JVP rule and the gradient rule contradict each other: (u, J v) is not equal to (u J, v).",
            expected=f"(u J, v) = {backward:.9g}, by the gradient rule",
            got=f"(u, J v) = {forward:.9g}, by the JVP rule",
            script=script,
        )


def contradiction(
    weights: Vectors, tangents: Vectors, gradients: Vectors, moves: Vectors, *, tolerance: float, noise: float = NOISE
) -> tuple[float, float] | None:
    """Return (u, J v) and (u J, v) if both are finite and differ, or None."""
    forward, backward = inner(weights, tangents), inner(gradients, moves)
    scale = inner(absolute(weights), absolute(tangents)) + inner(absolute(gradients), absolute(moves))
    floor = noise * largest(weights) * largest(moves) + SUBNORMAL
    is_finite = np.isfinite(forward) and np.isfinite(backward)
    return (forward, backward) if is_finite and abs(forward - backward) > tolerance * scale + floor else None
