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
from tfpyop.testing._check_runner import CheckRunner, Outcome
from tfpyop.testing._comparisons import Point
from tfpyop.testing._derivatives import generator_of
from tfpyop.testing._examples import Arguments
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._ops import concrete_op_of, rules_of
from tfpyop.testing._strategies import smooth_arguments

_USUAL = 20
"""Default number of examples."""
_MOST_COLUMNS = 64
"""Number of core elements of each input that are moved in one example, drawn at random."""
_MOVE = 2.0**-5
"""The distance by which an element is moved, relative to its magnitude, or to one for smaller elements."""
_ROUNDING = 64
"""The change of an output that counts as rounding, in units of the precision of its largest core element."""


def check_sparsity(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Outcome:
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

    check.run(smooth_arguments(op) if arguments is None else arguments, body)
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
    for column in generator.permutation(n_columns)[:_MOST_COLUMNS]:
        index = np.unravel_index(column, core)
        element_at: Any = (..., *index)
        moved = at.arrays[number].copy()
        element = moved[element_at]
        moved[element_at] = element + _MOVE * np.maximum(np.abs(element), 1.0)
        try:
            after = _outputs(at, [moved if other == number else array for other, array in enumerate(at.arrays)], wanted)
        except Exception as error:
            check.reject(error)
        first = 0
        for output, old, new in zip(wanted, before, after, strict=True):
            size = math.prod(old.shape[n_loop:])
            allowed = pattern[first : first + size, column].reshape(old.shape[n_loop:])
            first += size
            wrong = np.argwhere(_changes(old, new, n_loop) & ~allowed)
            if len(wrong):
                where = tuple(map(int, wrong[0]))
                raise check.failure(
                    f"output {output} at core element {list(where[n_loop:])} depends on input {number} at core element "
                    f"{list(map(int, index))}, which the sparsity pattern excludes.",
                    expected=f"{old[where]:.9g}, the value before the input element was moved",
                    got=f"{new[where]:.9g}",
                    cause="the pattern is incomplete, or transposed: rows are outputs, columns are inputs",
                )


def _outputs(at: Point, arrays: Sequence[Array], wanted: Sequence[int]) -> list[Array]:
    values = at.function.call(arrays)
    return [np.asarray(values[number]) for number in wanted]


def _changes(old: Array, new: Array, n_loop: int) -> Array:
    """Return where values differ by more than rounding. Values that are not finite are not compared."""
    axes = tuple(range(n_loop, old.ndim))
    sizes = np.maximum(np.abs(old), np.abs(new))
    largest = np.max(sizes, axis=axes, where=np.isfinite(sizes), initial=0.0, keepdims=True)
    eps = max(float(np.finfo(values.dtype).eps) for values in (old, new))
    with np.errstate(all="ignore"):
        return np.asarray(np.isfinite(old) & np.isfinite(new) & (np.abs(new - old) > _ROUNDING * eps * largest))
