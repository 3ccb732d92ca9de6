"""Modes: the ways a call can reach TensorFlow, as functions from arrays to arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

import tfpyop
from tfpyop import Op
from tfpyop._registry.op_def import ConcreteOp
from tfpyop._spec.coercion import Array
from tfpyop._spec.tree import flatten
from tfpyop.errors import RegistrationError, nearest
from tfpyop.testing._examples import Arguments
from tfpyop.testing._ops import concrete_op_of, rules_of, spec_of

Function = Callable[..., Sequence[tf.Tensor]]
"""A function of flat tensors that returns flat tensors."""

MODES = ("eager", "graph", "XLA", "native")


def checked_modes(modes: Sequence[str] | None) -> tuple[str, ...]:
    """Return the requested modes, or all modes; raise RegistrationError for unknown modes."""
    if modes is None:
        return MODES
    if not modes:
        raise RegistrationError("modes= is empty.", remedy=f"Pass some of {', '.join(MODES)}, or omit modes=.")
    if not isinstance(modes, str | Sequence):
        raise RegistrationError(
            "modes= is not a sequence of mode names.", got=f"{modes!r:.80}", remedy=f"Pass some of {', '.join(MODES)}."
        )
    known = {mode.lower(): mode for mode in MODES}
    named = [modes] if isinstance(modes, str) else list(modes)
    for mode in map(str, named):
        if mode.lower() not in known:
            raise RegistrationError(f"unknown mode {mode!r}.", remedy=nearest(mode, MODES))
    return tuple(known[mode.lower()] for mode in named)


def is_applicable(op: Op[..., Any], mode: str) -> bool:
    """Return whether the op can be called in a mode."""
    spec = spec_of(op)
    if mode == "native":
        return rules_of(op).native is not None
    return mode != "XLA" or (spec.is_compilable and not spec.is_stateful)


class Caller:
    """Call an op in one mode, and cache the traces.

    Args:
      op: The op.
      mode: A mode in `MODES`.
    """

    def __init__(self, op: Op[..., Any], mode: str) -> None:
        self._op = op
        self._mode = mode
        self._traced: dict[Any, Any] = {}

    def __call__(self, arguments: Arguments) -> list[Array]:
        """Return the flat results of a call.

        Raises:
          UnsupportedError: XLA does not support the call.
        """
        tensors = [tf.constant(value) for value in arguments.leaves]
        return [tensor.numpy() for tensor in self._function(arguments, tensors)(*tensors)]

    def _function(self, arguments: Arguments, tensors: Sequence[tf.Tensor]) -> Any:
        static = dict(arguments.static)

        def function(*flat: tf.Tensor) -> Sequence[tf.Tensor]:
            packed = flatten(arguments.args)[1].unflatten(flat)
            outputs: list[tf.Tensor] = tf.nest.flatten(self._op(*packed, **static))
            return outputs

        if self._mode == "eager":
            return function
        if self._mode == "native":
            return functools.partial(_natively, function)
        is_compiled = self._mode == "XLA"
        concrete_op, _ = concrete_op_of(self._op, arguments)
        text = id(concrete_op) if concrete_op.payload is None else concrete_op.payload
        specs = [
            tf.TensorSpec(shape, tensor.dtype)
            for shape, tensor in zip(self._shapes(concrete_op, tensors), tensors, strict=True)
        ]
        key = (
            tuple(
                (spec.dtype, tensor.shape.rank, str(spec.shape)) for spec, tensor in zip(specs, tensors, strict=True)
            ),
            text,
        )
        traced = self._traced.get(key)
        if traced is None:
            polymorphic = tf.function(function, autograph=False, jit_compile=is_compiled)
            traced = self._traced[key] = polymorphic.get_concrete_function(*specs)
        return traced

    def _shapes(self, concrete_op: ConcreteOp, tensors: Sequence[tf.Tensor]) -> list[list[int | None] | None]:
        """Return the shapes for which a call is traced: the ranks for XLA, and core sizes if `sizes=` needs them."""
        if self._mode != "XLA":
            return [None] * len(tensors)
        shapes = [tuple(tensor.shape.as_list()) for tensor in tensors]
        signature = concrete_op.signature
        known = signature.core_ranks(shapes) if signature is not None and signature.computed else [0] * len(shapes)
        return [
            [None] * (len(shape) - count) + list(shape[len(shape) - count :])
            for shape, count in zip(shapes, known, strict=True)
        ]


def _natively(function: Function, *tensors: tf.Tensor) -> Sequence[tf.Tensor]:
    with tfpyop.prefer_native():
        return function(*tensors)
