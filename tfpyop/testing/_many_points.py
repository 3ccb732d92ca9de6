"""Many points: batches of inputs at which mistakes are likely, drawn with numpy and evaluated in one call.

A batch has one row for each point. Rows contain magnitudes from 1e-6 to 1e4, whole and half numbers, equal numbers,
nearly equal numbers, zeros, and numbers close to 0, 1, pi and the ends of the domain. The sizes of core dimensions
come from `LADDER`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tfpyop._spec.coercion import Array, DType, dtype_kind
from tfpyop._spec.domain import Interval
from tfpyop._spec.signature import Signature
from tfpyop._spec.size_terms import names_in
from tfpyop.errors import SignatureError
from tfpyop.testing._examples import Arguments

LADDER = (1, 2, 3, 4, 5, 17, 64)
"""The sizes of core dimensions."""
_MOST_NUMBERS = 8192
"""Maximum number of elements of a batch."""
_MOST_ROWS = 1024
_MOST_LOOPED = 24
"""Maximum number of rows for a function that takes core dimensions only, which is called for each row."""
_FEWEST_ROWS = 12
_LARGEST_CORE = 4096
"""Maximum number of elements of one input in one row."""
_SMALLEST = 1e-6
_LARGEST = 1e4
_MODERATE = 10.0
_CENTERS = (0.0, 0.5, 1.0, 2.0, math.pi, -0.5, -1.0, -2.0)
"""Numbers at which formulas often have a branch of their own."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Points that are evaluated in one call.

    Attributes:
      arrays: The flat inputs.
      kinds: The kind of each row: how its numbers were drawn.
      has_rows: Whether the inputs have a leading dimension for the rows. Otherwise there is one point.
      static: Values of the static parameters by name.
      is_present: For each input, whether the calls have it. Without flags, they have all inputs.
    """

    arrays: list[Array]
    kinds: Array
    has_rows: bool
    static: Mapping[str, Any] = field(default_factory=dict)
    is_present: tuple[bool, ...] = ()

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.kinds)

    def take(self, rows: Sequence[int] | slice) -> Batch:
        """Return some of the rows."""
        if not self.has_rows:
            return self
        return replace(self, arrays=[array[rows] for array in self.arrays], kinds=self.kinds[rows])

    def arguments(self, row: int) -> Arguments:
        """Return the arguments of a call for one row, without the leading dimension."""
        return self._arguments([np.array(array[row]) if self.has_rows else array for array in self.arrays])

    @property
    def as_arguments(self) -> Arguments:
        """The arguments of one call for all rows."""
        return self._arguments(self.arrays)

    def _arguments(self, arrays: Sequence[Array]) -> Arguments:
        given = iter(arrays)
        flags = self.is_present or (True,) * len(arrays)
        return Arguments(tuple(next(given) if flag else None for flag in flags), self.static)


@dataclass(frozen=True, slots=True)
class Where:
    """The intervals, dtypes and magnitudes of the inputs.

    Attributes:
      intervals: The interval of each input.
      dtypes: The dtype of each input.
      smallest: The smallest magnitude that is drawn near zero.
      largest: The largest magnitude.
      largest_side: The largest size of a core dimension.
    """

    intervals: Sequence[Interval]
    dtypes: Sequence[DType]
    smallest: float = _SMALLEST
    largest: float = _LARGEST
    largest_side: int = LADDER[-1]


def batches(
    signature: Signature | None, where: Where, generator: np.random.Generator, *, is_looped: bool
) -> Iterator[Batch]:
    """Yield batches for all sizes of the ladder.

    Args:
      signature: The signature; None for a function of inputs that have one shape, which gets one point at a time.
      where: The intervals, dtypes and magnitudes of the inputs.
      generator: Draws the numbers.
      is_looped: Whether the function takes core dimensions only.
    """
    ladder = [side for side in LADDER if side <= where.largest_side]
    if signature is None:
        for shape in [(), *((side,) for side in ladder), (3, 5)]:
            for kind in generator.choice(len(_KINDS), 3, replace=False):
                arrays = _drawn([shape] * len(where.dtypes), where, np.array([kind]), generator)
                yield Batch([array[0] for array in arrays], np.array([kind]), False)
        return
    for cores in _core_shapes(signature, ladder):
        largest = max((math.prod(core) for core in cores), default=1)
        if largest > _LARGEST_CORE:
            continue
        most = _MOST_LOOPED if is_looped else min(_MOST_ROWS, _MOST_NUMBERS // max(largest, 1))
        kinds = np.arange(max(most, _FEWEST_ROWS)) % len(_KINDS)
        yield Batch(_drawn(cores, where, kinds, generator), kinds, True)


def _core_shapes(signature: Signature, ladder: Sequence[int]) -> Iterator[list[tuple[int, ...]]]:
    """Yield core shapes of all inputs: names with the same size, and names with different sizes."""
    names = sorted({name for core in signature.inputs for dimension in core for name in names_in(dimension.term)})
    seen = set()
    steps = [0] if len(names) < 2 else [0, 1, len(ladder) - 1]
    for start, step in itertools.product(range(len(ladder)), steps):
        sizes = {name: ladder[(start + step * place) % len(ladder)] for place, name in enumerate(names)}
        shapes = [tuple(dimension.size(sizes) or 0 for dimension in core) for core in signature.inputs]
        key = tuple(shapes)
        if key in seen or any(size < 1 for shape in shapes for size in shape):
            continue
        seen.add(key)
        try:
            signature.output_shapes(signature.bind(shapes))
        except (SignatureError, ZeroDivisionError):
            continue
        yield shapes


# -- numbers


def _drawn(cores: Sequence[tuple[int, ...]], where: Where, kinds: Array, generator: np.random.Generator) -> list[Array]:
    """Draw the inputs: row by row in the same way for all inputs, so that inputs may be equal."""
    sizes = [math.prod(core) for core in cores]
    n_parts = [2 if dtype_kind(dtype) == "c" else 1 for dtype in where.dtypes]
    width = sum(size * parts for size, parts in zip(sizes, n_parts, strict=True))
    numbers = np.empty((len(kinds), width))
    for kind, draw in enumerate(_KINDS):
        rows = kinds == kind
        numbers[rows] = draw(generator, (int(rows.sum()), width), where)
    arrays, start = [], 0
    for core, size, parts, interval, dtype in zip(cores, sizes, n_parts, where.intervals, where.dtypes, strict=True):
        own = [numbers[:, start + part * size : start + (part + 1) * size] for part in range(parts)]
        start += parts * size
        fitted = [_fitted(part, interval, dtype, generator).reshape(len(kinds), *core) for part in own]
        arrays.append((fitted[0] + 1j * fitted[1] if parts == 2 else fitted[0]).astype(dtype))
    return arrays


def _fitted(numbers: Array, interval: Interval, dtype: DType, generator: np.random.Generator) -> Array:
    """Move numbers into an interval: by reflection at an end, or to a random place in a bounded interval."""
    if dtype_kind(dtype) == "b":
        return numbers > 0
    if dtype_kind(dtype) in "iu":
        limits = np.iinfo(dtype)
        low = max(interval.first_integer, float(limits.min), -1e3 if math.isinf(interval.low) else -math.inf)
        high = min(interval.last_integer, float(limits.max), low + 2e3)
        return np.asarray(generator.integers(int(low), int(high), numbers.shape, endpoint=True))
    low, high = interval.low, interval.high
    with np.errstate(all="ignore"):
        if math.isfinite(low) and math.isfinite(high):
            inside: Array = np.asarray(low + (high - low) * generator.uniform(1e-9, 1 - 1e-9, numbers.shape))
            near = (high - low) * 10.0 ** -generator.uniform(1, 7, numbers.shape)
            ends = np.where(generator.uniform(size=numbers.shape) < 0.5, low + near, high - near)
            inside = np.where(generator.uniform(size=numbers.shape) < 0.25, ends, inside)
        elif math.isfinite(low):
            inside = np.asarray(low + np.abs(numbers - low))
        elif math.isfinite(high):
            inside = np.asarray(high - np.abs(numbers - high))
        else:
            return numbers
        moved = np.where(interval.contains(numbers), numbers, inside)
        safe = _inside(interval)
        return np.where(interval.contains(moved), moved, safe)


def _inside(interval: Interval) -> float:
    """Return a number in an interval with at least one finite end."""
    if math.isfinite(interval.low) and math.isfinite(interval.high):
        return interval.low + (interval.high - interval.low) / 2
    return interval.low + 1.0 if math.isfinite(interval.low) else interval.high - 1.0


def _signs(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return generator.choice([-1.0, 1.0], shape)


def _moderate(generator: np.random.Generator, shape: tuple[int, int], where: Where) -> Array:
    most = min(_MODERATE, where.largest)
    return generator.uniform(-most, most, shape)


def _of_any_magnitude(generator: np.random.Generator, shape: tuple[int, int], where: Where) -> Array:
    exponents = generator.uniform(math.log10(where.smallest), math.log10(where.largest), shape)
    return _signs(generator, shape) * 10.0**exponents


def _of_one_magnitude(generator: np.random.Generator, shape: tuple[int, int], where: Where) -> Array:
    exponents = generator.uniform(math.log10(where.smallest), math.log10(where.largest), (shape[0], 1))
    return _signs(generator, shape) * 10.0**exponents * generator.uniform(0.5, 1, shape)


def _halves(generator: np.random.Generator, shape: tuple[int, int], where: Where) -> Array:
    return generator.integers(-20, 20, shape, endpoint=True) / 2


def _whole(generator: np.random.Generator, shape: tuple[int, int], where: Where) -> Array:
    return generator.integers(-5, 5, shape, endpoint=True).astype(float)


def _near_centers(generator: np.random.Generator, shape: tuple[int, int], where: Where) -> Array:
    distances = 10.0 ** -generator.uniform(1, -math.log10(where.smallest), shape)
    return generator.choice(_CENTERS, shape) + _signs(generator, shape) * distances


def _equal(generator: np.random.Generator, shape: tuple[int, int], where: Where) -> Array:
    one = np.where(generator.uniform(size=(shape[0], 1)) < 0.5, 1, _MODERATE * 0.7)
    return np.broadcast_to(one * generator.uniform(-1, 1, (shape[0], 1)), shape)


def _nearly_equal(generator: np.random.Generator, shape: tuple[int, int], where: Where) -> Array:
    distances = 10.0 ** -generator.uniform(1, -math.log10(where.smallest), (shape[0], 1))
    return _equal(generator, shape, where) * (1 + distances * generator.uniform(-1, 1, shape))


def _repeated(generator: np.random.Generator, shape: tuple[int, int], where: Where) -> Array:
    values = _signs(generator, (shape[0], 3)) * generator.uniform(0.5, 3, (shape[0], 3))
    return np.take_along_axis(values, generator.integers(0, 3, shape), axis=1)


def _with_zeros(generator: np.random.Generator, shape: tuple[int, int], where: Where) -> Array:
    numbers = _signs(generator, shape) * generator.uniform(0.5, 3, shape)
    n_zeros = generator.integers(1, 3, (shape[0], 1))
    order = generator.uniform(size=shape).argsort(axis=1)
    return np.where(order < n_zeros, 0.0, numbers)


_KINDS = (
    _moderate,
    _of_any_magnitude,
    _halves,
    _near_centers,
    _moderate,
    _equal,
    _of_one_magnitude,
    _whole,
    _nearly_equal,
    _repeated,
    _with_zeros,
)
