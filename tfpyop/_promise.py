"""Promises: what the outputs of a host function will be, and how results are held to it.

An op promises what its signature, shape function and dtypes say. The op of a derivative rule promises outputs like
some of its inputs: cotangents like the primals, tangents like the outputs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from tfpyop._coercion import (
    STRING,
    Advice,
    Array,
    DType,
    advise_declared,
    advise_residual,
    advise_rule,
    advise_undeclared,
    as_array,
    fit,
    is_differentiable,
    result_dtype,
    ufunc_output_dtypes,
)
from tfpyop._signature import Signature, Sizes, sizes_of
from tfpyop._structure import Structure
from tfpyop.errors import ContractError, Shape, SignatureError, describe, describe_shape

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ArrayType:
    """The dtype and shape of an array, the shape as far as it is known."""

    dtype: DType
    shape: Shape | None

    @classmethod
    def of(cls, array: Array) -> ArrayType:
        """The type of an array at hand."""
        return cls(array.dtype, array.shape)

    def __str__(self) -> str:
        """Render as `float32[?, 3]`."""
        return describe(self.dtype, self.shape)


Types = Sequence[ArrayType]


class Promise(Protocol):
    """What a host function promises of its outputs. Residuals are outputs too, behind those the caller sees."""

    @property
    def residual_names(self) -> tuple[str, ...]:
        """The names of the residuals."""
        ...

    @property
    def is_one_array(self) -> bool:
        """Whether the function returns one array by itself, whose dtype and shape are all that is promised of it."""
        ...

    @property
    def is_like_inputs(self) -> bool:
        """Whether outputs have the shapes of inputs, so that there are rows of them only if these inputs have rows."""
        ...

    def n_outputs(self, inputs: Sequence[DType]) -> int:
        """How many outputs the caller sees, for inputs of these dtypes."""
        ...

    def output_types(self, inputs: Types) -> list[ArrayType]:
        """What outputs and residuals will be for such inputs; checks the inputs on the way."""
        ...

    def output_sizes(self, inputs: Types) -> list[Sizes | None]:
        """The shapes of the same, with what is not known yet in terms of the inputs' dimensions; None: not known."""
        ...

    def values(self, result: Any, inputs: Types) -> Sequence[Any]:
        """Take what the function returned apart into outputs and residuals."""
        ...

    def fit(self, values: Sequence[Any], inputs: Types, outputs: Types) -> list[Array]:
        """Coerce values to the dtypes that were promised, and check their shapes."""
        ...

    def describe_inputs(self, inputs: Types) -> str:
        """Render what the function was called with."""
        ...

    def loop_hint(self, inputs: Types) -> str | None:
        """What to say to a function that failed on loop dimensions, of which it may not know; None if there are none.

        It holds for functions that are called with loop dimensions, as vectorized ones are.
        """
        ...


@dataclass(frozen=True, slots=True)
class OpPromise:
    """What a decorated function promises."""

    signature: Signature | None
    """With the residuals among its outputs."""
    shape: Callable[[Sequence[Shape]], Any] | None
    dtypes: tuple[DType | None, ...]
    """Of outputs and residuals; None stands for the result type of the inputs."""
    structure: Structure
    """How the outputs are arranged."""
    residual_names: tuple[str, ...] = ()
    ufunc: np.ufunc | None = None

    is_like_inputs = False

    @property
    def is_one_array(self) -> bool:
        """If it is no structure, and has no residuals."""
        return self.structure.kind == "leaf" and not self.residual_names

    def n_outputs(self, inputs: Sequence[DType]) -> int:
        """How many outputs are declared."""
        del inputs
        return len(self.dtypes) - len(self.residual_names)

    def output_types(self, inputs: Types) -> list[ArrayType]:
        """The declared or derived dtypes, and the shapes as far as signature or shape function tell."""
        shapes = self._shapes([type_.shape for type_ in inputs])
        dtypes = self._dtypes([type_.dtype for type_ in inputs])
        return [ArrayType(dtype, shape) for dtype, shape in zip(dtypes, shapes, strict=True)]

    def output_sizes(self, inputs: Types) -> list[Sizes | None]:
        """What the signature says; without one, shapes are known for inputs of known shapes only."""
        shapes = [type_.shape for type_ in inputs]
        if self.signature is not None:
            return self.signature.output_sizes(shapes)
        return [_all_known(shape) for shape in self._shapes(shapes)]

    def values(self, result: Any, inputs: Types) -> Sequence[Any]:
        """Count and unpack outputs and residuals."""
        del inputs
        residuals: Sequence[Any] = ()
        if self.residual_names:
            result, residuals = self._split_residuals(result)
        values = [*self.outputs(result), *residuals]
        for number, value in enumerate(values):
            if value is None:
                raise ContractError(
                    f"{self._what(number)} is None.",
                    expected="an array or number",
                    got="None",
                    remedy="Does the function lack a return statement?",
                )
        return values

    def fit(self, values: Sequence[Any], inputs: Types, outputs: Types) -> list[Array]:
        """Coerce and measure outputs and residuals."""
        arrays = [self._fit(value, outputs[number], number, inputs) for number, value in enumerate(values)]
        if self.signature is not None and self.signature.run_time_names:
            binding = self.signature.bind([type_.shape for type_ in inputs])
            self.signature.check_run_time_sizes([array.shape for array in arrays], binding, self._what)
        return arrays

    def _fit(self, value: Any, promised: ArrayType, number: int, inputs: Types) -> Array:
        is_promised = type(value) is np.ndarray and value.dtype == promised.dtype != STRING
        advise = self._advice(number)
        array: Array = value if is_promised else fit(value, promised.dtype, what=self._what(number), advise=advise)
        if array.shape == promised.shape or is_compatible(array.shape, promised.shape):
            return array
        said_by = "signature" if self.signature is not None else "shape function"
        correct = f"That is what the {said_by} says for inputs {self.describe_inputs(inputs)}: correct it, or return"
        hint = self.loop_hint(inputs)
        raise ContractError(
            f"{self._what(number)} has the wrong shape.",
            expected=str(promised),
            got=describe(np.asarray(value).dtype, array.shape),
            remedy=f"{correct} an array of that shape.{f' {hint}' if hint else ''}",
        )

    def describe_inputs(self, inputs: Types) -> str:
        """Render the types one after the other."""
        return describe_types(inputs)

    def loop_hint(self, inputs: Types) -> str | None:
        """What the signature tells of loop dimensions."""
        if self.signature is None or self.ufunc is not None:
            return None
        loop = self.signature.bind([type_.shape for type_ in inputs]).loop
        if not loop:
            return None
        shown = describe_shape(loop)
        if self.signature.is_elementwise:
            return f"The inputs have dimensions {shown}: work element by element (np.where), or say vectorized=False."
        return (
            f"The inputs have loop dimensions {shown} in front of the core: work along the last axes (x.sum(-1)), or "
            "say vectorized=False."
        )

    def _advice(self, number: int) -> Advice:
        n_outputs = self.n_outputs(())
        if number >= n_outputs:
            return advise_residual(self.residual_names[number - n_outputs])
        return advise_undeclared if self.dtypes[number] is None else advise_declared

    def _what(self, number: int) -> str:
        n_outputs = self.n_outputs(())
        return f"output {number}" if number < n_outputs else f"residual {self.residual_names[number - n_outputs]!r}"

    def _shapes(self, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
        if self.signature is not None:
            return self.signature.output_shapes(self.signature.bind(shapes))
        known = [shape for shape in shapes if shape is not None and None not in shape]
        if self.shape is None or len(known) < len(shapes):
            return [None] * len(self.dtypes)
        try:
            result = self.shape(known)
        except Exception as error:
            raise SignatureError(
                f"the shape function raised {type(error).__name__}: {error}",
                got=f"input shapes {', '.join(map(describe_shape, known))}",
            ) from error
        return _read_shapes(result, len(self.dtypes))

    def _dtypes(self, inputs: Sequence[DType]) -> Sequence[DType]:
        if self.ufunc is not None and None in self.dtypes:
            derived: Sequence[DType] = ufunc_output_dtypes(self.ufunc, inputs)
            return [declared or default for declared, default in zip(self.dtypes, derived, strict=True)]
        default = result_dtype(inputs) if None in self.dtypes else STRING
        return [default if declared is None else declared for declared in self.dtypes]

    def _split_residuals(self, result: Any) -> tuple[Any, list[Any]]:
        declared = f"{{{', '.join(f'{name!r}: ...' for name in self.residual_names)}}}"
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
            outputs = "outputs" if self.n_outputs(()) == 1 else "(output 0, output 1, ...)"
            raise ContractError(
                "the function did not return its residuals.",
                expected=f"(outputs, {declared})",
                got=f"a {type(result).__name__}",
                remedy=f"Return {outputs}, {declared}.",
            )
        outputs, residuals = result
        undeclared = sorted(str(name) for name in residuals if name not in self.residual_names)
        missing = [name for name in self.residual_names if name not in residuals]
        if undeclared or missing:
            problems = [f"Undeclared: {', '.join(map(repr, undeclared))}."] if undeclared else []
            problems += [f"Missing: {', '.join(map(repr, missing))}."] if missing else []
            raise ContractError(
                "the function returned other residuals than declared.",
                expected=f"(outputs, {declared})",
                got=f"residuals {', '.join(repr(str(name)) for name in residuals) or 'of no name'}",
                remedy=" ".join(problems),
            )
        return outputs, [residuals[name] for name in self.residual_names]

    def outputs(self, result: Any) -> list[Any]:
        """Take the outputs apart that the caller sees."""
        n_outputs = self.n_outputs(())
        if self.structure.kind == "leaf":
            if not isinstance(result, tuple):
                return [result]
            if len(result) == 1:
                return list(result)
            raise ContractError(
                "the function returned the wrong number of outputs.",
                expected="1 output",
                got=f"a tuple of {len(result)}",
                remedy='Name every output in the signature, for example signature="()->(),()", or give dtype= as a '
                "tuple; for one array of them, return np.stack(...).",
            )
        if n_outputs == 1 and self.structure.kind == "tuple" and not isinstance(result, tuple | list):
            return [result]
        try:
            return self.structure.flatten_like(result)
        except ValueError as error:
            raise ContractError(
                "the function returned its outputs in the wrong form.",
                expected=f"{n_outputs} outputs as declared",
                got=str(error),
                remedy="Return them in the form of dtype=, or as a tuple without it; for a dict, give dtype= as one.",
            ) from None


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

    residual_names = ()
    is_like_inputs = True
    is_one_array = False

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
        return _split(self.primal, values, dtypes, lambda _n_inputs, n_outputs: n_outputs)

    def output_types(self, inputs: Types) -> list[ArrayType]:
        """The types of the differentiable primals."""
        parts = self.split(inputs, [type_.dtype for type_ in inputs])
        _check_rule_inputs(parts, self.primal, parts.outputs)
        return [primal for primal in parts.inputs if is_differentiable(primal.dtype)]

    def output_sizes(self, inputs: Types) -> list[Sizes | None]:
        """The sizes of the differentiable primals."""
        primals = self.split(range(len(inputs)), [type_.dtype for type_ in inputs]).inputs
        return [sizes_of(inputs[number].shape, number) for number in primals if is_differentiable(inputs[number].dtype)]

    def wanted(self, result: Any, inputs: Sequence[DType]) -> Sequence[Any]:
        """The cotangents of the differentiable primals out of what a rule returned."""
        primals = self.split(inputs, inputs).inputs
        cotangents = rule_values(result, len(primals), "cotangent", "inputs")
        pairs = zip(cotangents, primals, strict=True)
        return [cotangent for cotangent, primal in pairs if is_differentiable(primal)]

    def values(self, result: Any, inputs: Types) -> Sequence[Any]:
        """One cotangent for each differentiable primal; None becomes zeros."""
        primals = self.split(inputs, [type_.dtype for type_ in inputs]).inputs
        cotangents = rule_values(result, len(primals), "cotangent", "inputs")
        return [
            np.zeros(primal.shape or (), primal.dtype) if cotangent is None else cotangent
            for cotangent, primal in zip(cotangents, primals, strict=True)
            if is_differentiable(primal.dtype)
        ]

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

    residual_names = ()
    is_like_inputs = True
    is_one_array = False

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
        return _split(self.primal, values, dtypes, lambda n_inputs, _n_outputs: n_inputs)

    def output_types(self, inputs: Types) -> list[ArrayType]:
        """The types of the differentiable outputs."""
        parts = self.split(inputs, [type_.dtype for type_ in inputs])
        _check_rule_inputs(parts, self.primal, parts.inputs)
        return [output for output in parts.outputs if is_differentiable(output.dtype)]

    def output_sizes(self, inputs: Types) -> list[Sizes | None]:
        """The sizes of the differentiable outputs."""
        outputs = self.split(range(len(inputs)), [type_.dtype for type_ in inputs]).outputs
        return [sizes_of(inputs[number].shape, number) for number in outputs if is_differentiable(inputs[number].dtype)]

    def wanted(self, result: Any, inputs: Sequence[DType]) -> Sequence[Any]:
        """The tangents of the differentiable outputs out of what a rule returned."""
        outputs = self.split(inputs, inputs).outputs
        tangents = rule_values(result, len(outputs), "tangent", "outputs")
        return [tangent for tangent, output in zip(tangents, outputs, strict=True) if is_differentiable(output)]

    def values(self, result: Any, inputs: Types) -> Sequence[Any]:
        """One tangent for each differentiable output; None becomes zeros."""
        outputs = self.split(inputs, [type_.dtype for type_ in inputs]).outputs
        tangents = rule_values(result, len(outputs), "tangent", "outputs")
        return [
            np.zeros(output.shape or (), output.dtype) if tangent is None else tangent
            for tangent, output in zip(tangents, outputs, strict=True)
            if is_differentiable(output.dtype)
        ]

    def fit(self, values: Sequence[Any], inputs: Types, outputs: Types) -> list[Array]:
        """Coerce tangents and check their shapes."""
        like = self.split(inputs, [type_.dtype for type_ in inputs]).outputs
        numbers = [number for number, output in enumerate(like) if is_differentiable(output.dtype)]
        arrays = []
        for number, value, output in zip(numbers, values, outputs, strict=True):
            array = fit(value, output.dtype, what=f"tangent {number}", advise=advise_rule)
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
    is_one_array = False

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
            got=f"a {type(result).__name__} of {len(values)}" if values is result else f"one {type(result).__name__}",
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


def wrong_cotangent_shape(number: int, primal: ArrayType, broadcast: Shape | None, got: str) -> ContractError:
    """The error for a cotangent that has neither the primal's shape nor the broadcast one."""
    expected = str(primal)
    if broadcast != primal.shape:
        expected += f" or the broadcast shape {describe_shape(broadcast)}"
    return ContractError(
        f"the cotangent of input {number} has the wrong shape.",
        expected=expected,
        got=got,
        remedy="A gradient rule returns cotangents in the shape of their inputs; where the signature has loop "
        "dimensions that were broadcast, they may stay and are summed.",
    )


def wrong_tangent_shape(number: int, output: ArrayType, got: str) -> ContractError:
    """The error for a tangent that has not its output's shape."""
    return ContractError(
        f"tangent {number} has the wrong shape.",
        expected=str(output),
        got=got,
        remedy="A JVP rule returns tangents in the shape of their outputs.",
    )


def is_compatible(shape: Shape, promised: Shape | None) -> bool:
    """Whether a shape agrees with one that may have unknown parts."""
    if promised is None:
        return True
    return len(shape) == len(promised) and all(
        None in (size, wanted) or size == wanted for size, wanted in zip(shape, promised, strict=True)
    )


def describe_types(types: Types) -> str:
    """Render types as one comma-separated line."""
    return ", ".join(map(str, types)) or "no inputs"


def _describe_parts(parts: RuleInputs[ArrayType], vectors: str) -> str:
    """Render what a rule is called with, part by part; vectors of integers are None there."""
    given = [str(type_) if is_differentiable(type_.dtype) else "None" for type_ in parts.vectors]
    named = (("inputs", parts.inputs), ("outputs", parts.outputs), ("residuals", parts.residuals), (vectors, given))
    return "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in named if values)


def _all_known(shape: Shape | None) -> Sizes | None:
    if shape is None:
        return None
    known = tuple(size for size in shape if size is not None)
    return known if len(known) == len(shape) else None


def _split(
    primal: Promise, values: Sequence[T], dtypes: Sequence[DType], n_vectors: Callable[[int, int], int]
) -> RuleInputs[T]:
    """Find the one number of primals that leaves just enough values for outputs, residuals and vectors."""
    n_residuals = len(primal.residual_names)
    for n_inputs in range(len(dtypes) + 1):
        try:
            n_outputs = primal.n_outputs(dtypes[:n_inputs])
        except ContractError:
            continue
        if n_inputs + n_outputs + n_residuals + n_vectors(n_inputs, n_outputs) == len(dtypes):
            return RuleInputs.flat(values, n_inputs, n_outputs, n_residuals)
    raise ContractError(
        "the op of a derivative rule got the wrong number of inputs.",
        expected="the inputs, outputs and residuals of the op it belongs to, and the cotangents or tangents",
        got=str(len(dtypes)),
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
            )


def _fit_cotangent(value: Any, primal: ArrayType, number: int, broadcast: Shape | None) -> Array:
    what = f"the cotangent of input {number}"
    array = as_array(value, what)
    if array.shape != primal.shape:
        if array.shape != broadcast:
            raise wrong_cotangent_shape(number, primal, broadcast, describe(array.dtype, array.shape))
        assert primal.shape is not None
        array = np.sum(array, axis=summed_axes(array.shape, primal.shape)).reshape(primal.shape)
    return fit(array, primal.dtype, what=what, advise=advise_rule)


def _read_shapes(result: Any, n_outputs: int) -> Sequence[Shape]:
    """What a user's shape function returned: one shape, or a sequence of shapes if there are several outputs."""
    is_nested = isinstance(result, tuple | list) and any(isinstance(size, tuple | list) for size in result)
    shapes = list(result) if n_outputs > 1 or is_nested else [result]
    try:
        read = [tuple(map(operator.index, shape)) for shape in shapes if isinstance(shape, Sequence | Iterable)]
    except TypeError:
        read = []
    if len(read) != n_outputs or any(size < 0 for shape in read for size in shape):
        raise SignatureError(
            "the shape function must return one shape for each output.",
            expected="a tuple of sizes" if n_outputs == 1 else f"{n_outputs} tuples of sizes",
            got=f"{result!r:.80}",
            remedy="Sizes are integers, none of them negative.",
        )
    return read
