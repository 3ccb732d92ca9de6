"""The common part of rules that are derived from another declaration, such as a Jacobian or an equation."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

from tfpyop._registry.op_def import ConcreteOp, Transform, dtype_of
from tfpyop._registry.rule_op_def import numbers_of, places_of
from tfpyop._rules.jacobian_blocks import Layout
from tfpyop._rules.loop_elements import residual_values
from tfpyop._spec.rule_context import RuleContext, as_in_call, as_seen_by_rules
from tfpyop._spec.rule_values import Places, without_missing
from tfpyop._spec.signature import Signature
from tfpyop.errors import annotate, message_of


class DerivedRule(ABC):
    """Compute a VJP or JVP from what a user's function of the call returns. Called like a VJP or JVP rule.

    Args:
      rule: The user's function, called as `rule(op)`, or with vectors.
      transform: The direction of differentiation.
      wrt: The parameters for whose inputs the rule is. Default: all.
      loops_itself: Whether the user's function takes core dimensions only, so that the derived rule loops.
      takes_rows: Whether the user's function takes exactly one loop dimension.
    """

    def __init__(
        self,
        rule: Callable[..., Any],
        transform: Transform,
        wrt: tuple[str, ...],
        *,
        loops_itself: bool = False,
        takes_rows: bool = False,
    ) -> None:
        functools.update_wrapper(self, rule, updated=())
        self.rule = rule
        self.transform = transform
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
        places = self.places(op)
        if self.transform is Transform.JVP:
            return self._products(evaluate, op, without_missing(vectors, places))
        found = iter(self._products(evaluate, op, vectors))
        return [None if place is None else next(found) for place in places]

    def _parsed(self, arguments: Sequence[Any]) -> tuple[Callable[..., Any], RuleContext, Sequence[Any]]:
        """Return the user's function without `self`, the call with its own inputs only, and the vectors."""
        position = next(number for number, value in enumerate(arguments) if isinstance(value, RuleContext))
        bound, op, vectors = arguments[:position], arguments[position], arguments[position + 1 :]
        return functools.partial(self._evaluate, bound), as_in_call(op), vectors

    def _evaluate(self, bound: Sequence[Any], op: RuleContext, vectors: Sequence[Any] = ()) -> Any:
        """Call the user's function, which sees the inputs that the call leaves out as None."""
        try:
            return self.rule(*bound, as_seen_by_rules(op), *vectors)
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
        """Return the indices of the inputs of the call that the rule is for."""
        if not self.wrt:
            return range(len(op.inputs))
        assert isinstance(op._op, ConcreteOp)
        return numbers_of(op._op, self.wrt, len(op.inputs))

    def places(self, op: RuleContext) -> Places:
        """Return the places of the inputs that the rule is for: their indices, or None for an input left out."""
        assert isinstance(op._op, ConcreteOp)
        return places_of(op._op, self.wrt, [dtype_of(value) for value in op.inputs])

    def place(self, op: RuleContext, number: int) -> int:
        """Return the number of an input as the caller counts them, for error messages."""
        signature = self.signature(op)
        return number if signature is None else signature.place(number)

    def signature(self, op: RuleContext) -> Signature | None:
        """Return the signature of a call, with residuals among its outputs. Without one, all dimensions are core."""
        assert isinstance(op._op, ConcreteOp)
        return op._op.signature

    def layout(self, op: RuleContext) -> Layout:
        """Return which dimensions of the values of a call are loop dimensions and core dimensions."""
        groups = (op.inputs, op.outputs, residual_values(op))
        inputs, outputs, residuals = ([shape_of(value) for value in values] for values in groups)
        return Layout.of(self.signature(op), inputs, outputs, residuals, rule=self.what)


def shape_of(value: Any) -> tuple[int | None, ...] | None:
    """Return the shape of an array or tensor, as far as it is known."""
    rank = getattr(value.shape, "rank", len(value.shape) if isinstance(value.shape, tuple) else None)
    return None if rank is None else tuple(value.shape)
