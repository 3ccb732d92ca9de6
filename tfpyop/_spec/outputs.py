"""Define output specs: the dtypes and shapes of a host function's outputs, and the checks of results against them.

An op's output spec follows from its signature, shape function and dtypes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from tfpyop._spec.coercion import (
    STRING,
    Advice,
    Array,
    DType,
    advise_declared,
    advise_residual,
    advise_undeclared,
    coerce_output,
    result_dtype,
    ufunc_output_dtypes,
)
from tfpyop._spec.signature import Signature, SymbolicShape
from tfpyop._spec.size_terms import LARGEST_SIZE
from tfpyop._spec.tree import TreeSpec
from tfpyop._spec.undefined import UNDEFINED
from tfpyop.errors import ContractError, Shape, SignatureError, describe, describe_kind, describe_shape


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Store the dtype of an array and its shape, as far as it is known."""

    dtype: DType
    shape: Shape | None

    @classmethod
    def of(cls, array: Array) -> ArraySpec:
        """Return the spec of an array."""
        return cls(array.dtype, array.shape)

    def __str__(self) -> str:
        """Render the spec as `float32[?, 3]`."""
        return describe(self.dtype, self.shape)


ArraySpecs = Sequence[ArraySpec]
T = TypeVar("T")


HANDLE = np.dtype(np.uint64)
"""The dtype of handles. A residual that is a Python object is a handle in TensorFlow."""


class OutputSpec(Protocol):
    """Specify the outputs of a host function. Residuals are outputs too; they follow the visible outputs."""

    @property
    def residual_names(self) -> tuple[str, ...]:
        """The names of the residuals."""
        ...

    @property
    def object_names(self) -> Collection[str]:
        """The names of the residuals that are Python objects."""
        ...

    @property
    def object_numbers(self) -> Sequence[int]:
        """The indices of these residuals, among outputs and residuals."""
        ...

    def n_flat_outputs(self, inputs: ArraySpecs) -> int | None:
        """Return the number of arrays if a result is one array or a flat tuple; None if a result must be unpacked."""
        ...

    @property
    def has_input_shapes(self) -> bool:
        """Whether outputs have the shapes of certain inputs, so that only batched inputs give batched outputs."""
        ...

    def n_outputs(self, inputs: Sequence[DType]) -> int:
        """Return the number of outputs that the caller receives, for inputs of these dtypes."""
        ...

    def infer_outputs(self, inputs: ArraySpecs) -> list[ArraySpec]:
        """Return the specs of outputs and residuals for these inputs. Raise an error if the inputs are invalid."""
        ...

    def symbolic_shapes(self, inputs: ArraySpecs) -> list[SymbolicShape | None]:
        """Return the shapes of outputs and residuals in terms of the inputs' dimensions; None for an unknown shape."""
        ...

    def unpack(self, result: Any, inputs: ArraySpecs) -> Sequence[Any]:
        """Split the function's result into outputs and residuals."""
        ...

    def coerce(self, values: Sequence[Any], inputs: ArraySpecs, outputs: ArraySpecs) -> list[Array]:
        """Cast values to the specified dtypes, and check their shapes."""
        ...

    def describe_inputs(self, inputs: ArraySpecs) -> str:
        """Render the inputs of a call."""
        ...

    def loop_hint(self, inputs: ArraySpecs) -> str | None:
        """Return a hint for a function that may have failed because of loop dimensions; None if the inputs have none.

        The hint applies to vectorized functions only, because these receive loop dimensions.
        """
        ...


@dataclass(frozen=True, slots=True)
class OpOutputSpec:
    """Specify the outputs of a decorated function."""

    signature: Signature | None
    """The signature, with the residuals among its outputs."""
    shape: Callable[[Sequence[Shape]], Any] | None
    dtypes: tuple[DType | None, ...]
    """The dtypes of outputs and residuals. None stands for the result type of the inputs."""
    structure: TreeSpec
    """The nesting of the outputs."""
    residual_names: tuple[str, ...] = ()
    ufunc: np.ufunc | None = None
    residual_signature: Signature | None = None
    """Without a signature of the op: the dimensions of the residuals, in a signature without inputs."""
    object_names: tuple[str, ...] = ()
    """The names of the residuals that are Python objects."""
    is_vectorized: bool = True
    """Whether the function takes loop dimensions, and so returns one object for all of them."""

    has_input_shapes = False

    @property
    def object_numbers(self) -> Sequence[int]:
        """The indices of the residuals that are Python objects."""
        first = self.n_outputs(())
        return [first + number for number, name in enumerate(self.residual_names) if name in self.object_names]

    def n_flat_outputs(self, inputs: ArraySpecs) -> int | None:
        """Return the number of outputs if a result is one array or a flat tuple, without residuals; otherwise None."""
        is_plain = self.structure.is_flat and not self.residual_names
        return self.structure.n_leaves if is_plain else None

    def n_outputs(self, inputs: Sequence[DType]) -> int:
        """Return the number of declared outputs."""
        return len(self.dtypes) - len(self.residual_names)

    def infer_outputs(self, inputs: ArraySpecs) -> list[ArraySpec]:
        """Return declared or inferred dtypes, and the shapes as far as signature or shape function determine them."""
        shapes = self._shapes([type_.shape for type_ in inputs])
        dtypes = self._dtypes([type_.dtype for type_ in inputs])
        return [ArraySpec(dtype, shape) for dtype, shape in zip(dtypes, shapes, strict=True)]

    def symbolic_shapes(self, inputs: ArraySpecs) -> list[SymbolicShape | None]:
        """Return the sizes from the signature. Without a signature, return sizes only for inputs of known shapes."""
        shapes = [type_.shape for type_ in inputs]
        if self.signature is not None:
            return self._with_shapes_of_objects(self.signature.symbolic_shapes(shapes))
        return [_all_known(shape) for shape in self._shapes(shapes)]

    def unpack(self, result: Any, inputs: ArraySpecs) -> Sequence[Any]:
        """Unpack outputs and residuals, and check their number."""
        residuals: Sequence[Any] = ()
        if self.residual_names:
            result, residuals = self._split_residuals(result)
        values = [*self.unpack_outputs(result), *residuals]
        for number, value in enumerate(values):
            if value is UNDEFINED:
                raise ContractError(
                    f"{self._what(number)} is UNDEFINED.",
                    expected="an array or number",
                    got="tfpyop.UNDEFINED",
                    remedy="Only derivative rules return UNDEFINED. Return an array, for example with np.nan in it.",
                )
            if value is None and number not in self.object_numbers:
                raise ContractError(
                    f"{self._what(number)} is None.",
                    expected="an array or number",
                    got="None",
                    remedy="Check that the function has a return statement.",
                )
        return values

    def coerce(self, values: Sequence[Any], inputs: ArraySpecs, outputs: ArraySpecs) -> list[Array]:
        """Cast outputs and residuals, and check their shapes."""
        arrays = [self._fit(value, outputs[number], number, inputs) for number, value in enumerate(values)]
        if self.residual_signature is not None:
            n_outputs = self.n_outputs(())
            self.residual_signature.check_run_time_sizes(
                [array.shape for array in arrays[n_outputs:]],
                self.residual_signature.bind([]),
                lambda number: self._what(number + n_outputs),
            )
        if self.signature is not None and self.signature.run_time_names:
            binding = self.signature.bind([type_.shape for type_ in inputs])
            self.signature.check_run_time_sizes([array.shape for array in arrays], binding, self._what)
        return arrays

    def _fit(self, value: Any, promised: ArraySpec, number: int, inputs: ArraySpecs) -> Array:
        is_promised = type(value) is np.ndarray and value.dtype == promised.dtype != STRING
        advise = self._advice(number)
        array: Array = (
            value if is_promised else coerce_output(value, promised.dtype, what=self._what(number), advise=advise)
        )
        if array.shape == promised.shape or is_compatible(array.shape, promised.shape):
            return array
        is_residual = number >= self.n_outputs(())
        source = "signature" if self.signature is not None else "shape function"
        source = "declaration in residuals=" if is_residual and self.signature is None else source
        requirement = f"The {source} requires this shape for inputs {self.describe_inputs(inputs)}"
        requirement += f"{self._computed_text(inputs)}."
        hint = self.loop_hint(inputs)
        raise ContractError(
            f"{self._what(number)} has the wrong shape.",
            expected=str(promised),
            got=describe(np.asarray(value).dtype, array.shape),
            remedy=f"{requirement} Fix the {source}, or return an array of this shape.{f' {hint}' if hint else ''}",
        )

    def _computed_text(self, inputs: ArraySpecs) -> str:
        """Render the sizes that functions compute; an empty text if there are none."""
        if self.signature is None or not self.signature.computed:
            return ""
        sizes = self.signature.computed_sizes(self.signature.bind([type_.shape for type_ in inputs]))
        return f", with {', '.join(f'{name} = {size}' for name, size in sizes.items())} from sizes="

    def describe_inputs(self, inputs: ArraySpecs) -> str:
        """Render the input specs as one comma-separated line."""
        return describe_types(inputs)

    def loop_hint(self, inputs: ArraySpecs) -> str | None:
        """Return a hint about loop dimensions if the inputs have loop dimensions; otherwise None."""
        if self.signature is None or self.ufunc is not None:
            return None
        loop = self.signature.bind([type_.shape for type_ in inputs]).loop
        if not loop:
            return None
        shown = describe_shape(loop)
        if self.signature.is_elementwise:
            return (
                f"The inputs have dimensions {shown}. Write the function element by element (np.where), or pass "
                "vectorized=False."
            )
        return (
            f"The inputs have loop dimensions {shown} before the core dimensions. Work along the last axes "
            "(x.sum(-1)), or pass vectorized=False."
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
            return self._with_shapes_of_objects(self.signature.output_shapes(self.signature.bind(shapes)))
        residuals: Sequence[Shape | None] = ()
        if self.residual_signature is not None:
            residuals = self.residual_signature.output_shapes(self.residual_signature.bind([]))
        return [*self._shapes_by_function(shapes), *residuals]

    def _shapes_by_function(self, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
        known = [shape for shape in shapes if shape is not None]
        n_outputs = self.n_outputs(())
        if self.shape is None or len(known) < len(shapes):
            return [None] * n_outputs
        is_partial = any(None in shape for shape in known)
        try:
            result = self.shape(known)
        except Exception as error:
            if is_partial:  # the function needs numbers
                return [None] * n_outputs
            raise SignatureError(
                f"the shape function raised {type(error).__name__}: {error}",
                got=f"input shapes {', '.join(map(describe_shape, known))}",
                remedy="Fix the shape function. It is called as shape(*input_shapes, **static), with a tuple of sizes "
                "for each input.",
            ) from error
        return _read_shapes(result, n_outputs, is_partial=is_partial)

    def _with_shapes_of_objects(self, shapes: Sequence[T]) -> list[T | tuple[()]]:
        """Return shapes in which an object has one handle, if there is one object for all loop dimensions."""
        single = self.object_numbers if self.is_vectorized and self.object_names else ()
        return [() if number in single else shape for number, shape in enumerate(shapes)]

    def _dtypes(self, inputs: Sequence[DType]) -> Sequence[DType]:
        if all(declared is not None for declared in self.dtypes):  # numpy considers None equal to float64
            return [declared for declared in self.dtypes if declared is not None]
        if self.ufunc is not None:
            derived: Sequence[DType] = ufunc_output_dtypes(self.ufunc, inputs)
        else:
            derived = [result_dtype(inputs)] * len(self.dtypes)
        return [
            default if declared is None else declared for declared, default in zip(self.dtypes, derived, strict=True)
        ]

    def _split_residuals(self, result: Any) -> tuple[Any, list[Any]]:
        declared = f"{{{', '.join(f'{name!r}: ...' for name in self.residual_names)}}}"
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
            outputs = "outputs" if self.n_outputs(()) == 1 else "(output 0, output 1, ...)"
            raise ContractError(
                "the function did not return its residuals.",
                expected=f"(outputs, {declared})",
                got=describe_kind(result),
                remedy=f"Return {outputs}, {declared}.",
            )
        outputs, residuals = result
        undeclared = sorted(str(name) for name in residuals if name not in self.residual_names)
        missing = [name for name in self.residual_names if name not in residuals]
        if undeclared or missing:
            problems = [f"Undeclared: {', '.join(map(repr, undeclared))}."] if undeclared else []
            problems += [f"Missing: {', '.join(map(repr, missing))}."] if missing else []
            raise ContractError(
                "the function returned residuals that differ from the declaration.",
                expected=f"(outputs, {declared})",
                got=f"residuals {', '.join(repr(str(name)) for name in residuals) or 'of no name'}",
                remedy=" ".join(problems),
            )
        return outputs, [residuals[name] for name in self.residual_names]

    def unpack_outputs(self, result: Any) -> list[Any]:
        """Split the result, without residuals, into flat outputs."""
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
                remedy='Name every output in the signature, for example signature="()->(),()", or pass dtype= as a '
                "tuple. For a single array, return np.stack(...).",
            )
        if n_outputs == 1 and self.structure.kind == "tuple" and not isinstance(result, tuple | list):
            return [result]
        try:
            return self.structure.flatten_as(result)
        except ValueError as error:
            remedy = "Return the outputs in the same form as dtype=."
            if self.structure.kind == "tuple":
                remedy = "Return a tuple: return a, b. To return a dict, pass dtype= as a dict."
            raise ContractError(
                "the function returned its outputs in the wrong form.",
                expected=f"{n_outputs} outputs as declared",
                got=str(error),
                remedy=remedy,
            ) from None


def is_compatible(shape: Shape, promised: Shape | None) -> bool:
    """Return whether a shape matches a shape that may have unknown sizes."""
    if promised is None:
        return True
    return len(shape) == len(promised) and all(
        None in (size, wanted) or size == wanted for size, wanted in zip(shape, promised, strict=True)
    )


def dtypes_of(types: ArraySpecs) -> list[DType]:
    """Return the dtypes of array specs."""
    return [type_.dtype for type_ in types]


def describe_types(types: ArraySpecs, what: str = "inputs") -> str:
    """Render array specs as one comma-separated line."""
    return ", ".join(map(str, types)) or f"no {what}"


def _all_known(shape: Shape | None) -> SymbolicShape | None:
    if shape is None:
        return None
    known = tuple(size for size in shape if size is not None)
    return known if len(known) == len(shape) else None


def _read_shapes(result: Any, n_outputs: int, *, is_partial: bool = False) -> Sequence[Shape]:
    """Return the shapes from the result of a shape function: one shape, or a sequence of shapes for several outputs.

    If some input sizes are unknown (`is_partial`), the shapes may contain None.
    """

    def index(size: Any) -> int | None:
        return None if size is None and is_partial else operator.index(size)

    is_nested = isinstance(result, tuple | list) and any(isinstance(size, tuple | list) for size in result)
    shapes = list(result) if n_outputs > 1 or is_nested else [result]
    try:
        read = [tuple(map(index, shape)) for shape in shapes if isinstance(shape, Sequence | Iterable)]
    except TypeError:  # raises below
        read = []
    if len(read) != n_outputs or any(size is not None and size < 0 for shape in read for size in shape):
        raise SignatureError(
            "the shape function must return one shape for each output.",
            expected="a tuple of sizes" if n_outputs == 1 else f"{n_outputs} tuples of sizes",
            got=f"{result!r:.80}",
            remedy="Return sizes that are integers of 0 or more.",
        )
    if any(
        size is not None and size > LARGEST_SIZE for shape in read for size in shape
    ):  # TensorFlow's shapes cannot hold larger sizes
        raise SignatureError(
            "the shape function returned a size that is too large for a tensor.",
            expected="sizes below 2**63",
            got=f"{result!r:.80}",
            remedy="Check the arithmetic of the shape function.",
        )
    return read
