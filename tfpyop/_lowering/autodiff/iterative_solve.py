"""Solve the linear systems of implicit rules by products with vectors, without a matrix.

The iterations are not differentiated. The derivatives of a solution are solutions of other linear systems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfpyop._lowering._tensorflow import inputs_with_tangents, push_forwardprop_state, recording, stop_recording
from tfpyop._lowering.autodiff.linearization import Linearization
from tfpyop._registry.bind import LinearSystem
from tfpyop.errors import ContractError, GradientError

Product = Callable[[tf.Tensor], tf.Tensor]

_ITERATIONS_PER_UNKNOWN = 10
"""Maximum number of iterations of conjugate gradients. Without rounding, one for each unknown suffices."""


def solve_iteratively(
    system: LinearSystem, point: Sequence[tf.Tensor], right: tf.Tensor, *, is_transposed: bool
) -> tf.Tensor:
    """Return the solution of a system whose matrix is the Jacobian of a function by some of its tensors.

    Args:
      system: The function, and the solver.
      point: The tensors at which the function is linearized.
      right: The right-hand side, a vector.
      is_transposed: Whether the matrix is the transposed Jacobian.

    Raises:
      GradientError: The solution is wrong. In a graph, it is raised when the graph runs.
    """
    copies = [tf.identity(tensor) for tensor in (*point, right)]  # which active accumulators do not watch
    if not tf.executing_eagerly() and inputs_with_tangents(copies):  # TensorFlow would differentiate the iterations
        raise GradientError(
            "forward mode over a gradient or around a tf.function is not available in graphs with solve=.",
            remedy="Omit solve=, use a tape over the gradient, or call the op eagerly.",
        )
    known: list[tf.Tensor] = []

    @tf.custom_gradient  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def solved(*arguments: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
        with stop_recording():
            solution = _solution(system, arguments[:-1], arguments[-1], is_transposed=is_transposed)

        def backward(cotangent: tf.Tensor) -> list[tf.Tensor]:
            by_right = solve_iteratively(system, point, cotangent, is_transposed=not is_transposed)
            if not known:  # accumulators call this before the solution is returned
                known.append(solve_iteratively(system, point, right, is_transposed=is_transposed))
            copies = [tf.identity(tensor) for tensor in point]
            with recording(), push_forwardprop_state(), tf.GradientTape() as tape:
                tape.watch(copies)
                value = _product(system, Linearization(system.function, copies), is_transposed=is_transposed)(known[0])
            by_point = tape.gradient(
                value, copies, output_gradients=-by_right, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            return [*map(tf.convert_to_tensor, by_point), by_right]

        return solution, backward

    known[:] = [solved(*point, right)]
    return known[0]


def conjugate_gradients(product: Product, right: tf.Tensor, precision: float) -> tf.Tensor:
    """Solve a system with a symmetric positive definite matrix by TensorFlow's method of conjugate gradients."""
    operator = _Symmetric(product, right)
    n_steps = _ITERATIONS_PER_UNKNOWN * tf.size(right)
    return tf.linalg.experimental.conjugate_gradient(operator, right, tol=precision**0.75, max_iter=n_steps).x


def _solution(system: LinearSystem, point: Sequence[tf.Tensor], right: tf.Tensor, *, is_transposed: bool) -> tf.Tensor:
    at = Linearization(system.function, point)
    product = _product(system, at, is_transposed=is_transposed)
    if system.solver == "cg":
        solution = conjugate_gradients(product, right, system.precision)
    elif system.solver == "normal-cg":
        other = _product(system, at, is_transposed=not is_transposed)
        solution = conjugate_gradients(lambda vector: other(product(vector)), other(right), system.precision)
    else:
        solution = _fitting(system.solver(product, right), right)
    error = tf.math.divide_no_nan(product(solution) - right, tf.norm(right))
    return system.require_solved(solution, error)


def _product(system: LinearSystem, at: Linearization, *, is_transposed: bool) -> Product:
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
