"""Run an op's function and its numpy rules, in the same way for every lowering.

A host function takes arrays, passes them to the user's function as read-only views, and returns arrays that match the
op's output spec: their number, their dtypes, their shapes. It does not depend on TensorFlow.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfpyop._host.executor_map import ExecutorMap
from tfpyop._host.kept_objects import KeptObjects, copied, require_same_outputs, stacked
from tfpyop._spec.coercion import STRING, Array, DType, advise_computed, is_half, widen
from tfpyop._spec.outputs import ArraySpec, ArraySpecs, OutputSpec
from tfpyop._spec.signature import Signature, SymbolicShape
from tfpyop.errors import ContractError, TfpyopError, annotate, describe_shape, message_of, naming

_READ_ONLY = re.compile(
    r"(assignment destination|(\w+ )?array) is read-only|buffer source array is read-only|"
    r"cannot modify read-only memory|(underlying )?buffer is not writable|Object is not writable\."
)
"""The messages of numpy, Cython and Python's memoryview if a function writes to an input."""
_READ_ONLY_ERRORS = (ValueError, TypeError, BufferError)
_OF_SHAPES = re.compile(
    r"broadcast|truth value of an? |only (length-1|size-1|0-dimensional) arrays|setting an array element|not aligned|"
    r"inhomogeneous|\b(shapes?|axis|axes|ndim|[dD]imensions?|[dD]imensional)\b|\b[0-9]-?[dD]\b|too many indices|"
    r"(too many|not enough) values to unpack|number of diagonals"
)
"""The messages of numpy and scipy for arrays with the wrong shape."""
_OF_ARGUMENTS = re.compile(r"(positional|keyword) argument")
"""The messages of Python for calls with the wrong arguments."""
RAISED_IN = "Raised in"
"""The beginning of the notes that say where an exception was raised."""
_MOST_PLANS = 1024
_LOGGER = logging.getLogger("tfpyop")


@dataclass(frozen=True, slots=True)
class Plan:
    """Store the decisions that are the same for all calls with inputs of certain dtypes and shapes."""

    inputs: ArraySpecs
    outputs: ArraySpecs
    """The specs of outputs and residuals."""
    loop: tuple[int, ...] = ()
    """The loop dimensions over which the host loops, because the function takes core dimensions only."""
    n_destinations: int = 0
    """The number of outputs that the function can write into given arrays: all visible outputs, or 0."""
    whole: ArraySpecs | None = None
    """The specs of all arrays in a result, if a result that matches them can be returned without further processing."""
    rows: tuple[int, ...] | None = None
    """The loop dimensions that the host flattens into one; None if the inputs need no flattening."""
    ranks: tuple[int, ...] = ()
    """The number of core dimensions of each input, if the host loops or flattens."""


class HostFunction:
    """Run a user's function for the lowerings: take arrays and return arrays that match the output spec.

    Args:
      subject: The op and its site, for error messages.
      function: Takes the list of views and calls the user's function. If `takes_out` is True, it also takes the
        destinations: None, or one writable array for each output.
      output_spec: The output spec.
      looped: For a function that takes core dimensions only: returns its signature for inputs of these dtypes. The host
        loops over all other dimensions.
      in_rows: For a function that takes exactly one loop dimension: returns its signature likewise. The host flattens
        the loop dimensions into one.
      executor_map: Runs the elements of these loops. Default: they run one after the other in the calling thread.
      compute_dtype: The dtype to which floating inputs are widened before the function receives them.
      is_stateful: Whether the function must run exactly once for every call.
      takes_out: Whether the function can write its outputs into given arrays.
      hint: A text for the note on an exception of the user's function.
      what: The user's code in error messages: `function` or `rule`.
    """

    def __init__(
        self,
        subject: str,
        *,
        function: Callable[..., Any],
        output_spec: OutputSpec,
        looped: Callable[[Sequence[DType]], Signature | None] | None = None,
        in_rows: Callable[[Sequence[DType]], Signature | None] | None = None,
        executor_map: ExecutorMap | None = None,
        compute_dtype: DType | None = None,
        is_stateful: bool = False,
        takes_out: bool = False,
        hint: str | None = None,
        what: str = "function",
    ) -> None:
        self.subject = subject
        self.what = what
        self.output_spec = output_spec
        self.is_stateful = is_stateful
        self._function = function
        self._looped = looped
        self._in_rows = in_rows
        self._executor_map = executor_map
        self._compute_dtype = compute_dtype
        self._takes_out = takes_out
        self._hint = hint
        self._plans: dict[Any, Plan] = {}
        self.object_numbers = tuple(output_spec.object_numbers)
        self._objects = KeptObjects() if self.object_numbers else None

    def with_function(self, function: Callable[..., Any], executor_map: ExecutorMap | None) -> HostFunction:
        """Return a copy for another function with the same spec, such as the method of another instance.

        The copy shares the plans.
        """
        host = HostFunction.__new__(HostFunction)
        vars(host).update(vars(self))
        host._function = function
        host._executor_map = executor_map
        host._objects = None if self._objects is None else KeptObjects()
        return host

    def infer_outputs(self, inputs: ArraySpecs) -> list[ArraySpec]:
        """Return the specs of outputs and residuals for these inputs, as far as they are known.

        Raises:
          SignatureError: The inputs do not match the signature.
          CoercionError: The output dtypes cannot be inferred from the inputs.
        """
        try:
            return self.output_spec.infer_outputs(inputs)
        except TfpyopError as error:
            raise error.with_subject(self.subject) from error.__cause__

    def symbolic_shapes(self, inputs: ArraySpecs) -> list[SymbolicShape | None]:
        """Return the shapes of outputs and residuals, with unknown sizes expressed in the inputs' dimensions."""
        return self.output_spec.symbolic_shapes(inputs)

    def __call__(self, arrays: Sequence[Any]) -> list[Array]:
        """Run the user's function on arrays, and check the result against the output spec.

        Raises:
          TfpyopError: The inputs or the result break the contract.
          Exception: The exception of the user's function, with a note of the op and its inputs.
        """
        views, plan = self.prepare(arrays)
        return self.run(plan, views)

    def prepare(self, arrays: Sequence[Any]) -> tuple[list[Array], Plan]:
        """Return read-only views of the arrays, and the plan for calls with these arrays."""
        views = read_only(arrays)
        return views, self.plan(views)

    def plan(self, views: Sequence[Array]) -> Plan:
        """Return the plan for calls with arrays of these dtypes and shapes. Plans are cached."""
        key = tuple([(view.dtype, view.shape) for view in views])
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            plan = self._plans[key] = self._make_plan([ArraySpec(dtype, shape) for dtype, shape in key])
        return plan

    def run(self, plan: Plan, views: Sequence[Array], out: Sequence[Array] | None = None) -> list[Array]:
        """Run the user's function on read-only arrays as planned. Raise the errors of `__call__`.

        Args:
          plan: The plan for these arrays.
          views: Read-only arrays.
          out: One writable array for each destination in the plan. If the function writes an output there, the same
            object is returned.
        """
        try:
            if plan.loop:
                return self._run_looped(plan, views)
            if plan.rows is not None:
                return self._run_in_rows(plan, views, plan.rows)
            arguments = views if self._compute_dtype is None else self._widened(views, self._compute_dtype)
            result = self._call(list(arguments), out)
            if plan.whole is not None:
                values = _exact_outputs(result, plan.whole)
                if values is not None:
                    return values  # the same result as from `coerce`, but faster
            unpacked = self.output_spec.unpack(result, plan.inputs)
            if self._objects is not None:
                unpacked = self._with_handles(unpacked, arguments)
            return self.output_spec.coerce(unpacked, plan.inputs, plan.outputs)
        except TfpyopError as error:
            raise error.with_subject(self.subject) from error.__cause__

    def objects(self, inputs: Sequence[Array], handles: Array, outputs: Sequence[Array] | None) -> Mapping[str, Any]:
        """Return the Python objects among the residuals of a call, by name.

        If they no longer exist, the function is called again. The call gets copies of the inputs, because the objects
        may hold on to them.

        Args:
          inputs: The inputs of the call.
          handles: The handle of one of the objects.
          outputs: The outputs of the call, with which the outputs of the second call are compared; None to skip this.
        """
        assert self._objects is not None
        found = self._objects.find(handles, inputs)
        if found is not None:
            return found
        views, plan = self.prepare([np.array(array) for array in inputs])
        assert not plan.loop, "the rule takes the same dimensions as the function"
        _LOGGER.debug("%s: the function is called again to create an object for a rule", self.subject)
        created = self.run(plan, views)
        if outputs is not None:
            with naming(self.subject):
                require_same_outputs(outputs, created)
        return self._objects.retain(handles, created[self.object_numbers[0]])

    def evaluate(self, arrays: Sequence[Array]) -> list[Array]:
        """Return the function's outputs and residuals without casts and checks, for numerical derivatives.

        A handle of 0 stands for an object.
        """
        types = [ArraySpec.of(array) for array in arrays]
        (rows, row_ranks), (loop, ranks) = self._rows(types), self._loop(types)
        if not loop:
            arguments = list(arrays) if rows is None else flattened(arrays, rows, row_ranks)
            found = []
            for number, value in enumerate(self.output_spec.unpack(self._apply(arguments, None), types)):
                array = np.array(0 if number in self.object_numbers else value)
                found.append(array if rows is None or number in self.object_numbers else _split(array, rows))
            return found
        return self.evaluate_each(arrays, loop, ranks)

    def evaluate_each(self, arrays: Sequence[Array], loop: tuple[int, ...], ranks: Sequence[int]) -> list[Array]:
        """Return the outputs and residuals like `evaluate`, with one call for each element of the loop dimensions.

        Args:
          arrays: The inputs. Their loop dimensions broadcast to `loop`.
          loop: The loop dimensions.
          ranks: The number of core dimensions of each input.
        """
        return _stacked([self.evaluate(example) for example in _examples(arrays, loop, ranks)], loop)

    def _make_plan(self, inputs: ArraySpecs) -> Plan:
        outputs = self.infer_outputs(inputs)
        rows, ranks = self._rows(inputs)
        if rows is not None:
            return Plan(inputs, outputs, rows=rows, ranks=ranks)
        loop, ranks = self._loop(inputs)
        n_outputs = len(outputs) - len(self.output_spec.residual_names)
        is_known = all(type_.shape is not None and None not in type_.shape for type_ in outputs[:n_outputs])
        takes_out = self._takes_out and is_known and not loop and self._compute_dtype is None
        is_whole = is_known and self.output_spec.n_flat_outputs(inputs) == len(outputs)
        whole = outputs if is_whole and all(type_.dtype != STRING for type_ in outputs) else None
        return Plan(inputs, outputs, loop, n_outputs if takes_out else 0, whole, ranks=ranks)

    def _loop(self, inputs: ArraySpecs) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the loop dimensions over which the host loops, and the number of core dimensions of each input.

        There are none if the function takes loop dimensions.
        """
        signature = None if self._looped is None else self._looped([type_.dtype for type_ in inputs])
        return ((), ()) if signature is None else _dimensions(signature, inputs)

    def _rows(self, inputs: ArraySpecs) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
        """Return the loop dimensions that must be flattened, and the number of core dimensions of each input.

        The loop dimensions are None if all inputs have the same single, nonempty one.
        """
        signature = None if self._in_rows is None else self._in_rows([type_.dtype for type_ in inputs])
        if signature is None:
            return None, ()
        loop, ranks = _dimensions(signature, inputs)
        shapes = [type_.shape or () for type_ in inputs]
        is_direct = len(loop) == 1 and all(
            shape[: len(shape) - rank] == loop for shape, rank in zip(shapes, ranks, strict=True)
        )
        return None if is_direct and loop != (0,) else loop, ranks

    def _run_in_rows(self, plan: Plan, views: Sequence[Array], loop: tuple[int, ...]) -> list[Array]:
        """Run the function once, with all loop dimensions flattened into one, and split the results again."""
        if 0 in loop:
            return _empty(plan, loop)
        rows = flattened(views, loop, plan.ranks)
        arrays = enumerate(self.run(self.plan(rows), rows))
        results = [array if number in self.object_numbers else _split(array, loop) for number, array in arrays]
        return self.output_spec.coerce(results, plan.inputs, plan.outputs)

    def _run_looped(self, plan: Plan, views: Sequence[Array]) -> list[Array]:
        """Run the function for every element of the loop dimensions, and stack the results."""
        drawn = _examples(views, plan.loop, plan.ranks)
        if self._executor_map is not None and 0 not in plan.loop and not self._executor_map.is_worker():
            examples = self._executor_map.run(list(drawn), self.subject)
        else:
            examples = [
                [copied(array) for array in self.run(self.plan(example), example)]  # it may reuse its memory
                for example in drawn
            ]
        if examples:
            return self.output_spec.coerce(_stacked(examples, plan.loop), plan.inputs, plan.outputs)
        return _empty(plan, plan.loop)

    def _with_handles(self, values: Sequence[Any], arguments: Sequence[Array]) -> list[Any]:
        """Return the outputs and residuals of a call, with handles in place of its objects.

        A rule finds the objects by the inputs in the dtype in which it computes.
        """
        assert self._objects is not None
        numbers, first = self.object_numbers, len(values) - len(self.output_spec.residual_names)
        objects = {self.output_spec.residual_names[number - first]: values[number] for number in numbers}
        handle = self._objects.keep(arguments, objects)
        return [handle if number in numbers else value for number, value in enumerate(values)]

    def _apply(self, arguments: list[Array], out: Sequence[Array] | None) -> Any:
        return self._function(arguments, out) if self._takes_out else self._function(arguments)

    def _call(self, arguments: list[Array], out: Sequence[Array] | None) -> Any:
        """Call the user's function.

        If it raises TypeError for float16 or bfloat16 inputs and is not stateful, call it again with float32 inputs.
        """
        try:  # as _apply does, without another frame
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
        return read_only(_widened_once(view, dtype, f"input {number}") for number, view in enumerate(views))

    def _without_half(self, arguments: Sequence[Array]) -> list[Array]:
        single = self._widened([argument for argument in arguments if is_half(argument.dtype)], np.dtype(np.float32))
        remaining = iter(single)
        return [next(remaining) if is_half(argument.dtype) else argument for argument in arguments]

    def _explain(self, error: BaseException, arguments: Sequence[Array], out: Sequence[Array] | None) -> None:
        """Add the op and hints for known mistakes to the user's exception object."""
        with contextlib.suppress(Exception):  # an exception may reject changes, and must still reach the caller
            if type(error) in _READ_ONLY_ERRORS and error.args and _READ_ONLY.fullmatch(str(error.args[0])):
                error.args = (
                    f"{error.args[0]}\n  {self.subject}: inputs are read-only, because other code may use the same "
                    "tensor. Change a copy instead: x = x.copy().",
                )
            types = [ArraySpec.of(argument) for argument in arguments]
            called = f"{RAISED_IN} {self.subject}, called with {self.output_spec.describe_inputs(types)}."
            annotate(error, " ".join(filter(None, [called, *self._hints(error, types, out)])))

    def _hints(self, error: BaseException, types: ArraySpecs, out: Sequence[Array] | None) -> list[str | None]:
        """Return hints about possible mistakes in the function, for the types of exceptions that they cause."""
        kinds = TypeError | ValueError | IndexError | AttributeError
        if not isinstance(error, kinds) or isinstance(error, UnicodeError):
            return []
        text = message_of(error)
        is_explained = type(error) in _READ_ONLY_ERRORS and "inputs are read-only" in text
        is_of_values = isinstance(error, np.linalg.LinAlgError) and "imension" not in text  # singular, for example
        if is_explained or is_of_values:
            return []
        is_of_shapes = (
            not isinstance(error, AttributeError) and _OF_SHAPES.search(text) and not _OF_ARGUMENTS.search(text)
        )
        if re.fullmatch(r"'numpy\.\w+' object has no attribute 'numpy'", text):
            return ["The function gets numpy arrays, not tensors. Remove .numpy()."]
        if self._takes_out and out is None and "'NoneType' object" in text:
            return ["out= is None in this call. Create an array and return it when out is None."]
        if "'NoneType'" in text:
            return []
        return [self.output_spec.loop_hint(types) if is_of_shapes else None, self._hint]


def _dimensions(signature: Signature, inputs: ArraySpecs) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the loop dimensions of a call, and the number of core dimensions of each input."""
    shapes = [type_.shape or () for type_ in inputs]
    loop = tuple(size or 0 for size in signature.bind(shapes).loop or ())
    return loop, tuple(signature.core_ranks(shapes))


def flattened(arrays: Sequence[Array], loop: tuple[int, ...], ranks: Sequence[int]) -> list[Array]:
    """Return the arrays with their loop dimensions broadcast and flattened into one, read-only."""
    cores = [(array, array.shape[array.ndim - rank :]) for array, rank in zip(arrays, ranks, strict=True)]
    return read_only(np.broadcast_to(array, loop + core).reshape((math.prod(loop), *core)) for array, core in cores)


def _examples(arrays: Sequence[Array], loop: tuple[int, ...], ranks: Sequence[int]) -> Iterator[list[Array]]:
    """Yield the inputs of each element of the loop dimensions, with core dimensions only."""
    whole = [
        np.broadcast_to(array, loop + array.shape[array.ndim - rank :])
        for array, rank in zip(arrays, ranks, strict=True)
    ]
    for index in np.ndindex(*loop):
        yield read_only(array[index] for array in whole)


def _empty(plan: Plan, loop: tuple[int, ...]) -> list[Array]:
    """Return results without elements. Unknown sizes are 0."""
    shapes = [loop if output.shape is None else output.shape for output in plan.outputs]
    return [
        np.zeros([size or 0 for size in shape], output.dtype)
        for shape, output in zip(shapes, plan.outputs, strict=True)
    ]


def _split(array: Array, loop: tuple[int, ...]) -> Array:
    """Split the first dimension of an array into the loop dimensions that were flattened."""
    split: Array = array.reshape(loop + array.shape[1:])
    return split


def _widened_once(view: Array, dtype: DType, what: str) -> Array:
    """Widen a view. Elements that share memory, as in batches of a single value, share it afterwards too."""
    if 0 not in view.strides or view.size == 0:
        return widen(view, dtype, what=what, advise=advise_computed)
    single = view[tuple([slice(0, 1) if stride == 0 else slice(None) for stride in view.strides])]
    return np.broadcast_to(widen(single, dtype, what=what, advise=advise_computed), view.shape)


def _exact_outputs(result: Any, promised: ArraySpecs) -> list[Array] | None:
    """Return the arrays in a result that matches the specs exactly; None for any other result."""
    values = list(result) if type(result) is tuple else [result]
    if len(values) != len(promised):
        return None
    for number, (value, type_) in enumerate(zip(values, promised)):  # noqa: B905 - checked above; runs in every call
        if type(value) is not np.ndarray:
            if not isinstance(value, np.generic):  # as numpy returns for 0-d arrays
                return None
            value = values[number] = np.asarray(value)
        if value.shape != type_.shape:
            return None
        if value.dtype is not type_.dtype and value.dtype != type_.dtype:  # usually the same object
            return None
    return values


def _stacked(examples: Sequence[Sequence[Array]], loop: tuple[int, ...]) -> list[Array]:
    """Stack the outputs of all examples, with the loop dimensions in front."""
    for number, values in enumerate(zip(*examples, strict=True)):
        shapes = {value.shape for value in values}
        if len(shapes) > 1:
            raise ContractError(
                f"output {number} has different shapes for different elements of the loop dimensions.",
                got=" and ".join(sorted(map(describe_shape, shapes))[:2]),
                remedy="Pad the outputs in the function so that they have equal shapes.",
            )
    return [stacked(values).reshape(loop + values[0].shape) for values in zip(*examples, strict=True)]


def read_only(arrays: Iterable[Any]) -> list[Array]:
    """Return views of arrays that cannot be written."""
    views = []
    for array in arrays:
        view = array if type(array) is np.ndarray else _as_array(array)
        view.setflags(write=False)  # on TensorFlow's own array, so that no code can make it writable
        views.append(view.view())
    return views


def _as_array(value: Any) -> Array:
    """Return the array for a 0-d input, which TensorFlow passes as a scalar."""
    return np.asarray(value) if isinstance(value, np.ndarray | np.generic) else np.array(value, dtype=object)
