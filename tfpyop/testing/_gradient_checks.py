"""Checks of derivatives: rules against numerical derivatives of the function, and against each other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hypothesis
import numpy as np
import tensorflow as tf
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._numdiff.directional import Function
from tfpyop._registry.op_def import Transform
from tfpyop._spec.coercion import Array
from tfpyop.errors import GradientError
from tfpyop.testing._check_runner import CheckRunner
from tfpyop.testing._comparisons import (
    NOISE,
    SUBNORMAL,
    Point,
    Vectors,
    agree,
    arrays_of,
    compare_totals,
    counted_weights,
    error_of,
    first_of,
    largest,
    require_some,
    tolerance_of,
)
from tfpyop.testing._coverage import Coverage
from tfpyop.testing._derivatives import (
    Slopes,
    confirmed,
    direction_of,
    generator_of,
    host_function,
    inner,
    jvp,
    slopes,
    vjp,
    weights_like,
    whole_function,
)
from tfpyop.testing._diagnosis import likely_causes
from tfpyop.testing._events import record_error
from tfpyop.testing._examples import Arguments
from tfpyop.testing._failures import is_refusal
from tfpyop.testing._gradient_checker import GradientChecker
from tfpyop.testing._light_elements import LightElements
from tfpyop.testing._light_tangents import LightTangents
from tfpyop.testing._linearity import require_transposed
from tfpyop.testing._many_points import Batch
from tfpyop.testing._modes import checked_modes, is_applicable
from tfpyop.testing._ops import flat_function, lacks_second_derivative, rules_of, spec_of, undefined_inputs
from tfpyop.testing._property import Property, Steps, check_function
from tfpyop.testing._rule_scripts import RuleScript, second_order_script, tangent_script, transposed_script
from tfpyop.testing._strategies import smooth_arguments
from tfpyop.testing._surrogate_checks import REASON, SurrogateGradientChecker, check_surrogate_jvp
from tfpyop.testing._sweep import row_products
from tfpyop.testing._sweep_points import Sweeper

_SECOND_NOISE = 1e-11
"""Precision lost by cancellation inside a gradient, relative to its cotangents, their vectors and the moves."""
_MOST_EXAMPLES = {"eager": None, "graph": 8, "XLA": 8}
"""Maximum number of examples in each mode. In the graph and XLA modes, each example is traced, and compiled for XLA."""


@check_function(modes=("eager", "graph", "XLA"))
def check_gradient(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check the gradient rule against numerical derivatives of the function in float64.

    Proves, for the drawn examples and random cotangents of all outputs, that the cotangent of every floating-point
    input agrees along a random direction with Ridders' extrapolation of central differences. Also proves that the
    outputs do not depend on inputs for which the rule returns None. Numbers at which the function is not smooth, or the
    differences are not precise, do not count. An example without numbers that count is rejected.

    For an op with `surrogate=True`, proves only that the rule is valid and linear in the cotangents, and says so.

    Args:
      op: The op. Skipped if it has no gradient rule, or nothing to differentiate.
      arguments: Strategy for the arguments. Default: float64 arguments of moderate magnitude, drawn like
        `arguments(op)`.
      max_examples: Number of examples. Default: set by the Hypothesis profile; at most eight in a graph and with XLA.
      seed: Seed that makes every run draw the same examples.
      modes: A selection of "eager", "graph" and "XLA". Default: all that apply.

    Returns:
      The outcome, with the numbers of judged and rejected examples.

    Raises:
      CheckError: A cotangent is wrong. The report names the input, the element, both values and the likely cause.

    Source: C. J. F. Ridders, Accurate computation of F'(x) and F'(x)F''(x), Advances in Engineering Software 4 (1982).
    """
    check = CheckRunner(op, "check_gradient", max_examples=max_examples, seed=seed)
    if rules_of(op).vjp is None:
        return check.skipped("the op has no gradient rule")
    strategy, is_surrogate = smooth_arguments(op) if arguments is None else arguments, spec_of(op).is_surrogate
    applicable = [mode for mode in checked_modes(modes) if mode in _MOST_EXAMPLES and is_applicable(op, mode)]
    if not applicable:
        return check.skipped("none of the modes applies to this op")
    for mode in applicable:
        at_most = _MOST_EXAMPLES[mode]
        checker = (SurrogateGradientChecker if is_surrogate else GradientChecker)(check, op, mode)
        sweeper = Sweeper(check, op, strategy, seed=seed)
        yield from checker.properties(strategy, sweeper, shrinks=mode == "eager", at_most=at_most)
        checker.require_all_judged()
        if mode == "eager" and not is_surrogate:
            GradientChecker(check, op, mode).sweep(strategy, sweeper)
    return check.passed(REASON if is_surrogate else None)


@check_function()
def check_jvp(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check forward mode against numerical derivatives, and against the gradient rule.

    Proves, for the drawn examples, that the tangent of every output agrees with numerical derivatives along a random
    direction, and that the JVP J v and the VJP u J satisfy (u, J v) = (u J, v).

    Args:
      op: The op. Skipped if it has no JVP rule.
      arguments: Strategy for the arguments. Default: as in `check_gradient`.
      max_examples: Number of examples. Default: set by the Hypothesis profile.
      seed: Seed that makes every run draw the same examples.
      modes: Not used, because forward mode runs eagerly.

    Returns:
      The outcome, with the numbers of judged and rejected examples.

    Raises:
      CheckError: A tangent is wrong. The report names the output and the element.
    """
    checked_modes(modes)
    check = CheckRunner(op, "check_jvp", max_examples=max_examples, seed=seed)
    if rules_of(op).jvp is None:
        return check.skipped("the op has no JVP rule")
    if spec_of(op).is_surrogate:
        strategy = smooth_arguments(op) if arguments is None else arguments
        yield Property(check, strategy, lambda arguments: check_surrogate_jvp(check, op, arguments))
        return check.passed(REASON)
    coverage = Coverage(check, "check_jvp")

    def body(arguments: Arguments) -> None:
        at = Point.of(check, op, arguments)
        direction = direction_of(at.arrays, at.varied)
        numerical = slopes(at.function, at.arrays, direction)
        tangents = jvp(at.push, at.tensors, direction)
        if any(_wrong_elements(numerical, number, tangent)[0].any() for number, tangent in enumerate(tangents)):
            numerical = confirmed(at.function, at.arrays, direction, numerical)  # at a kink, this proves nothing
        require_some(numerical)
        coverage.note_outputs(at.outputs, numerical.counts)
        for number, tangent in enumerate(tangents):
            wrong, ratio = _wrong_elements(numerical, number, tangent)
            check.aim_at(ratio, f"the tangent of output {number}")
            if wrong.any():
                values = numerical.values[number]
                got = np.zeros(values.shape) if tangent is None else tangent
                index = first_of(wrong)
                raise check.failure(
                    f"the tangent of output {number} is wrong at element {list(index)}.",
                    expected=f"{values[index]:.9g} by differences, +- {numerical.errors[number][index]:.1g}",
                    got=f"{got[index]:.9g}",
                    cause=next(iter(likely_causes(got, values)), None),
                    script=tangent_script(
                        at.arrays,
                        direction,
                        output=number,
                        index=index,
                        expected=values[index],
                        error=float(numerical.errors[number][index]),
                    ),
                )
        _require_light_tangents(check, at, direction, numerical)
        if rules_of(op).vjp is not None and set(at.undefined) <= set(at.without_tangents):
            _require_adjoint(check, at, numerical, direction=direction, tangents=tangents)

    strategy = smooth_arguments(op) if arguments is None else arguments
    sweeper = Sweeper(check, op, strategy, seed=seed)
    yield Property(check, strategy, sweeper.watching(body))
    coverage.require_all()
    sweeper.run(sweeper.by_jvp, body)
    return check.passed()


@check_function()
def check_second_order(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check the gradient of the gradient against numerical derivatives of the gradient.

    Proves, for the drawn examples, that a tape around a tape agrees along a random direction with differences of the
    first gradient. The first gradient itself may be wrong; `check_gradient` checks it.

    Args:
      op: The op. Skipped if it has no second derivative, or has `surrogate=True`, because a surrogate rule may read
        the outputs of a function that it does not differentiate.
      arguments: Strategy for the arguments. Default: as in `check_gradient`.
      max_examples: Number of examples. Default: a fifth of the number in the Hypothesis profile, because examples are
        slow.
      seed: Seed that makes every run draw the same examples.
      modes: Not used, because the check runs eagerly.

    Returns:
      The outcome, with the numbers of judged and rejected examples.

    Raises:
      CheckError: A second derivative is wrong.
    """
    checked_modes(modes)
    default = hypothesis.settings.default
    fifth = max(1, (default.max_examples if default else 100) // 5)
    check = CheckRunner(op, "check_second_order", max_examples=max_examples, seed=seed, usual=fifth)
    coverage = Coverage(check, "check_second_order")
    if rules_of(op).vjp is None:
        return check.skipped("the op has no gradient rule")
    if lacks_second_derivative(op):
        return check.skipped("no second derivative: the numpy rule has no gradient rule")
    if spec_of(op).is_surrogate:
        return check.skipped(REASON)

    def body(arguments: Arguments) -> None:
        at = Point.of(check, op, arguments)
        try:
            compare(at)
        except GradientError as error:
            check.skip_example(f"no second derivative: {error.problem}")
        except Exception as error:
            if not is_refusal(error) or at.has_derivative():
                raise
            check.reject(error)  # a rule may raise at a point without a derivative

    def compare(at: Point) -> None:
        weights = weights_like(at.outputs, generator_of(at.arrays, 1))
        first = FirstGradient(at, weights)
        wanted = [array for array, is_wanted in zip(at.arrays, at.wanted, strict=True) if is_wanted]
        first.pulled_back(weights_like(wanted, generator_of(at.arrays, 2)))  # raises if there is no second derivative
        direction = direction_of(at.arrays, at.wanted)
        gradient = whole_function(first.of_arrays, at.arrays)
        noise = _SECOND_NOISE * max(1.0, largest(weights))
        numerical = slopes(gradient, at.arrays, direction)
        require_some(numerical)
        vectors, second = first.pulled_back_at(numerical)
        if not agree(numerical, vectors, second, direction, noise=noise):  # at a kink, this proves nothing
            numerical = confirmed(gradient, at.arrays, direction, numerical)
            require_some(numerical)
            vectors, second = first.pulled_back_at(numerical)
            compare_totals(
                check,
                numerical,
                vectors,
                got=second,
                direction=direction,
                noise=noise,
                problem="the second derivative is wrong along a random direction.",
                script=first.script(vectors, direction, numerical),
            )
        first.note_counts(coverage, numerical)
        light = LightElements(gradient, at.arrays, direction, pull=first.pulled_back, noise=noise)
        _require_light_elements(check, light, numerical, vectors, second, first)

    strategy = smooth_arguments(op) if arguments is None else arguments
    sweeper = Sweeper(check, op, strategy, seed=seed)
    yield Property(check, strategy, sweeper.watching(body))
    coverage.require_all()
    _sweep_second_order(sweeper, op, body)
    return check.passed()


@dataclass(frozen=True, slots=True)
class FirstGradient:
    """The gradient of an op as a function of its inputs, for fixed cotangents of its outputs."""

    at: Point
    cotangents: Vectors

    def of_arrays(self, arrays: Sequence[Array]) -> Sequence[Array]:
        """Return the cotangents of all differentiable inputs."""
        gradients = arrays_of(vjp(self.at.call, [tf.constant(array) for array in arrays], self.cotangents))
        return [
            np.zeros(array.shape) if gradient is None else gradient
            for array, gradient, is_wanted in zip(arrays, gradients, self.at.wanted, strict=True)
            if is_wanted
        ]

    def note_counts(self, coverage: Coverage, numerical: Slopes) -> None:
        """Count for the cotangent of each input whether its derivative could be compared."""
        numbers = [number for number, is_wanted in enumerate(self.at.wanted) if is_wanted]
        for number, counts in zip(numbers, numerical.counts, strict=True):
            note = coverage.compare if counts.any() else coverage.leave_undecided
            if counts.size:
                note(f"the derivative of the cotangent of input {number}", is_zero=True)

    def pulled_back_at(self, numerical: Slopes) -> tuple[Vectors, Vectors]:
        """Return random vectors for the results that have derivatives, and the gradient of the gradient for them."""
        random = weights_like(numerical.values, generator_of(self.at.arrays, 2))
        vectors = counted_weights(numerical, random)
        return vectors, self.pulled_back(vectors)

    def script(self, vectors: Vectors, direction: Vectors, numerical: Slopes) -> RuleScript:
        """Return a script that shows that the derivative along a direction differs from differences."""
        expected, error = inner(vectors, numerical.values), error_of(numerical, vectors)
        return self.script_of(vectors, direction, expected, error)

    def script_of(self, vectors: Vectors, direction: Vectors, expected: float, error: float) -> RuleScript:
        """Return a script that shows that the derivative along a direction is not the expected number."""
        given = iter(vectors)
        placed = [next(given) if is_wanted else None for is_wanted in self.at.wanted]
        return second_order_script(
            self.at.arrays, self.cotangents, placed, direction, expected=expected, error=float(error)
        )

    def pulled_back(self, vectors: Vectors) -> Vectors:
        """Return the gradient of the gradient, for cotangents of the results of `of_arrays`."""
        at = self.at
        with tf.GradientTape() as tape:
            tape.watch([tensor for tensor, is_wanted in zip(at.tensors, at.wanted, strict=True) if is_wanted])
            gradients = vjp(at.call, at.tensors, self.cotangents)
            wanted = [gradient for gradient, is_wanted in zip(gradients, at.wanted, strict=True) if is_wanted]
            pairs = [(g, tf.constant(v, g.dtype)) for g, v in zip(wanted, vectors, strict=True) if g is not None]
        if not pairs:
            return [None] * len(at.tensors)
        targets, upstream = zip(*pairs, strict=True)
        return arrays_of(tape.gradient(list(targets), at.tensors, output_gradients=list(upstream)))


def _sweep_second_order(sweeper: Sweeper, op: Op[..., Any], body: Callable[[Arguments], None]) -> None:
    """Compare second derivatives with differences of the gradient at many points."""

    def first_gradient(batch: Batch) -> FirstGradient:
        arrays, arguments = batch.arrays, batch.as_arguments
        tensors, call = [tf.constant(array) for array in arrays], flat_function(op, arguments)
        outputs = [output.numpy() for output in call(tensors)]
        undefined = undefined_inputs(op, arguments, Transform.VJP)
        at = Point(arrays, tensors, host_function(op, arguments), call, outputs, call, undefined)
        return FirstGradient(at, weights_like(outputs, generator_of(arrays, 1)))

    def function(batch: Batch) -> Function:
        gradient = first_gradient(batch)
        n_wanted = sum(gradient.at.wanted)
        return Function(gradient.of_arrays, [0] * len(batch.arrays), [0] * n_wanted)

    def products(batch: Batch, outputs: Sequence[Array], weights: Vectors, direction: Vectors) -> tuple[Array, Array]:
        return row_products(first_gradient(batch).pulled_back(weights), direction, batch)

    sweeper.run(products, body, function=function, n_found=4, tolerance=1e-3)


def _wrong_elements(numerical: Slopes, number: int, tangent: Array | None) -> tuple[Array, float]:
    """Return which elements of the tangent of an output differ from differences, and the largest error over tolerance.

    Only finite errors count for the second value.
    """
    values = numerical.values[number]
    got = np.zeros(values.shape) if tangent is None else tangent
    scale = np.abs(values) + np.max(np.abs(values), initial=0.0)
    tolerance = tolerance_of(got) * scale + 4 * numerical.errors[number] + SUBNORMAL
    apart = np.abs(got - values)
    counts = numerical.counts[number]
    ratio = float(np.max(apart / tolerance, where=counts & np.isfinite(apart), initial=0.0))
    record_error(ratio, 1.0)
    return np.asarray(counts & ~(apart <= tolerance)), ratio


def _require_light_tangents(check: CheckRunner, at: Point, direction: Vectors, numerical: Slopes) -> None:
    """Raise a failure if a small part of a tangent is wrong."""
    push = functools.partial(jvp, at.push, at.tensors)
    light = LightTangents(at.function, at.arrays, push, at.without_tangents)
    found = light.mismatch(direction, numerical)
    if found is not None:
        raise check.failure(
            f"the tangent of output {found.output} is wrong at element {list(found.index)}.",
            expected=f"{found.expected:.9g} by differences, +- {found.error:.1g}",
            got=f"{found.got:.9g}",
            cause=next(iter(likely_causes(np.array(found.got), np.array(found.expected))), None),
            script=tangent_script(
                at.arrays,
                found.direction,
                output=found.output,
                index=found.index,
                expected=found.expected,
                error=found.error,
            ),
        )


def _require_light_elements(
    check: CheckRunner,
    light: LightElements,
    numerical: Slopes,
    vectors: Vectors,
    gradients: Vectors,
    first: FirstGradient,
) -> None:
    """Raise a failure if second derivatives are wrong that are much smaller than other second derivatives."""
    if not all(np.isfinite(gradient).all() for gradient in gradients if gradient is not None):
        return
    found = light.mismatch(numerical, vectors, gradients)
    if found is not None:
        raise check.failure(
            f"the second derivative is wrong {found.place}.",
            script=first.script_of(found.weights, found.direction, found.expected, found.error),
            expected=f"{found.expected:.9g} +- {found.error:.1g} by differences",
            got=f"{found.got:.9g}",
            cause=next(iter(found.causes), None),
        )


def _require_adjoint(
    check: CheckRunner, at: Point, numerical: Slopes, *, direction: Vectors, tangents: Vectors
) -> None:
    """Raise a failure unless JVP and VJP satisfy (u, J v) = (u J, v)."""
    weights = counted_weights(numerical, weights_like(at.outputs, generator_of(at.arrays, 1)))
    gradients = arrays_of(vjp(at.call, at.tensors, weights))
    tolerance = max(tolerance_of(array) for array in [*weights, *gradients] if array is not None)
    script = transposed_script(at.arrays, weights, direction)
    require_transposed(
        check, (weights, tangents, gradients, direction), tolerance=tolerance, noise=NOISE, script=script
    )
