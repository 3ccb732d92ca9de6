"""The host: the one place where an op's function and its numpy rules run, the same for every lowering.

A host function takes arrays, shows them to the user's function as read-only views, and returns arrays that keep what
was promised: their number, their dtypes, their shapes. It knows nothing of TensorFlow.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tfpyop._host.executor_map import ExecutorMap
from tfpyop._spec.coercion import STRING, Array, DType, is_half, widen
from tfpyop._spec.outputs import ArraySpec, OutputSpec, Types
from tfpyop._spec.signature import Signature, Sizes
from tfpyop.errors import ContractError, TfpyopError, annotate, describe_shape, text_of

T = TypeVar("T")

_READ_ONLY = re.compile(r"(assignment destination|(\w+ )?array) is read-only")
"""What numpy says when a function writes to an input."""
_MOST_PLANS = 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """What is decided once for all calls with inputs of certain dtypes and shapes."""

    inputs: Types
    outputs: Types
    """Outputs and residuals."""
    loop: tuple[int, ...] = ()
    """The loop dimensions that the function itself does not take."""
    n_destinations: int = 0
    """How many outputs the function can write into arrays it is given: all of those the caller sees, or none."""
    whole: Types | None = None
    """The types of all arrays in a result, if it is taken as it stands where it has these."""


class HostFunction:
    """A user's function as lowerings call it: arrays in, promised arrays out.

    Args:
      subject: The op and its place, for errors.
      function: Takes the list of views and calls the user's function. If it `takes_out`, also takes the destinations:
        None, or one writable array for each output.
      promise: What the outputs will be.
      looped: For a function that takes core dimensions only, gives its signature for inputs of these dtypes: the host
        loops over the others.
      executor_map: Runs the elements of these loops. Default: they run here, one after the other.
      compute_dtype: The dtype floating inputs are widened to before the function sees them.
      is_stateful: Whether every call counts.
      takes_out: Whether the function can write its outputs into given arrays.
      hint: What to add to the note on an exception of the user's function.
    """

    is_batched = False
    """Whether a call is one over many rows."""

    def __init__(
        self,
        subject: str,
        *,
        function: Callable[..., Any],
        promise: OutputSpec,
        looped: Callable[[Sequence[DType]], Signature | None] | None = None,
        executor_map: ExecutorMap | None = None,
        compute_dtype: DType | None = None,
        is_stateful: bool = False,
        takes_out: bool = False,
        hint: str | None = None,
    ) -> None:
        self.subject = subject
        self.promise = promise
        self.is_stateful = is_stateful
        self._function = function
        self._looped = looped
        self._executor_map = executor_map
        self._compute_dtype = compute_dtype
        self._takes_out = takes_out
        self._hint = hint
        self._plans: dict[Any, Plan] = {}
        self._remembered: dict[Any, Any] = {}

    def with_function(self, function: Callable[..., Any], executor_map: ExecutorMap | None) -> HostFunction:
        """Return the same for another function with the same spec, such as a method of another instance."""
        host = HostFunction.__new__(HostFunction)
        vars(host).update(vars(self))
        host._function = function
        host._executor_map = executor_map
        host._remembered = {}
        return host

    def output_types(self, inputs: Types) -> list[ArraySpec]:
        """What outputs and residuals will be for such inputs, as far as it is known.

        Raises:
          SignatureError: The inputs do not fit the signature.
          CoercionError: The output dtypes do not follow from the inputs.
        """
        try:
            return self.promise.output_types(inputs)
        except TfpyopError as error:
            raise error.about(self.subject) from error.__cause__

    def output_sizes(self, inputs: Types) -> list[Sizes | None]:
        """The shapes of outputs and residuals, with what is not known yet in terms of the inputs' dimensions."""
        return self.promise.output_sizes(inputs)

    def __call__(self, arrays: Sequence[Any]) -> list[Array]:
        """Run the user's function on arrays and hold the result to the promise.

        Raises:
          TfpyopError: The inputs or the result break the contract.
          Exception: Whatever the function raised, with a note of the op and its inputs.
        """
        views, plan = self.prepare(arrays)
        return self.run(plan, views)

    def prepare(self, arrays: Sequence[Any]) -> tuple[list[Array], Plan]:
        """Return read-only views of arrays, and the plan of calls with such arrays."""
        views = []
        for array in arrays:
            view = array if type(array) is np.ndarray else _as_array(array)
            view.setflags(write=False)  # on what TensorFlow made for this call, so that nobody can set it back
            views.append(view.view())
        return views, self.plan(views)

    def plan(self, views: Sequence[Array]) -> Plan:
        """The plan of calls with such arrays, worked out once."""
        key = tuple([(view.dtype, view.shape) for view in views])
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            plan = self._plans[key] = self._make_plan([ArraySpec(dtype, shape) for dtype, shape in key])
        return plan

    def run(self, plan: Plan, views: Sequence[Array], out: Sequence[Array] | None = None) -> list[Array]:
        """Run the user's function on read-only arrays as planned; raises as a call does.

        Args:
          plan: The plan for these arrays.
          views: Read-only arrays.
          out: As many writable arrays as the plan has destinations. What the function wrote there is returned as the
            very same objects.
        """
        try:
            if plan.loop:
                return self._run_looped(plan, views)
            arguments = views if self._compute_dtype is None else self._widened(views, self._compute_dtype)
            result = self._call(list(arguments), out)
            if plan.whole is not None:
                values = _exact_outputs(result, plan.whole)
                if values is not None:
                    return values  # as what follows would
            return self.promise.fit(self.promise.values(result, plan.inputs), plan.inputs, plan.outputs)
        except TfpyopError as error:
            raise error.about(self.subject) from error.__cause__

    def remember(self, key: Any, value: T) -> T:
        """Let a value live as long as the host function does, or until there are too many; returns it."""
        if len(self._remembered) >= _MOST_PLANS:
            self._remembered.clear()
        self._remembered[key] = value
        return value

    def remembered(self, key: Any, make: Callable[[], T]) -> T:
        """The value that is remembered under a key, made the first time."""
        value: T | None = self._remembered.get(key)
        return self.remember(key, make()) if value is None else value

    def evaluate(self, arrays: Sequence[Array]) -> list[Array]:
        """What the function returns as it is, neither cast nor checked, for derivatives from values."""
        types = [ArraySpec.of(array) for array in arrays]
        loop = self._loop(types)
        if not loop:
            return [np.array(value) for value in self.promise.values(self._apply(list(arrays), None), types)]
        return _stacked([self.evaluate(example) for example in self._examples(arrays, loop)], loop)

    def _make_plan(self, inputs: Types) -> Plan:
        outputs = self.output_types(inputs)
        loop = self._loop(inputs)
        n_outputs = len(outputs) - len(self.promise.residual_names)
        is_known = all(type_.shape is not None and None not in type_.shape for type_ in outputs[:n_outputs])
        takes_out = self._takes_out and is_known and not loop and self._compute_dtype is None
        is_whole = is_known and self.promise.n_arrays(inputs) == len(outputs)
        whole = outputs if is_whole and all(type_.dtype != STRING for type_ in outputs) else None
        return Plan(inputs, outputs, loop, n_outputs if takes_out else 0, whole)

    def _loop(self, inputs: Types) -> tuple[int, ...]:
        """The loop dimensions that the function itself does not take."""
        signature = None if self._looped is None else self._looped([type_.dtype for type_ in inputs])
        if signature is None:
            return ()
        return tuple(size or 0 for size in signature.bind([type_.shape for type_ in inputs]).loop or ())

    def _examples(self, arrays: Sequence[Array], loop: tuple[int, ...]) -> Iterator[list[Array]]:
        """The inputs of each element of the loop dimensions, with core dimensions only."""
        assert self._looped is not None
        signature = self._looped([array.dtype for array in arrays])
        assert signature is not None
        ranks = signature.core_ranks([array.shape for array in arrays])
        whole = [
            np.broadcast_to(array, loop + array.shape[array.ndim - rank :])
            for array, rank in zip(arrays, ranks, strict=True)
        ]
        for index in np.ndindex(*loop):
            yield [read_only(array[index]) for array in whole]

    def _run_looped(self, plan: Plan, views: Sequence[Array]) -> list[Array]:
        """Run the function for every element of the loop dimensions, and stack the results."""
        drawn = self._examples(views, plan.loop)
        if self._executor_map is not None and 0 not in plan.loop and not self._executor_map.is_worker():
            examples = self._executor_map.run(list(drawn), self.subject)
        else:
            examples = [
                [np.array(array) for array in self.run(self.plan(example), example)]  # it may reuse its memory
                for example in drawn
            ]
        if examples:
            return self.promise.fit(_stacked(examples, plan.loop), plan.inputs, plan.outputs)
        shapes = [plan.loop if output.shape is None else output.shape for output in plan.outputs]
        return [
            np.zeros([size or 0 for size in shape], output.dtype)
            for shape, output in zip(shapes, plan.outputs, strict=True)
        ]

    def _apply(self, arguments: list[Array], out: Sequence[Array] | None) -> Any:
        return self._function(arguments, out) if self._takes_out else self._function(arguments)

    def _call(self, arguments: list[Array], out: Sequence[Array] | None) -> Any:
        """Call the user's function; one that refuses float16 or bfloat16 is asked again with float32."""
        try:
            return self._function(arguments, out) if self._takes_out else self._function(arguments)
        except TfpyopError:
            raise
        except BaseException as error:
            if (
                isinstance(error, TypeError)
                and not self.is_stateful
                and any(is_half(argument.dtype) for argument in arguments)
            ):
                return self._call(self._without_half(arguments), None)
            self._explain(error, arguments, out)
            raise

    def _widened(self, views: Sequence[Array], dtype: DType) -> list[Array]:
        return [read_only(widen(view, dtype, what=f"input {number}")) for number, view in enumerate(views)]

    def _without_half(self, arguments: Sequence[Array]) -> list[Array]:
        single = self._widened([argument for argument in arguments if is_half(argument.dtype)], np.dtype(np.float32))
        remaining = iter(single)
        return [next(remaining) if is_half(argument.dtype) else argument for argument in arguments]

    def _explain(self, error: BaseException, arguments: Sequence[Array], out: Sequence[Array] | None) -> None:
        """Tell more on the user's own exception object: where it came from, and the way out of a known mistake."""
        with contextlib.suppress(Exception):  # an exception may refuse; it must reach the caller all the same
            if type(error) is ValueError and error.args and _READ_ONLY.fullmatch(str(error.args[0])):
                error.args = (
                    f"{error.args[0]}\n  {self.subject}: inputs are read-only, because other code may use the same "
                    "tensor. Change a copy instead: x = x.copy().",
                )
            types = [ArraySpec.of(argument) for argument in arguments]
            called = f"Raised in {self.subject}, called with {self.promise.describe_inputs(types)}."
            annotate(error, " ".join(filter(None, [called, *self._hints(error, types, out)])))

    def _hints(self, error: BaseException, types: Types, out: Sequence[Array] | None) -> list[str | None]:
        """What may be wrong with the function, for exceptions of the kinds that come of it."""
        kinds = TypeError | ValueError | IndexError | AttributeError
        if not isinstance(error, kinds) or isinstance(error, UnicodeError):
            return []
        text = text_of(error)
        is_explained = type(error) is ValueError and "inputs are read-only" in text
        is_of_values = isinstance(error, np.linalg.LinAlgError) and "imension" not in text  # singular, or such
        if is_explained or is_of_values:
            return []
        if re.fullmatch(r"'numpy\.\w+' object has no attribute 'numpy'", text):
            return ["The function gets numpy arrays, not tensors. Remove .numpy()."]
        if self._takes_out and out is None and "'NoneType' object" in text:
            return ["out= is None in this call. Create an array and return it when out is None."]
        if "'NoneType'" in text:
            return []
        return [self.promise.loop_hint(types), self._hint]


def _exact_outputs(result: Any, promised: Types) -> list[Array] | None:
    """Return the arrays in a result that has just the promised types; None for any other result."""
    values = list(result) if type(result) is tuple else [result]
    if len(values) != len(promised):
        return None
    for number, (value, type_) in enumerate(zip(values, promised)):  # noqa: B905 - checked above; called in every call
        if type(value) is not np.ndarray:
            if not isinstance(value, np.generic):  # as numpy returns for 0-d arrays
                return None
            value = values[number] = np.asarray(value)
        if value.shape != type_.shape:
            return None
        if value.dtype is not type_.dtype and value.dtype != type_.dtype:  # the same object most of the time
            return None
    return values


def _stacked(examples: Sequence[Sequence[Array]], loop: tuple[int, ...]) -> list[Array]:
    """The outputs of all examples, each behind the loop dimensions."""
    for number, values in enumerate(zip(*examples, strict=True)):
        shapes = {value.shape for value in values}
        if len(shapes) > 1:
            raise ContractError(
                f"output {number} has different shapes for different elements of the loop dimensions.",
                got=" and ".join(sorted(map(describe_shape, shapes))[:2]),
                remedy="Pad the outputs in the function so that they have equal shapes.",
            )
    return [np.stack(values).reshape(loop + values[0].shape) for values in zip(*examples, strict=True)]


def read_only(array: Any) -> Array:
    """Return a view of an array that cannot be written."""
    array = array if type(array) is np.ndarray else _as_array(array)
    array.setflags(write=False)  # on what TensorFlow made for this call, so that no code can set it back
    view: Array = array.view()
    return view


def _as_array(value: Any) -> Array:
    """Return the array of a 0-d input, which TensorFlow passes as a scalar."""
    return np.asarray(value) if isinstance(value, np.ndarray | np.generic) else np.array(value, dtype=object)
