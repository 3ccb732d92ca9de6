"""The host: the one place where an op's function and its numpy rules run, the same for every lowering.

A host function takes arrays, shows them to the user's function as read-only views, and returns arrays that keep what
was promised: their number, their dtypes, their shapes. It knows nothing of TensorFlow.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tfpyop._coercion import Array, DType, dtype_kind, widen
from tfpyop._promise import ArrayType, Promise, Types
from tfpyop._signature import Signature
from tfpyop.errors import ContractError, TfpyopError, describe_arrays, describe_shape

_READ_ONLY = re.compile(r"(assignment destination|(\w+ )?array) is read-only")
"""What numpy says when a function writes to an input."""
_MOST_PLANS = 1024


class HostFunction:
    """A user's function as lowerings call it: arrays in, promised arrays out.

    Args:
      subject: The op and its place, for errors.
      function: Takes the list of views and calls the user's function.
      promise: What the outputs will be.
      looped: The signature of a function that takes core dimensions only: the host loops over the others.
      compute_dtype: The dtype floating inputs are widened to before the function sees them.
      is_stateful: Whether every call counts.
      hint: What to add to the note on an exception of the user's function.
    """

    def __init__(
        self,
        subject: str,
        *,
        function: Callable[[list[Array]], Any],
        promise: Promise,
        looped: Signature | None = None,
        compute_dtype: DType | None = None,
        is_stateful: bool = False,
        hint: str | None = None,
    ) -> None:
        self.subject = subject
        self.promise = promise
        self.is_stateful = is_stateful
        self._function = function
        self._looped = looped
        self._compute_dtype = compute_dtype
        self._hint = f" {hint}" if hint else ""
        self._plans: dict[Any, tuple[Types, Types]] = {}

    def output_types(self, inputs: Types) -> list[ArrayType]:
        """What outputs and residuals will be for such inputs, as far as it is known.

        Raises:
          SignatureError: The inputs do not fit the signature.
          CoercionError: The output dtypes do not follow from the inputs.
        """
        try:
            return self.promise.output_types(inputs)
        except TfpyopError as error:
            raise error.about(self.subject) from error.__cause__

    def __call__(self, arrays: Sequence[Any]) -> list[Array]:
        """Run the user's function on arrays and hold the result to the promise.

        Raises:
          TfpyopError: The inputs or the result break the contract.
          Exception: Whatever the function raised, with a note of the op and its inputs.
        """
        views = [_read_only(array) for array in arrays]
        try:
            loop = self._loop(views)
            return self._run_looped(views, loop) if loop else self._run(views)
        except TfpyopError as error:
            raise error.about(self.subject) from error.__cause__

    def evaluate(self, arrays: Sequence[Array]) -> list[Array]:
        """What the function returns as it is, neither cast nor checked, for derivatives from values."""
        types = [ArrayType.of(array) for array in arrays]
        loop = self._loop(arrays)
        if not loop:
            return [np.asarray(value) for value in self.promise.values(self._function(list(arrays)), types)]
        return _stacked([self.evaluate(example) for example in self._examples(arrays, loop)], loop)

    def _loop(self, arrays: Sequence[Array]) -> tuple[int, ...]:
        """The loop dimensions that the function itself does not take."""
        if self._looped is None:
            return ()
        loop = self._looped.bind([array.shape for array in arrays]).loop
        return tuple(size or 0 for size in loop or ())

    def _examples(self, arrays: Sequence[Array], loop: tuple[int, ...]) -> Iterator[list[Array]]:
        """The inputs of each element of the loop dimensions, with core dimensions only."""
        assert self._looped is not None
        ranks = self._looped.core_ranks([array.shape for array in arrays])
        whole = [
            np.broadcast_to(array, loop + array.shape[array.ndim - rank :])
            for array, rank in zip(arrays, ranks, strict=True)
        ]
        for index in np.ndindex(*loop):
            yield [_read_only(array[index]) for array in whole]

    def _run(self, views: list[Array]) -> list[Array]:
        types, outputs = self._plan(views)
        result = self._call(views if self._compute_dtype is None else self._widened(views, self._compute_dtype))
        return self.promise.fit(self.promise.values(result, types), types, outputs)

    def _run_looped(self, views: list[Array], loop: tuple[int, ...]) -> list[Array]:
        """Run the function for every element of the loop dimensions, and stack the results."""
        types, outputs = self._plan(views)
        examples = [self._run(example) for example in self._examples(views, loop)]
        if examples:
            return self.promise.fit(_stacked(examples, loop), types, outputs)
        return [np.zeros([size or 0 for size in output.shape or loop], output.dtype) for output in outputs]

    def _plan(self, views: Sequence[Array]) -> tuple[Types, Types]:
        """The types of inputs and outputs, worked out once for inputs of these dtypes and shapes."""
        key = tuple([(view.dtype, view.shape) for view in views])
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            types = [ArrayType(dtype, shape) for dtype, shape in key]
            plan = self._plans[key] = (types, self.promise.output_types(types))
        return plan

    def _call(self, arguments: list[Array]) -> Any:
        """Call the user's function; one that refuses float16 or bfloat16 is asked again with float32."""
        try:
            return self._function(arguments)
        except TfpyopError:
            raise
        except BaseException as error:
            if isinstance(error, TypeError) and not self.is_stateful and any(map(_is_half, arguments)):
                return self._call(self._without_half(arguments))
            self._explain(error, arguments)
            raise

    def _widened(self, views: Sequence[Array], dtype: DType) -> list[Array]:
        return [_read_only(widen(view, dtype, what=f"input {number}")) for number, view in enumerate(views)]

    def _without_half(self, arguments: Sequence[Array]) -> list[Array]:
        single = self._widened([argument for argument in arguments if _is_half(argument)], np.dtype(np.float32))
        remaining = iter(single)
        return [next(remaining) if _is_half(argument) else argument for argument in arguments]

    def _explain(self, error: BaseException, arguments: Sequence[Array]) -> None:
        """Tell more on the user's own exception object: where it came from, and the way out of a known mistake."""
        note = f"Raised in {self.subject}, called with {describe_arrays(arguments)}.{self._hint}"
        with contextlib.suppress(Exception):  # an exception may refuse; it must reach the caller all the same
            if type(error) is ValueError and error.args and _READ_ONLY.fullmatch(str(error.args[0])):
                error.args = (
                    f"{error.args[0]}\n  {self.subject}: inputs are read-only, because a tensor may be in use "
                    "elsewhere. Work on a copy: x = x.copy().",
                )
            if hasattr(error, "add_note") and note not in getattr(error, "__notes__", ()):  # Python 3.11
                error.add_note(note)


def _stacked(examples: Sequence[Sequence[Array]], loop: tuple[int, ...]) -> list[Array]:
    """The outputs of all examples, each behind the loop dimensions."""
    for number, values in enumerate(zip(*examples, strict=True)):
        shapes = {value.shape for value in values}
        if len(shapes) > 1:
            raise ContractError(
                f"output {number} has different shapes for different elements of the loop dimensions.",
                got=" and ".join(sorted(map(describe_shape, shapes))[:2]),
                remedy="Only outputs of equal shapes make one array: pad them in the function.",
            )
    return [np.stack(values).reshape(loop + values[0].shape) for values in zip(*examples, strict=True)]


def _is_half(array: Array) -> bool:
    return array.dtype.itemsize == 2 and dtype_kind(array.dtype) == "f"


def _read_only(array: Any) -> Array:
    """An array that shares memory and cannot be written; TensorFlow hands 0-d inputs over as scalars."""
    if type(array) is not np.ndarray:
        array = np.asarray(array) if isinstance(array, np.ndarray | np.generic) else np.array(array, dtype=object)
    array.setflags(write=False)  # on what TensorFlow made for this call, so that nobody can set it back
    view: Array = array.view()
    return view
