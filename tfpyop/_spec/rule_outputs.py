"""Promises of the ops of derivative rules.

Their outputs are like some of their inputs: cotangents like the primals, tangents like the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from tfpyop._spec.coercion import Array, DType, fit, is_differentiable
from tfpyop._spec.outputs import ArraySpec, OutputSpec, Types, describe_types, dtypes_of, is_compatible
from tfpyop._spec.rule_values import broadcast_shapes_of, fit_cotangent, fit_tangent, rule_values
from tfpyop._spec.signature import Signature, Sizes, sizes_of
from tfpyop.errors import ContractError

T = TypeVar("T")
Counts = tuple[int, int, int]
"""How many inputs, outputs and residuals the op of a rule takes."""
_OF_ONE_CALL = "Pass the inputs, outputs and residuals of one call of the op, in the order in which the rule gets them."


@dataclass(frozen=True, slots=True)
class RuleInputs(Generic[T]):
    """The inputs of a rule's op, or what goes with them: the call it belongs to, and cotangents or tangents."""

    inputs: Sequence[T]
    outputs: Sequence[T]
    residuals: Sequence[T]
    vectors: Sequence[T]
    """Cotangents of the outputs, or tangents of the inputs. Integers, which have none, stand here for themselves."""

    @classmethod
    def flat(cls, values: Sequence[T], n_inputs: int, n_outputs: int, n_residuals: int) -> RuleInputs[T]:
        """Take flat values apart."""
        ends = (n_inputs, n_inputs + n_outputs, n_inputs + n_outputs + n_residuals)
        return cls(values[: ends[0]], values[ends[0] : ends[1]], values[ends[1] : ends[2]], values[ends[2] :])


@dataclass(frozen=True, slots=True)
class RuleOutputSpec:
    """What a numpy rule promises: a vector for each differentiable one of its models, like that."""

    primal: OutputSpec
    """What the op that the rule belongs to promises."""
    _known_counts: dict[tuple[DType, ...], Counts] = field(init=False, default_factory=dict, compare=False, repr=False)

    residual_names = ()
    is_like_inputs = True
    vector: ClassVar[str]
    """What the rule takes and returns: `cotangent` or `tangent`."""
    like: ClassVar[str]
    """What it returns them for: `inputs` or `outputs`."""

    def models(self, parts: RuleInputs[T]) -> Sequence[T]:
        """What the results are like."""
        models: Sequence[T] = getattr(parts, self.like)
        return models

    def given_for(self, parts: RuleInputs[T]) -> Sequence[T]:
        """What the vectors that the rule is given are like: the others."""
        return parts.outputs if self.like == "inputs" else parts.inputs

    def split(self, values: Sequence[T], dtypes: Sequence[DType]) -> RuleInputs[T]:
        """Take the inputs, or what goes with them, apart; how many are which is found once for certain dtypes."""
        key = tuple(dtypes)
        counts = self._known_counts.get(key)
        if counts is None:
            counts = self._known_counts[key] = self._counts(key)
        return RuleInputs.flat(values, *counts)

    def n_arrays(self, inputs: Types) -> int | None:
        """One for each model, if all are differentiable."""
        models = self.models(self._parts(inputs))
        return len(models) if all(is_differentiable(model.dtype) for model in models) else None

    def describe_inputs(self, inputs: Types) -> str:
        """Render the types part by part; vectors of integers are None for the rule."""
        parts = self._parts(inputs)
        given = [str(type_) if is_differentiable(type_.dtype) else "None" for type_ in parts.vectors]
        named = (
            *(("inputs", parts.inputs), ("outputs", parts.outputs), ("residuals", parts.residuals)),
            (f"{self.vector}s", given),
        )
        return "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in named if values)

    def loop_hint(self, inputs: Types) -> str | None:
        """The same as for the op that the rule belongs to."""
        return self.primal.loop_hint(self._parts(inputs).inputs)

    def n_outputs(self, inputs: Sequence[DType]) -> int:
        """How many models are differentiable."""
        return sum(map(is_differentiable, self.models(self.split(inputs, inputs))))

    def output_types(self, inputs: Types) -> list[ArraySpec]:
        """The types of the differentiable models."""
        parts = self._parts(inputs)
        _check_rule_inputs(parts, self.primal, self.given_for(parts))
        return [model for model in self.models(parts) if is_differentiable(model.dtype)]

    def output_sizes(self, inputs: Types) -> list[Sizes | None]:
        """The sizes of the differentiable models."""
        numbers = self.models(self.split(range(len(inputs)), dtypes_of(inputs)))
        return [sizes_of(inputs[number].shape, number) for number in numbers if is_differentiable(inputs[number].dtype)]

    def wanted(self, result: Any, inputs: Sequence[DType]) -> Sequence[Any]:
        """What a rule returned for the differentiable models."""
        models = self.models(self.split(inputs, inputs))
        vectors = rule_values(result, len(models), self.vector, self.like)
        return [vector for vector, model in zip(vectors, models, strict=True) if is_differentiable(model)]

    def values(self, result: Any, inputs: Types) -> Sequence[Any]:
        """The same; None becomes zeros."""
        models = [model for model in self.models(self._parts(inputs)) if is_differentiable(model.dtype)]
        pairs = zip(self.wanted(result, dtypes_of(inputs)), models, strict=True)
        return [np.zeros(model.shape or (), model.dtype) if value is None else value for value, model in pairs]

    def fit(self, values: Sequence[Any], inputs: Types, outputs: Types) -> list[Array]:
        """Coerce the vectors that a rule returned, one for each output."""
        raise NotImplementedError

    def _parts(self, inputs: Types) -> RuleInputs[ArraySpec]:
        return self.split(inputs, dtypes_of(inputs))

    def _numbers(self, inputs: Types) -> list[int]:
        """Which of the models are differentiable."""
        models = self.models(self._parts(inputs))
        return [number for number, model in enumerate(models) if is_differentiable(model.dtype)]

    def _counts(self, dtypes: Sequence[DType]) -> Counts:
        """How many inputs, outputs and residuals there are: as many inputs as leave just enough for the others."""
        n_residuals = len(self.primal.residual_names)
        for n_inputs in range(len(dtypes) + 1):
            try:
                n_outputs = self.primal.n_outputs(dtypes[:n_inputs])
            except ContractError:  # not as many inputs as this; if no number fits, that is said below
                continue
            n_vectors = n_outputs if self.like == "inputs" else n_inputs
            if n_inputs + n_outputs + n_residuals + n_vectors == len(dtypes):
                return n_inputs, n_outputs, n_residuals
        raise ContractError(
            "the op of a derivative rule was called with the wrong number of inputs.",
            expected="the inputs, outputs and residuals of its op, and the cotangents or tangents",
            got=str(len(dtypes)),
            remedy=_OF_ONE_CALL,
        )


@dataclass(frozen=True, slots=True)
class CotangentSpec(RuleOutputSpec):
    """What a numpy VJP rule promises: a cotangent for each differentiable primal, like the primal."""

    signature: Signature | None
    """The signature of the op that the rule belongs to, residuals among its outputs."""

    vector = "cotangent"
    like = "inputs"

    def fit(self, values: Sequence[Any], inputs: Types, outputs: Types) -> list[Array]:
        """Coerce cotangents; sum those that have the broadcast shape over the loop dimensions."""
        shapes = broadcast_shapes_of(self.signature, [primal.shape for primal in self._parts(inputs).inputs])
        return [
            fit_cotangent(value, output, number, len(shapes), shapes[number])
            for value, output, number in zip(values, outputs, self._numbers(inputs), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class TangentSpec(RuleOutputSpec):
    """What a numpy JVP rule promises: a tangent for each differentiable output, like the output."""

    vector = "tangent"
    like = "outputs"

    def fit(self, values: Sequence[Any], inputs: Types, outputs: Types) -> list[Array]:
        """Coerce tangents and check their shapes."""
        return [
            fit_tangent(value, output, number)
            for value, output, number in zip(values, outputs, self._numbers(inputs), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class SameAsInputsSpec:
    """Outputs like the first inputs."""

    count: int

    residual_names = ()
    is_like_inputs = True

    def n_arrays(self, inputs: Types) -> int:
        """As many as it says."""
        return self.count

    def describe_inputs(self, inputs: Types) -> str:
        """Render the types one after the other."""
        return describe_types(inputs)

    def loop_hint(self, inputs: Types) -> None:
        """Nothing is known of loop dimensions."""

    def n_outputs(self, inputs: Sequence[DType]) -> int:
        """As many as it says."""
        return self.count

    def output_types(self, inputs: Types) -> list[ArraySpec]:
        """The types of the first inputs."""
        if len(inputs) < self.count:
            raise ContractError(
                "the call has the wrong number of inputs.", expected=f"{self.count} or more", got=str(len(inputs))
            )
        return list(inputs[: self.count])

    def output_sizes(self, inputs: Types) -> list[Sizes | None]:
        """The sizes of the first inputs."""
        return [sizes_of(inputs[number].shape, number) for number in range(self.count)]

    def values(self, result: Any, inputs: Types) -> Sequence[Any]:
        """One value for each input."""
        return list(result)

    def fit(self, values: Sequence[Any], inputs: Types, outputs: Types) -> list[Array]:
        """Coerce the values."""
        pairs = zip(values, outputs, strict=True)
        return [fit(value, output.dtype, what=f"output {number}") for number, (value, output) in enumerate(pairs)]


def _check_rule_inputs(parts: RuleInputs[ArraySpec], primal: OutputSpec, like: Types) -> None:
    """The primals must be such as the op takes, and every other value as they make it."""
    promised = primal.output_types(parts.inputs)
    given = [*parts.outputs, *parts.residuals, *parts.vectors]
    wanted = [*promised, *like]
    for number, (value, want) in enumerate(zip(given, wanted, strict=True)):
        if value.shape is not None and want.shape is not None and not is_compatible(value.shape, want.shape):
            raise ContractError(
                f"input {number + len(parts.inputs)} of the op of a derivative rule does not match the primals of "
                "this call.",
                expected=str(want),
                got=str(value),
                remedy=_OF_ONE_CALL,
            )
