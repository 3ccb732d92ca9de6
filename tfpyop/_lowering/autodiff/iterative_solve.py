"""Solve the linear systems of implicit rules by products with vectors, without a matrix.

The iterations are not differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfpyop._lowering._tensorflow import stop_recording
from tfpyop._lowering.autodiff.linearization import Linearization
from tfpyop._registry.bind import LinearSystem
from tfpyop.errors import ContractError

Product = Callable[[tf.Tensor], tf.Tensor]

_ITERATIONS_PER_UNKNOWN = 10
"""Maximum number of iterations of conjugate gradients. Without rounding, one for each unknown suffices."""


def iterate(system: LinearSystem, right: tf.Tensor, *, is_transposed: bool) -> tf.Tensor:
    """Return the solution of a system whose matrix is the Jacobian of a function by some of its tensors.

    No derivative passes through the iterations, also if `vectorized_map` creates their nodes again where tapes record.

    Args:
      system: The function, the tensors at which it is linearized, and the solver.
      right: The right-hand side, a vector.
      is_transposed: Whether the matrix is the transposed Jacobian.

    Raises:
      GradientError: The solution is wrong. In a graph, it is raised when the graph runs.
    """
    with stop_recording():
        *point, fixed = [tf.stop_gradient(tensor) for tensor in (*system.point, right)]
        return _solution(system, point, fixed, is_transposed=is_transposed)


def conjugate_gradients(product: Product, right: tf.Tensor, precision: float) -> tf.Tensor:
    """Solve a system with a symmetric positive definite matrix by TensorFlow's method of conjugate gradients."""
    operator = _Symmetric(product, right)
    n_steps = _ITERATIONS_PER_UNKNOWN * tf.size(right)
    return tf.linalg.experimental.conjugate_gradient(operator, right, tol=precision**0.75, max_iter=n_steps).x


def _solution(system: LinearSystem, point: Sequence[tf.Tensor], right: tf.Tensor, *, is_transposed: bool) -> tf.Tensor:
    at = Linearization(system.function, point)
    product = product_of(system, at, is_transposed=is_transposed)
    if system.solver == "cg":
        solution = conjugate_gradients(product, right, system.precision)
    elif system.solver == "normal-cg":
        other = product_of(system, at, is_transposed=not is_transposed)
        solution = conjugate_gradients(lambda vector: other(product(vector)), other(right), system.precision)
    else:
        solution = _fitting(system.solver(product, right), right)
    size = tf.norm(right)
    error = (product(solution) - right) / tf.where(size > 0, size, tf.ones_like(size))
    return system.require_solved(solution, error)


def product_of(system: LinearSystem, at: Linearization, *, is_transposed: bool) -> Product:
    """Return the product of the Jacobian, or of the transposed Jacobian, and a vector."""
    n_others = system.n_others

    def transposed(vector: tf.Tensor) -> tf.Tensor:
        return system.join(at.vjp(system.split(vector))[n_others:])

    def plain(vector: tf.Tensor) -> tf.Tensor:
        return system.join(at.jvp([*[None] * n_others, *system.split(vector)]))

    return transposed if is_transposed else plain


def _fitting(solution: Any, right: tf.Tensor) -> tf.Tensor:
    """Return what a user's solver returned as a tensor. Raise ContractError if it cannot be a solution."""
    tensor = tf.cast(tf.convert_to_tensor(solution), right.dtype)
    if not tensor.shape.is_compatible_with(right.shape):
        raise ContractError(
            "the solver in solve= returned a vector of the wrong shape.",
            expected=f"{right.dtype.name}{right.shape}",
            got=f"{tensor.dtype.name}{tensor.shape}",
            remedy="Return the vector x with matvec(x) = b. The solver is called as solve(matvec, b).",
        )
    tensor.set_shape(right.shape)
    return tensor


class _Symmetric(tf.linalg.LinearOperator):  # type: ignore[misc]  # TensorFlow has no types
    """A symmetric positive definite matrix, by its product with a vector."""

    def __init__(self, product: Product, like: tf.Tensor) -> None:
        super().__init__(
            like.dtype, is_non_singular=True, is_self_adjoint=True, is_positive_definite=True, is_square=True
        )
        self._product = product
        self._like = like

    def _shape(self) -> tf.TensorShape:
        size = self._like.shape[0]
        return tf.TensorShape([size, size])

    def _shape_tensor(self) -> tf.Tensor:
        size = tf.size(self._like)
        return tf.stack([size, size])

    def _matmul(self, x: tf.Tensor, adjoint: bool = False, adjoint_arg: bool = False) -> tf.Tensor:
        return self._product(x[:, 0])[:, None]  # TensorFlow passes vectors as one column
