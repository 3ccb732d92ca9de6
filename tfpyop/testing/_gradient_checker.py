"""The gradient checker: compare a rule with differences at each example, and locate mismatches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._numdiff.directional import Function
from tfpyop._spec.coercion import Array, is_differentiable
from tfpyop.errors import ContractError
from tfpyop.testing._check_runner import CheckRunner, described, is_quick, quietly
from tfpyop.testing._comparisons import (
    NOISE,
    SUBNORMAL,
    Point,
    Vectors,
    agree,
    arrays_of,
    counted_weights,
    error_of,
    error_ratio,
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
from tfpyop.testing._diagnosis import cause_of_mixing, cause_of_refusal, is_about_shape, likely_causes
from tfpyop.testing._drawing import draw_each
from tfpyop.testing._events import reject_example
from tfpyop.testing._examples import Arguments
from tfpyop.testing._failures import CheckError, is_refusal
from tfpyop.testing._light_elements import LightElements
from tfpyop.testing._ops import input_label, spec_of
from tfpyop.testing._property import Property
from tfpyop.testing._scripts import WrongCotangent, gradient_script
from tfpyop.testing._sweep_points import Sweeper

_N_CONFIRMING = 6
"""Number of additional directions that are tried at a point before a failure is reported."""
_MOST_UNITS = 8
"""Maximum number of cotangents of one element that are tried to simplify a failure."""
_N_OTHER_SHAPES = (2, 3)
"""Number of examples of other shapes at which a cause is confirmed, in other modes and eagerly."""
_N_OF_SHAPE = 4
"""Maximum number of examples of each of these shapes."""
_N_DRAWN = 60
"""Number of examples that are drawn to find other shapes."""
_MOST_LOCATED = 64
"""Maximum number of elements that are moved one by one to locate a failure."""


class GradientChecker:
    """Check the gradient of an op at one example after the other.

    A failure is explained after the simplest example has been found. A cause is reported only if it also explains the
    failure at a nearby point and at examples of other shapes, because several causes would explain the failure at the
    simplest examples.
    """

    def __init__(self, check: CheckRunner, op: Op[..., Any], mode: str) -> None:
        self._check, self._op, self._mode = check, op, mode
        self._coverage = Coverage(check, "check_gradient", mode=mode)
        self._found: _Found | None = None

    def properties(
        self, strategy: SearchStrategy[Arguments], sweeper: Sweeper, *, shrinks: bool, at_most: int | None
    ) -> Iterator[Property[Arguments]]:
        """Yield the property that the examples that a strategy draws have, and show the examples to a sweeper.

        Raises:
          CheckError: A cotangent is wrong. The error contains a script that shows it, and the likely cause.
        """
        with self._explaining(strategy):
            yield Property(self._check, strategy, sweeper.watching(self), shrinks, at_most)

    def sweep(self, strategy: SearchStrategy[Arguments], sweeper: Sweeper) -> None:
        """Check the suspicious points of a sweep.

        Raises:
          CheckError: A cotangent is wrong, as for `run`.
        """
        with self._explaining(strategy):
            sweeper.run(sweeper.by_vjp, self)

    @contextlib.contextmanager
    def _explaining(self, strategy: SearchStrategy[Arguments]) -> Iterator[None]:
        """Explain the failure that is raised."""
        try:
            yield
        except CheckError as error:
            found = self._found
            if found is None or found.failure is not error or is_quick():
                raise
            with quietly():
                explained = self._explained(found, strategy)
            notes = getattr(error, "__notes__", [])  # what Hypothesis says about the example
            explained.__notes__ = notes  # type: ignore[attr-defined]  # Python 3.10 has no add_note
            raise explained from None

    def __call__(self, arguments: Arguments) -> None:
        """Raise CheckError if a cotangent is wrong."""
        at = Point.of(self._check, self._op, arguments)
        weights = weights_like(at.outputs, generator_of(at.arrays, 1))
        is_judged = False
        known: list[tuple[Vectors, Vectors]] = []
        for number, is_wanted in enumerate(at.wanted):
            direction = direction_of(at.arrays, [other == number for other in range(len(at.arrays))])
            if not is_wanted:
                continue
            numerical = slopes(at.function, at.arrays, direction)
            if not self._note(at, number, numerical, weights):
                continue
            is_judged = True
            counted = counted_weights(numerical, weights)
            gradients = next((found for weights_of, found in known if _same(weights_of, counted)), None)
            if gradients is None:
                gradients = self._gradients_unless_refused(at, counted)
                known.append((counted, gradients))
            reject_infinite(numerical, gradients)
            ratio = error_ratio(numerical, counted, gradients, direction)
            self._check.aim_at(ratio, f"the cotangent of input {number}")
            if ratio <= 1:
                self._judge_light_elements(arguments, at, number, direction, numerical, counted, gradients)
                continue
            numerical = confirmed(at.function, at.arrays, direction, numerical, n_others=_N_CONFIRMING)
            counted = counted_weights(numerical, weights)
            gradients = self._gradients(at, counted)
            if agree(numerical, counted, gradients, direction):
                continue
            expected, precision = inner(counted, numerical.values), error_of(numerical, counted)
            failure = self._check.failure(
                f"the cotangent of {self._input(at, number)} is wrong along a random direction.",
                mode=self._mode,
                expected=f"{expected:.9g} +- {precision:.1g} by differences",
                got=f"{inner(gradients, direction):.9g}",
                code=gradient_script(
                    self._op,
                    arguments,
                    at.arrays,
                    WrongCotangent(counted, expected, precision, self._mode, directions=direction),
                ),
            )
            self._found = _Found(failure, arguments, at, number, counted)
            raise failure
        if not is_judged:
            reject_example("no derivative can be compared")

    def _gradients_unless_refused(self, at: Point, weights: Vectors) -> Vectors:
        """Return the gradients. Reject the example if the rule raises at a point without a derivative."""
        try:
            return self._gradients(at, weights)
        except Exception as error:
            if not is_refusal(error) or at.has_derivative():
                raise
            self._check.reject(error)

    def _judge_light_elements(
        self,
        arguments: Arguments,
        at: Point,
        number: int,
        direction: Vectors,
        numerical: Slopes,
        weights: Vectors,
        gradients: Vectors,
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
                code=gradient_script(
                    self._op,
                    arguments,
                    at.arrays,
                    WrongCotangent(found.weights, found.expected, found.error, self._mode, directions=found.direction),
                ),
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

    def _explained(self, found: _Found, strategy: SearchStrategy[Arguments]) -> CheckError:
        """Return the failure with the first wrong element for the simplest cotangents, and the likely cause."""
        at, number = found.at, found.number
        mixing = next(iter(self._mixing(at)), None)
        wrong, weights = None, found.weights
        if sum(array.size for array in at.arrays) <= _MOST_LOCATED:
            for weights in self._simplest_first(found.weights):
                wrong = self._wrong_element(at, number, weights)
                if wrong is not None:
                    break
        if wrong is None:
            failure = found.failure
            return self._check.failure(
                failure.problem,
                mode=self._mode,
                expected=failure.expected,
                got=failure.got,
                cause=mixing,
                code=failure.code,
            )
        place = WrongCotangent(weights, wrong.expected, wrong.error, self._mode, element=(number, wrong.index))
        return self._check.failure(
            f"the cotangent of {self._input(at, number)} is wrong at element {list(wrong.index)}.",
            mode=self._mode,
            expected=f"{wrong.expected:.9g} +- {wrong.error:.1g} by differences, for cotangents {_text(weights)}",
            got="None: no dependence" if wrong.got is None else f"{wrong.got:.9g}",
            cause=mixing or self._confirmed_cause(found, strategy),
            code=gradient_script(self._op, found.arguments, at.arrays, place),
        )

    def _simplest_first(self, weights: Vectors) -> Iterator[Vectors]:
        """Yield cotangents that are one for one element, one everywhere, and at last the given cotangents."""
        ones = [None if weight is None else (weight != 0).astype(weight.dtype) for weight in weights]
        if self._mode == "eager":  # each of them takes a gradient
            places = [(n, index) for n, one in enumerate(ones) if one is not None for index in np.argwhere(one)]
            for n, index in places[:_MOST_UNITS]:
                units = [None if one is None else np.zeros_like(one) for one in ones]
                unit = units[n]
                assert unit is not None
                unit[tuple(index)] = 1
                yield units
        yield ones
        yield weights

    def _confirmed_cause(self, found: _Found, strategy: SearchStrategy[Arguments]) -> str | None:
        """Return the first cause that explains the failure at this point, nearby, and at examples of other shapes."""
        here = self._wrong_element(found.at, found.number, found.weights)
        causes = [] if here is None else here.causes
        nearby = self._wrong_element(found.at.moved(), found.number, found.weights) if causes else None
        causes = [] if nearby is None else [cause for cause in causes if cause in nearby.causes]
        confirmed: set[str] = set()
        for at in self._other_shapes(found, strategy) if causes else ():
            weights = self._counted(at, found.number)
            there = None if weights is None else self._wrong_element(at, found.number, weights)
            if there is not None:
                is_like = _equalities(at.arrays) == _equalities(found.at.arrays)
                confirmed.update(there.causes)
                causes = [cause for cause in causes if cause in there.causes or (is_about_shape(cause) and not is_like)]
        return next((cause for cause in causes if cause in confirmed), None)

    def _other_shapes(self, found: _Found, strategy: SearchStrategy[Arguments]) -> list[Point]:
        """Return examples whose shapes differ from the failing example, a few of each shape.

        The mistake may be invisible at some of them. Examples in which the same inputs have equal shapes come first.
        """
        alike: dict[str, list[Point]] = {}
        others: dict[str, list[Point]] = {}
        known = [array.shape for array in found.at.arrays]
        most = _N_OTHER_SHAPES[self._mode == "eager"]

        def draw(arguments: Arguments) -> None:
            leaves = [np.asarray(leaf) for leaf in arguments.leaves]
            shapes = [leaf.shape for leaf in leaves]
            size = sum(map(math.prod, shapes))
            by_shape = alike if _equalities(leaves) == _equalities(found.at.arrays) else others
            points = by_shape.get(str(shapes), [])
            has_room = points or len(by_shape) < most
            if shapes != known and has_room and len(points) < _N_OF_SHAPE and 1 < size <= _MOST_LOCATED:
                by_shape[str(shapes)] = [*points, Point.of(self._check, self._op, arguments)]

        draw_each(strategy, draw, at_most=_N_DRAWN)
        return [point for points in [*alike.values(), *others.values()][:most] for point in points]

    def _counted(self, at: Point, number: int) -> Vectors | None:
        """Return random cotangents for the outputs that have a derivative by an input; None if there are none."""
        direction = direction_of(at.arrays, [other == number for other in range(len(at.arrays))])
        numerical = slopes(at.function, at.arrays, direction)
        if number >= len(at.arrays) or not any(counts.any() for counts in numerical.counts):
            return None
        return counted_weights(numerical, weights_like(at.outputs, generator_of(at.arrays, 1)))

    def _input(self, at: Point, number: int) -> str:
        return input_label(self._op, number, len(at.arrays))

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
        wrong &= np.isfinite(got) if np.any(wrong & np.isfinite(got)) else True
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
class _Found:
    """A failure at an example, before it is explained."""

    failure: CheckError
    arguments: Arguments
    at: Point
    number: int
    weights: Vectors


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


def _same(one: Vectors, other: Vectors) -> bool:
    """Return whether two lists of vectors are the same numbers."""
    return all(a is b if a is None or b is None else np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _equalities(arrays: Sequence[Array]) -> list[int]:
    """Return which shapes are equal: for each array the index of the first array of this shape."""
    shapes = [array.shape for array in arrays]
    return [shapes.index(shape) for shape in shapes]


def _text(weights: Vectors) -> str:
    return ", ".join(
        "none" if weight is None else np.array2string(weight, precision=3, threshold=6) for weight in weights
    )
