"""Define the output specs of derivative rules' ops.

Cotangents have the dtypes and shapes of the primals. Tangents have the dtypes and shapes of the outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from tfpyop._spec.coercion import Array, DType, coerce_output, is_differentiable
from tfpyop._spec.missing_outputs import WithoutOutputs
from tfpyop._spec.outputs import ArraySpec, ArraySpecs, OutputSpec, describe_types, dtypes_of, is_compatible
from tfpyop._spec.payload import Needs
from tfpyop._spec.rule_values import (
    Places,
    broadcast_shapes_of,
    coerce_cotangent,
    coerce_tangent,
    placed,
    rule_values,
)
from tfpyop._spec.signature import Signature, SymbolicShape, symbolic_shape
from tfpyop._spec.undefined import UNDEFINED, undefined_vector
from tfpyop.errors import ContractError

T = TypeVar("T")
Counts = tuple[int, int, int]
"""The numbers of inputs, outputs and residuals that a rule's op takes."""
_OF_ONE_CALL = "Pass the inputs, outputs and residuals of one call of the op, in the order in which the rule gets them."


@dataclass(frozen=True, slots=True)
class RuleInputs(Generic[T]):
    """Group the inputs of a rule's op, or values that correspond to them, by their role in the call."""

    inputs: Sequence[T]
    outputs: Sequence[T]
    residuals: Sequence[T]
    vectors: Sequence[T]
    """Cotangents of the outputs, or tangents of the inputs. Integers have no vectors; their values are here instead."""

    @classmethod
    def flat(cls, values: Sequence[T], n_inputs: int, n_outputs: int, n_residuals: int) -> RuleInputs[T]:
        """Split flat values by these counts."""
        ends = (n_inputs, n_inputs + n_outputs, n_inputs + n_outputs + n_residuals)
        return cls(values[: ends[0]], values[ends[0] : ends[1]], values[ends[1] : ends[2]], values[ends[2] :])


@dataclass(frozen=True, slots=True)
class RuleOutputSpec(ABC):
    """Specify the outputs of a numpy rule: a vector for each differentiable model that is needed.

    A vector has the dtype and shape of its model. The models are the primals for a VJP rule, and the outputs for a JVP
    rule.
    """

    primal: OutputSpec
    """The output spec of the op to which the rule belongs."""
    needs: Needs | None = field(default=None, kw_only=True)
    """The inputs of the op that the rule must consider, if not all of them."""
    without_outputs: WithoutOutputs | None = field(default=None, kw_only=True)
    """Why the rule's op does not take the outputs of the op to which it belongs; None if it takes them."""
    part: Callable[[int], Sequence[int]] | None = field(default=None, kw_only=True, compare=False, repr=False)
    """For a rule for some inputs: returns the indices of these inputs, given the number of inputs."""
    places: Callable[[Sequence[DType]], Places] | None = field(default=None, kw_only=True, compare=False, repr=False)
    """For a call that leaves out inputs: returns the places of the inputs that the rule is for, given their dtypes."""
    _known_counts: dict[tuple[DType, ...], Counts] = field(init=False, default_factory=dict, compare=False, repr=False)

    residual_names = ()
    object_numbers = ()
    object_names = ()
    has_input_shapes = True
    vector: ClassVar[str]
    """The kind of vector that the rule takes and returns: `cotangent` or `tangent`."""
    like: ClassVar[str]
    """The models of the returned vectors: `inputs` or `outputs`."""

    @property
    def takes_outputs(self) -> bool:
        """Whether the rule's op takes the outputs of the op to which it belongs."""
        return self.without_outputs is None

    def models(self, parts: RuleInputs[T]) -> Sequence[T]:
        """Return the values whose dtypes and shapes the results have."""
        models: Sequence[T] = getattr(parts, self.like)
        return models

    def n_primal_outputs(self, parts: RuleInputs[T]) -> int:
        """Return the number of outputs of the op to which the rule belongs."""
        return len(parts.outputs if self.takes_outputs else parts.vectors)

    def split(self, values: Sequence[T], dtypes: Sequence[DType]) -> RuleInputs[T]:
        """Split inputs, or values that correspond to them, by role. The counts are cached for each tuple of dtypes."""
        key = tuple(dtypes)
        counts = self._known_counts.get(key)
        if counts is None:
            counts = self._known_counts[key] = self._counts(key)
        return RuleInputs.flat(values, *counts)

    def n_flat_outputs(self, inputs: ArraySpecs) -> int | None:
        """Return the number of vectors if the op returns all vectors of the rule in the same order; otherwise None."""
        dtypes = dtypes_of(inputs)
        numbers = self.numbers(dtypes)
        return len(numbers) if numbers == list(self._numbers_in_rule(dtypes)) else None

    def describe_inputs(self, inputs: ArraySpecs) -> str:
        """Render the input specs by role. Vectors of integers are shown as None, because the rule receives None."""
        parts = self._parts(inputs)
        given = [str(type_) if is_differentiable(type_.dtype) else "None" for type_ in parts.vectors]
        names, objects = self.primal.residual_names, self.primal.object_names
        residuals = [
            "object" if name in objects else str(type_) for name, type_ in zip(names, parts.residuals, strict=True)
        ]
        named = (
            *(("inputs", parts.inputs), ("outputs", parts.outputs), ("residuals", residuals)),
            (f"{self.vector}s", given),
        )
        return "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in named if values)

    def loop_hint(self, inputs: ArraySpecs) -> str | None:
        """Return the loop hint of the op to which the rule belongs."""
        return self.primal.loop_hint(self._parts(inputs).inputs)

    def n_outputs(self, inputs: Sequence[DType]) -> int:
        """Return the number of returned vectors."""
        return len(self.numbers(inputs))

    def infer_outputs(self, inputs: ArraySpecs) -> list[ArraySpec]:
        """Return the specs of the returned vectors."""
        parts = self._parts(inputs)
        self._check_inputs(parts)
        models = self.models(parts)
        return [models[number] for number in self.numbers(dtypes_of(inputs))]

    def symbolic_shapes(self, inputs: ArraySpecs) -> list[SymbolicShape | None]:
        """Return the sizes of the returned vectors."""
        dtypes = dtypes_of(inputs)
        models = self.models(self.split(range(len(inputs)), dtypes))
        places = [models[number] for number in self.numbers(dtypes)]
        return [symbolic_shape(inputs[place].shape, place) for place in places]

    def unpack_vectors(self, result: Any, inputs: Sequence[DType]) -> Sequence[Any]:
        """Return the vectors for the needed differentiable models from a rule's result."""
        in_rule = self._numbers_in_rule(inputs)
        like = self.like if self.part is None or self.like == "outputs" else f"{self.like} in wrt="
        vectors = dict(zip(in_rule, rule_values(result, len(in_rule), self.vector, like), strict=True))
        return [vectors[number] for number in self.numbers(inputs)]

    def place(self, number: int) -> int:
        """Return the number of a model as the caller counts them, for error messages."""
        return number

    def given(self, parts: RuleInputs[T], inputs: Sequence[DType]) -> Sequence[T | None]:
        """Return the vectors that the rule takes, for inputs of these dtypes."""
        return parts.vectors

    def unpack(self, result: Any, inputs: ArraySpecs) -> Sequence[Any]:
        """Return the vectors for the needed differentiable models from a rule's result, with zeros for None."""
        models, numbers = self.models(self._parts(inputs)), self.numbers(dtypes_of(inputs))
        vectors = self.unpack_vectors(result, dtypes_of(inputs))
        for number, value in zip(numbers, vectors, strict=True):
            if value is UNDEFINED:
                raise undefined_vector("cotangent" if self.like == "inputs" else "tangent", self.place(number))
        pairs = zip(vectors, [models[number] for number in numbers], strict=True)
        return [np.zeros(model.shape or (), model.dtype) if value is None else value for value, model in pairs]

    @abstractmethod
    def coerce(self, values: Sequence[Any], inputs: ArraySpecs, outputs: ArraySpecs) -> list[Array]:
        """Cast the vectors that a rule returned, one for each output, and check their shapes."""

    def _parts(self, inputs: ArraySpecs) -> RuleInputs[ArraySpec]:
        return self.split(inputs, dtypes_of(inputs))

    def _check_inputs(self, parts: RuleInputs[ArraySpec]) -> None:
        """Check that the primals are valid inputs of the op, and that the shapes of all other values follow from them.

        Handles of objects may have any shape, because they only say where to find an object for these primals.
        """
        promised = [
            ArraySpec(type_.dtype, None if number in self.primal.object_numbers else type_.shape)
            for number, type_ in enumerate(self.primal.infer_outputs(parts.inputs))
        ]
        n_outputs = len(promised) - len(self.primal.residual_names)
        outputs = parts.outputs if self.takes_outputs else promised[:n_outputs]
        given = [*parts.outputs, *parts.residuals, *parts.vectors]
        wanted = [
            *promised[n_outputs - len(parts.outputs) :],
            *(outputs if self.like == "inputs" else parts.inputs),
        ]
        for number, (value, want) in enumerate(zip(given, wanted, strict=True)):
            if value.shape is not None and want.shape is not None and not is_compatible(value.shape, want.shape):
                raise ContractError(
                    f"input {number + len(parts.inputs)} of the op of a derivative rule does not match the primals of "
                    "this call.",
                    expected=str(want),
                    got=str(value),
                    remedy=_OF_ONE_CALL,
                )

    def numbers(self, inputs: Sequence[DType]) -> list[int]:
        """Return the indices of the models for which the rule returns a vector."""
        models = self.models(self.split(inputs, inputs))
        return [number for number, model in enumerate(models) if is_differentiable(model)]

    def needs_of(self, inputs: Sequence[DType]) -> Needs:
        """Return the `needs` of a call of the op with inputs of these dtypes.

        Raises:
          ContractError: The needs come from a model, and are of another number of inputs.
        """
        needs = self.needs
        if needs is None and self.part is None:
            return tuple(map(is_differentiable, inputs))
        if needs is None:
            needs = (True,) * len(inputs)
        if len(needs) != len(inputs):
            raise ContractError(
                "the op of a derivative rule was called with the wrong number of inputs.",
                expected=f"a call of an op with {len(needs)} inputs",
                got=f"a call of an op with {len(inputs)} inputs",
                remedy=_OF_ONE_CALL,
            )
        part = range(len(inputs)) if self.part is None else self.part(len(inputs))
        return tuple(
            [
                flag and number in part and is_differentiable(dtype)
                for number, (flag, dtype) in enumerate(zip(needs, inputs, strict=True))
            ]
        )

    def _numbers_in_rule(self, inputs: Sequence[DType]) -> Places:
        """Return the indices of the models for which the rule itself returns a vector, in its order."""
        return range(len(self.models(self.split(inputs, inputs))))

    def _counts(self, dtypes: Sequence[DType]) -> Counts:
        """Return the numbers of inputs, outputs and residuals.

        The number of inputs is the smallest number for which the total number of values is right.

        Raises:
          ContractError: No number of inputs fits.
        """
        n_residuals = len(self.primal.residual_names)
        for n_inputs in range(len(dtypes) + 1):
            try:
                n_outputs = self.primal.n_outputs(dtypes[:n_inputs])
            except ContractError:  # wrong number of inputs; raises below if no number fits
                continue
            n_vectors = n_outputs if self.like == "inputs" else n_inputs
            n_taken = n_outputs if self.takes_outputs else 0
            if n_inputs + n_taken + n_residuals + n_vectors == len(dtypes):
                return n_inputs, n_taken, n_residuals
        taken = "inputs, outputs and residuals" if self.takes_outputs else "inputs and residuals"
        raise ContractError(
            "the op of a derivative rule was called with the wrong number of inputs.",
            expected=f"the {taken} of its op, and the cotangents or tangents",
            got=str(len(dtypes)),
            remedy=_OF_ONE_CALL,
        )


@dataclass(frozen=True, slots=True)
class CotangentSpec(RuleOutputSpec):
    """Specify the outputs of a numpy VJP rule: a cotangent for each differentiable primal that is needed."""

    signature: Signature | None
    """The signature of the op to which the rule belongs, with residuals among its outputs."""

    vector = "cotangent"
    like = "inputs"

    def place(self, number: int) -> int:
        """Return the number of an input as the caller counts them, for error messages."""
        return number if self.signature is None else self.signature.place(number)

    def numbers(self, inputs: Sequence[DType]) -> list[int]:
        """Return the indices of the differentiable primals that are needed."""
        needs = self.needs_of(self.split(inputs, inputs).inputs)
        return [number for number, is_needed in enumerate(needs) if is_needed]

    def _numbers_in_rule(self, inputs: Sequence[DType]) -> Places:
        of_inputs = self.split(inputs, inputs).inputs
        if self.places is not None:
            return self.places(of_inputs)
        return range(len(of_inputs)) if self.part is None else self.part(len(of_inputs))

    def coerce(self, values: Sequence[Any], inputs: ArraySpecs, outputs: ArraySpecs) -> list[Array]:
        """Cast cotangents. Sum cotangents that have the broadcast shape over the loop dimensions."""
        primals = self._parts(inputs).inputs
        shapes = broadcast_shapes_of(self.signature, [primal.shape for primal in primals])
        return [
            coerce_cotangent(value, output, self.place(number), len(shapes), shapes[number])
            for value, output, number in zip(values, outputs, self.numbers(dtypes_of(inputs)), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class TangentSpec(RuleOutputSpec):
    """Specify the outputs of a numpy JVP rule: a tangent for each differentiable output, with its dtype and shape."""

    vector = "tangent"
    like = "outputs"

    def given(self, parts: RuleInputs[T], inputs: Sequence[DType]) -> Sequence[T | None]:
        """Return the tangents that the rule takes: of all inputs, or of the inputs that the rule is for."""
        if self.places is not None:
            return placed(parts.vectors, self.places(self.split(inputs, inputs).inputs))
        if self.part is None:
            return parts.vectors
        return [parts.vectors[number] for number in self.part(len(parts.inputs))]

    def coerce(self, values: Sequence[Any], inputs: ArraySpecs, outputs: ArraySpecs) -> list[Array]:
        """Cast tangents and check their shapes."""
        return [
            coerce_tangent(value, output, number)
            for value, output, number in zip(values, outputs, self.numbers(dtypes_of(inputs)), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class SameAsInputsSpec:
    """Specify outputs with the dtypes and shapes of the first inputs."""

    count: int

    residual_names = ()
    object_numbers = ()
    object_names = ()
    has_input_shapes = True

    def n_flat_outputs(self, inputs: ArraySpecs) -> int:
        """Return the fixed number of outputs."""
        return self.count

    def describe_inputs(self, inputs: ArraySpecs) -> str:
        """Render the input specs as one comma-separated line."""
        return describe_types(inputs)

    def loop_hint(self, inputs: ArraySpecs) -> None:
        """Return None, because loop dimensions are unknown."""

    def n_outputs(self, inputs: Sequence[DType]) -> int:
        """Return the fixed number of outputs."""
        return self.count

    def infer_outputs(self, inputs: ArraySpecs) -> list[ArraySpec]:
        """Return the specs of the first inputs."""
        if len(inputs) < self.count:
            raise ContractError(
                "the call has the wrong number of inputs.", expected=f"{self.count} or more", got=str(len(inputs))
            )
        return list(inputs[: self.count])

    def symbolic_shapes(self, inputs: ArraySpecs) -> list[SymbolicShape | None]:
        """Return the sizes of the first inputs."""
        return [symbolic_shape(inputs[number].shape, number) for number in range(self.count)]

    def unpack(self, result: Any, inputs: ArraySpecs) -> Sequence[Any]:
        """Return the result as a list of values."""
        return list(result)

    def coerce(self, values: Sequence[Any], inputs: ArraySpecs, outputs: ArraySpecs) -> list[Array]:
        """Cast the values."""
        pairs = zip(values, outputs, strict=True)
        return [
            coerce_output(value, output.dtype, what=f"output {number}") for number, (value, output) in enumerate(pairs)
        ]
