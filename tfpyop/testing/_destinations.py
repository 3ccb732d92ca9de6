"""Destinations: whether a function writes all of the memory that it is lent as `out=`, and leaves unread what it held.

That memory is not cleared, so what a function leaves there is whatever was there before. The function is run with
destinations that are filled first, once with each of two fillings: what came of a filling differs between them.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from tfpyop import Op
from tfpyop._host.function import read_only
from tfpyop._spec.coercion import Array, DType, dtype_kind
from tfpyop.testing._comparisons import first_of
from tfpyop.testing._examples import Arguments
from tfpyop.testing._ops import spec_of, tensors_of
from tfpyop.testing._outcomes import Property

_CAUSE = "out= is uninitialized memory: write every element, and read no element before writing it"
_FINITE = -113.0
"""The second filling of floating numbers: every floating dtype of two bytes or more holds it."""


def require_written(check: Property, op: Op[..., Any], arguments: Arguments, *, mode: str) -> None:
    """Raise a failure if the results depend on what `out=` held before the call.

    Raises:
      CheckError: An element is left as it was, or depends on what was there.
      Exception: What the function raised for such a destination.
    """
    host, arrays = tensors_of(op, arguments)
    views = [read_only(array) for array in arrays]
    plan = host.plan(views)
    types = plan.outputs[: plan.n_destinations]
    if not types:
        return

    def run(is_second: bool) -> list[Array]:
        # the planner lends none unless it knows all sizes
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
            # a function that keeps a state differs from itself, and tells nothing of destinations
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
    """Two numbers of a dtype that differ: NaN first, if it has that."""
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
    """Where numbers are the same; NaN equals NaN."""
    return np.asarray((left == right) | ((left != left) & (right != right)))
