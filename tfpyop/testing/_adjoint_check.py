"""The check of adjoint rules: the function is linear, and the rule is its adjoint. No differences are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._spec.coercion import Array, finfo, is_differentiable
from tfpyop.testing._check_runner import CheckRunner, described
from tfpyop.testing._comparisons import SUBNORMAL, Point, Vectors, absolute, arrays_of, first_of, largest, tolerance_of
from tfpyop.testing._derivatives import generator_of, inner, vjp, weights_like
from tfpyop.testing._events import record_error, reject_example
from tfpyop.testing._examples import Arguments
from tfpyop.testing._failures import is_refusal
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._ops import linear_inputs, rules_of
from tfpyop.testing._property import Property, Steps, check_function
from tfpyop.testing._rule_scripts import adjoint_script
from tfpyop.testing._strategies import smooth_arguments

_MOST_ELEMENTS = 12
"""Number of elements of the linear inputs, drawn at random, for which the adjoint is compared separately."""
_ROUNDING = 256
"""Rounding error of one element of an adjoint, in units of the precision of the largest element."""


@check_function()
def check_adjoint(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check that the function is linear where an adjoint rule says so, and that the rule is the adjoint.

    Proves, for the drawn examples and random vectors u, v and w, that f(a v + b w) = a f(v) + b f(w), and that the
    adjoint A satisfies (f(v), u) = (v, A u), for v and for single elements of the inputs, up to rounding.

    Args:
      op: The op. Skipped if it has no adjoint rule.
      arguments: Strategy for the arguments. Default: as in `check_gradient`. For complex inputs pass
        `arguments(op, dtypes=["complex128"])`.
      max_examples: Number of examples. Default: set by the Hypothesis profile.
      seed: Seed that makes every run draw the same examples.
      modes: Not used, because the check runs eagerly.

    Returns:
      The outcome, with the numbers of judged and rejected examples.

    Raises:
      CheckError: The function is not linear, or the rule is not its adjoint. The report names the inputs, the element
        and both values.
    """
    checked_modes(modes)
    check = CheckRunner(op, "check_adjoint", max_examples=max_examples, seed=seed)
    if not rules_of(op).has_adjoint:
        return check.skipped("the op has no adjoint rule")

    def body(arguments: Arguments) -> None:
        at = Point.of(check, op, arguments)
        parts = linear_inputs(op, arguments)
        weights = weights_like(at.outputs, generator_of(at.arrays, 1))
        for names, numbers in parts:
            part = _Part(check, at, names, [number for number in numbers if at.wanted[number]])
            part.require_linear()
            part.require_adjoint(weights)

    yield Property(check, smooth_arguments(op) if arguments is None else arguments, body)
    return check.passed()


_NONLINEAR = (
    "the function is affine, or not linear: use @op.gradient, or declare with linear_in= the inputs in which it is "
    "linear together"
)
_BILINEAR = (
    "the function is linear in each of these inputs, but not in all of them together: attach one adjoint rule for each "
    "input, with linear_in="
)


class _Part:
    """The inputs that one adjoint rule is for, at one example.

    Args:
      check: The check.
      at: The example. The inputs that the rule is not for keep its values.
      names: The names of the parameters of these inputs; empty for all inputs.
      numbers: The indices of these inputs.
    """

    def __init__(self, check: CheckRunner, at: Point, names: Sequence[str], numbers: Sequence[int]) -> None:
        self._check, self._at, self._numbers = check, at, numbers
        listed = ", ".join(map(repr, names))
        self._rule = f"the adjoint rule for {listed}" if names else "the adjoint rule"
        self._nonlinear = f"the function is not linear in {listed or 'its inputs'}"
        self._generator = generator_of(at.arrays, 4)

    def require_linear(self) -> None:
        """Raise CheckError if the function is not linear."""
        scale = 10.0 ** self._generator.uniform(-3, 3)
        a, b = self._generator.uniform(0.5, 2, 2) * self._generator.choice([-1.0, 1.0], 2)
        v, w = self._vectors(scale), self._vectors(scale)
        both = [None if x is None or y is None else a * x + b * y for x, y in zip(v, w, strict=True)]
        of_v, of_w, of_both = self._values(v), self._values(w), self._values(both)
        of_zero = self._values([None if x is None else np.zeros_like(x) for x in v])
        for number, values in enumerate(of_both):
            if not is_differentiable(values.dtype):
                continue
            size = np.max([np.max(np.abs(x[number]), initial=0.0) for x in (of_v, of_w, of_both)])
            if not np.isfinite(size):
                reject_example("an output is not finite")
            self._require_equal(number, of_zero[number], np.zeros_like(values), size, "an input of zeros")
            self._require_equal(number, values, a * of_v[number] + b * of_w[number], size, "a sum of two inputs")

    def require_adjoint(self, weights: Vectors) -> None:
        """Raise CheckError if the cotangents are not the adjoint of the function, by the dot product."""
        found = iter(vjp(self._call, [self._at.tensors[number] for number in self._numbers], weights))
        gradients = arrays_of([next(found) if number in self._numbers else None for number in self._all])
        vector = self._vectors(10.0 ** self._generator.uniform(-1, 1))
        self._require_product(weights, gradients, vector, "along a random vector")
        places = [(number, index) for number in self._numbers for index in np.ndindex(self._at.arrays[number].shape)]
        if len(places) > _MOST_ELEMENTS:
            chosen = self._generator.choice(len(places), _MOST_ELEMENTS, replace=False)
            places = [places[place] for place in chosen]
        for number, index in places:
            for unit in (1, 1j) if np.iscomplexobj(self._at.arrays[number]) else (1,):
                unit_vector: list[Array | None] = [None] * len(self._at.arrays)
                element = np.zeros_like(self._at.arrays[number])
                element[index] = unit
                unit_vector[number] = element
                where = f"of input {number} at element {list(index)}{' (imaginary part)' if unit == 1j else ''}"
                self._require_product(weights, gradients, unit_vector, where)

    def _require_product(self, weights: Vectors, gradients: Vectors, vector: Vectors, where: str) -> None:
        values = self._values([None if number not in self._numbers else vector[number] for number in self._all])
        moved = [gradients[number] if number in self._numbers else None for number in self._all]
        expected, got = inner(weights, values), inner(moved, vector)
        if not np.isfinite(expected):
            reject_example("a product is not finite")
        size = inner(absolute(weights), absolute(values)) + inner(absolute(moved), absolute(vector))
        known = [array for array in (*weights, *moved) if array is not None]
        tolerance = max(map(tolerance_of, known), default=0.0)
        eps = max((float(finfo(array.dtype).eps) for array in known), default=0.0)
        floor = _ROUNDING * eps * largest(moved) * largest(vector) + SUBNORMAL
        allowed = tolerance * size + floor
        record_error(abs(expected - got), allowed)
        if not abs(expected - got) <= allowed:
            raise self._check.failure(
                f"{self._rule} is wrong {where}.",
                expected=f"{expected:.9g}, the product of the output for this vector and the cotangents",
                got=f"{got:.9g}, the product of the vector and the adjoint",
                cause=self._cause(expected, got),
                script=adjoint_script(self._at.arrays, weights, self._with_zeros(vector)),
            )

    def _cause(self, expected: float, got: float) -> str | None:
        """Return the likely cause of a wrong adjoint."""
        if np.isclose(got, -expected) and expected:
            return "the wrong sign, or a conjugate is missing or superfluous"
        is_complex = any(
            array is not None and np.iscomplexobj(array) for array in (*self._at.arrays, *self._at.outputs)
        )
        return "a conjugate is missing, or this is the adjoint of another operator" if is_complex else None

    def _require_equal(self, number: int, got: Array, expected: Array, size: float, what: str) -> None:
        wrong = ~(np.abs(got - expected) <= tolerance_of(got) * size + SUBNORMAL)
        if not wrong.any():
            return
        index = first_of(wrong)
        raise self._check.failure(
            f"{self._nonlinear}: output {number} is wrong for {what} at element {list(index)}.",
            expected=f"{expected[index]:.9g}",
            got=f"{got[index]:.9g}",
            cause=_BILINEAR if self._is_linear_in_each() else _NONLINEAR,
        )

    def _is_linear_in_each(self) -> bool:
        """Return whether the function is linear in each of several inputs while the other inputs are constant."""
        others = self._vectors(1.0)
        return len(self._numbers) > 1 and all(self._is_linear_in(number, others) for number in self._numbers)

    def _is_linear_in(self, number: int, others: Vectors) -> bool:
        v, w = (self._vector(self._at.arrays[number]) for _ in range(2))

        def values(x: Array) -> Sequence[Array]:
            return self._values([x if place == number else other for place, other in enumerate(others)])

        return all(
            np.allclose(of_both, of_v + of_w, rtol=0, atol=1e-3 * float(np.max(np.abs(of_both), initial=0.0)))
            for of_v, of_w, of_both in zip(values(v), values(w), values(v + w), strict=True)
        )

    def _call(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Call the op with tensors for these inputs. The other inputs are constants."""
        given = dict(zip(self._numbers, tensors, strict=True))
        return self._at.call([given.get(number, tensor) for number, tensor in enumerate(self._at.tensors)])

    @property
    def _all(self) -> range:
        return range(len(self._at.arrays))

    def _vectors(self, scale: float) -> list[Array | None]:
        """Return random vectors in place of the inputs."""
        vectors = [scale * self._vector(array) for array in self._at.arrays]
        return [vector if number in self._numbers else None for number, vector in enumerate(vectors)]

    def _vector(self, like: Array) -> Array:
        values = self._generator.normal(size=like.shape)
        return np.asarray(values + 1j * self._generator.normal(size=like.shape) if np.iscomplexobj(like) else values)

    def _with_zeros(self, vectors: Vectors) -> list[Array | None]:
        """Return vectors with zeros for the linear inputs that have none, and None for all other inputs."""
        pairs = zip(self._at.arrays, vectors, strict=True)
        return [
            (np.zeros_like(array) if vector is None else vector) if number in self._numbers else None
            for number, (array, vector) in enumerate(pairs)
        ]

    def _values(self, vectors: Vectors) -> Sequence[Array]:
        """Return the outputs for these vectors. The other linear inputs are zero."""
        at = self._at
        given = self._with_zeros(vectors)
        inputs = [array if vector is None else vector for array, vector in zip(at.arrays, given, strict=True)]
        try:
            return at.function.call(inputs)
        except Exception as error:
            if not is_refusal(error):
                raise
            raise self._check.failure(
                f"{self._nonlinear}: it raises an exception for a vector of another sign or magnitude.",
                got=described(error),
                cause="forward mode and second derivatives call the function on tangents, which may be any numbers",
            ) from error
