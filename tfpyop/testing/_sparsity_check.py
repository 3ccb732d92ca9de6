"""The check of `sparsity=`: no output changes with an input element that the pattern excludes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._numdiff.coloring import Sparsity
from tfpyop._registry.op_def import NumpyRule
from tfpyop._rules.numerical import NumericalRule
from tfpyop._spec.coercion import Array, is_differentiable
from tfpyop.errors import ContractError
from tfpyop.testing._check_runner import CheckRunner
from tfpyop.testing._comparisons import Point
from tfpyop.testing._derivatives import generator_of
from tfpyop.testing._examples import Arguments
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._ops import concrete_op_of, rules_of
from tfpyop.testing._property import Property, Steps, check_function
from tfpyop.testing._strategies import smooth_arguments

_USUAL = 20
"""Default number of examples."""
_MOST_COLUMNS = 64
"""Number of core elements of each input that are moved in one example, drawn at random."""
_MOVE = 2.0**-5
"""The distance by which an element is moved, relative to its magnitude, or to one for smaller elements."""
_ROUNDING = 64
"""The change of an output element that counts as rounding, in units of the precision of its own scale: its value, and
the changes by moves of each element by its magnitude."""
_TINY = tuple(2.0**-exponent for exponent in (51, 49, 24, 20, 18, 16, 14))
"""The distances, relative to an element, that show noise, such as the rounding errors of other output elements."""
_NOISE = 32
"""The change of an output that counts as noise, relative to the largest change over these distances. All elements that
the pattern excludes share it. If one of them really changes, its own change is far larger."""


@check_function()
def check_sparsity(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check that outputs do not change with input elements that the sparsity pattern excludes.

    Proves, for the drawn examples, that moving one core element of an input changes no core element of an output that
    the pattern says does not depend on it. A pattern with too many elements passes; it only costs more evaluations.

    Args:
      op: The op. Skipped if its gradient has no `sparsity=`.
      arguments: Strategy for the arguments. Default: as in `check_gradient`.
      max_examples: Number of examples. Default: 20.
      seed: Seed that makes every run draw the same examples.
      modes: Not used, because the check calls the function directly.

    Returns:
      The outcome, with the number of examples.

    Raises:
      CheckError: The pattern is wrong. The report names the elements of the output and of the input.
    """
    checked_modes(modes)
    check = CheckRunner(op, "check_sparsity", max_examples=max_examples, seed=seed, usual=_USUAL)
    sparsity = _sparsity_of(op)
    if sparsity is None:
        return check.skipped("the op has no sparsity pattern")

    def body(arguments: Arguments) -> None:
        at = Point.of(check, op, arguments)
        signature = concrete_op_of(op, arguments)[0].signature
        shapes = [array.shape for array in at.arrays]
        ranks, n_loop = [len(shape) for shape in shapes], 0
        sizes: Mapping[str, int | None] = {}
        if signature is not None:
            binding = signature.bind(shapes)
            ranks, n_loop, sizes = signature.core_ranks(shapes), len(binding.loop or ()), signature.all_sizes(shapes)
        wanted = [number for number, output in enumerate(at.outputs) if is_differentiable(output.dtype)]
        inputs = [shape[len(shape) - rank :] for shape, rank in zip(shapes, ranks, strict=True)]
        try:
            patterns = sparsity.patterns(sizes, inputs, [output.shape[n_loop:] for output in at.outputs], wanted)
        except ContractError as error:
            raise check.failure(error.problem, expected=error.expected, got=error.got) from error
        for number, pattern in enumerate(patterns):
            if at.wanted[number]:
                _require_pattern(check, at, number, pattern, inputs[number], n_loop, wanted)

    yield Property(check, smooth_arguments(op) if arguments is None else arguments, body)
    return check.passed()


def _sparsity_of(op: Op[..., Any]) -> Sparsity | None:
    functions = [rule.op.function for rule in rules_of(op).plain() if isinstance(rule, NumpyRule)]
    return next((function.method.sparsity for function in functions if isinstance(function, NumericalRule)), None)


def _require_pattern(
    check: CheckRunner,
    at: Point,
    number: int,
    pattern: Array,
    core: tuple[int, ...],
    n_loop: int,
    wanted: Sequence[int],
) -> None:
    """Raise CheckError if moving an element of an input changes an output that the pattern excludes."""
    generator, n_columns = generator_of(at.arrays, 5), math.prod(core)
    before = _outputs(at, at.arrays, wanted)
    columns = [int(column) for column in generator.permutation(n_columns)[:_MOST_COLUMNS]]
    try:
        moved = {c: _moved(at, number, np.unravel_index(c, core), _MOVE, wanted) for c in columns}
    except Exception as error:
        check.reject(error)
    with np.errstate(all="ignore"):
        scales = [
            np.nanmax([np.abs(old), *(np.abs(after[place] - old) / _MOVE for after in moved.values())], axis=0)
            for place, old in enumerate(before)
        ]
    for column, after in moved.items():
        index, first = np.unravel_index(column, core), 0
        for place, (output, old, new) in enumerate(zip(wanted, before, after, strict=True)):
            size = math.prod(old.shape[n_loop:])
            allowed = pattern[first : first + size, column].reshape(old.shape[n_loop:])
            first += size
            changed = _changes(old, new, _rounded_scale(old, scales[place], n_loop)) & ~allowed
            if changed.any():
                noise = np.where(allowed, 0.0, _noise(at, number, index, wanted)[place])
                axes = tuple(range(n_loop, old.ndim))
                changed &= np.abs(new - old) > _NOISE * np.nanmax(noise, axis=axes, keepdims=True)
            wrong = np.argwhere(changed)
            if len(wrong):
                where = tuple(map(int, wrong[0]))
                raise check.failure(
                    f"output {output} at core element {list(where[n_loop:])} depends on input {number} at core element "
                    f"{list(map(int, index))}, which the sparsity pattern excludes.",
                    expected=f"{old[where]:.9g}, the value before the input element was moved",
                    got=f"{new[where]:.9g}",
                    cause="the pattern is incomplete, or transposed: rows are outputs, columns are inputs",
                )


def _moved(at: Point, number: int, index: tuple[Any, ...], distance: float, wanted: Sequence[int]) -> list[Array]:
    """Return the outputs after a move of one core element of an input."""
    moved = at.arrays[number].copy()
    element_at: Any = (..., *index)
    element = moved[element_at]
    moved[element_at] = element + distance * np.maximum(np.abs(element), 1.0)
    return _outputs(at, [moved if other == number else array for other, array in enumerate(at.arrays)], wanted)


def _noise(at: Point, number: int, index: tuple[Any, ...], wanted: Sequence[int]) -> list[Array]:
    """Return by how much each output changes at most if one core element of an input moves by rounding only."""
    noise: list[Array] = [np.zeros(()) for _ in wanted]
    for distance in _TINY:
        sides = [_moved(at, number, index, sign * distance, wanted) for sign in (-1, 1)]
        noise = [np.fmax(most, np.abs(after - before)) for most, before, after in zip(noise, *sides, strict=True)]
    return noise


def _outputs(at: Point, arrays: Sequence[Array], wanted: Sequence[int]) -> list[Array]:
    values = at.function.call(arrays)
    return [np.asarray(values[number]) for number in wanted]


def _rounded_scale(values: Array, scale: Array, n_loop: int) -> Array:
    """Return the scale of rounding errors: of each element, or in single precision of the largest core element.

    Moves that are small enough to show noise are often too small for single precision.
    """
    if float(np.finfo(values.dtype).eps) <= float(np.finfo(np.float64).eps):
        return scale
    axes = tuple(range(n_loop, values.ndim))
    return np.asarray(np.max(scale, axis=axes, where=np.isfinite(scale), initial=0.0, keepdims=True))


def _changes(old: Array, new: Array, scale: Array) -> Array:
    """Return where values differ by more than rounding. Values that are not finite are not compared."""
    eps = max(float(np.finfo(values.dtype).eps) for values in (old, new))
    with np.errstate(all="ignore"):
        return np.asarray(np.isfinite(old) & np.isfinite(new) & (np.abs(new - old) > _ROUNDING * eps * scale))
