"""Promises of the ops of derivative rules, and what a rule must return.

Their outputs are like some of their inputs: cotangents like the primals, tangents like the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from tfpyop._coercion import (
    Array,
    DType,
    advise_rule,
    as_array,
    dtype_kind,
    fit,
    is_differentiable,
    is_half,
)
from tfpyop._promise import ArrayType, Promise, Types, describe_types, is_compatible
from tfpyop._signature import Signature, Sizes, sizes_of
from tfpyop.errors import ContractError, Shape, describe, describe_kind, describe_shape

T = TypeVar("T")
Counts = tuple[int, int, int]
"""How many inputs, outputs and residuals the op of a rule takes."""
_OF_ONE_CALL = "Pass what one call of the op took and gave, as the rule itself is given it."


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
class CotangentPromise:
    """What a numpy VJP rule promises: a cotangent for each differentiable primal, like the primal."""

    primal: Promise
    """What the op that the rule belongs to promises."""
    signature: Signature | None
    """The signature of that op, residuals among its outputs."""
    _counts: dict[tuple[DType, ...], Counts] = field(default_factory=dict, compare=False, repr=False)

    residual_names = ()
    is_like_inputs = True

    def n_arrays(self, inputs: Types) -> int | None:
        """One for each primal, if all are differentiable."""
        primals = self.split(inputs, [type_.dtype for type_ in inputs]).inputs
        return len(primals) if all(is_differentiable(primal.dtype) for primal in primals) else None

    def describe_inputs(self, inputs: Types) -> str:
        """Render the types part by part."""
        return _describe_parts(self.split(inputs, [type_.dtype for type_ in inputs]), "cotangents")

    def loop_hint(self, inputs: Types) -> str | None:
        """The same as for the op that the rule belongs to."""
        return self.primal.loop_hint(self.split(inputs, [type_.dtype for type_ in inputs]).inputs)

    def n_outputs(self, inputs: Sequence[DType]) -> int:
        """How many primals are differentiable."""
        return sum(map(is_differentiable, self.split(inputs, inputs).inputs))

    def split(self, values: Sequence[T], dtypes: Sequence[DType]) -> RuleInputs[T]:
        """Take the inputs, or what goes with them, apart."""
        return _split(self.primal, self._counts, values, dtypes, lambda _n_inputs, n_outputs: n_outputs)

    def output_types(self, inputs: Types) -> list[ArrayType]:
        """The types of the differentiable primals."""
        parts = self.split(inputs, [type_.dtype for type_ in inputs])
        _check_rule_inputs(parts, self.primal, parts.outputs)
        return [inputs[number] for number in self._models(inputs)]

    def output_sizes(self, inputs: Types) -> list[Sizes | None]:
        """The sizes of the differentiable primals."""
        return [sizes_of(inputs[number].shape, number) for number in self._models(inputs)]

    def _models(self, inputs: Types) -> list[int]:
        """Which inputs the outputs are like."""
        primals = self.split(range(len(inputs)), [type_.dtype for type_ in inputs]).inputs
        return [number for number in primals if is_differentiable(inputs[number].dtype)]

    def wanted(self, result: Any, inputs: Sequence[DType]) -> Sequence[Any]:
        """The cotangents of the differentiable primals out of what a rule returned."""
        primals = self.split(inputs, inputs).inputs
        cotangents = rule_values(result, len(primals), "cotangent", "inputs")
        pairs = zip(cotangents, primals, strict=True)
        return [cotangent for cotangent, primal in pairs if is_differentiable(primal)]

    def values(self, result: Any, inputs: Types) -> Sequence[Any]:
        """One cotangent for each differentiable primal; None becomes zeros."""
        dtypes = [type_.dtype for type_ in inputs]
        like = [primal for primal in self.split(inputs, dtypes).inputs if is_differentiable(primal.dtype)]
        return _zeros_for_none(self.wanted(result, dtypes), like)

    def fit(self, values: Sequence[Any], inputs: Types, outputs: Types) -> list[Array]:
        """Coerce cotangents; sum those that have the broadcast shape over the loop dimensions."""
        primals = self.split(inputs, [type_.dtype for type_ in inputs]).inputs
        shapes = broadcast_shapes_of(self.signature, [primal.shape for primal in primals])
        numbered = [number for number, primal in enumerate(primals) if is_differentiable(primal.dtype)]
        return [
            _fit_cotangent(value, output, number, shapes[number])
            for value, output, number in zip(values, outputs, numbered, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class TangentPromise:
    """What a numpy JVP rule promises: a tangent for each differentiable output, like the output."""

    primal: Promise
    """What the op that the rule belongs to promises."""
    _counts: dict[tuple[DType, ...], Counts] = field(default_factory=dict, compare=False, repr=False)

    residual_names = ()
    is_like_inputs = True

    def n_arrays(self, inputs: Types) -> int | None:
        """One for each output, if all are differentiable."""
        outputs = self.split(inputs, [type_.dtype for type_ in inputs]).outputs
        return len(outputs) if all(is_differentiable(output.dtype) for output in outputs) else None

    def describe_inputs(self, inputs: Types) -> str:
        """Render the types part by part."""
        return _describe_parts(self.split(inputs, [type_.dtype for type_ in inputs]), "tangents")

    def loop_hint(self, inputs: Types) -> str | None:
        """The same as for the op that the rule belongs to."""
        return self.primal.loop_hint(self.split(inputs, [type_.dtype for type_ in inputs]).inputs)

    def n_outputs(self, inputs: Sequence[DType]) -> int:
        """How many outputs of the op are differentiable."""
        return sum(map(is_differentiable, self.split(inputs, inputs).outputs))

    def split(self, values: Sequence[T], dtypes: Sequence[DType]) -> RuleInputs[T]:
        """Take the inputs, or what goes with them, apart."""
        return _split(self.primal, self._counts, values, dtypes, lambda n_inputs, _n_outputs: n_inputs)

    def output_types(self, inputs: Types) -> list[ArrayType]:
        """The types of the differentiable outputs."""
        parts = self.split(inputs, [type_.dtype for type_ in inputs])
        _check_rule_inputs(parts, self.primal, parts.inputs)
        return [inputs[number] for number in self._models(inputs)]

    def output_sizes(self, inputs: Types) -> list[Sizes | None]:
        """The sizes of the differentiable outputs."""
        return [sizes_of(inputs[number].shape, number) for number in self._models(inputs)]

    def _models(self, inputs: Types) -> list[int]:
        """Which inputs the outputs are like."""
        outputs = self.split(range(len(inputs)), [type_.dtype for type_ in inputs]).outputs
        return [number for number in outputs if is_differentiable(inputs[number].dtype)]

    def wanted(self, result: Any, inputs: Sequence[DType]) -> Sequence[Any]:
        """The tangents of the differentiable outputs out of what a rule returned."""
        outputs = self.split(inputs, inputs).outputs
        tangents = rule_values(result, len(outputs), "tangent", "outputs")
        return [tangent for tangent, output in zip(tangents, outputs, strict=True) if is_differentiable(output)]

    def values(self, result: Any, inputs: Types) -> Sequence[Any]:
        """One tangent for each differentiable output; None becomes zeros."""
        dtypes = [type_.dtype for type_ in inputs]
        like = [output for output in self.split(inputs, dtypes).outputs if is_differentiable(output.dtype)]
        return _zeros_for_none(self.wanted(result, dtypes), like)

    def fit(self, values: Sequence[Any], inputs: Types, outputs: Types) -> list[Array]:
        """Coerce tangents and check their shapes."""
        like = self.split(inputs, [type_.dtype for type_ in inputs]).outputs
        numbers = [number for number, output in enumerate(like) if is_differentiable(output.dtype)]
        arrays = []
        for number, value, output in zip(numbers, values, outputs, strict=True):
            array = _fit_vector(value, output.dtype, f"tangent {number}")
            if not is_compatible(array.shape, output.shape):
                raise wrong_tangent_shape(number, output, describe(array.dtype, array.shape))
            arrays.append(array)
        return arrays


@dataclass(frozen=True, slots=True)
class SamePromise:
    """Outputs like the first inputs."""

    count: int

    residual_names = ()
    is_like_inputs = True

    def n_arrays(self, inputs: Types) -> int:
        """As many as it says."""
        del inputs
        return self.count

    def describe_inputs(self, inputs: Types) -> str:
        """Render the types one after the other."""
        return describe_types(inputs)

    def loop_hint(self, inputs: Types) -> None:
        """Nothing is known of loop dimensions."""
        del inputs

    def n_outputs(self, inputs: Sequence[DType]) -> int:
        """As many as it says."""
        del inputs
        return self.count

    def output_types(self, inputs: Types) -> list[ArrayType]:
        """The types of the first inputs."""
        return list(inputs[: self.count])

    def output_sizes(self, inputs: Types) -> list[Sizes | None]:
        """The sizes of the first inputs."""
        return [sizes_of(inputs[number].shape, number) for number in range(self.count)]

    def values(self, result: Any, inputs: Types) -> Sequence[Any]:
        """One value for each input."""
        del inputs
        return list(result)

    def fit(self, values: Sequence[Any], inputs: Types, outputs: Types) -> list[Array]:
        """Coerce the values."""
        del inputs
        pairs = zip(values, outputs, strict=True)
        return [fit(value, output.dtype, what=f"output {number}") for number, (value, output) in enumerate(pairs)]


def _zeros_for_none(values: Sequence[Any], like: Types) -> list[Any]:
    return [
        np.zeros(type_.shape or (), type_.dtype) if value is None else value
        for value, type_ in zip(values, like, strict=True)
    ]


def rule_values(result: Any, n_values: int, kind: str, like: str) -> Sequence[Any]:
    """The cotangents or tangents out of what a rule returned: a sequence, or one value that stands for a 1-tuple.

    Raises:
      ContractError: There is not one for each input (or output).
    """
    rule = "gradient" if kind == "cotangent" else "JVP"
    if result is None:
        raise ContractError(
            f"the {rule} rule returned None.",
            expected=f"{n_values}, one {kind} for each of op.{like}",
            got="None",
            remedy=f"Does it lack a return statement? If there is no dependence at all, return {(None,) * n_values}.",
        )
    values = result if isinstance(result, tuple | list) else (result,)
    if len(values) != n_values:
        raise ContractError(
            f"the {rule} rule returned the wrong number of {kind}s.",
            expected=f"{n_values}, one for each of op.{like}",
            got=f"{describe_kind(result)} of {len(values)}" if values is result else f"one {type(result).__name__}",
            remedy=f"Return a tuple in the order of op.{like}, with None where there is no dependence.",
        )
    return values


def broadcast_shapes_of(signature: Signature | None, primals: Sequence[Shape | None]) -> Sequence[Shape | None]:
    """The shape each primal has once its loop dimensions are broadcast; the primal's own without a signature."""
    if signature is None:
        return primals
    binding = signature.bind(primals)
    return [binding.shape(core) for core in signature.inputs]


def summed_axes(shape: Shape, primal: Shape) -> tuple[int, ...]:
    """The axes over which a cotangent of the broadcast shape is summed to reach the primal's."""
    extra = len(shape) - len(primal)
    stretched = (axis + extra for axis, size in enumerate(primal) if size == 1 and shape[axis + extra] != 1)
    return (*range(extra), *stretched)


def wrong_cotangent_shape(number: int, primal: ArrayType, broadcast: Shape | None, got: ArrayType) -> ContractError:
    """The error for a cotangent that has neither the primal's shape nor the broadcast one."""
    expected = str(primal)
    if broadcast != primal.shape:
        expected += f" or the broadcast shape {describe_shape(broadcast)}"
    remedy = "A gradient rule returns cotangents in the shape of their inputs; where the signature has loop dimensions "
    remedy += "that were broadcast, they may stay and are summed."
    if got.shape is not None and got.shape[1:] == primal.shape == broadcast:  # of op.inputs as one array
        remedy += " op.inputs is a tuple: (x,) = op.inputs."
    return ContractError(
        f"the cotangent of input {number} has the wrong shape.", expected=expected, got=str(got), remedy=remedy
    )


def wrong_tangent_shape(number: int, output: ArrayType, got: str) -> ContractError:
    """The error for a tangent that has not its output's shape."""
    return ContractError(
        f"tangent {number} has the wrong shape.",
        expected=str(output),
        got=got,
        remedy="A JVP rule returns tangents in the shape of their outputs.",
    )


def _describe_parts(parts: RuleInputs[ArrayType], vectors: str) -> str:
    """Render what a rule is called with, part by part; vectors of integers are None there."""
    given = [str(type_) if is_differentiable(type_.dtype) else "None" for type_ in parts.vectors]
    named = (("inputs", parts.inputs), ("outputs", parts.outputs), ("residuals", parts.residuals), (vectors, given))
    return "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in named if values)


def _split(
    primal: Promise,
    known: dict[tuple[DType, ...], Counts],
    values: Sequence[T],
    dtypes: Sequence[DType],
    n_vectors: Callable[[int, int], int],
) -> RuleInputs[T]:
    """Take the inputs of a rule's op apart; how many are which is found once for inputs of certain dtypes."""
    key = tuple(dtypes)
    counts = known.get(key)
    if counts is None:
        counts = known[key] = _counts(primal, key, n_vectors)
    return RuleInputs.flat(values, *counts)


def _counts(primal: Promise, dtypes: Sequence[DType], n_vectors: Callable[[int, int], int]) -> Counts:
    """How many inputs, outputs and residuals there are: as many inputs as leave just enough values for the others."""
    n_residuals = len(primal.residual_names)
    for n_inputs in range(len(dtypes) + 1):
        try:
            n_outputs = primal.n_outputs(dtypes[:n_inputs])
        except ContractError:
            continue
        if n_inputs + n_outputs + n_residuals + n_vectors(n_inputs, n_outputs) == len(dtypes):
            return n_inputs, n_outputs, n_residuals
    raise ContractError(
        "the op of a derivative rule got the wrong number of inputs.",
        expected="the inputs, outputs and residuals of the op it belongs to, and the cotangents or tangents",
        got=str(len(dtypes)),
        remedy=_OF_ONE_CALL,
    )


def _check_rule_inputs(parts: RuleInputs[ArrayType], primal: Promise, like: Types) -> None:
    """The primals must be such as the op takes, and every other value as they make it."""
    promised = primal.output_types(parts.inputs)
    given = [*parts.outputs, *parts.residuals, *parts.vectors]
    wanted = [*promised, *like]
    for number, (value, want) in enumerate(zip(given, wanted, strict=True)):
        if value.shape is not None and want.shape is not None and not is_compatible(value.shape, want.shape):
            raise ContractError(
                f"input {number + len(parts.inputs)} of a derivative rule's op does not belong to these primals.",
                expected=str(want),
                got=str(value),
                remedy=_OF_ONE_CALL,
            )


def _fit_cotangent(value: Any, primal: ArrayType, number: int, broadcast: Shape | None) -> Array:
    what = f"the cotangent of input {number}"
    array = as_array(value, what)
    if array.shape != primal.shape:
        if array.shape != broadcast:
            raise wrong_cotangent_shape(number, primal, broadcast, ArrayType.of(array))
        assert primal.shape is not None
        array = np.sum(array, axis=summed_axes(array.shape, primal.shape)).reshape(primal.shape)
    return _fit_vector(array, primal.dtype, what)


def _fit_vector(value: Any, dtype: DType, what: str) -> Array:
    """A cotangent or tangent of this dtype. In half precision what is too large becomes infinite, as in TensorFlow.

    Training in mixed precision scales losses until gradients overflow, and looks for what is not finite.
    """
    array = as_array(value, what)
    if is_half(dtype) and dtype_kind(array.dtype) == "f":
        with np.errstate(over="ignore"):
            return array.astype(dtype, copy=False)
    return fit(array, dtype, what=what, advise=advise_rule)
