"""Determine whether a function casts its inputs to single precision, although it returns double precision.

A function that casts is constant around every single-precision number, up to the middle between it and the next number.
From one number to the next, it changes as far as single precision resolves. If a function rounds to a number of digits
instead, its steps have another width, at the point or at another magnitude.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tfpyop._numdiff.directional import SINGLE_EPS, core_axes, over_core
from tfpyop._numdiff.line import LineFunction
from tfpyop._spec.coercion import Array

SINGLE_DIGITS, HALF_DIGITS = 24, 11
"""The numbers of binary digits of float32 and float16."""
_NEAR = (0.1127017, -0.2360680, 0.3819660)
"""The positions of the probes near the point, relative to the largest step. They are not numbers with few digits."""
_MOST_OF_THEM = 2
_FAR = (0.0763932, 12.708204)
"""The factors by which inputs are multiplied to probe the function at other magnitudes."""
_INSIDE = 0.45
"""The distance, in units of single precision, that a number may move and still be rounded to the same number."""
_WIDE = 2**17
"""The distance, in numbers of single precision, over which the slope is computed."""
_UNITS = 2.5
"""The size of a change, in units of single precision, that must be visible."""
_TELLING = 16
"""The minimum change over the wide step, in units, for a probe to be conclusive."""
_SCATTERED = 32
"""The number of points that are compared to detect scattered values."""
_CLEAR = 0.25
"""The minimum size of a change, relative to the noise, to count."""
_FEWEST_CHANGES = 6
_OFTEN = 1 / 3


def casts_to_single(line: LineFunction, first: Array) -> list[Array]:
    """Return, for each output, where the function behaves as if it casts its inputs to single precision."""
    near = [_probe(line, base) for base in _near(line, first)]
    far = [_probe(line, base) for base in _far(line)]
    found = []
    for number in range(len(line.function.output_ranks)):
        n_casts = np.sum([probe[number][0] for probe in near], axis=0)
        smaller, larger = (probe[number] for probe in far)
        found.append((n_casts >= _MOST_OF_THEM) & np.where(smaller[1], smaller[0], larger[0] | ~larger[1]))
    return found


def _near(line: LineFunction, first: Array) -> Iterator[list[Array]]:
    for part in _NEAR:
        yield [_rounded(values) for values in line.displaced(part * first)]


def _far(line: LineFunction) -> Iterator[list[Array]]:
    for factor in _FAR:
        yield [
            _rounded(values if vector is None else np.where(vector == 0, values, factor * values))
            for values, vector in zip(line.point, line.direction, strict=True)
        ]


def _probe(line: LineFunction, base: Sequence[Array]) -> list[tuple[Array, Array]]:
    """Return, for each output, where the function behaves as if it casts near a point, and where it changes enough."""
    cells = [_cells(values, vector) for values, vector in zip(base, line.direction, strict=True)]

    def at(distance: float | Array) -> Sequence[Array]:
        ranks = line.function.input_ranks
        return line.at(
            [
                values + over_core(np.asarray(distance), rank) * cell
                for values, cell, rank in zip(base, cells, ranks, strict=True)
            ]
        )

    here, wide = at(0.0), at(_WIDE)
    units = [SINGLE_EPS * np.abs(value) for value in here]
    slopes = [np.abs(far - value) / _WIDE for far, value in zip(wide, here, strict=True)]
    stride: Array = np.ones(())
    for unit, slope, rank in zip(units, slopes, line.function.output_ranks, strict=True):
        wanted = np.where(slope > 0, np.floor(_UNITS * unit / slope), 1.0)
        stride = np.maximum(stride, np.minimum(wanted, _WIDE).max(axis=core_axes(rank), initial=1.0))
    inside = [at(-_INSIDE), at(_INSIDE)]
    beyond = [(1.0, at(1.0)), (2.0, at(2.0)), (stride, at(stride))]
    found = []
    for number, (value, unit, slope, rank) in enumerate(
        zip(here, units, slopes, line.function.output_ranks, strict=True)
    ):
        is_telling = np.isfinite(value) & (slope * _WIDE >= _TELLING * unit)
        is_constant = (inside[0][number] == value) & (inside[1][number] == value)
        changes: Array = beyond[0][1][number] != value
        for n_cells, values in beyond[1:]:
            changes = changes | (
                (values[number] != value) & (over_core(np.asarray(n_cells), rank) * slope <= _UNITS * unit)
            )
        found.append((is_telling & is_constant & changes, is_telling))
    return found


def single_neighbours(line: LineFunction, number: int) -> Iterator[list[list[Array]]]:
    """Yield single-precision numbers around the point, each with two other numbers that round to it."""
    point = [_rounded(values) for values in line.point]
    cells = [_cells(values, vector) for values, vector in zip(point, line.direction, strict=True)]
    for distance in range(-number // 2, number - number // 2):
        base = [_rounded(values + distance * cell) for values, cell in zip(point, cells, strict=True)]
        sides = [
            [_inside(values, vector, sign) for values, vector in zip(base, line.direction, strict=True)]
            for sign in (-1.0, 1.0)
        ]
        yield [base, *sides]


def midpoints(values: Array, digits: int, number: int) -> Array:
    """Return, for each value, a number halfway between two narrow numbers: the n-th one away from zero.

    Args:
      values: The values.
      digits: The number of binary digits of the narrow numbers: 24 for single precision.
      number: Which number halfway to return.
    """
    unit = spacing(values, digits)
    middle = (np.rint(values / unit) + np.copysign(number + 0.5, values)) * unit
    return np.where(np.isfinite(middle), middle, values)


def spacing(values: Array, digits: int) -> Array:
    """Return the distance from each number, rounded to this many binary digits, to the next one away from zero."""
    return np.asarray(np.ldexp(spacing_of_singles(values), SINGLE_DIGITS - digits))


def are_narrow(values: Array, digits: int) -> Array:
    """Return which numbers have no more than this many binary digits."""
    if values.dtype.kind == "c":
        return np.asarray(are_narrow(values.real, digits) & are_narrow(values.imag, digits))
    scaled = np.ldexp(np.frexp(values)[0], digits)
    return np.asarray(scaled == np.rint(scaled))


def spacing_of_singles(values: Array) -> Array:
    """Return the distance from each number, rounded to single precision, to the next one away from zero."""
    return np.asarray(np.spacing(np.abs(values).astype(np.float32)).astype(np.float64))


def _inside(values: Array, vector: Array | None, sign: float) -> Array:
    """Return double-precision numbers that round to these single-precision numbers."""
    if vector is None:
        return values
    if vector.dtype.kind == "c":
        return _inside(values.real, vector.real, sign) + 1j * _inside(values.imag, vector.imag, sign)
    following = np.nextafter(values.astype(np.float32), np.float32(sign * np.inf)).astype(np.float64)
    return np.where(vector == 0, values, values + _INSIDE * (following - values))


def _cells(values: Array, vector: Array | None) -> Array:
    """Return the distance from each number that varies to the next single-precision number along the direction."""
    if vector is None:
        return np.zeros(values.shape)
    if vector.dtype.kind == "c":
        return _cells(values.real, vector.real) + 1j * _cells(values.imag, vector.imag)
    return np.sign(vector) * spacing_of_singles(values)


def _rounded(values: Array) -> Array:
    """Return single-precision numbers as double-precision numbers."""
    if values.dtype.kind not in "fc":
        return values
    single = np.complex64 if values.dtype.kind == "c" else np.float32
    return values.astype(single).astype(values.dtype)


def scatters(line: LineFunction, ambiguities: Sequence[tuple[Array, Array, Array]]) -> list[Array]:
    """Return, for each output, where nearby values scatter around a slope like rounding errors, not like equal steps.

    Args:
      line: The function along a direction.
      ambiguities: For each output: doubtful elements, their noise, and the spacing at which it is visible.
    """
    spacing: Array = np.zeros(())
    for (which, _, spacings), rank in zip(ambiguities, line.function.output_ranks, strict=True):
        widest = np.where(which, spacings, 0.0).max(axis=core_axes(rank), initial=0.0)
        spacing = np.maximum(spacing, widest)
    rows = [line.at(line.displaced(spacing * number)) for number in range(-_SCATTERED // 2, _SCATTERED // 2)]
    found = []
    for number, (which, noise, _) in enumerate(ambiguities):
        changes = np.diff(np.array([row[number].astype(np.complex128) for row in rows]), axis=0)
        found.append(which & _turns(changes, noise))
    return found


def _turns(changes: Array, noise: Array) -> Array:
    """Return where changes that are large compared with the noise go up and down."""
    clear = np.abs(changes) >= _CLEAR * noise
    last, n_clear, n_turns = np.zeros(noise.shape, changes.dtype), np.zeros(noise.shape), np.zeros(noise.shape)
    for change, is_clear in zip(changes, clear, strict=True):
        n_turns += is_clear & (np.real(change * np.conj(last)) < 0)
        n_clear += is_clear
        last = np.where(is_clear, change, last)
    return np.asarray((n_clear >= _FEWEST_CHANGES) & (n_turns >= _OFTEN * n_clear))
