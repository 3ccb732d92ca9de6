"""Evidence that a rule computes in single precision although all its values are in double precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop import Op
from tfpyop._spec.coercion import Array
from tfpyop.testing._comparisons import Point, Vectors, arrays_of
from tfpyop.testing._derivatives import jvp, vjp
from tfpyop.testing._ops import user_rules
from tfpyop.testing._rule_source import SourceError, innermost

_STEP = 1.37e-6
"""Relative distance of the points at which noise is measured: many rounding errors of single precision."""
_NOISE = 1e-9
"""The smallest noise of a rule that shows single precision."""
_NAMES = frozenset({"float32", "single", "complex64", "csingle", "float16", "half", "bfloat16", "f4", "c8"})
_CAST = (
    "the rule converts a tensor to or from float32: keep the dtype of the inputs. tf.cast(0.1, x.dtype) rounds to "
    "float32: use tf.constant(0.1, x.dtype)"
)
_DEPTH = 3
"""Number of nested functions whose code is read."""


def evidence_of_single(
    op: Op[..., Any], at: Point, weights: Vectors, direction: Vectors, *, is_gradient: bool
) -> str | None:
    """Return the evidence that a rule computes in single precision, as a likely cause; None if there is none.

    Args:
      op: The op.
      at: A point at which the derivative has an error like a derivative in single precision.
      weights: The cotangents.
      direction: The tangents.
      is_gradient: Whether the gradient rule has the error; else the JVP rule.
    """

    def derivatives(tensors: Sequence[tf.Tensor], factor: float) -> list[Any]:
        if is_gradient:
            return vjp(at.call, tensors, [None if w is None else w * factor for w in weights])
        moved = [None if d is None else d * factor for d in direction]
        return jvp(at.push, tensors, moved)

    if is_gradient and _has_cast(lambda: derivatives(at.tensors, 1.0)):
        return _CAST
    if _noise(at.arrays, derivatives) > _NOISE or any(map(mentions_single, (r.function for r in user_rules(op)))):
        return "a part of the rule computes in float32, or has constants in float32"
    return None


def _has_cast(derivatives: Callable[[], Any]) -> bool:
    """Return whether a graph of the derivatives converts numbers between double and single precision."""
    try:
        graph = tf.function(derivatives, autograph=False).get_concrete_function().graph.as_graph_def()
    except Exception:  # the rule may need values
        return False
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    low = {t.as_datatype_enum for t in (tf.float32, tf.complex64, tf.float16, tf.bfloat16)}
    return any(node.op == "Cast" and low & {node.attr["SrcT"].type, node.attr["DstT"].type} for node in nodes)


def _noise(arrays: Sequence[Array], derivatives: Callable[[Sequence[tf.Tensor], float], Any]) -> float:
    """Return the noise of derivatives, relative to the largest, by third differences at nearby points."""
    try:
        rows = [
            derivatives([tf.constant(_scaled(array, 1 + k * _STEP)) for array in arrays], 1 + 0.7 * k * _STEP)
            for k in range(8)
        ]
    except Exception:  # the function or the rule may raise next to the point
        return 0.0
    found = 0.0
    for values in zip(*map(arrays_of, rows), strict=True):
        present = [value for value in values if value is not None]
        if len(present) == len(rows) and np.isfinite(present).all():
            differences = np.abs(np.diff(present, 3, axis=0)) / np.sqrt(20)
            found = max(found, float(np.max(differences, initial=0.0) / (np.max(np.abs(present), initial=0.0) or 1)))
    return found


def _scaled(array: Array, factor: float) -> Array:
    return np.asarray(array * factor) if array.dtype.kind in "fc" else array


def mentions_single(function: Callable[..., Any]) -> bool:
    """Return whether the code of a function, or of functions that it calls, mentions or holds single precision."""
    return _mentions(function, _DEPTH)


def _mentions(value: Any, depth: int) -> bool:
    if isinstance(value, np.ndarray | np.generic | tf.Tensor | tf.Variable):
        return tf.as_dtype(value.dtype).name in _NAMES if value.dtype != object else False
    if isinstance(value, MethodType) and any(_mentions(held, 0) for held in vars(value.__self__).values()):
        return True
    try:
        function = innermost(value) if callable(value) and depth else None
    except SourceError:
        return False
    if function is None:
        return False
    codes = list(_codes(function.__code__))
    names = {name for code in codes for name in (*code.co_names, *code.co_consts) if isinstance(name, str)}
    held = [function.__globals__[name] for name in names if name in function.__globals__]
    held += [cell.cell_contents for cell in function.__closure__ or ()]
    return bool(names & _NAMES) or any(
        _mentions(one, depth - 1) for one in held if not isinstance(one, type) and not _is_of_library(one)
    )


def _is_of_library(value: Any) -> bool:
    module = getattr(value, "__module__", None) or ""
    return isinstance(value, FunctionType) and module.partition(".")[0] in ("numpy", "scipy", "tensorflow", "tfpyop")


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
