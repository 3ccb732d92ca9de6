"""Comparison of rules in float32, float16 and bfloat16 with the same rules in float64.

Both get the same inputs, outputs, residuals and vectors, so that only the arithmetic of the rule differs. What nearby
values change is not counted against the rule.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop import Op
from tfpyop._registry.op_def import Transform
from tfpyop._spec.coercion import Array, DType, dtype_kind, finfo
from tfpyop._spec.tree import flatten
from tfpyop.errors import GradientError
from tfpyop.testing._check_runner import CheckRunner, described
from tfpyop.testing._comparisons import Vectors, first_of, widened
from tfpyop.testing._derivatives import direction_of, generator_of, weights_like
from tfpyop.testing._examples import Arguments
from tfpyop.testing._ops import input_label, rules_of
from tfpyop.testing._rule_calls import RuleCall, is_floating
from tfpyop.testing._scripts import WrongCotangent, gradient_script

_DTYPES = tuple(np.dtype(dtype) for dtype in (np.float32, np.float16, tf.bfloat16.as_numpy_dtype))
_TOLERANCES = {"float32": 1e-2, "float16": 0.3, "bfloat16": 0.5}
"""The relative error from which the digits of a dtype count as lost."""
_N_MOVED = 3
"""Number of times all values are moved by a rounding error."""
_SPREAD = 16
"""Largest error of a rule, in units of the changes due to moved values."""
_ROUNDING = 8
"""Largest error of a rule, in units of the rounding error of output times cotangent, divided by the input."""
_FEWEST = 4
"""Number of judged examples from which lost digits count."""
_MOST_SECONDS = 1.0
"""Time in seconds after which no further examples are compared, if there are enough."""
_FEWEST_INFINITE = 2
"""Number of examples from which infinite results count."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """The comparison of one result at one example, with the first wrong element, if any."""

    arguments: Arguments
    inputs: list[Array]
    vectors: Vectors
    index: tuple[int, ...] | None = None
    expected: Any = None
    got: Any = None

    def with_first(self, wrong: Array, expected: Array, got: Array) -> _Sample:
        """Return the sample with the first wrong element, if any."""
        if not wrong.any():
            return self
        index = first_of(wrong)
        return replace(self, index=index, expected=expected[index], got=got[index])

    @property
    def is_infinite(self) -> bool:
        return self.index is not None and not np.isfinite(self.got)

    @property
    def rounded(self) -> Arguments:
        """The arguments of the call in low precision."""
        return Arguments(flatten(self.arguments.args)[1].unflatten(self.inputs), self.arguments.static)

    @property
    def size(self) -> tuple[int, float]:
        """The number of elements, and their magnitude."""
        return sum(array.size for array in self.inputs), sum(float(np.abs(a).sum()) for a in map(widened, self.inputs))


class LowPrecision:
    """Compare the rules of an op in low precision with the same rules in float64, at one example after the other."""

    def __init__(self, check: CheckRunner, op: Op[..., Any]) -> None:
        self._check, self._op = check, op
        rules = rules_of(op)
        self._transforms = [transform for transform in Transform if rules.of(transform) is not None]
        self._samples: dict[tuple[DType, Transform, int], list[_Sample]] = defaultdict(list)
        self._errors: dict[tuple[DType, Transform], tuple[Exception, Arguments]] = {}
        self._n_tried: Counter[DType] = Counter()
        self._n_compared: Counter[DType] = Counter()
        self._seconds = 0.0

    def add(self, arguments: Arguments, arrays: Sequence[Array]) -> None:
        """Compare the rules at an example, in all dtypes in which the function is precise there."""
        if self._seconds > _MOST_SECONDS and max(self._n_tried.values()) >= _FEWEST:
            return
        start = time.perf_counter()
        has_complex = any(dtype_kind(array.dtype) == "c" for array in arrays)
        for dtype in _DTYPES[:1] if has_complex else _DTYPES:
            self._n_tried[dtype] += 1
            inputs = [_rounded(array, dtype) for array in arrays]
            calls = self._calls(arguments, inputs, dtype)
            if calls is not None:
                for transform in self._transforms:
                    self._compare(arguments, dtype, transform, *calls)
        self._seconds += time.perf_counter() - start

    def _calls(self, arguments: Arguments, inputs: list[Array], dtype: DType) -> tuple[RuleCall, RuleCall] | None:
        """Return the calls in low precision and in float64; None where the function does not accept or resolve them."""
        if not all(np.isfinite(widened(array)).all() for array in inputs if is_floating(array)):
            return None
        try:
            low = RuleCall.of(self._op, arguments, inputs)
            wide = RuleCall.of(self._op, arguments, [widened(array) for array in inputs])
        except Exception:  # of the user's function: `check_contract` reports it
            return None
        for coarse, fine in zip(low.outputs, wide.outputs, strict=True):
            if not is_floating(fine):
                continue
            is_finite = np.isfinite(fine)
            scale = np.max(np.abs(fine), initial=0.0, where=is_finite)
            if not np.all(np.abs(widened(coarse) - fine) <= _TOLERANCES[dtype.name] * scale, where=is_finite):
                return None
        return low, wide.with_values_of(low)

    def _compare(self, arguments: Arguments, dtype: DType, transform: Transform, low: RuleCall, wide: RuleCall) -> None:
        vectors, secants = _vectors(low, wide, transform)
        wide_vectors = [None if vector is None else widened(vector) for vector in vectors]
        generator = generator_of(wide.inputs, 5)
        eps = float(finfo(dtype).eps)

        def move(array: Array) -> Array:
            return np.asarray(array * (1 + eps * generator.choice([-1.0, 1.0], array.shape)), array.dtype)

        try:
            expected = wide.apply(transform, wide_vectors)
            moved = [
                wide.mapped(move).apply(transform, [None if v is None else move(v) for v in wide_vectors])
                for _ in range(_N_MOVED)
            ]
        except Exception:  # the rule may raise at a point without a derivative
            return
        self._n_compared[dtype] += 1
        sample = _Sample(arguments, low.inputs, vectors)
        try:
            found = low.apply(transform, vectors)
        except Exception as error:
            self._errors[dtype, transform] = error, sample.rounded
            return
        is_generic = all(
            np.all(array != 0) for array in wide.inputs if is_floating(array)
        )  # an infinite weight times 0
        for number, (whole, got) in enumerate(zip(expected, found, strict=True)):
            if whole is None or got is None:
                continue
            spread = np.max([np.abs(other[number] - whole) for other in moved], axis=0)
            tiny, largest = float(finfo(dtype).tiny), float(finfo(dtype).max)
            tolerance = _SPREAD * spread + _ROUNDING * eps * secants[number] + 4 * tiny
            judged = np.isfinite(whole) & np.isfinite(tolerance) & (np.abs(whole) <= largest / 8)
            exact = widened(got)
            is_close = np.abs(exact - whole) <= tolerance + _TOLERANCES[dtype.name] * np.abs(whole)
            is_resolved = (whole != 0) & (2 * spread <= np.abs(whole)) & is_generic
            wrong = judged & ~is_close & (np.isfinite(exact) | is_resolved)
            if judged.any():
                self._samples[dtype, transform, number].append(sample.with_first(wrong, whole, exact))

    def require(self) -> None:
        """Raise CheckError for the first result that is wrong in low precision."""
        for (dtype, transform), (error, arguments) in self._errors.items():
            n_results = sum(bool(self._samples[key]) for key in list(self._samples) if key[:2] == (dtype, transform))
            if dtype == np.float32 and not n_results and not isinstance(error, GradientError):
                raise self._check.failure(
                    f"the {_RULES[transform]} raises in float32.",
                    expected="a result, as in float64",
                    got=described(error),
                    cause="a constant or a part of the rule is in float64: convert it to the dtype of the inputs",
                    code=self._check.script_of(arguments),
                ) from error
        for (dtype, transform, number), samples in self._samples.items():
            infinite = [sample for sample in samples if sample.is_infinite]
            wrong = [sample for sample in samples if sample.index is not None]
            if len(infinite) >= _FEWEST_INFINITE:
                raise self._failure(dtype, transform, number, infinite)
            if len(samples) >= _FEWEST and 2 * len(wrong) > len(samples):
                raise self._failure(dtype, transform, number, wrong)

    @property
    def has_compared(self) -> bool:
        """Whether a result of a rule was compared in any of the dtypes."""
        return any(self._samples.values())

    def notes(self) -> Iterator[str]:
        """Yield the dtypes in which a rule was not compared."""
        judged = {key[0] for key, samples in self._samples.items() if samples}
        without = [dtype.name for dtype in self._n_tried if not self._n_compared[dtype]]
        if without:
            yield f"not compared in {', '.join(without)}: the function raises there, or is not precise"
        without = [dtype.name for dtype in self._n_tried if self._n_compared[dtype] and dtype not in judged]
        if without:
            yield f"not compared in {', '.join(without)}: the rule raises there, or its results are out of range"

    def _failure(self, dtype: DType, transform: Transform, number: int, samples: Sequence[_Sample]) -> Exception:
        sample = min(samples, key=lambda sample: sample.size)
        what = f"the tangent of output {number}"
        if transform is Transform.VJP:
            what = f"the cotangent of {input_label(self._op, number, len(sample.inputs))}"
        assert sample.index is not None
        problem, cause = f"has no correct digits in {dtype.name}", "terms cancel that are nearly equal, or the rule "
        cause += f"computes {dtype.name} in another way"
        if sample.is_infinite:
            problem = f"is not finite in {dtype.name}"
            cause = f"an intermediate result of the rule overflows in {dtype.name}, or becomes zero: change the formula"
        code = None
        if transform is Transform.VJP:
            place = WrongCotangent(sample.vectors, sample.expected, 0.0, "eager", element=(number, sample.index))
            code = gradient_script(self._op, sample.arguments, sample.inputs, place)
        return self._check.failure(
            f"{what} {problem}, at element {list(sample.index)}.",
            expected=f"{sample.expected:.6g}, as by the same rule in float64",
            got=f"{sample.got:.6g}",
            cause=cause,
            code=code or self._check.script_of(*[sample.arguments for sample in samples]),
        )


_RULES = {Transform.VJP: "gradient rule", Transform.JVP: "JVP rule"}


def _rounded(array: Array, dtype: DType) -> Array:
    if not is_floating(array):
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.complex64 if dtype_kind(array.dtype) == "c" else dtype)


def _vectors(low: RuleCall, wide: RuleCall, transform: Transform) -> tuple[Vectors, list[Any]]:
    """Return vectors for a rule, and the scale of each result: output times vector, divided by the input."""
    sizes = [np.where(array == 0, 1, np.abs(array)) if is_floating(array) else np.ones(()) for array in wide.inputs]
    values = [np.nan_to_num(np.abs(array)) if is_floating(array) else np.zeros(()) for array in wide.outputs]
    if transform is Transform.VJP:
        cotangents = weights_like(low.outputs, generator_of(wide.inputs, 1))
        pairs = zip(cotangents, values, strict=True)
        total = sum(float(np.sum(np.abs(widened(g)) * value)) for g, value in pairs if g is not None)
        return cotangents, [total / size for size in sizes]
    undefined = low.undefined[transform]
    moved = [is_floating(array) and number not in undefined for number, array in enumerate(wide.inputs)]
    directions = direction_of(wide.inputs, moved)
    tangents = [None if d is None else d.astype(a.dtype) for d, a in zip(directions, low.inputs, strict=True)]
    ratios = [
        float(np.max(np.abs(d) / size, initial=0.0)) for d, size in zip(directions, sizes, strict=True) if d is not None
    ]
    return tangents, [value * max(ratios, default=0.0) for value in values]
