"""The common part of rules that are derived from another declaration, such as a Jacobian or an equation."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import numpy as np

from tfpyop._registry.op_def import ConcreteOp, Transform
from tfpyop._registry.rule_op_def import numbers_of
from tfpyop._rules.jacobian_blocks import Layout
from tfpyop._rules.loop_elements import residual_values
from tfpyop._spec.coercion import DType
from tfpyop._spec.rule_context import RuleContext
from tfpyop._spec.signature import Signature
from tfpyop.errors import annotate, message_of


class DerivedRule(ABC):
    """Compute a VJP or JVP from what a user's function of the call returns. Called like a VJP or JVP rule.

    Args:
      rule: The user's function, called as `rule(op)`, or with vectors.
      transform: The direction of differentiation.
      signature: The signature of the op, with residuals among its outputs. Without one, all dimensions are core
        dimensions.
      wrt: The parameters for whose inputs the rule is. Default: all.
      loops_itself: Whether the user's function takes core dimensions only, so that the derived rule loops.
      takes_rows: Whether the user's function takes exactly one loop dimension.
    """

    def __init__(
        self,
        rule: Callable[..., Any],
        transform: Transform,
        signature: Signature | None,
        wrt: tuple[str, ...],
        *,
        loops_itself: bool = False,
        takes_rows: bool = False,
    ) -> None:
        functools.update_wrapper(self, rule, updated=())
        self.rule = rule
        self.transform = transform
        self.signature = signature
        self.wrt = wrt
        self.loops_itself = loops_itself
        self.takes_rows = takes_rows

    @property
    @abstractmethod
    def what(self) -> str:
        """The user's function in error messages."""

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind the rule to an instance, for methods."""
        return self if instance is None else MethodType(self, instance)

    def __call__(self, *arguments: Any) -> list[Any]:
        """Return a cotangent for each input, or a tangent for each output; None for zero."""
        evaluate, op, vectors = self._parsed(arguments)
        return self._products(evaluate, op, vectors)

    def _parsed(self, arguments: Sequence[Any]) -> tuple[Callable[..., Any], RuleContext, Sequence[Any]]:
        """Return the user's function without `self`, the call, and the vectors."""
        position = next(number for number, value in enumerate(arguments) if isinstance(value, RuleContext))
        bound, op, vectors = arguments[:position], arguments[position], arguments[position + 1 :]
        return functools.partial(self._evaluate, bound), op, vectors

    def _evaluate(self, bound: Sequence[Any], op: RuleContext, vectors: Sequence[Any] = ()) -> Any:
        try:
            return self.rule(*bound, op, *vectors)
        except TypeError as error:
            traceback = error.__traceback__
            is_outside = traceback is not None and traceback.tb_next is None  # no line of the rule ran
            if is_outside and "argument" in message_of(error):
                annotate(
                    error, f"{self.what[0].upper()}{self.what[1:]} is called as rule({'self, ' if bound else ''}op)."
                )
            raise

    @abstractmethod
    def _products(self, evaluate: Callable[..., Any], op: RuleContext, vectors: Sequence[Any]) -> list[Any]:
        """Return the cotangents or tangents. `evaluate` calls the user's function, with a call and vectors."""

    def numbers(self, op: RuleContext) -> Sequence[int]:
        """Return the indices of the inputs that the rule is for."""
        if not self.wrt:
            return range(len(op.inputs))
        assert isinstance(op._op, ConcreteOp)
        return numbers_of(op._op, self.wrt, len(op.inputs))

    def layout(self, op: RuleContext) -> Layout:
        """Return which dimensions of the values of a call are loop dimensions and core dimensions."""
        groups = (op.inputs, op.outputs, residual_values(op))
        inputs, outputs, residuals = ([shape_of(value) for value in values] for values in groups)
        return Layout.of(self.signature, inputs, outputs, residuals, rule=self.what)


def shape_of(value: Any) -> tuple[int | None, ...] | None:
    """Return the shape of an array or tensor, as far as it is known."""
    rank = getattr(value.shape, "rank", len(value.shape) if isinstance(value.shape, tuple) else None)
    return None if rank is None else tuple(value.shape)


def dtype_of(value: Any) -> DType:
    """Return the numpy dtype of an array or tensor."""
    dtype: DType = np.dtype(getattr(value.dtype, "as_numpy_dtype", value.dtype))
    return dtype
