"""Transpose a rule in TensorFlow ops: call it with basis vectors. TensorFlow differentiates the derived rule again.

No tape is used, because TensorFlow stops recording while it builds the gradient of a function, and because the
transpose of a rule that calls its own op would need itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfpyop._registry.bind import lowering
from tfpyop._registry.op_def import dtype_of
from tfpyop._rules.derived_rule import shape_of
from tfpyop._rules.loop_elements import residual_values, with_values
from tfpyop._rules.transposed_rule import TransposedRule, weighted, weights_of_basis
from tfpyop._spec.coercion import Array, in_float64, is_differentiable
from tfpyop._spec.outputs import ArraySpec, is_compatible
from tfpyop._spec.rule_context import RuleContext
from tfpyop._spec.rule_values import wrong_cotangent_shape, wrong_tangent_shape
from tfpyop._spec.signature import Signature
from tfpyop.errors import TfpyopError

Evaluate = Callable[[RuleContext, Sequence[Any]], Any]


@dataclass(frozen=True, slots=True)
class _Shapes:
    """Store the loop and core dimensions of a call, as tensors, because they may be known only when the graph runs.

    Attributes:
      loop: The loop dimensions of the call.
      inputs: The core dimensions of the inputs.
      outputs: The core dimensions of the outputs.
      residuals: The core dimensions of the residuals.
      is_stackable: Whether all values can have a further loop dimension.
    """

    loop: Any
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    residuals: Sequence[Any]
    is_stackable: bool

    @classmethod
    def of(cls, signature: Signature | None, op: RuleContext) -> _Shapes:
        """Return the dimensions of the values of a call."""
        tf = lowering().tf
        groups = [op.inputs, op.outputs, residual_values(op)]
        loop = tf.zeros([0], tf.int32)
        if signature is None:
            inputs, outputs, residuals = ([tf.shape(value) for value in group] for group in groups)
            return cls(loop, inputs, outputs, residuals, False)
        binding = signature.bind([shape_of(value) for value in op.inputs])
        ranks = [
            sum(each.text not in binding.missing for each in core) for core in signature.inputs + signature.outputs
        ]
        remaining = iter(ranks)
        cores = [[_split(tf, value, next(remaining))[1] for value in group] for group in groups]
        for value, rank in zip(op.inputs, ranks, strict=False):
            loop = tf.broadcast_dynamic_shape(loop, _split(tf, value, rank)[0])
        return cls(loop, cores[0], cores[1], cores[2], not binding.missing)


class TensorFlowTranspose(TransposedRule):
    """Transpose a rule in TensorFlow ops.

    A rule of an op with a signature supports loop dimensions, and is called once. The rule of an op without a signature
    is called for each basis vector, by `tf.vectorized_map` in graphs.
    """

    def _products(self, evaluate: Evaluate, op: RuleContext, vectors: Sequence[Any]) -> list[Any]:
        tf = lowering().tf
        numbers, shapes = self.numbers(op), _Shapes.of(self.signature(op), op)
        values = self.sides(op, numbers)[0]
        by_input = [shapes.inputs[number] for number in numbers]
        cores, other_cores = (by_input, shapes.outputs) if self.is_vjp else (shapes.outputs, by_input)
        needed = [op.needs[number] for number in numbers] if self.is_vjp else [True] * len(values)
        widths = [_width(tf, *each) for each in zip(values, cores, needed, strict=True)]
        bases = _bases(tf, values, cores, widths)
        columns = self._columns(evaluate, op, numbers, shapes, bases)
        dtypes = [column.dtype.real_dtype.as_numpy_dtype for column in columns if column is not None]
        dtype = np.result_type(*dtypes or [np.float32])
        total = tf.zeros(tf.concat([[sum(widths)], shapes.loop], 0), dtype)
        for column, vector, core in zip(columns, vectors, other_cores, strict=True):
            if column is not None and vector is not None:
                axes = tf.range(1 + tf.size(shapes.loop), 1 + tf.size(shapes.loop) + tf.size(core))
                total += tf.cast(tf.reduce_sum(_real_product(tf, column, vector), axes), dtype)
        return _combined(
            tf, total, shapes.loop, values, cores, [w if n else None for w, n in zip(widths, needed, strict=True)]
        )

    def _columns(
        self, evaluate: Evaluate, op: RuleContext, numbers: Sequence[int], shapes: _Shapes, bases: Sequence[Any]
    ) -> list[Any]:
        """Return the results of the rule for all basis vectors, stacked in a first dimension; None for zero."""
        tf = lowering().tf
        n_vectors = tf.shape(next(basis for basis in bases if basis is not None))[:1]
        if shapes.is_stackable:
            columns = self._call(evaluate, op, numbers, shapes, bases, n_vectors)
            if tf.executing_eagerly() and n_vectors[0] > 1 and not self.is_confirmed(op):  # a graph has no numbers
                weights = weights_of_basis(int(n_vectors[0]))
                single = [None if b is None else tf.tensordot(tf.cast(weights, b.dtype), b, 1) for b in bases]
                alone = self._call(evaluate, op, numbers, shapes, single, n_vectors[:0])
                among = [None if c is None else weighted(weights, _array(c)) for c in columns]
                self.confirm(op, [None if value is None else _array(value) for value in alone], among)
            return columns

        def row(rows: Sequence[Any]) -> list[Any]:
            remaining = iter(rows)
            vectors = [None if basis is None else next(remaining) for basis in bases]
            results = self._call(evaluate, op, numbers, shapes, vectors, n_vectors[:0])
            like = self.sides(op, numbers)[1]
            return [
                tf.zeros(tf.concat([shapes.loop, core], 0), value.dtype) if result is None else result
                for result, value, core in zip(results, like, self._result_cores(shapes, numbers), strict=True)
                if is_differentiable(dtype_of(value))
            ]

        given = [basis for basis in bases if basis is not None]
        if tf.executing_eagerly():
            rows = [row(each) for each in zip(*[tf.unstack(basis) for basis in given], strict=True)]
            found = iter([tf.stack(column) for column in zip(*rows, strict=True)] if rows else [])
        else:
            found = iter(tf.vectorized_map(row, given))
        return [
            next(found, None) if is_differentiable(dtype_of(value)) else None for value in self.sides(op, numbers)[1]
        ]

    def _result_cores(self, shapes: _Shapes, numbers: Sequence[int]) -> Sequence[Any]:
        return shapes.outputs if self.is_vjp else [shapes.inputs[number] for number in numbers]

    def _call(
        self,
        evaluate: Evaluate,
        op: RuleContext,
        numbers: Sequence[int],
        shapes: _Shapes,
        vectors: Sequence[Any],
        stack: Any,
    ) -> list[Any]:
        """Call the user's rule with all values broadcast to the same loop dimensions, and check what it returns."""
        tf = lowering().tf
        loop = tf.concat([stack, shapes.loop], 0)
        groups = [
            (op.inputs, shapes.inputs),
            (op.outputs, shapes.outputs),
            (residual_values(op), shapes.residuals),
        ]
        whole = [
            [tf.broadcast_to(value, tf.concat([loop, core], 0)) for value, core in zip(*group, strict=True)]
            for group in groups
        ]
        context = with_values(op, whole)
        like, results = self.sides(context, numbers)
        given = [
            None if vector is None else _with_loop(tf, vector, stack, shapes.loop, value)
            for vector, value in zip(vectors, like, strict=True)
        ]
        returned = evaluate(context, given)
        try:
            return self._checked(tf, self.wanted_values(context, numbers, returned), results)
        except TfpyopError as error:
            self.explain(error)
            raise

    def _checked(self, tf: Any, returned: Sequence[tuple[int, Any]], results: Sequence[Any]) -> list[Any]:
        """Return the vectors that the user's rule returned for all results, or None for zero."""
        values: list[Any] = []
        for (number, value), like in zip(returned, results, strict=True):
            if value is None:
                values.append(None)
                continue
            named = (
                (f"tangent {number}", f"op.outputs[{number}]")
                if self.is_vjp
                else (f"the cotangent of input {number}", f"op.inputs[{number}]")
            )
            tensor = tf.cast(lowering().tensor_of_vector(value, like, *named), like.dtype)
            expected, got = ArraySpec(dtype_of(like), shape_of(like)), ArraySpec(dtype_of(like), shape_of(tensor))
            if got.shape is not None and not is_compatible(got.shape, expected.shape):
                if self.is_vjp:
                    raise wrong_tangent_shape(number, expected, got)
                raise wrong_cotangent_shape(number, len(results), expected, expected.shape, got)
            is_known = tensor.shape.is_fully_defined() and like.shape.is_fully_defined()
            values.append(tensor if is_known else _require_shape(tf, tensor, like))
        return values


def _array(tensor: Any) -> Array:
    return in_float64(np.asarray(tensor.numpy()))


def _split(tf: Any, value: Any, rank: int) -> tuple[Any, Any]:
    """Return the loop dimensions and the core dimensions of a tensor, given the number of core dimensions."""
    shape = tf.shape(value)
    n_loop = tf.size(shape) - rank if value.shape.rank is None else value.shape.rank - rank
    return shape[:n_loop], shape[n_loop:]


def _width(tf: Any, value: Any, core: Any, is_needed: bool) -> Any:
    """Return the number of basis vectors of a value, as a number or tensor."""
    if not is_needed or not is_differentiable(dtype_of(value)):
        return 0
    size = tf.get_static_value(tf.reduce_prod(core))
    size = tf.reduce_prod(core) if size is None else int(size)
    return 2 * size if value.dtype.is_complex else size


def _bases(tf: Any, values: Sequence[Any], cores: Sequence[Any], widths: Sequence[Any]) -> list[Any]:
    """Return the basis vectors of each value, with zeros for the basis vectors of other values; None for integers."""
    bases: list[Any] = []
    before, total = 0, sum(widths)
    for value, core, width in zip(values, cores, widths, strict=True):
        if not is_differentiable(dtype_of(value)):
            bases.append(None)
            continue
        size = tf.reduce_prod(core)
        rows = tf.eye(width // 2 if value.dtype.is_complex else width, size, dtype=value.dtype)
        if value.dtype.is_complex:
            rows = tf.concat([rows, rows * 1j], 0)
        flat = tf.pad(rows, [[before, total - before - width], [0, 0]])
        bases.append(tf.reshape(flat, tf.concat([[total], core], 0)))
        before += width
    return bases


def _with_loop(tf: Any, vector: Any, stack: Any, loop: Any, like: Any) -> Any:
    """Return basis vectors with the loop dimensions of a call after the dimension in which they are stacked."""
    n_stack = tf.size(stack)
    shape = tf.shape(vector)
    aligned = tf.reshape(vector, tf.concat([shape[:n_stack], tf.ones_like(loop), shape[n_stack:]], 0))
    result = tf.broadcast_to(aligned, tf.shape(like))
    result.set_shape(like.shape)
    return result


def _require_shape(tf: Any, tensor: Any, like: Any) -> Any:
    """Return a tensor, with a check of its shape that runs with the graph."""
    check = tf.debugging.assert_equal(
        tf.shape(tensor), tf.shape(like), "tfpyop: a derivative rule returned a vector of the wrong shape"
    )
    with tf.control_dependencies([] if check is None else [check]):
        # XLA drops the assertion, but does not stack tensors of different shapes
        return tf.stack([tensor, tf.zeros_like(like)])[0]


def _real_product(tf: Any, columns: Any, vector: Any) -> Any:
    """Return the terms of the real inner product. Elements where the vector is zero do not count, even if infinite."""
    if not columns.dtype.is_complex:
        return tf.math.multiply_no_nan(columns, tf.cast(tf.math.real(vector), columns.dtype))
    parts = [tf.math.multiply_no_nan(part(columns), part(vector)) for part in (tf.math.real, tf.math.imag)]
    return parts[0] + parts[1]


def _combined(
    tf: Any, products: Any, loop: Any, values: Sequence[Any], cores: Sequence[Any], widths: Sequence[Any]
) -> list[Any]:
    """Return the vector of each value from its inner products with the basis vectors, in the first dimension.

    Values whose width is None get None.
    """
    combined: list[Any] = []
    first = 0
    for value, core, width in zip(values, cores, widths, strict=True):
        if width is None or not is_differentiable(dtype_of(value)):
            combined.append(None)
            continue
        rows = tf.reshape(products[first : first + width], [width, tf.reduce_prod(loop)])
        part = tf.cast(tf.transpose(rows), value.dtype.real_dtype)
        if value.dtype.is_complex:
            part = tf.complex(part[:, : width // 2], part[:, width // 2 :])
        combined.append(tf.reshape(part, tf.concat([loop, core], 0)))
        first += width
    return combined
