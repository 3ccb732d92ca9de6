"""Transpose a rule in numpy: call it with basis vectors on the host, in one host call."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfpyop._rules.jacobian_blocks import Layout
from tfpyop._rules.loop_elements import (
    assembled,
    groups_of,
    known_loop,
    loop_elements,
    with_values,
    with_whole_loop,
)
from tfpyop._rules.transposed_rule import TransposedRule, weighted, weights_of_basis
from tfpyop._spec.coercion import Array, in_float64, is_differentiable, is_half
from tfpyop._spec.outputs import ArraySpec
from tfpyop._spec.rule_context import RuleContext
from tfpyop._spec.rule_values import coerce_cotangent, coerce_tangent
from tfpyop.errors import TfpyopError

Evaluate = Callable[[RuleContext, Sequence[Any]], Any]


@dataclass(frozen=True, slots=True)
class _Basis:
    """Store the basis vectors of several values, one after the other.

    Attributes:
      values: The values.
      cores: Their core dimensions.
      widths: The number of basis vectors of each value: 0 for a value that is not needed, 2 for each complex element.
    """

    values: Sequence[Array]
    cores: Sequence[tuple[int, ...]]
    widths: Sequence[int]

    @classmethod
    def of(cls, values: Sequence[Array], cores: Sequence[tuple[int, ...]], needed: Sequence[bool]) -> _Basis:
        """Return the basis of the values that are needed and differentiable."""
        widths = [
            math.prod(core) * (2 if value.dtype.kind == "c" else 1)
            if is_needed and is_differentiable(value.dtype)
            else 0
            for value, core, is_needed in zip(values, cores, needed, strict=True)
        ]
        return cls(values, cores, widths)

    def vectors(self) -> list[Array | None]:
        """Return the basis vectors, with zeros for each value in the vectors of other values; None for integers."""
        vectors: list[Array | None] = []
        first = 0
        for value, core, width in zip(self.values, self.cores, self.widths, strict=True):
            flat = np.zeros((sum(self.widths), math.prod(core)), value.dtype)
            for position in range(width):
                is_real = position < flat.shape[1]
                flat[first + position, position % flat.shape[1]] = 1 if is_real else 1j
            vectors.append(flat.reshape(len(flat), *core) if is_differentiable(value.dtype) else None)
            first += width
        return vectors

    def combine(self, products: Array) -> list[Array | None]:
        """Return the vector of each value from its real inner products with the basis vectors, in the last dimension.

        Values without basis vectors get None.
        """
        combined: list[Array | None] = []
        first = 0
        for value, core, width in zip(self.values, self.cores, self.widths, strict=True):
            part, size = products[..., first : first + width], math.prod(core)
            if value.dtype.kind == "c":
                part = part[..., :size] + 1j * part[..., size:]
            combined.append(part.reshape(part.shape[:-1] + core) if width else None)
            first += width
        return combined


class NumpyTranspose(TransposedRule):
    """Transpose a rule in numpy.

    The user's rule is called once if it supports loop dimensions, or one of them. For the first inputs of some shapes,
    it is called a second time, with a single vector, to confirm this. Otherwise it is called once for each basis vector
    and each element of the loop dimensions.
    """

    def _products(self, evaluate: Evaluate, op: RuleContext, vectors: Sequence[Any]) -> list[Any]:
        numbers, layout = self.numbers(op), self.layout(op)
        given = list(vectors) if self.is_vjp else with_whole_loop(vectors, numbers, layout)
        by_input, by_output = [layout.input_core(number) for number in numbers], layout.output_cores
        cores, other_cores = (by_input, by_output) if self.is_vjp else (by_output, by_input)
        needed = [op.needs[number] for number in numbers] if self.is_vjp else [True] * len(op.outputs)
        found: list[list[tuple[Any, Array]]] = [[] for _ in cores]
        for index, context in loop_elements(op, layout, is_looped=self.loops_itself):
            basis = _Basis.of(self.sides(context, numbers)[0], cores, needed)
            columns = self._columns(evaluate, context, numbers, basis)
            products = [
                _inner(column, vector if index is None else vector[index], len(core))
                for column, vector, core in zip(columns, given, other_cores, strict=True)
                if column is not None and vector is not None
            ]
            if products:
                for parts, value in zip(found, basis.combine(np.asarray(sum(products))), strict=True):
                    parts.extend([] if value is None else [(index, value)])
        return [assembled(parts, known_loop(layout) + core) for parts, core in zip(found, cores, strict=True)]

    def _columns(
        self, evaluate: Evaluate, op: RuleContext, numbers: Sequence[int], basis: _Basis
    ) -> Sequence[Array | None]:
        """Return the results of the rule for all basis vectors, stacked in a first dimension; None for zero."""
        layout, n_vectors, vectors = self.layout(op), sum(basis.widths), basis.vectors()
        if not n_vectors:
            return [None] * len(self.sides(op, numbers)[1])
        if self.signature(op) is not None and not self.loops_itself and layout.is_complete:
            columns = self._call(evaluate, op, numbers, layout, vectors, (n_vectors,))
            if n_vectors > 1 and not self.is_confirmed(op):
                weights = weights_of_basis(n_vectors)
                single = [None if v is None else np.tensordot(weights, v, 1).astype(v.dtype) for v in vectors]
                alone = [
                    None if v is None else in_float64(v) for v in self._call(evaluate, op, numbers, layout, single, ())
                ]
                self.confirm(op, alone, [None if c is None else weighted(weights, c) for c in columns])
            return columns
        rows = [
            self._call(evaluate, op, numbers, layout, [None if v is None else v[row] for v in vectors], ())
            for row in range(n_vectors)
        ]
        return [_stacked(column) for column in zip(*rows, strict=True)]

    def _call(
        self,
        evaluate: Evaluate,
        op: RuleContext,
        numbers: Sequence[int],
        layout: Layout,
        vectors: Sequence[Array | None],
        stack: tuple[int, ...],
    ) -> list[Array | None]:
        """Call the user's rule with all values broadcast to the same loop dimensions, and check what it returns.

        A rule may sum over loop dimensions that its input does not have, so all values must have all loop dimensions.
        """
        loop = stack + known_loop(layout)
        leading = (math.prod(loop),) if self.takes_rows else loop
        groups = [
            [
                _in_shape(value, loop, leading, value.shape[value.ndim - rank :])
                for value, rank in zip(*group, strict=True)
            ]
            for group in groups_of(op, layout)
        ]
        context = with_values(op, groups)
        like, results = self.sides(context, numbers)
        added = tuple(range(len(stack), len(loop)))
        given = [
            None
            if vector is None
            else _in_shape(np.expand_dims(vector, added), loop, leading, value.shape[len(leading) :])
            for vector, value in zip(vectors, like, strict=True)
        ]
        returned = evaluate(context, given)
        try:
            values = self._checked(self.wanted_values(context, numbers, returned), results)
        except TfpyopError as error:
            self.explain(error)
            raise
        return [None if value is None else value.reshape(loop + value.shape[len(leading) :]) for value in values]

    def _checked(self, returned: Sequence[tuple[int, Any]], results: Sequence[Array]) -> list[Array | None]:
        """Return the vectors that the user's rule returned for all results, or None for zero."""
        values: list[Array | None] = []
        for (number, value), like in zip(returned, results, strict=True):
            if value is None:
                values.append(None)
            elif self.is_vjp:
                values.append(coerce_tangent(value, ArraySpec.of(like), number))
            else:
                values.append(coerce_cotangent(value, ArraySpec.of(like), number, len(results), like.shape))
        return values


def _in_shape(value: Array, loop: tuple[int, ...], leading: tuple[int, ...], core: tuple[int, ...]) -> Array:
    """Return a value broadcast to the loop dimensions, reshaped to the leading dimensions, read-only."""
    whole = np.broadcast_to(value, loop + core).reshape(leading + core)
    whole.setflags(write=False)
    return whole


def _stacked(values: Sequence[Array | None]) -> Array | None:
    """Stack the results for all basis vectors, with zeros for None; None if all of them are None."""
    known = next((value for value in values if value is not None), None)
    if known is None:
        return None
    return np.stack([np.zeros_like(known) if value is None else value for value in values])


def _inner(columns: Array, vector: Array, rank: int) -> Array:
    """Return the real inner products of a vector with all columns, in a last dimension.

    Elements where the vector is zero do not count, even if the column is infinite or NaN there.
    """
    if is_half(columns.dtype):
        columns, vector = columns.astype(np.float32), vector.astype(np.float32)
    size = math.prod(columns.shape[columns.ndim - rank :])
    matrix = np.moveaxis(columns.reshape((*columns.shape[: columns.ndim - rank], size)), 0, -2)
    flat = vector.reshape((*vector.shape[: vector.ndim - rank], 1, size))
    if np.all(np.isfinite(matrix)):
        products = np.matmul(matrix.real, np.swapaxes(flat.real, -1, -2))
        if np.iscomplexobj(matrix):
            products = products + np.matmul(matrix.imag, np.swapaxes(flat.imag, -1, -2))
        return np.asarray(products[..., 0])
    return np.asarray(np.real(np.conj(flat) * np.where(flat == 0, 0, matrix)).sum(axis=-1))
