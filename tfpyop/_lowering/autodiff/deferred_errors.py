"""Deferred errors: placeholder cotangents and tangents that raise when used, implemented as ops.

Like other ops, they are found by a token. A saved model therefore raises the same error after it is loaded.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop._host.function import HostFunction
from tfpyop._lowering.tensors import dtype_of
from tfpyop._registry.bind import bind
from tfpyop._registry.op_def import MAX_CONCRETE_OPS, REGISTRY, ConcreteOp, RuleSet, TensorFlowRule
from tfpyop._registry.registry import NamedOp
from tfpyop._registry.token import PREFIX, Token
from tfpyop._rules.missing import (
    detached_rule,
    missing_for_some_inputs,
    missing_gradient,
    missing_second_derivative,
    residual_differentiated,
    undefined_by_rule,
    undefined_derivative,
)
from tfpyop._spec.coercion import is_differentiable
from tfpyop._spec.op_spec import OpSpec
from tfpyop._spec.parameters import Parameters
from tfpyop._spec.payload import InAxes, in_axes_of, read_parts, with_in_axes, write_parts
from tfpyop._spec.rule_outputs import SameAsInputsSpec
from tfpyop._spec.source_location import Site
from tfpyop.errors import GradientError, UnsupportedError

_LOST = "lost"
_KINDS: Mapping[str, Callable[[ConcreteOp], GradientError]] = {
    "missing_gradient": missing_gradient,
    "missing_for_some_inputs": missing_for_some_inputs,
    "missing_second_derivative": missing_second_derivative,
    "residual_differentiated": residual_differentiated,
    "detached_rule": detached_rule,
    "undefined_derivative": undefined_derivative,
    "undefined_by_rule": undefined_by_rule,
}
"""The supported errors, by the names that represent them in saved models."""
_LOADED = "a loaded model"


def deferred_error_vectors(
    op: ConcreteOp,
    error: Callable[[ConcreteOp], GradientError],
    like: Sequence[tf.Tensor],
    by: Sequence[tf.Tensor | None],
) -> list[tf.Tensor | None]:
    """Return placeholders for cotangents or tangents that cannot be computed.

    The vectors would depend linearly on the vectors in `by`. Where these are zero, the placeholders are zeros.
    Otherwise they raise: at once in eager code, and when the graph runs in a graph, unless they are unused. They depend
    on the same tensors as the real vectors would, and their own derivatives are placeholders too.

    Args:
      op: The op whose derivative is missing.
      error: The function that creates the error for the op.
      like: The tensors that give the dtypes and shapes of the placeholders.
      by: The vectors that the placeholders depend on.
    """
    return DeferredError.of(op, kind_of(error)).vectors(like, by)


def kind_of(error: Callable[[ConcreteOp], GradientError]) -> str:
    """Return the name that represents a kind of error in saved models."""
    return next(kind for kind, known in _KINDS.items() if known is error)


def error_of(kind: str) -> Callable[[ConcreteOp], GradientError]:
    """Return the function that creates errors of a kind.

    Raises:
      UnsupportedError: The kind does not exist.
    """
    if kind not in _KINDS:
        raise UnsupportedError(
            f"a saved model contains the error kind {kind!r}, which this version of tfpyop does not support.",
            remedy="Load the model with the tfpyop version that saved it, or a newer version.",
        )
    return _KINDS[kind]


def lost_gradient_vectors(like: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    """Return placeholder cotangents for a node whose op is no longer known."""
    return DeferredError(_LOST, _LOADED, "", None).vectors(like, like)


def install() -> None:
    """Register the op of deferred errors, so that it can be found by its tokens."""
    REGISTRY.add_internal(_DEFINITION)


def is_deferred_error(token: Token) -> bool:
    """Return whether a token belongs to a deferred error."""
    return token.name.partition("#")[0] == _DEFINITION.name


def deferred_for(token: Token) -> Token | None:
    """Return the token of the op that a deferred error is about, or None if the op exists in this process only.

    Raises:
      UnsupportedError: The token cannot be parsed.
    """
    if not token.payload:
        return None
    try:
        _, _, text, _ = _read(token.payload)
    except ValueError as error:
        raise token.unreadable() from error
    return Token.parse(text) if text else None


def _read(payload: str) -> tuple[int, str, str, tuple[InAxes, ...]]:
    """Parse the payload of a deferred error: placeholder count, error kind, token of the op, and batch axes.

    Raises:
      ValueError: The payload is invalid.
    """
    parts = read_parts(payload, ("count", "error", "op"))
    count, error, text = (parts.get(part) for part in ("count", "error", "op"))
    if type(count) is not int or count < 1 or not isinstance(error, str) or not isinstance(text, str):
        raise ValueError("the payload needs a count, an error kind and an op token")
    if text and (not text.startswith(PREFIX) or is_deferred_error(Token.parse(text))):
        raise ValueError("the op token does not name an op")
    return count, error, text, in_axes_of(parts)


@dataclass(frozen=True, slots=True)
class DeferredError:
    """The reason why vectors are missing: a kind of error, and the op it is about."""

    kind: str
    subject: str
    token: str | None
    """The token of the op. None if the op exists in this process only; `op` is set in this case."""
    op: ConcreteOp | None

    @classmethod
    def of(cls, op: ConcreteOp, kind: str) -> DeferredError:
        is_stable = REGISTRY.is_stable(op)
        return cls(kind, op.subject, REGISTRY.token_of(op) if is_stable else None, None if is_stable else op)

    def vectors(self, like: Sequence[tf.Tensor], by: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
        """Return the placeholders, with None for tensors that are not differentiable."""
        floating = [tensor for tensor in like if is_differentiable(dtype_of(tensor))]
        results = iter(
            bind(self._concrete_op(len(floating)), [*floating, *(tensor for tensor in by if tensor is not None)])
        )
        return [next(results) if is_differentiable(dtype_of(tensor)) else None for tensor in like]

    def _concrete_op(self, count: int) -> ConcreteOp:
        if self.token is None:
            return self.concrete_op(count, None)
        parts = {"count": count, "error": self.kind, "op": self.token}
        return _DEFINITION.specialize_from_payload(write_parts(parts))

    def concrete_op(self, count: int, payload: str | None) -> ConcreteOp:
        """Return the concrete op that outputs this number of placeholders."""

        def refuse(arrays: Sequence[Any]) -> list[Any]:
            if any(np.any(array) for array in arrays[count:]):
                raise self._exception()
            return [np.zeros(array.shape, array.dtype) for array in arrays[:count]]

        def rule(context: Any, *cotangents: Any) -> list[Any]:
            return self.vectors(context.inputs, cotangents)

        host = HostFunction(self.subject, function=refuse, output_spec=SameAsInputsSpec(count))
        rules = RuleSet(vjp=TensorFlowRule(_DEFINITION.site, rule))
        return ConcreteOp(_DEFINITION, host, rules, None, None, {}, payload)

    def _exception(self) -> Exception:
        if self.kind == _LOST:
            return GradientError(
                "cannot compute a second derivative: it was lost when the model was loaded and saved again.",
                remedy="Load the original model.",
            )
        return error_of(self.kind)(self.op or REGISTRY.require_op(str(self.token)))


class DeferredErrorDef(NamedOp):
    """Define the op of all deferred errors, which restores them from their tokens."""

    def __init__(self) -> None:
        site = Site.of(deferred_error_vectors, sys._getframe())
        # saved models hold this name
        super().__init__(OpSpec("tfpyop:refusal", "tfpyop", False, site, Parameters(None)))

    def specialize_from_payload(self, payload: str) -> ConcreteOp:
        """Return the concrete op of a deferred error. Raise ValueError if the payload is invalid."""
        return _concrete_op(payload)


_DEFINITION = DeferredErrorDef()


@functools.lru_cache(maxsize=MAX_CONCRETE_OPS)
def _concrete_op(payload: str) -> ConcreteOp:
    count, error, text, levels = _read(payload)
    op = REGISTRY.find_op(text) if text else None
    unknown = f"op {Token.parse(text).name!r}" if text else _LOADED
    deferred = DeferredError(error, unknown if op is None else op.subject, text, None)
    return deferred.concrete_op(count, with_in_axes(payload, ())).batched(*levels)
