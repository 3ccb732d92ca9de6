"""Destinations: check that a function writes all of `out=`, and does not read its previous contents.

The memory of `out=` is not cleared, so elements that the function does not write keep arbitrary values. The check runs
the function with two different fillings of the destinations. Results that depend on the filling differ between runs.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from tfpyop import Op
from tfpyop._host.function import read_only
from tfpyop._spec.coercion import Array, DType, dtype_kind
from tfpyop.testing._check_runner import CheckRunner
from tfpyop.testing._comparisons import first_of
from tfpyop.testing._examples import Arguments
from tfpyop.testing._ops import spec_of, tensors_of

_CAUSE = "out= is uninitialized memory: write every element, and read no element before writing it"
_FINITE = -113.0
"""The second filling of floating-point arrays. Every floating dtype of two bytes or more can represent it."""


def require_written(check: CheckRunner, op: Op[..., Any], arguments: Arguments, *, mode: str) -> None:
    """Raise a failure if the results depend on the contents of `out=` before the call.

    Raises:
      CheckError: An element is not written, or depends on the previous contents.
      Exception: The function raised for one of the fillings.
    """
    host, arrays = tensors_of(op, arguments)
    views = read_only(arrays)
    plan = host.plan(views)
    types = plan.outputs[: plan.n_destinations]
    if not types:
        return

    def run(is_second: bool) -> list[Array]:
        # there are no destinations unless all sizes are known
        out = [np.full([size or 0 for size in type_.shape or ()], _fill(type_.dtype)[is_second]) for type_ in types]
        return [np.array(array) for array in host.run(plan, views, out)[: len(types)]]

    first, second, again = run(False), run(True), run(False)
    for number, (type_, one, other, same) in enumerate(zip(types, first, second, again, strict=True)):
        filling = _fill(type_.dtype)
        left = _equal(one, filling[0]) & _equal(other, filling[1])
        if left.any():
            index = first_of(left)
            problem = f"the function does not write element {list(index)} of out= for output {number}."
        else:
            # a function with state differs from itself, which is not evidence about destinations
            depends = ~_equal(one, other) & _equal(one, same)
            if spec_of(op).is_stateful or not depends.any():
                continue
            index = first_of(depends)
            problem = f"element {list(index)} of output {number} depends on the contents of out= before the call."
        raise check.failure(
            problem,
            mode=mode,
            expected="the same result whatever out= holds",
            got=f"{one[index]} if out= was filled with {filling[0]}, {other[index]} if it was filled with {filling[1]}",
            cause=_CAUSE,
        )


def _fill(dtype: DType) -> tuple[Any, Any]:
    """Return two different numbers of a dtype. The first is NaN if the dtype has NaN."""
    kind = dtype_kind(dtype)
    if kind == "b":
        return np.True_, np.False_
    if kind in "iu":
        third = int((np.iinfo if dtype.kind in "iu" else ml_dtypes.iinfo)(dtype).max) // 3  # the bits 0101…
        return dtype.type(third), dtype.type(2 * third)
    if kind == "c":
        return dtype.type(complex(math.nan, math.nan)), dtype.type(complex(_FINITE, _FINITE))
    return dtype.type(math.nan), dtype.type(_FINITE)


def _equal(left: Any, right: Any) -> Array:
    """Return where numbers are equal. NaN equals NaN."""
    return np.asarray((left == right) | ((left != left) & (right != right)))
