"""Recorded calls: an op with its input and output tensors, as its derivative rules need them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import tensorflow as tf

from tfpyop._lowering.autodiff.nondifferentiable import nondifferentiable
from tfpyop._lowering.tensors import dtype_of
from tfpyop._lowering.xla.compilation import is_compiling
from tfpyop._registry.bind import bind
from tfpyop._registry.op_def import ConcreteOp
from tfpyop._rules.missing import residual_differentiated
from tfpyop._spec.coercion import is_differentiable
from tfpyop._spec.payload import Needs
from tfpyop._spec.rule_outputs import CotangentSpec, RuleInputs


@dataclass(eq=False)
class RecordedCall:
    """One call of an op, in eager code or in a graph."""

    op: ConcreteOp
    inputs: Sequence[tf.Tensor]
    outputs: Sequence[tf.Tensor]
    residuals: Sequence[tf.Tensor]
    skipped: Collection[int] | None = None
    """The inputs whose cotangents are certainly not used; None if this is unknown."""
    is_compiled: bool = field(default_factory=is_compiling)
    """Whether the call is in a graph that XLA compiles."""

    keeps_sparse: bool = False
    """Whether cotangents may be `tf.IndexedSlices`, because TensorFlow receives them."""

    def skipping(self, skipped: Collection[int] | None, *, keeps_sparse: bool = False) -> RecordedCall:
        """Return the call with these inputs skipped, see `skipped`."""
        return RecordedCall(self.op, self.inputs, self.outputs, self.residuals, skipped, self.is_compiled, keeps_sparse)

    @cached_property
    def needs(self) -> Needs:
        """For each input, whether its cotangent may be used."""
        return tuple(
            [
                number not in (self.skipped or ()) and is_differentiable(dtype_of(tensor))
                for number, tensor in enumerate(self.inputs)
            ]
        )

    @property
    def is_of_vjp(self) -> bool:
        """Whether the op is the op of a VJP rule and has no rule of its own."""
        return self.op.rules.vjp is None and isinstance(self.op.host.output_spec, CotangentSpec)

    @cached_property
    def forward_call(self) -> RecordedCall:
        """The call whose outputs the cotangents belong to, for the op of a VJP rule.

        It has no outputs if the rule does not get them, see `with_outputs`.
        """
        parts = self._parts
        assert self.op.forward_op is not None
        return RecordedCall(self.op.forward_op, parts.inputs, parts.outputs, parts.residuals)

    def with_outputs(self) -> RecordedCall:
        """Return the call with its outputs, which are computed again if they are not known."""
        return self if self.outputs else replace(self, outputs=bind(self.op, self.inputs))

    @property
    def returned(self) -> Needs:
        """For the op of a VJP rule: for each input of the forward call, whether the op returns its cotangent."""
        output_spec = self.op.host.output_spec
        assert isinstance(output_spec, CotangentSpec)
        return output_spec.needs_of([dtype_of(tensor) for tensor in self._parts.inputs])

    @property
    def vectors(self) -> Sequence[tf.Tensor]:
        """The cotangents passed to the op of a VJP rule."""
        return self._parts.vectors

    @cached_property
    def _parts(self) -> RuleInputs[tf.Tensor]:
        output_spec = self.op.host.output_spec
        assert isinstance(output_spec, CotangentSpec)
        return output_spec.split(self.inputs, [dtype_of(tensor) for tensor in self.inputs])

    @property
    def values(self) -> RuleInputs[Any]:
        """The inputs, outputs and residuals as a rule receives them, without vectors."""
        return RuleInputs(self.inputs, self.outputs, self.nondifferentiable_residuals(), ())

    def nondifferentiable_residuals(self) -> list[tf.Tensor]:
        """Return the residuals, marked so that differentiating a rule through them raises.

        Only the host knows how they depend on the inputs. Treating them as constants would be silently wrong, except in
        the adjoint of a linear op, which does not depend on the inputs.
        """
        if self.op.rules.is_linear(()) or not any(is_differentiable(dtype_of(tensor)) for tensor in self.residuals):
            return list(self.residuals)
        return nondifferentiable(self.op, self.residuals, self.inputs, residual_differentiated)
