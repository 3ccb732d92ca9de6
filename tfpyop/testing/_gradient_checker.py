"""The gradient checker: compare a rule with differences at each example, and locate mismatches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hypothesis
import numpy as np
import tensorflow as tf

from tfpyop import Op
from tfpyop._numdiff.directional import Function
from tfpyop._spec.coercion import Array, is_differentiable
from tfpyop.errors import ContractError
from tfpyop.testing._check_runner import CheckRunner, described, is_quick
from tfpyop.testing._comparisons import (
    NOISE,
    SUBNORMAL,
    Point,
    Vectors,
    agree,
    arrays_of,
    counted_weights,
    error_of,
    first_of,
    reject_infinite,
    tolerance_of,
)
from tfpyop.testing._coverage import Coverage
from tfpyop.testing._derivatives import (
    Slopes,
    confirmed,
    direction_of,
    generator_of,
    inner,
    slopes,
    unit_direction,
    vjp,
    weights_like,
    whole_function,
)
from tfpyop.testing._diagnosis import cause_of_mixing, cause_of_refusal, likely_causes
from tfpyop.testing._examples import Arguments
from tfpyop.testing._failures import is_refusal
from tfpyop.testing._light_elements import LightElements
from tfpyop.testing._ops import spec_of

_N_CONFIRMING = 6
"""Number of additional directions that are tried at a point before a failure is reported."""
_MOST_LOCATED = 64
"""Maximum number of elements that are moved one by one to locate a failure."""


class GradientChecker:
    """Check the gradient of an op at one example after the other.

    A cause is reported only if it also explains the failure at a nearby point, because several causes would explain the
    failure at the simplest examples.
    """

    def __init__(self, check: CheckRunner, op: Op[..., Any], mode: str) -> None:
        self._check, self._op, self._mode = check, op, mode
        self._coverage = Coverage(check, "check_gradient", mode=mode)

    def __call__(self, arguments: Arguments) -> None:
        """Raise CheckError if a cotangent is wrong."""
        at = Point.of(self._check, self._op, arguments)
        weights = weights_like(at.outputs, generator_of(at.arrays, 1))
        is_judged = False
        for number, is_wanted in enumerate(at.wanted):
            direction = direction_of(at.arrays, [other == number for other in range(len(at.arrays))])
            if not is_wanted:
                continue
            numerical = slopes(at.function, at.arrays, direction)
            if not self._note(at, number, numerical, weights):
                continue
            is_judged = True
            counted = counted_weights(numerical, weights)
            try:
                gradients = self._gradients(at, counted)
            except Exception as error:
                if not is_refusal(error) or at.has_derivative():
                    raise
                self._check.reject(error)  # a rule may raise at a point without a derivative
            reject_infinite(numerical, gradients)
            if agree(numerical, counted, gradients, direction):
                self._judge_light_elements(at, number, direction, numerical, counted, gradients)
                continue
            numerical = confirmed(at.function, at.arrays, direction, numerical, n_others=_N_CONFIRMING)
            counted = counted_weights(numerical, weights)
            gradients = self._gradients(at, counted)
            if agree(numerical, counted, gradients, direction):
                continue
            if not is_quick():
                self._locate(at, number, counted)
            raise self._check.failure(
                f"the cotangent of {self._input(at, number)} is wrong along a random direction.",
                mode=self._mode,
                expected=f"{inner(counted, numerical.values):.9g} +- {error_of(numerical, counted):.1g} by differences",
                got=f"{inner(gradients, direction):.9g}",
                cause=next(iter(self._mixing(at)), None),
            )
        if not is_judged:
            hypothesis.reject()

    def _judge_light_elements(
        self, at: Point, number: int, direction: Vectors, numerical: Slopes, weights: Vectors, gradients: Vectors
    ) -> None:
        """Raise a failure if elements with small derivatives are wrong. Only eager, because each needs a gradient."""
        if self._mode != "eager" or not np.all([np.isfinite(g).all() for g in gradients if g is not None]):
            return
        light = LightElements(
            at.function, at.arrays, direction, pull=lambda vectors: self._gradients(at, vectors), noise=NOISE
        )
        found = light.mismatch(numerical, weights, gradients)
        if found is not None:
            raise self._check.failure(
                f"the cotangent of {self._input(at, number)} is wrong {found.place}.",
                mode=self._mode,
                expected=f"{found.expected:.9g} +- {found.error:.1g} by differences",
                got=f"{found.got:.9g}",
                cause=next(iter(found.causes), None),
            )

    def require_all_judged(self) -> None:
        """Raise CheckError if the derivative by an input, or of an output, was inconclusive in all examples."""
        self._coverage.require_all()

    def _note(self, at: Point, number: int, numerical: Slopes, weights: Vectors) -> bool:
        """Return whether the cotangent of an input can be judged, and record this for the input."""
        what = f"the cotangent of {self._input(at, number)}"
        self._coverage.note_outputs(at.outputs, numerical.counts)
        if any(counts.any() for counts in numerical.counts):
            self._coverage.compare(what, is_zero=not any(values.any() for values in numerical.values))
            return True
        if not self._coverage.is_judged(what) and at.arrays[number].size:
            try:
                gradient = self._gradients(at, weights)[number]
            except Exception as error:
                if not is_refusal(error):
                    raise
                gradient = np.zeros(())  # the rule may raise at a point without a derivative
            if gradient is not None:
                self._coverage.leave_undecided(what, is_zero=not np.any(gradient[np.isfinite(gradient)]))
        return False

    def _gradients(self, at: Point, weights: Vectors) -> Vectors:
        def differentiate() -> Any:
            return vjp(at.call, at.tensors, weights)

        try:
            if self._mode == "eager":
                return arrays_of(differentiate())
            function = tf.function(differentiate, autograph=False, jit_compile=self._mode == "XLA")
            return arrays_of(function.get_concrete_function()())
        except ContractError as error:
            raise self._check.failure(
                "the gradient rule returns a value that is not a valid cotangent of an input.",
                mode=self._mode,
                got=described(error),
                cause=cause_of_refusal(error),
            ) from error

    def _locate(self, at: Point, number: int, weights: Vectors) -> None:
        """Raise a failure that names the first wrong element, if it can be found."""
        if sum(array.size for array in at.arrays) > _MOST_LOCATED:
            return
        found = self._wrong_element(at, number, weights)
        if found is None:
            return
        elsewhere = self._wrong_element(at.moved(), number, weights)
        causes = [] if elsewhere is None else [cause for cause in found.causes if cause in elsewhere.causes]
        raise self._check.failure(
            f"the cotangent of {self._input(at, number)} is wrong at element {list(found.index)}.",
            mode=self._mode,
            expected=f"{found.expected:.9g} +- {found.error:.1g} by differences, for cotangents {_text(weights)}",
            got="None: no dependence" if found.got is None else f"{found.got:.9g}",
            cause=next(iter([*self._mixing(at), *causes]), None),
        )

    def _input(self, at: Point, number: int) -> str:
        """Return the name of an input in reports: its number and, if each parameter is one input, its name."""
        names = spec_of(self._op).parameters.input_names
        return f"input {number} ({names[number]})" if len(names) == len(at.arrays) else f"input {number}"

    def _mixing(self, at: Point) -> list[str]:
        spec = spec_of(self._op)
        has_loops = spec.signature is not None and spec.is_vectorized
        return cause_of_mixing(at.function, at.arrays) if has_loops else []

    def _wrong_element(self, at: Point, number: int, weights: Vectors) -> _Wrong | None:
        """Return the first wrong element of one cotangent with the likely causes at this point, or None."""
        whole = whole_function(at.function.call, at.arrays)
        found = [_by_elements(whole, at.arrays, other, weights) for other in range(len(at.arrays))]
        own = found[number]
        if own is None:
            return None
        expected, errors = own
        given = self._gradients(at, weights)[number]
        got = np.zeros(expected.shape) if given is None else given
        scale = np.max(np.abs(expected), initial=0.0)
        wrong = ~(np.abs(got - expected) <= 10 * tolerance_of(got) * (np.abs(expected) + scale) + SUBNORMAL)
        if not wrong.any():
            return None
        index = first_of(wrong)
        causes = likely_causes(
            got,
            expected,
            others=[None if pair is None or other == number else pair[0] for other, pair in enumerate(found)],
            doubled=self._gradients(at, [None if w is None else 2 * w for w in weights])[number],
            conjugated=self._gradients(at, [None if w is None else np.conj(w) for w in weights])[number],
        )
        return _Wrong(index, expected[index], errors[index], None if given is None else got[index], causes)


@dataclass(frozen=True, slots=True)
class _Wrong:
    """A wrong element of a cotangent."""

    index: tuple[int, ...]
    expected: Any
    error: float
    got: Any
    causes: list[str]


def _by_elements(
    function: Function, point: Sequence[Array], number: int, weights: Vectors
) -> tuple[Array, Array] | None:
    """Return the cotangent of one input, by moving its elements one by one, and its estimated errors."""
    if not is_differentiable(point[number].dtype):
        return None
    result = np.zeros(point[number].shape, point[number].dtype)
    errors = np.zeros(point[number].shape)
    for index in np.ndindex(point[number].shape):
        direction = unit_direction(point, number, index)
        size = np.asarray(direction[number])[index]
        for unit in (1, 1j) if result.dtype.kind == "c" else (1,):
            turned = [None if vector is None else unit * vector for vector in direction]
            moved = slopes(function, point, turned)
            result[index] += unit * inner(weights, moved.values) / np.real(size)
            errors[index] += error_of(moved, weights) / np.real(size)
    return result, errors


def _text(weights: Vectors) -> str:
    return ", ".join(
        "none" if weight is None else np.array2string(weight, precision=3, threshold=6) for weight in weights
    )
