"""Refusals: placeholder cotangents and tangents that raise when used, as ops of the library.

They are found by a token as other ops are, so that a saved model refuses where it is loaded, and says the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from tfpyop._host.function import HostFunction
from tfpyop._lowering.tensors import dtype_of
from tfpyop._registry.bind import bind
from tfpyop._registry.op_def import REGISTRY, ConcreteOp, OpDef, RuleSet, TensorFlowRule
from tfpyop._registry.token import PREFIX, Token
from tfpyop._rules.missing import (
    detached_rule,
    missing_gradient,
    missing_second_derivative,
    residual_differentiated,
)
from tfpyop._spec.coercion import is_differentiable
from tfpyop._spec.op_spec import OpSpec
from tfpyop._spec.parameters import Parameters
from tfpyop._spec.payload import InAxes, in_axes_of, read_parts, with_in_axes, write_parts
from tfpyop._spec.rule_outputs import SameAsInputsSpec
from tfpyop._spec.source_location import Site
from tfpyop._spec.tree import TreeSpec
from tfpyop.errors import GradientError, UnsupportedError

_NAME = "tfpyop:refusal"
_LOST = "lost"
_KINDS: Mapping[str, Callable[[ConcreteOp], GradientError]] = {
    "missing_gradient": missing_gradient,
    "missing_second_derivative": missing_second_derivative,
    "residual_differentiated": residual_differentiated,
    "detached_rule": detached_rule,
}
"""The errors there are, by the names that stand for them in saved models."""
_LOADED = "a loaded model"


def deferred_error_vectors(
    op: ConcreteOp,
    error: Callable[[ConcreteOp], GradientError],
    like: Sequence[tf.Tensor],
    by: Sequence[tf.Tensor | None],
) -> list[tf.Tensor | None]:
    """Stand-ins for vectors like some tensors that nobody can compute out of others, in which they are linear.

    They are zeros where the others are. Else they raise: eagerly at once, in a graph when it runs, unless nobody wants
    them. They depend on what the vectors would depend on, and their own derivatives are such stand-ins too.

    Args:
      op: The op whose derivative it is.
      error: What makes the error, a method of `ConcreteOp`.
      like: What the vectors would be like.
      by: What they would be computed from.
    """
    return DeferredError.of(op, kind_of(error)).vectors(like, by)


def kind_of(error: Callable[[ConcreteOp], GradientError]) -> str:
    """The name that stands for a kind of error in saved models."""
    return next(kind for kind, known in _KINDS.items() if known is error)


def error_of(kind: str) -> Callable[[ConcreteOp], GradientError]:
    """What makes an error of this kind.

    Raises:
      UnsupportedError: There is no such kind.
    """
    if kind not in _KINDS:
        raise UnsupportedError(
            f"a saved model contains the error kind {kind!r}, which this version of tfpyop does not support.",
            remedy="Load the model with the tfpyop version that saved it, or a newer version.",
        )
    return _KINDS[kind]


def lost_gradient_vectors(like: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    """Such stand-ins for the cotangents of a node whose op is not known any more."""
    return DeferredError(_LOST, _LOADED, "", None).vectors(like, like)


def install() -> None:
    """Let refusals be found by their tokens."""
    REGISTRY.add_internal(_NAME, DeferredErrorDef())


def is_deferred_error(token: Token) -> bool:
    """Whether a token is that of a refusal."""
    return token.name.partition("#")[0] == _NAME


def deferred_for(token: Token) -> Token | None:
    """The op that the refusal of this token is about; None if it is for this process only, as the op is.

    Raises:
      UnsupportedError: The token cannot be read.
    """
    if not token.payload:
        return None
    try:
        _, _, text, _ = _read(token.payload)
    except ValueError as error:
        raise token.unreadable() from error
    return Token.parse(text) if text else None


def _read(payload: str) -> tuple[int, str, str, tuple[InAxes, ...]]:
    """Read the payload of a refusal: how many stand-ins, the kind of error, the op's token, and levels of batching.

    Raises:
      ValueError: It is not one.
    """
    parts = read_parts(payload, ("count", "error", "op"))
    count, error, text = (parts.get(part) for part in ("count", "error", "op"))
    if type(count) is not int or count < 1 or not isinstance(error, str) or not isinstance(text, str):
        raise ValueError("a refusal is of a number of vectors, for a kind of error, about an op")
    if text and (not text.startswith(PREFIX) or is_deferred_error(Token.parse(text))):
        raise ValueError("a refusal is about an op")
    return count, error, text, in_axes_of(parts)


@dataclass(frozen=True, slots=True)
class DeferredError:
    """Why there are no vectors: a kind of error, and the op it is about."""

    kind: str
    subject: str
    token: str | None
    """The op's token; None if it is for this process only, and then the op itself is held."""
    op: ConcreteOp | None

    @classmethod
    def of(cls, op: ConcreteOp, kind: str) -> DeferredError:
        is_stable = REGISTRY.is_stable(op)
        return cls(kind, op.subject, REGISTRY.token_of(op) if is_stable else None, None if is_stable else op)

    def vectors(self, like: Sequence[tf.Tensor], by: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
        """The stand-ins, None for what is not differentiable."""
        floating = [tensor for tensor in like if is_differentiable(dtype_of(tensor))]
        results = iter(
            bind(self._concrete_op(len(floating)), [*floating, *(tensor for tensor in by if tensor is not None)])
        )
        return [next(results) if is_differentiable(dtype_of(tensor)) else None for tensor in like]

    def _concrete_op(self, count: int) -> ConcreteOp:
        if self.token is None:
            return self.concrete_op(count, None)
        parts = {"count": count, "error": self.kind, "op": self.token}
        return REGISTRY.find(_NAME).specialize_from_payload(write_parts(parts))

    def concrete_op(self, count: int, payload: str | None) -> ConcreteOp:
        """Return the op of so many placeholders."""

        def refuse(arrays: Sequence[Any]) -> list[Any]:
            if any(np.any(array) for array in arrays[count:]):
                raise self._exception()
            return [np.zeros(array.shape, array.dtype) for array in arrays[:count]]

        def rule(context: Any, *cotangents: Any) -> list[Any]:
            return self.vectors(context.inputs, cotangents)

        definition = REGISTRY.find(_NAME)
        host = HostFunction(self.subject, function=refuse, promise=SameAsInputsSpec(count))
        rules = RuleSet(vjp=TensorFlowRule(definition.site, rule))
        return ConcreteOp(definition, host, rules, None, None, {}, payload)

    def _exception(self) -> Exception:
        if self.kind == _LOST:
            return GradientError(
                "cannot compute a second derivative: it was lost when the model was loaded and saved again.",
                remedy="Load the original model.",
            )
        return error_of(self.kind)(self.op or REGISTRY.require_op(str(self.token)))


class DeferredErrorDef(OpDef):
    """The op of all deferred errors, which makes them again from their tokens. Users do not call it."""

    def __init__(self) -> None:
        site = Site.of(deferred_error_vectors, sys._getframe())
        super().__init__(
            deferred_error_vectors, OpSpec(_NAME, "tfpyop", False, site, Parameters(None)), lambda definition: None
        )

    @cached_property
    def rules(self) -> RuleSet:
        """No rules: each concrete op has its own."""
        return RuleSet()

    def bind_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> NoReturn:
        """Refuse to be called by users."""
        raise NotImplementedError

    def arrange(self, outputs: Sequence[Any]) -> NoReturn:
        """Refuse to be called by users."""
        raise NotImplementedError

    def call_native(self, op: ConcreteOp, tensors: Sequence[Any]) -> NoReturn:
        """Have no native implementation."""
        raise NotImplementedError

    def bind_instance(self, instance: Any) -> NoReturn:
        """Have no methods."""
        raise NotImplementedError

    def _make_concrete_op(self, tree: TreeSpec | None, static: Mapping[str, Any], payload: str | None) -> NoReturn:
        raise NotImplementedError

    def _read_concrete_op(self, payload: str) -> ConcreteOp:
        count, error, text, levels = _read(payload)
        op = REGISTRY.find_op(text) if text else None
        unknown = f"op {Token.parse(text).name!r}" if text else _LOADED
        deferred = DeferredError(error, unknown if op is None else op.subject, text, None)
        return deferred.concrete_op(count, with_in_axes(payload, ())).batched(*levels)
