"""Connect ops to the lowering that calls them.

The lowering needs TensorFlow, which is imported at the first call. Another module sets the function that imports it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from tfpyop._registry.op_def import ConcreteOp
from tfpyop._spec.rule_outputs import RuleInputs

TensorFunction = Callable[[Sequence[Any]], Sequence[Any]]
"""A function of tensors that returns tensors."""


class Linearization(Protocol):
    """Declare the interface of a function of tensors at a point, as rules that tfpyop derives use it."""

    point: list[Any]
    """The tensors at which the function is linearized."""
    values: list[Any]
    """The values of the function."""

    def vjp(self, cotangents: Sequence[Any]) -> list[Any]:
        """Return a cotangent for each tensor of the point; None where no value depends on it."""
        ...

    def jvp(self, tangents: Sequence[Any]) -> list[Any]:
        """Return a tangent for each value; None for zero."""
        ...


class LinearSystem(Protocol):
    """Declare the interface of a linear system whose matrix is the Jacobian of a function by its last tensors.

    The system belongs to an implicit rule of one call.
    """

    op: ConcreteOp
    """The op that was called."""
    names: tuple[str, ...]
    """The parameters for whose inputs the rule is; empty for all."""
    call: RuleInputs[Any]
    """The tensors of the call, without vectors."""
    places: Sequence[int]
    """The indices of the tensors that the function takes, among all tensors of the call."""
    point: Sequence[Any]
    """These tensors."""
    function: TensorFunction
    n_others: int
    """The number of tensors, the first ones, by which the function is not differentiated."""
    solver: Any
    """`"cg"`, `"normal-cg"`, or a user's function `solve(matvec, b)`."""
    precision: float
    """The relative rounding error of the products."""

    def join(self, vectors: Sequence[Any]) -> Any:
        """Return vectors of the values, or of the last tensors, as one vector."""
        ...

    def split(self, vector: Any) -> list[Any]:
        """Return a vector as a vector for each value, or for each of the last tensors."""
        ...

    def require_solved(self, solution: Any, error: Any) -> Any:
        """Return the solution unchanged. Raise GradientError if the relative error is too large."""
        ...


class Lowering(Protocol):
    """Declare the interface of the module that chooses how a call reaches TensorFlow."""

    @property
    def tf(self) -> Any:
        """TensorFlow, for rules in TensorFlow ops that tfpyop derives. They are made before TensorFlow is imported."""
        ...

    def linearize(self, function: TensorFunction, point: Sequence[Any]) -> Linearization:
        """Linearize a function of tensors at a point."""
        ...

    def escapes(self, op: ConcreteOp, kind: Hashable, function: TensorFunction, linearization: Linearization) -> bool:
        """Return whether values of a function depend on its tensors in a way that TensorFlow cannot follow."""
        ...

    def solve_iteratively(self, system: LinearSystem, right: Any, *, is_transposed: bool) -> Any:
        """Return the solution of a linear system, without its matrix."""
        ...

    def tensor_of_vector(self, value: Any, like: Any, what: str, place: str) -> Any:
        """Return the cotangent or tangent that a rule returned as a tensor. Raise CoercionError if it is invalid."""
        ...

    def map_rows(self, function: Callable[[Any], Sequence[Any]], rows: Any) -> list[Any]:
        """Map a function over the rows of a tensor, in one call of each op."""
        ...

    def call(self, op: ConcreteOp, leaves: Sequence[Any]) -> list[Any]:
        """Call an op with flat inputs and return its flat outputs as tensors."""
        ...

    def tracing_type(self, op: Any) -> Any:
        """Return the tracing type of an op that is an argument of a `tf.function`."""
        ...


_loaders: list[Callable[[], Lowering]] = []


def load_with(load: Callable[[], Lowering]) -> None:
    """Set the function that imports the lowering."""
    _loaders[:] = [load]


@functools.cache
def lowering() -> Lowering:
    """Return the lowering. The first call of any op imports it."""
    return _loaders[0]()


def bind(op: ConcreteOp, leaves: Sequence[Any]) -> list[Any]:
    """Call an op with flat inputs, in eager mode or in a graph, and return its flat outputs as tensors."""
    return lowering().call(op, leaves)
