"""Multiply Jacobians by vectors: the VJP rule and the JVP rule that follow from a Jacobian rule.

They multiply the blocks by the vectors in numpy on the host, or in TensorFlow ops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tfpyop._registry.bind import lowering
from tfpyop._registry.op_def import Transform, dtype_of
from tfpyop._rules.derived_rule import DerivedRule, shape_of
from tfpyop._rules.jacobian_blocks import Block, Layout, blocks_of, check_block
from tfpyop._rules.loop_elements import assembled, known_loop, loop_elements, with_whole_loop
from tfpyop._spec.array_like import is_sparse
from tfpyop._spec.coercion import Array, as_array, is_differentiable
from tfpyop._spec.outputs import ArraySpec
from tfpyop._spec.rule_context import RuleContext
from tfpyop._spec.rule_values import without_missing
from tfpyop._spec.undefined import UNDEFINED, undefined_vector
from tfpyop.errors import ContractError

_BLOCK_REMEDY = "Return an array or tensor for it, or None where the derivative is zero."
_OUTPUT_AXES, _INPUT_AXES = "abcdefghijklm", "nopqrstuvwxyz"


class JacobianProduct(DerivedRule):
    """Compute a VJP or JVP by the Jacobian that a user's rule returns. Called like the rule that it stands for.

    Args:
      rule: The user's rule, called as `rule(op)`.
      transform: The direction of differentiation.
      wrt: The parameters for whose inputs the rule is. Default: all.
      loops_itself: Whether the user's rule takes core dimensions only.
      takes_rows: Whether the user's rule takes exactly one loop dimension.
    """

    what = "a Jacobian rule"

    def _needed_blocks(self, result: Any, op: RuleContext, numbers: Sequence[int]) -> Iterator[Block]:
        """Yield the blocks that are not zero, for differentiable outputs and for inputs that are needed."""
        like = "inputs in wrt=" if self.wrt else "inputs"
        places = self.places(op)
        for output, row in enumerate(blocks_of(result, len(op.outputs), len(places), like)):
            for position, (number, value) in enumerate(zip(numbers, without_missing(row, places), strict=True)):
                if value is not None and op.needs[number] and is_differentiable(dtype_of(op.outputs[output])):
                    yield Block(output, number, position, value, self.place(op, number))


class NumpyProduct(JacobianProduct):
    """Multiply by a Jacobian in numpy, on the host. The Jacobian is evaluated once per call.

    Loop dimensions along which all values are the same are evaluated once. So `tape.jacobian`, which computes a VJP for
    each element of the output at once, evaluates one Jacobian.
    """

    def _products(self, evaluate: Callable[[RuleContext], Any], op: RuleContext, vectors: Sequence[Any]) -> list[Any]:
        is_vjp = self.transform is Transform.VJP
        numbers, layout = self.numbers(op), self.layout(op)
        loop = known_loop(layout)
        n_results = len(numbers) if is_vjp else len(op.outputs)
        found: list[list[tuple[Any, Array]]] = [[] for _ in range(n_results)]
        whole = list(vectors) if is_vjp else with_whole_loop(vectors, numbers, layout)
        for index, context in loop_elements(op, layout, is_looped=self.loops_itself):
            part = self.layout(context)
            sums: list[Any] = [None] * n_results
            for block in self._needed_blocks(evaluate(context), context, numbers):
                vector = whole[block.output if is_vjp else block.position]
                if vector is None:
                    continue
                if block.value is UNDEFINED:
                    raise undefined_vector("cotangent", block.place)
                given = vector if index is None else vector[index]
                place = block.position if is_vjp else block.output
                product = _multiplied(block, given, context, part, is_vjp=is_vjp)
                sums[place] = product if sums[place] is None else sums[place] + product
            for place, value in enumerate(sums):
                if value is not None:
                    found[place].append((index, value))
        cores = [layout.input_core(number) for number in numbers] if is_vjp else layout.output_cores
        return [assembled(parts, loop + tuple(core)) for parts, core in zip(found, cores, strict=True)]


class TensorFlowProduct(JacobianProduct):
    """Multiply by a Jacobian in TensorFlow ops, which TensorFlow can differentiate."""

    def _products(self, evaluate: Callable[[RuleContext], Any], op: RuleContext, vectors: Sequence[Any]) -> list[Any]:
        is_vjp = self.transform is Transform.VJP
        numbers, layout = self.numbers(op), self.layout(op)
        results: list[Any] = [None] * (len(numbers) if is_vjp else len(op.outputs))
        for block in self._needed_blocks(evaluate(op), op, numbers):
            vector = vectors[block.output if is_vjp else block.position]
            if vector is None:
                continue
            place = block.position if is_vjp else block.output
            if block.value is UNDEFINED or results[place] is UNDEFINED:
                results[place] = UNDEFINED
                continue
            product = _tensor_product(block, vector, op, layout, is_vjp=is_vjp)
            results[place] = product if results[place] is None else results[place] + product
        return results


def _multiplied(block: Block, vector: Array, op: RuleContext, layout: Layout, *, is_vjp: bool) -> Array:
    """Multiply a vector by a block (JVP), or by its conjugate transpose (VJP), in numpy."""
    output, primal = op.outputs[block.output], op.inputs[block.input]
    of_output, of_input = layout.output_core(block.output), layout.input_core(block.input)
    value = block.value if is_sparse(block.value) else as_array(block.value, block.what, remedy=_BLOCK_REMEDY)
    check_block(block, ArraySpec(value.dtype, value.shape), output.dtype, primal.dtype, layout, is_sparse(value))
    n_rows, n_columns = _product_of(of_output), _product_of(of_input)
    (taken, n_taken), given = ((of_output, n_rows), of_input) if is_vjp else ((of_input, n_columns), of_output)
    leading = vector.shape[: vector.ndim - len(taken)]
    if is_sparse(value):
        matrix = value.conj().T if is_vjp else value
        product = np.asarray(matrix @ vector.reshape(_product_of(leading), n_taken).T).T.reshape(leading + given)
    elif not of_output and not of_input:
        product = (value.conj() if is_vjp else value) * vector
    else:
        loop = value.shape[: value.ndim - len(of_output) - len(of_input)]
        matrix = value.reshape((*loop, n_rows, n_columns))
        if is_vjp:
            matrix = np.swapaxes(matrix.conj(), -1, -2)
        product = np.matmul(matrix, vector.reshape((*leading, n_taken, 1)))[..., 0]
        product = product.reshape(product.shape[:-1] + given)
    into, other = (primal, output) if is_vjp else (output, primal)
    return np.real(product) if other.dtype.kind == "c" != into.dtype.kind else product


def _tensor_product(block: Block, vector: Any, op: RuleContext, layout: Layout, *, is_vjp: bool) -> Any:
    """Multiply a vector by a block (JVP), or by its conjugate transpose (VJP), in TensorFlow ops."""
    tf = lowering().tf
    output, primal = op.outputs[block.output], op.inputs[block.input]
    value = block.value
    if is_sparse(value):
        raise ContractError(
            f"{block.what} is a sparse matrix, which TensorFlow does not take.",
            got=type(value).__name__,
            remedy="Attach the rule with @op.numpy_jacobian, or return a tensor.",
        )
    if not tf.is_tensor(value) and not isinstance(value, tf.Variable):
        value = as_array(value, block.what, remedy=_BLOCK_REMEDY)
    value = tf.convert_to_tensor(value)
    check_block(block, ArraySpec(dtype_of(value), shape_of(value)), dtype_of(output), dtype_of(primal), layout)
    dtype = _common_dtype(tf, output.dtype, primal.dtype)
    value, vector = tf.cast(value, dtype), tf.cast(vector, dtype)
    rows, columns = _OUTPUT_AXES[: layout.output_rank(block)], _INPUT_AXES[: layout.input_rank(block)]
    taken, given = (rows, columns) if is_vjp else (columns, rows)
    value = tf.math.conj(value) if is_vjp and dtype.is_complex else value
    if rows or columns:
        product = tf.einsum(f"...{rows}{columns},...{taken}->...{given}", value, vector)
    else:
        product = value * vector
    if not is_vjp:  # of all loop dimensions; einsum also compares core dimensions that are not known yet
        product = tf.einsum(f"...{rows},...{rows}->...{rows}", product, tf.cast(tf.ones_like(output), dtype))
    into = primal if is_vjp else output
    return tf.math.real(product) if dtype.is_complex and not into.dtype.is_complex else product


def _common_dtype(tf: Any, output: Any, primal: Any) -> Any:
    """Return the dtype in which a block is multiplied by a vector."""
    return output if output == primal else tf.as_dtype(np.result_type(output.as_numpy_dtype, primal.as_numpy_dtype))


def _product_of(sizes: Sequence[int]) -> int:
    return int(np.prod(sizes, dtype=np.int64))
