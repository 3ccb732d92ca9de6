"""The precision of rules in float64, measured against numerical derivatives, and evidence of float32 inside a rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfpyop import Op
from tfpyop._spec.coercion import Array
from tfpyop.testing._check_runner import CheckRunner
from tfpyop.testing._comparisons import Point, Vectors, arrays_of, counted_weights, distance, error_of
from tfpyop.testing._derivatives import direction_of, generator_of, inner, jvp, slopes, vjp, weights_like
from tfpyop.testing._examples import Arguments
from tfpyop.testing._ops import input_label, rules_of, spec_of
from tfpyop.testing._scripts import WrongCotangent, gradient_script
from tfpyop.testing._single_precision import evidence_of_single

_PRECISE = 3e-10
"""The largest relative error of a numerical derivative with which the precision of a rule can be measured."""
_SINGLE = (2e-9, 1e-4)
"""The relative errors of a rule that computes in single precision. Correct rules reach 1e-13 at most points."""
_FEWEST = 4
"""Number of precise numerical derivatives from which a rule is judged."""
_CONSTANT = 0.1
"""The largest relative deviation of errors that a constant causes, which are the same at all points."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """A derivative along a direction, by differences and by a rule."""

    at: Point
    arguments: Arguments
    weights: Vectors
    direction: Vectors
    expected: float
    error: float
    got: float
    scale: float

    @property
    def is_precise(self) -> bool:
        return bool(np.isfinite(self.got)) and self.scale > 0 and self.error <= _PRECISE * self.scale

    @property
    def off(self) -> float:
        """The relative error of the rule."""
        return abs(self.got - self.expected) / self.scale


class DoublePrecision:
    """Measure the errors of the rules of an op in float64, at one example after the other."""

    def __init__(self, check: CheckRunner, op: Op[..., Any]) -> None:
        self._check, self._op = check, op
        self._samples: dict[int | None, list[_Sample]] = defaultdict(list)
        self._notes: list[str] = []

    def add(self, at: Point, arguments: Arguments) -> None:
        """Measure the errors at an example, if its outputs are in double precision."""
        floating = [output for output in at.outputs if output.dtype.kind in "fc"]
        if spec_of(self._op).is_surrogate or any(output.dtype.name not in _DOUBLE for output in floating):
            return
        at = _generic(at)
        rules = rules_of(self._op)
        for number, is_wanted in enumerate(at.wanted if rules.vjp is not None else ()):
            if is_wanted:
                self._add(at, arguments, number, [other == number for other in range(len(at.arrays))])
        if rules.jvp is not None:
            self._add(at, arguments, None, at.varied)

    def _add(self, at: Point, arguments: Arguments, number: int | None, moved: Sequence[bool]) -> None:
        direction = direction_of(at.arrays, moved)
        numerical = slopes(at.function, at.arrays, direction)
        weights = counted_weights(numerical, weights_like(at.outputs, generator_of(at.arrays, 1)))
        if not any(counts.any() for counts in numerical.counts):
            return
        try:
            if number is None:
                tangents = _counted(jvp(at.push, at.tensors, direction), weights)
                got = inner(weights, tangents)
                scale = 2 * sum(abs(inner([w], [t])) for w, t in zip(weights, tangents, strict=True))
            else:
                gradients = arrays_of(vjp(at.call, at.tensors, weights))
                got, (_, scale) = inner(gradients, direction), distance(numerical, weights, gradients, direction)
        except Exception:  # a rule may raise at a point without a derivative; other checks report it
            return
        expected, error = inner(weights, numerical.values), 4 * error_of(numerical, weights)
        self._samples[number].append(_Sample(at, arguments, weights, direction, expected, error, got, scale))

    def require(self) -> None:
        """Raise CheckError for a rule that computes in single precision."""
        for number, samples in self._samples.items():
            precise = [sample for sample in samples if sample.is_precise]
            low, high = _SINGLE
            coarse = [sample for sample in precise if low < sample.off < high]
            if len(precise) < _FEWEST or 2 * len(coarse) <= len(precise):
                continue
            shown = min(coarse, key=lambda sample: sum(array.size for array in sample.at.arrays))
            cause = self._evidence(shown, coarse, is_gradient=number is not None)
            what = self._what(number, shown)
            if cause is None:
                off = float(np.median([sample.off for sample in coarse]))
                self._notes.append(f"in float64, {what} has a relative error of {off:.0e}")
                continue
            place = WrongCotangent(shown.weights, shown.expected, shown.error, "eager", directions=shown.direction)
            code = gradient_script(self._op, shown.arguments, shown.at.arrays, place) if number is not None else None
            raise self._check.failure(
                f"{what} has only single precision in float64.",
                expected=f"{shown.expected:.15g} +- {shown.error:.1g} by differences",
                got=f"{shown.got:.15g}",
                cause=cause,
                code=code or self._check.script_of(*[sample.arguments for sample in precise]),
            )

    @property
    def has_measured(self) -> bool:
        """Whether there are enough precise numerical derivatives."""
        return any(sum(s.is_precise for s in samples) >= _FEWEST for samples in self._samples.values())

    def notes(self) -> Iterator[str]:
        """Yield the errors of rules that may have another cause than single precision, and what was not measured."""
        yield from self._notes
        if not self.has_measured and not spec_of(self._op).is_surrogate:
            yield "not measured in float64, in which numerical derivatives are not precise enough"

    def _what(self, number: int | None, sample: _Sample) -> str:
        if number is None:
            return "the tangent of the outputs"
        return f"the cotangent of {input_label(self._op, number, len(sample.at.arrays))}"

    def _evidence(self, shown: _Sample, coarse: Sequence[_Sample], *, is_gradient: bool) -> str | None:
        """Return the likely cause of errors, if something besides their size shows single precision."""
        ratios = np.array([sample.got / sample.expected - 1 for sample in coarse if sample.expected])
        if len(ratios) >= _FEWEST and np.std(ratios) < _CONSTANT * abs(np.mean(ratios)):
            return (
                "a constant of the rule is rounded to single precision. tf.cast(0.1, x.dtype) does so: use "
                "tf.constant(0.1, x.dtype)"
            )
        return evidence_of_single(self._op, shown.at, shown.weights, shown.direction, is_gradient=is_gradient)


_DOUBLE = ("float64", "complex128")


def _generic(at: Point) -> Point:
    """Return a nearby point if the function accepts it, because single precision may be exact at simple numbers."""
    moved = at.moved()
    try:
        values = at.function.call(moved.arrays)
    except Exception:  # of the user's function
        return at
    return moved if all(np.isfinite(value).all() for value in values if value.dtype.kind in "fc") else at


def _counted(tangents: Sequence[Array | None], weights: Vectors) -> list[Array | None]:
    """Return tangents, zero where the weight is zero, because zero times infinity is NaN."""
    return [
        None if tangent is None or weight is None else np.where(weight == 0, 0, tangent)
        for tangent, weight in zip(tangents, weights, strict=True)
    ]
