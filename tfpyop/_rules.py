"""Derivative rules: what a user attaches to an op, what a rule is given, and what it must return.

A rule in TensorFlow ops is called as it is. A rule in numpy is an op of its own, whose inputs are the primals, the
outputs and the cotangents of the op it belongs to, and whose outputs are promised to be like the primals.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy as np

from tfpyop._coercion import Array, DType, fit, is_differentiable
from tfpyop._host import ArrayType, HostFunction, Promise
from tfpyop._registry import Site
from tfpyop._signature import Signature
from tfpyop.errors import ContractError, GradientError, Shape, describe, describe_shape

T = TypeVar("T")


class RuleOp(Protocol):
    """The op of a numpy rule, as the lowerings call it."""

    def call_flat(self, leaves: Sequence[Any], static: Mapping[str, Any]) -> list[Any]:
        """Call the op with flat inputs; returns flat outputs."""
        ...

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind the rule of a method to an instance."""
        ...


@dataclass(slots=True)
class Rules:
    """What is known about the derivatives of an op."""

    gradient: Callable[..., Any] | None = None
    """The VJP rule in TensorFlow ops."""
    numpy_gradient: RuleOp | None = None
    """The op made of the VJP rule in numpy. At most one of the two is there."""
    gradient_site: Site | None = None
    non_differentiable: bool = False


@dataclass(frozen=True, slots=True)
class RuleContext:
    """What a rule is given as its first argument, in the manner of a TensorFlow op."""

    name: str
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    static: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class HostOp:
    """A host function with its derivative rules and static arguments: what a lowering lowers."""

    name: str
    host: HostFunction
    rules: Rules
    signature: Signature | None
    static: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Static values are given to every rule; nobody may change them for the others."""
        object.__setattr__(self, "static", MappingProxyType(dict(self.static)))

    def is_differentiable(self, inputs: Sequence[DType], outputs: Sequence[DType]) -> bool:
        """Whether a call with these dtypes has a derivative at all."""
        return (
            not self.rules.non_differentiable
            and any(map(is_differentiable, inputs))
            and any(map(is_differentiable, outputs))
        )

    def context(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> RuleContext:
        """What the rules of this op are given."""
        return RuleContext(self.name, tuple(inputs), tuple(outputs), self.static)

    def missing_gradient(self) -> GradientError:
        """The error for a derivative nobody has defined."""
        return GradientError(
            "its gradient was asked for, but it has no gradient rule.",
            subject=self.host.subject,
            remedy="Attach one with @op.gradient (TensorFlow ops) or @op.numpy_gradient (arrays). If its derivative is "
            "zero everywhere, declare non_differentiable=True; to cut the graph here, use tf.stop_gradient.",
        )


@dataclass(frozen=True, slots=True)
class CotangentPromise:
    """What a numpy VJP rule promises: one cotangent for each differentiable primal, like the primal.

    Inputs come as primals, outputs and cotangents, as many of the last two as the op the rule belongs to has outputs.
    """

    primal: Promise
    """What that op promises."""
    signature: Signature | None
    """The signature of that op."""

    def n_outputs(self, inputs: Sequence[DType]) -> int:
        """How many primals are differentiable."""
        return sum(map(is_differentiable, inputs[: self._n_primals(inputs)]))

    def split(self, values: Sequence[T], dtypes: Sequence[DType]) -> tuple[Sequence[T], Sequence[T], Sequence[T]]:
        """Take the inputs, or what goes with them, apart into primals, outputs and cotangents."""
        n_primals = self._n_primals(dtypes)
        n_outputs = (len(values) - n_primals) // 2
        return values[:n_primals], values[n_primals : n_primals + n_outputs], values[n_primals + n_outputs :]

    def _n_primals(self, dtypes: Sequence[DType]) -> int:
        """The only number of primals that leaves just enough inputs for the outputs and the cotangents."""
        for n_primals in range(len(dtypes) + 1):
            n_outputs = (len(dtypes) - n_primals) / 2
            with contextlib.suppress(ContractError):
                if self.primal.n_outputs(dtypes[:n_primals]) == n_outputs:
                    return n_primals
        raise ContractError(
            "the op of a gradient rule got the wrong number of inputs.",
            expected="the inputs, the outputs and the cotangents of the outputs",
            got=str(len(dtypes)),
        )

    def output_types(self, inputs: Sequence[ArrayType]) -> list[ArrayType]:
        """The types of the differentiable primals."""
        primals, _, _ = self.split(inputs, [type_.dtype for type_ in inputs])
        return [primal for primal in primals if is_differentiable(primal.dtype)]

    def fit(self, result: Any, inputs: Sequence[Array], outputs: Sequence[ArrayType]) -> list[Array]:
        """Count, reduce, coerce and measure the cotangents a rule returned; None becomes zeros."""
        primals, _, _ = self.split(inputs, [array.dtype for array in inputs])
        values = cotangent_values(result, len(primals))
        broadcast = broadcast_shapes_of(self.signature, [primal.shape for primal in primals])
        return [
            np.zeros(primal.shape, primal.dtype) if value is None else _fit_cotangent(value, primal, number, shape)
            for number, (value, primal, shape) in enumerate(zip(values, primals, broadcast, strict=True))
            if is_differentiable(primal.dtype)
        ]


def rule_caller(
    rule: Callable[..., Any], promise: CotangentPromise, name: str, static: Mapping[str, Any]
) -> Callable[[list[Array]], Any]:
    """The function of a numpy rule's op: flat arrays in, the rule called as its author wrote it."""

    def call(arrays: list[Array]) -> Any:
        inputs, outputs, cotangents = promise.split(arrays, [array.dtype for array in arrays])
        given = [cotangent if is_differentiable(cotangent.dtype) else None for cotangent in cotangents]
        return rule(RuleContext(name, tuple(inputs), tuple(outputs), static), *given)

    return call


def cotangent_values(result: Any, n_inputs: int) -> Sequence[Any]:
    """The cotangents out of what a rule returned: a sequence, or one value that stands for a 1-tuple.

    Raises:
      ContractError: There is not one for each input.
    """
    values = result if isinstance(result, tuple | list) else (result,)
    if len(values) != n_inputs:
        raise ContractError(
            "the gradient rule returned the wrong number of cotangents.",
            expected=f"{n_inputs}, one for each input",
            got=str(len(values)),
            remedy="Return None for an input that the outputs do not depend on.",
        )
    return values


def broadcast_shapes_of(signature: Signature | None, primals: Sequence[Shape | None]) -> Sequence[Shape | None]:
    """The shape each primal has once its loop dimensions are broadcast; the primal's own without a signature."""
    if signature is None:
        return primals
    binding = signature.bind(primals)
    return [binding.shape(core) for core in signature.inputs]


def wrong_cotangent_shape(number: int, primal: ArrayType, broadcast: Shape | None, got: str) -> ContractError:
    """The error for a cotangent that has neither the primal's shape nor the broadcast one."""
    expected = str(primal)
    if broadcast != primal.shape:
        expected += f" or the broadcast shape {describe_shape(broadcast)}"
    return ContractError(
        f"the cotangent of input {number} has the wrong shape.",
        expected=expected,
        got=got,
        remedy="A gradient rule returns cotangents in the shape of their inputs; loop dimensions of a signature that "
        "were broadcast may stay and are summed.",
    )


def summed_axes(shape: Shape, primal: Shape) -> tuple[int, ...]:
    """The axes over which a cotangent of the broadcast shape is summed to reach the primal's."""
    extra = len(shape) - len(primal)
    stretched = (axis + extra for axis, size in enumerate(primal) if size == 1 and shape[axis + extra] != 1)
    return (*range(extra), *stretched)


def _fit_cotangent(value: Any, primal: Array, number: int, broadcast: Shape | None) -> Array:
    array = np.asarray(value)
    if array.shape != primal.shape:
        if array.shape != broadcast:
            got = describe(array.dtype, array.shape)
            raise wrong_cotangent_shape(number, ArrayType.of(primal), broadcast, got)
        array = np.sum(array, axis=summed_axes(array.shape, primal.shape)).reshape(primal.shape)
    return fit(array, primal.dtype, what=f"the cotangent of input {number}")
