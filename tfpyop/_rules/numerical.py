"""Make numpy rules that compute derivatives numerically, for the methods that `grad=` accepts instead of a rule."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from tfpyop._numdiff.coloring import Coloring, Sparsity
from tfpyop._numdiff.complex_step import ComplexStep, complex_step
from tfpyop._numdiff.confirmation import DirectionalEstimate
from tfpyop._numdiff.directional import Function, jvp_from_values, vjp_from_values
from tfpyop._numdiff.finite_differences import Numerical, numerical
from tfpyop._registry.op_def import ConcreteOp, Transform
from tfpyop._spec.coercion import Array, in_float64, is_differentiable
from tfpyop._spec.rule_context import RuleContext, as_in_call
from tfpyop._spec.rule_values import placed, without_missing
from tfpyop._spec.signature import Signature
from tfpyop._spec.static_values import PLAIN_TYPES
from tfpyop.errors import RegistrationError, nearest

METHODS: Mapping[str, Numerical | ComplexStep] = MappingProxyType(
    {"numerical": Numerical(), "complex-step": ComplexStep()}
)
"""The methods that `grad=` accepts by name."""

_MOST_REMEMBERED = 16
"""The number of points at which a derivative is not confirmed again."""


def parse_method(grad: Any) -> Numerical | ComplexStep | None:
    """Return the method for `grad=`; None if `grad=` is a rule or None."""
    if isinstance(grad, Numerical | ComplexStep):
        return grad
    if grad is numerical or grad is complex_step:
        written = f"grad=tfpyop.{grad.__name__}"
        raise RegistrationError(
            f"{written} is neither a rule nor the name of a method.", remedy=f"Call it: {written}()."
        )
    if not isinstance(grad, str):
        return None
    if grad not in METHODS:
        raise RegistrationError(
            f"grad={grad!r} is neither a rule nor the name of a method.",
            remedy='Did you mean jvp="from-vjp"?' if grad == "from-vjp" else nearest(grad, [*METHODS, "from-jvp"]),
        )
    return METHODS[grad]


class NumericalRule:
    """Compute derivatives from values of the op's function, as a numpy rule.

    Args:
      make: Makes the rule from the cache of confirmed points (None if the method needs no confirmation).
      method: The method that computes the derivatives.
      transform: The direction of differentiation.
    """

    def __init__(
        self,
        make: Callable[[_ConfirmedPoints | None], Callable[..., Any]],
        method: Numerical | ComplexStep,
        transform: Transform,
    ) -> None:
        self.method = method
        self._make = make
        self._transform = transform
        self._rule = make(_ConfirmedPoints(method) if isinstance(method, ComplexStep) else None)

    @property
    def option(self) -> str:
        """The option that requests this method, for error messages."""
        return next(f'grad="{name}"' for name, method in METHODS.items() if type(method) is type(self.method))

    def __call__(self, op: RuleContext, *vectors: Array | None) -> list[Array | None]:
        """Call the rule. Inputs that the call leaves out are not varied, and have no cotangent."""
        places = op._places
        if places is not None and self._transform is Transform.JVP:
            vectors = tuple(without_missing(vectors, places))
        values: list[Array | None] = self._rule(as_in_call(op), *vectors)
        if places is None or self._transform is Transform.JVP:
            return values
        return [None if place is None else values[place] for place in places]

    def __get__(self, instance: object, owner: type | None = None) -> NumericalRule:
        """Return the rule bound to an instance. Its cache is separate, because instances may have different values."""
        return NumericalRule(self._make, self.method, self._transform)


def require_sparsity(method: Numerical | ComplexStep, signature: Signature | None) -> None:
    """Raise RegistrationError if the sparsity pattern of a method does not suit the signature of the op."""
    sparsity = method.sparsity
    if sparsity is None:
        return
    if signature is None:
        if callable(sparsity.value):
            raise RegistrationError(
                "sparsity= is a function of the sizes in the signature, but the op has no signature.",
                remedy="Pass signature= to differentiable_op, or pass a matrix.",
            )
        return
    if not any(signature.inputs):
        raise RegistrationError(
            f"sparsity= has no effect: no input has core dimensions in signature {signature.text!r}.",
            remedy="Remove sparsity=. All elements of loop dimensions are varied at once in any case.",
        )
    if signature.marks.repeated is None:
        sparsity.require_counts(len(signature.inputs), len(signature.outputs))
    sparsity.require_parameters(signature.input_names | signature.given_names, signature.text)


def numerical_rules(method: Numerical | ComplexStep) -> tuple[NumericalRule, NumericalRule]:
    """Return the numpy rules (VJP and JVP) of an op whose derivatives are computed from its values, in float64.

    Without a signature of the op, each element of an input is varied separately.

    Args:
      method: The method that computes the derivatives.
    """

    def make_vjp(confirmed: _ConfirmedPoints | None) -> Callable[..., Any]:
        def vjp(op: RuleContext, *cotangents: Array | None) -> list[Array | None]:
            vectors = [in_float64(cotangent) for cotangent in cotangents if cotangent is not None]
            function, point = _function(op, method.sparsity), [*map(in_float64, op.inputs)]
            gradients = vjp_from_values(method, function, point, vectors, op.needs)
            if confirmed is not None:
                masks = [np.array(op.needs), *(vector != 0 for vector in vectors)]
                confirmed.require(
                    op,
                    function,
                    point,
                    masks,
                    lambda: DirectionalEstimate.from_vjp(function, point, vectors, gradients),
                )
            return gradients

        return vjp

    def make_jvp(confirmed: _ConfirmedPoints | None) -> Callable[..., Any]:
        def jvp(op: RuleContext, *tangents: Array | None) -> list[Array | None]:
            pairs = zip(tangents, op.needs, strict=True)
            vectors = [None if tangent is None or not varies else in_float64(tangent) for tangent, varies in pairs]
            function, point = _function(op, None), [*map(in_float64, op.inputs)]
            found = jvp_from_values(method, function, point, vectors)
            if confirmed is not None:
                masks = [np.asarray(vector is not None) for vector in vectors]
                confirmed.require(
                    op, function, point, masks, lambda: [DirectionalEstimate.from_jvp(point, vectors, found)]
                )
            values = iter(found)
            return [next(values) if is_differentiable(output.dtype) else None for output in op.outputs]

        return jvp

    return NumericalRule(make_vjp, method, Transform.VJP), NumericalRule(make_jvp, method, Transform.JVP)


class _ConfirmedPoints:
    """Cache the last points at which the function's values have confirmed a derivative."""

    def __init__(self, method: ComplexStep) -> None:
        self._method = method
        self._keys: tuple[bytes, ...] = ()

    def require(
        self,
        op: RuleContext,
        function: Function,
        point: Sequence[Array],
        masks: Sequence[Array],
        found: Callable[[], Sequence[DirectionalEstimate]],
    ) -> None:
        """Confirm the derivatives at a new point. A point at which this fails is not cached.

        Args:
          op: The call.
          function: The function of the call.
          point: The inputs of the call.
          masks: Further arrays that distinguish points.
          found: Returns the derivatives to confirm.

        Raises:
          GradientError: The function's values do not confirm the derivatives.
        """
        if any(type(value) not in PLAIN_TYPES for value in op.static.values()):  # repr may not distinguish other values
            self._confirm(function, found)
            return
        digest = hashlib.blake2b(repr(dict(op.static)).encode(), digest_size=16)
        for values in (*point, *masks):
            digest.update(repr((values.dtype.str, values.shape)).encode())
            digest.update(values.tobytes())
        key = digest.digest()
        if key in self._keys:
            return
        self._confirm(function, found)
        self._keys = (*self._keys, key)[-_MOST_REMEMBERED:]  # one assignment, to be thread-safe

    def _confirm(self, function: Function, found: Callable[[], Sequence[DirectionalEstimate]]) -> None:
        for part in found():
            self._method.confirm(function, part)


def _function(op: RuleContext, sparsity: Sparsity | None) -> Function:
    """Return the op's function for numerical derivatives: its differentiable outputs, without residuals."""
    assert isinstance(op._op, ConcreteOp)
    host, signature = op._op.host, op._op.signature
    input_ranks, n_loop = [array.ndim for array in op.inputs], 0
    evaluate = host.evaluate
    if signature is not None:
        shapes = [array.shape for array in op.inputs]
        input_ranks, binding = signature.core_ranks(shapes), signature.bind(shapes)
        loop = tuple(size for size in binding.loop or () if size is not None)
        n_loop = len(loop)
        if binding.missing and loop:  # a loop dimension that a step adds to an input would stand for the missing one
            evaluate = functools.partial(host.evaluate_each, loop=loop, ranks=input_ranks)
    numbers = [number for number, array in enumerate(op.outputs) if is_differentiable(array.dtype)]
    output_ranks = [op.outputs[number].ndim - n_loop for number in numbers]

    def call(arrays: Sequence[Array]) -> list[Array]:
        values = evaluate(arrays)
        return [values[number] for number in numbers]

    values = [op.outputs[number] for number in numbers]
    colorings = None if sparsity is None else _colorings(op, sparsity, input_ranks, n_loop, numbers)
    return Function(call, input_ranks, output_ranks, values, colorings)


def _colorings(
    op: RuleContext,
    sparsity: Sparsity,
    input_ranks: Sequence[int],
    n_loop: int,
    numbers: Sequence[int],
) -> Sequence[Coloring]:
    """Return the colors of each input, for the outputs with these indices."""
    assert isinstance(op._op, ConcreteOp)
    signature, declared = op._op.signature, op._op.definition.spec.signature
    sizes: dict[str, int | None] = {}
    if signature is not None and declared is not None:
        sizes = dict.fromkeys(declared.input_names) | dict(signature.all_sizes([array.shape for array in op.inputs]))
    cores = [array.shape[array.ndim - rank :] for array, rank in zip(op.inputs, input_ranks, strict=True)]
    inputs = cores if op._places is None else placed(cores, op._places)
    return sparsity.colorings(sizes, inputs, [array.shape[n_loop:] for array in op.outputs], numbers)
