"""The host: the one place where user code runs, the same for every lowering.

A host function takes arrays, shows them to the user's function as read-only views, and returns arrays that keep what
was promised: their number, their dtypes, their shapes. It knows nothing of TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tfpyop._coercion import Array, DType, fit, result_dtype, ufunc_output_dtypes, widen
from tfpyop._signature import Binding, Signature
from tfpyop._structure import Structure
from tfpyop.errors import (
    ContractError,
    Shape,
    SignatureError,
    TfpyopError,
    describe,
    describe_arrays,
    describe_shape,
)


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


class Promise(Protocol):
    """What a host function promises of its outputs, and how results are held to it."""

    def n_outputs(self, inputs: Sequence[DType]) -> int:
        """How many outputs there are for inputs of these dtypes."""
        ...

    def output_types(self, inputs: Sequence[ArrayType]) -> list[ArrayType]:
        """What the outputs will be for such inputs; checks the inputs on the way."""
        ...

    def fit(self, result: Any, inputs: Sequence[Array], outputs: Sequence[ArrayType]) -> list[Array]:
        """The outputs out of what the function returned, coerced and checked."""
        ...


class HostFunction:
    """A user's function as lowerings call it: arrays in, promised arrays out.

    Args:
      subject: The op and its place, for errors.
      token: What stands for this function in graphs.
      function: Takes the list of views and calls the user's function.
      promise: What the outputs will be.
      compute_dtype: The dtype floating inputs are widened to before the function sees them.
      is_stateful: Whether every call counts.
    """

    def __init__(
        self,
        subject: str,
        token: str,
        *,
        function: Callable[[list[Array]], Any],
        promise: Promise,
        compute_dtype: DType | None = None,
        is_stateful: bool = False,
    ) -> None:
        self.subject = subject
        self.token = token
        self.is_stateful = is_stateful
        self._function = function
        self._promise = promise
        self._compute_dtype = compute_dtype

    def output_types(self, inputs: Sequence[ArrayType]) -> list[ArrayType]:
        """What the outputs will be for such inputs, as far as it is known.

        Raises:
          SignatureError: The inputs do not fit the signature.
          CoercionError: The output dtypes do not follow from the inputs.
        """
        try:
            return self._promise.output_types(inputs)
        except TfpyopError as error:
            raise self._named(error) from None

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Run the user's function on arrays and hold the result to the promise.

        Raises:
          TfpyopError: The inputs or the result break the contract.
          Exception: Whatever the function raised, with a note of the op and its inputs.
        """
        views = [_read_only(array) for array in arrays]
        try:
            outputs = self._promise.output_types([ArrayType(view.dtype, view.shape) for view in views])
            arguments = views if self._compute_dtype is None else self._widened(views, self._compute_dtype)
        except TfpyopError as error:
            raise self._named(error) from None
        try:
            result = self._function(arguments)
        except BaseException as error:
            self._explain(error, views)
            raise
        try:
            return self._promise.fit(result, views, outputs)
        except TfpyopError as error:
            raise self._named(error) from None

    def _widened(self, views: Sequence[Array], dtype: DType) -> list[Array]:
        return [_read_only(widen(view, dtype, what=f"input {number}")) for number, view in enumerate(views)]

    def _named(self, error: TfpyopError) -> TfpyopError:
        if error.subject is None:
            error.subject = self.subject
        return error

    def _explain(self, error: BaseException, views: Sequence[Array]) -> None:
        """Tell more on the user's own exception object: where it came from, and the way out of a known mistake."""
        if isinstance(error, ValueError) and error.args and "read-only" in str(error.args[0]):
            error.args = (
                f"{error.args[0]}\n  {self.subject}: inputs are read-only, because a tensor may be in use "
                "elsewhere. Work on a copy: x = x.copy().",
                *error.args[1:],
            )
        if hasattr(error, "add_note"):  # Python 3.11
            error.add_note(f"Raised in {self.subject}, called with {describe_arrays(views)}.")


@dataclass(frozen=True, slots=True)
class OpPromise:
    """What a decorated function promises, by its signature, shape function and dtypes."""

    signature: Signature | None
    shape: Callable[[Sequence[Shape]], Sequence[Shape]] | None
    dtypes: tuple[DType | None, ...]
    structure: Structure
    ufunc: np.ufunc | None = None

    def n_outputs(self, inputs: Sequence[DType]) -> int:
        """How many outputs are declared."""
        return len(self.dtypes)

    def output_types(self, inputs: Sequence[ArrayType]) -> list[ArrayType]:
        """The declared or derived dtypes, and the shapes as far as signature or shape function tell."""
        shapes = self._shapes([type_.shape for type_ in inputs])
        dtypes = self._dtypes([type_.dtype for type_ in inputs])
        return [ArrayType(dtype, shape) for dtype, shape in zip(dtypes, shapes, strict=True)]

    def fit(self, result: Any, inputs: Sequence[Array], outputs: Sequence[ArrayType]) -> list[Array]:
        """Count, coerce and measure what the function returned."""
        values = self._values(result)
        arrays: list[Array] = []
        for number, (value, promised) in enumerate(zip(values, outputs, strict=True)):
            array = fit(value, promised.dtype, what=f"output {number}")
            if array.shape != promised.shape and not is_compatible(array.shape, promised.shape):
                raise ContractError(
                    f"output {number} has the wrong shape.",
                    expected=str(promised),
                    got=describe(np.asarray(value).dtype, array.shape),
                    remedy=self._shape_remedy(inputs),
                )
            arrays.append(array)
        if self.signature is not None and self.signature.run_time_names:
            shapes = [array.shape for array in arrays]
            self.signature.check_run_time_sizes(shapes, self._bind([array.shape for array in inputs]))
        return arrays

    def _shapes(self, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
        if self.signature is not None:
            return self.signature.output_shapes(self._bind(shapes))
        known = [shape for shape in shapes if shape is not None and None not in shape]
        if self.shape is None or len(known) < len(shapes):
            return [None] * len(self.dtypes)
        return self.shape(known)

    def _bind(self, shapes: Sequence[Shape | None]) -> Binding:
        assert self.signature is not None
        return self.signature.bind(shapes)

    def _dtypes(self, inputs: Sequence[DType]) -> Sequence[DType]:
        if None not in self.dtypes:
            return self.dtypes  # type: ignore[return-value]  # mypy does not narrow by `in`
        if self.ufunc is not None:
            derived: Sequence[DType] = ufunc_output_dtypes(self.ufunc, inputs)
        else:
            derived = [result_dtype(inputs)] * len(self.dtypes)
        return [declared or default for declared, default in zip(self.dtypes, derived, strict=True)]

    def _values(self, result: Any) -> list[Any]:
        n_outputs = len(self.dtypes)
        if self.structure.kind == "leaf" and isinstance(result, tuple):
            if len(result) != 1:
                raise ContractError(
                    "the function returned the wrong number of outputs.",
                    expected="1 output",
                    got=f"a tuple of {len(result)}",
                    remedy='Name every output in the signature, for example signature="()->(),()", or give dtype= as '
                    "a tuple; for one array of them, return np.stack(...).",
                )
            result = result[0]
        if n_outputs == 1 and self.structure.kind == "tuple" and not isinstance(result, tuple | list):
            result = (result,)
        try:
            values = self.structure.flatten_like(result)
        except ValueError as error:
            raise ContractError(
                "the function returned its outputs in the wrong form.",
                expected=f"{n_outputs} outputs as declared",
                got=str(error),
                remedy="Return one value for each output of the signature, arranged like dtype= if that was given.",
            ) from None
        for number, value in enumerate(values):
            if value is None:
                raise ContractError(
                    f"output {number} is None.",
                    expected="an array or number",
                    got="None",
                    remedy="Does the function lack a return statement?",
                )
        return values

    def _shape_remedy(self, inputs: Sequence[Array]) -> str:
        promise = "signature" if self.signature is not None else "shape function"
        given = ", ".join(describe_shape(array.shape) for array in inputs)
        return f"That is what the {promise} says for inputs {given}: correct it, or return an array of that shape."


def is_compatible(shape: Shape, promised: Shape | None) -> bool:
    """Whether a shape agrees with one that may have unknown parts."""
    if promised is None:
        return True
    return len(shape) == len(promised) and all(
        None in (size, wanted) or size == wanted for size, wanted in zip(shape, promised, strict=True)
    )


def _read_only(array: Any) -> Array:
    """An array that shares memory and cannot be written; TensorFlow hands 0-d inputs over as scalars."""
    view: Array = np.asarray(array) if isinstance(array, np.ndarray | np.generic) else np.array(array, dtype=object)
    if view is array:
        view = view.view()
    view.flags.writeable = False
    return view


def check_shape_result(result: Any, n_outputs: int) -> Sequence[Shape]:
    """Read what a user's shape function returned: one shape, or a sequence of shapes if there are several outputs.

    Raises:
      SignatureError: It is no shape.
    """
    shapes = [result] if n_outputs == 1 and not _is_nested(result) else result
    try:
        read = [tuple(None if size is None else int(size) for size in shape) for shape in shapes]
    except TypeError:
        read = []
    if len(read) != n_outputs:
        raise SignatureError(
            "the shape function returned something else than one shape for each output.",
            expected="a tuple of sizes" if n_outputs == 1 else f"{n_outputs} tuples of sizes",
            got=f"{result!r:.80}",
        )
    return read


def _is_nested(result: Any) -> bool:
    return isinstance(result, tuple | list) and any(isinstance(size, tuple | list) for size in result)
