"""The loop dimensions of a call, for rules that are derived on the host: call a rule for the elements that differ.

Loop dimensions along which all values are the same, as in the batches of `tape.jacobian`, are reduced to one element.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tfpyop._rules.jacobian_blocks import Layout
from tfpyop._spec.coercion import Array
from tfpyop._spec.rule_context import RuleContext
from tfpyop._spec.rule_outputs import RuleInputs


def loop_elements(
    op: RuleContext, layout: Layout, *, is_looped: bool
) -> Iterator[tuple[tuple[Any, ...] | None, RuleContext]]:
    """Yield the calls of the user's rule, each with the index of its elements in the loop dimensions.

    The index is None if the call is for all elements.

    Args:
      op: The call.
      layout: The layout of its values.
      is_looped: Whether to yield each element of the loop dimensions, for a rule that takes core dimensions only.
    """
    loop = known_loop(layout)
    groups = groups_of(op, layout)
    shared = [size > 1 and 0 not in loop for size in loop]
    for values, ranks in groups:
        for value, rank in zip(values, ranks, strict=True):
            _keep_shared(shared, value, rank)
    selected = tuple(slice(0, 1) if flag else slice(None) for flag in shared)
    small = [
        ([_selected(value, rank, selected) for value, rank in zip(values, ranks, strict=True)], ranks)
        for values, ranks in groups
    ]
    if not is_looped or not loop:
        yield None, with_values(op, [values for values, _ in small])
        return
    sizes = tuple(1 if flag else size for flag, size in zip(shared, loop, strict=True))
    for index in np.ndindex(*sizes):
        element = (*index, ...)
        rows = [
            [
                np.broadcast_to(value, sizes + value.shape[value.ndim - rank :])[element]
                for value, rank in zip(values, ranks, strict=True)
            ]
            for values, ranks in small
        ]
        place = tuple(slice(None) if flag else i for flag, i in zip(shared, index, strict=True))
        yield place, with_values(op, rows)


def groups_of(op: RuleContext, layout: Layout) -> list[tuple[Sequence[Any], Sequence[int]]]:
    """Return the inputs, the outputs and the residuals of a call, each with the numbers of their core dimensions."""
    return [
        (op.inputs, layout.input_ranks),
        (op.outputs, layout.output_ranks),
        (residual_values(op), layout.residual_ranks),
    ]


def residual_values(op: RuleContext) -> Sequence[Any]:
    """Return the residuals of a call, with handles in place of Python objects."""
    assert op._call is not None
    return op._call.residuals


def with_values(op: RuleContext, groups: Sequence[Sequence[Any]]) -> RuleContext:
    """Return the context of a call with other inputs, outputs and residuals."""
    inputs, outputs, residuals = groups
    assert op._name_residuals is not None
    call = RuleInputs(inputs, outputs, residuals, ())
    named = op._name_residuals(call)
    return replace(op, inputs=tuple(inputs), outputs=tuple(outputs), residuals=named, _call=call)


def with_whole_loop(vectors: Sequence[Any], numbers: Sequence[int], layout: Layout) -> list[Any]:
    """Return tangents broadcast to the loop dimensions of the call, as views."""
    loop = known_loop(layout)
    return [
        None if vector is None else np.broadcast_to(vector, loop + layout.input_core(number))
        for vector, number in zip(vectors, numbers, strict=True)
    ]


def assembled(parts: Sequence[tuple[Any, Array]], shape: tuple[int, ...]) -> Array | None:
    """Return the whole vector from its parts, one for each call of the user's rule; None for zero."""
    if not parts:
        return None
    if parts[0][0] is None:
        return np.broadcast_to(parts[0][1], shape)
    result = np.zeros(shape, np.result_type(*[value.dtype for _, value in parts]))
    for index, value in parts:
        result[index] = value
    return result


def known_loop(layout: Layout) -> tuple[int, ...]:
    """Return the loop dimensions of a call on the host, where they are known."""
    return tuple(size or 0 for size in layout.loop or ())


def _keep_shared(shared: list[bool], value: Array, rank: int) -> None:
    """Clear the flags of the loop dimensions along which the elements of an array differ."""
    n_loop = value.ndim - rank
    for axis in range(n_loop):
        if value.shape[axis] != 1 and value.strides[axis] != 0:
            shared[len(shared) - n_loop + axis] = False


def _selected(value: Array, rank: int, selected: tuple[slice, ...]) -> Array:
    return value[selected[len(selected) - (value.ndim - rank) :]]
