"""Every private TensorFlow symbol that tfpyop uses, tested on TensorFlow 2.18 to 2.22.0rc0.

No other module imports `tensorflow.python`. If TensorFlow lacks one of these symbols, the import of this module raises
an error that names the symbol.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import inspect
import operator
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import tensorflow as tf

from tfpyop._tracebacks import hide_package_frames
from tfpyop.errors import UnsupportedError

T = TypeVar("T")

_PLAIN_TYPES = (object, range, tf.TensorShape, tf.compat.v1.Dimension)
"""Types with a registered conversion whose values are not tensors. Numbers, lists and arrays are in tuples there."""

TESTED = "2.18 to 2.22.0rc0"

try:
    from tensorflow.compiler.tf2xla.python.xla import call_module as call_module
    from tensorflow.core.function.trace_type.default_types import Weakref as Weakref
    from tensorflow.python import pywrap_tfe
    from tensorflow.python.eager import core, record
    from tensorflow.python.eager.context import Context, context
    from tensorflow.python.eager.context import ensure_initialized as ensure_initialized
    from tensorflow.python.eager.forwardprop_util import push_forwardprop_state as push_forwardprop_state
    from tensorflow.python.eager.imperative_grad import imperative_grad as imperative_grad
    from tensorflow.python.eager.record import could_possibly_record as could_possibly_record
    from tensorflow.python.eager.record import should_record_backprop as should_record_backprop
    from tensorflow.python.eager.record import stop_recording as stop_recording
    from tensorflow.python.framework import op_def_registry, tensor_conversion_registry
    from tensorflow.python.framework.composite_tensor import CompositeTensor as CompositeTensor
    from tensorflow.python.framework.func_graph import FuncGraph as FuncGraph
    from tensorflow.python.framework.ops import EagerTensor as EagerTensor
    from tensorflow.python.framework.ops import (
        executing_eagerly_outside_functions as executing_eagerly_outside_functions,
    )
    from tensorflow.python.framework.ops import gradient_registry
    from tensorflow.python.ops.control_flow_ops import XLAControlFlowContext as XLAControlFlowContext
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext as GraphOrParentsInXlaContext
    from tensorflow.python.ops.control_flow_util import InXlaContext as InXlaContext
    from tensorflow.python.ops.gen_resource_variable_ops import read_variable_op
    from tensorflow.python.ops.gradients_util import PossibleTapeGradientTypes
    from tensorflow.python.ops.parallel_for import pfor
    from tensorflow.python.ops.parallel_for.control_flow_ops import _pfor_impl
    from tensorflow.python.ops.resource_variable_ops import ResourceVariable as ResourceVariable
    from tensorflow.python.ops.resource_variable_ops import variable_accessed
    from tensorflow.python.ops.script_ops import FuncRegistry
    from tensorflow.python.ops.script_ops import _py_funcs as function_registry
    from tensorflow.python.profiler import trace
    from tensorflow.python.saved_model.loader_impl import parse_saved_model as parse_saved_model
    from tensorflow.python.saved_model.save import export_meta_graph

    def _is_profiling_noted() -> bool:
        return bool(trace.enabled)

    is_profiling: Callable[[], bool] = trace.enabled if callable(trace.enabled) else _is_profiling_noted
    """Whether the profiler is on. TensorFlow 2.18 has a variable for this; later versions have a function."""
    NotOkStatusError = core._NotOkStatusException
    ConversionNotImplementedError = pfor.ConversionNotImplementedError
    wrap_for_pfor = pfor.wrap
    are_tapes_stopped: Callable[[], bool] = pywrap_tfe.TFE_Py_TapeSetIsStopped
    """Whether the tapes of this thread are currently stopped."""
    shared_memory: Callable[[EagerTensor], Any] = EagerTensor._numpy_internal
    """Return the array on the memory of an eager tensor, or a scalar for a 0-d tensor."""
    datatype_of: Callable[[EagerTensor], int] = EagerTensor._datatype_enum
    """Return TensorFlow's number of the dtype of an eager tensor. `tensor.dtype` takes five times as long."""
except (ImportError, AttributeError) as error:
    raise UnsupportedError(
        f"TensorFlow {tf.__version__} lacks a feature that tfpyop needs: {error}.",
        expected=f"a TensorFlow version that tfpyop was tested on: {TESTED}",
        got=tf.__version__,
        remedy="Install one of these versions, or a newer tfpyop.",
    ) from error

try:
    from tensorflow.core.function.polymorphism.function_cache import FunctionCache
    from tensorflow.python.eager.polymorphic_function import function_context
except ImportError:  # needed only for retracing for XLA, which is optional
    FunctionCache = function_context = None


def read_variable(variable: ResourceVariable) -> EagerTensor:
    """Read a variable in eager code and make tapes watch it. `variable.value()` takes twice as long."""
    variable_accessed(variable)
    handle = variable.handle
    value = read_variable_op(handle, variable.dtype)
    value._tfpyop_handle = handle._id
    return value


def tensor_of_array(array: Any) -> EagerTensor:
    """Create a tensor from an array on the current device, as `tf.constant` does. It may adopt the array's memory."""
    current = context()
    current.ensure_initialized()
    return EagerTensor(array, current.device_name, None)


def has_tensor_conversion(kind: type[Any]) -> bool:
    """Check whether TensorFlow has a function that converts this very type to a tensor, as for PartitionedVariable."""
    bases = [base for base, _ in tensor_conversion_registry.get(kind)]
    return any(isinstance(base, type) and base not in _PLAIN_TYPES for base in bases)


def with_tapes(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function while the tapes of this thread record, although TensorFlow has stopped them."""
    pywrap_tfe.TFE_Py_TapeSetRestartOnThread()
    try:
        return function(*arguments)
    finally:
        pywrap_tfe.TFE_Py_TapeSetStopOnThread()


def keep_interrupts() -> None:
    """Preserve an exception that a signal handler raises while a tensor is created, such as KeyboardInterrupt.

    To create a tensor, TensorFlow's C code reads `Context._handle`. It replaces any exception raised there with its own
    error, or crashes. The property is Python code, in which Python runs signal handlers. This function replaces the
    property with a property that runs no Python code. It is needed as long as `GetContextHandle` in TensorFlow's
    pywrap_tensor.cc drops the exception.
    """
    is_known = isinstance(vars(Context).get("_handle"), property)
    if is_known and "_context_handle" in Context.ensure_initialized.__code__.co_names:
        Context._handle = property(operator.attrgetter("_context_handle"), doc=Context._handle.__doc__)


def record_operation(
    name: str,
    outputs: Sequence[tf.Tensor],
    inputs: Sequence[tf.Tensor],
    backward: Callable[..., Any],
    forward: Callable[..., Any],
) -> None:
    """Record outputs on every tape and forward accumulator that watches an input."""
    record.record_operation(name, outputs, inputs, _raising_pending(backward), _raising_pending(forward))


def record_operation_backprop_only(
    name: str, outputs: Sequence[tf.Tensor], inputs: Sequence[tf.Tensor], backward: Callable[..., Any]
) -> None:
    """Record outputs on every tape that watches an input."""
    record.record_operation_backprop_only(name, outputs, inputs, _raising_pending(backward))


def inputs_with_tangents(tensors: Sequence[tf.Tensor]) -> set[int]:
    """Return the indices of the tensors that vary along the direction of an active forward accumulator."""
    pairs = pywrap_tfe.TFE_Py_PackJVPs(tensors)[0]
    return {primal for of_accumulator in pairs for primal, _ in of_accumulator} if pairs else set()


def record_tape_gradient(name: str, outputs: Sequence[tf.Tensor], inputs: Sequence[tf.Tensor], call: Any) -> None:
    """Record outputs on every tape that watches an input, with a gradient of `name_tape_gradient`.

    TensorFlow records its own ops in this way. No accumulator may watch an input.
    """
    pywrap_tfe.TFE_Py_RecordGradient(name, inputs, (call,), outputs, "")


def _frozen_variables(tensors: Sequence[tf.Tensor], skipped: Sequence[int], frame: FrameType) -> list[int]:
    """Return the indices of values of variables whose gradient the running call of `tape.gradient` does not return.

    A tape watches each trainable variable that is read, even if the variable belongs to a frozen Keras layer. The value
    of a variable depends on nothing but the variable.

    Args:
      tensors: The inputs of a recorded call.
      skipped: The inputs that need not be considered.
      frame: The frame that has called the tape. If it is not the frame of `tape.gradient`, the result is empty.
    """
    values = {number: _handle_of(tensor) for number, tensor in enumerate(tensors) if number not in skipped}
    if set(values.values()) <= {None} or frame.f_code is not imperative_grad.__code__:
        return []
    sources = frame.f_locals["sources"]
    known = {id(source) for source in sources}
    known_handles = {None, *(source._id for source in sources if isinstance(source, EagerTensor))}
    return [
        number for number, handle in values.items() if handle not in known_handles and id(tensors[number]) not in known
    ]


def _handle_of(tensor: tf.Tensor) -> int | None:
    """Return the identity of the variable whose value a tensor is; None if the tensor is not known to be a value."""
    if isinstance(tensor, EagerTensor):
        handle: int | None = getattr(tensor, "_tfpyop_handle", None)
        return handle
    if tensor.op.type != "ReadVariableOp":
        return None
    found = tensor.op.inputs[0]
    while not isinstance(found, EagerTensor):
        captures = found.graph.captures if isinstance(found.graph, FuncGraph) else ()
        outside = next((outer for outer, inner in captures if inner is found), None)
        if outside is None:
            return None
        found = outside
    identity: int = found._id
    return identity


def name_tape_gradient(name: str, gradient: Callable[[Any, Sequence[int], Sequence[Any]], list[Any]]) -> None:
    """Name a gradient for `record_tape_gradient`.

    Args:
      name: The name, which no op of TensorFlow has.
      gradient: Returns the cotangents of the inputs. Takes the recorded call, the indices of the inputs whose
        cotangents the tape does not use, and the cotangents of the outputs.
    """

    def function(op: Any, *cotangents: Any) -> list[Any]:
        (call,) = op.attrs
        skipped = op.skip_input_indices or ()
        # the callers: _raising_pending, TensorFlow's _gradient_function, imperative_grad
        frozen = _frozen_variables(op.inputs, skipped, sys._getframe(3))
        return gradient(call, (*skipped, *frozen), cotangents)

    name_gradient(name, _raising_pending(function))


_raise_pending = ctypes.pythonapi.PyErr_Occurred
"""Raise the pending exception, if there is one. ctypes does so after every call."""


def _raising_pending(function: Callable[..., T]) -> Callable[..., T]:
    """Wrap a function called by TensorFlow's C code so that it raises an exception that the C code left pending.

    The tape calls Python to create the first cotangents, and continues when this call was interrupted. Without the
    wrapper, the exception would surface in the next C call, as the cause of a SystemError.
    """

    @functools.wraps(function)
    def call(*arguments: Any) -> T:
        _raise_pending()
        try:
            return function(*arguments)
        except Exception as error:
            hide_package_frames(error)
            raise error  # `raise` alone would restore the frames in Python 3.10

    return call


def name_gradient(name: str, function: Callable[..., Any]) -> None:
    """Add a gradient function to TensorFlow's registry, without the stack trace that TensorFlow stores by default."""
    gradient_registry._registry[name] = {"type": function, "location": (__file__, 0, "", "")}


def forget_gradient(name: str) -> None:
    """Remove a gradient function from TensorFlow's registry."""
    gradient_registry._registry.pop(name, None)


def find_gradient(name: str) -> Any:
    """Return the gradient function registered under a name, or None."""
    return gradient_registry._registry.get(name, {}).get("type")


@functools.cache
def is_stateful_kind(kind: str) -> bool:
    """Return whether nodes of a kind are stateful. Nodes of an unknown kind count as stateful."""
    definition = op_def_registry.get(kind)
    return definition is None or bool(definition.is_stateful)


def replace_function_calls(call: Callable[[Any, Callable[..., Any], bytes, Sequence[Any], int], Any]) -> None:
    """Route calls of graphs in eager code through `call`, once per process. It gets the context and the original."""
    call_function = Context.call_function
    if hasattr(call_function, "tfpyop"):
        return

    @functools.wraps(call_function)
    def replaced(context: Any, name: bytes, tensor_inputs: Sequence[Any], num_outputs: int) -> Any:
        return call(context, call_function, name, tensor_inputs, num_outputs)

    replaced.tfpyop = True  # type: ignore[attr-defined]  # a mark, so that it is replaced only once
    Context.call_function = replaced


@functools.cache
def may_call_functions(kind: str) -> bool:
    """Return whether nodes of a kind may call functions of their graph, as loops and branches do."""
    definition = op_def_registry.get(kind)
    return definition is None or any(attribute.type in ("func", "list(func)") for attribute in definition.attr)


def called_functions(node: Any) -> list[str]:
    """Return the names of the functions that a serialized node calls."""
    values = node.attr.values()
    return [function.name for value in values for function in (value.func, *value.list.func) if function.name]


def nodes_of_called(graph: tf.Graph, name: str) -> Sequence[Any]:
    """Return the serialized nodes of a function that nodes of this graph call."""
    nodes: Sequence[Any] = graph._get_function(name).cached_definition.node_def
    return nodes


def is_watched(tensors: Sequence[tf.Tensor]) -> bool:
    """Return whether any active tape or forward accumulator watches one of these tensors."""
    return bool(PossibleTapeGradientTypes(list(tensors)))


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Record on tapes, also where TensorFlow has stopped it, such as in the gradient of a function that it builds."""
    is_stopped = pywrap_tfe.TFE_Py_TapeSetIsStopped()
    try:
        if is_stopped:
            pywrap_tfe.TFE_Py_TapeSetRestartOnThread()
        yield
    finally:
        if is_stopped:
            pywrap_tfe.TFE_Py_TapeSetStopOnThread()


def map_rows(function: Callable[[Sequence[tf.Tensor]], Any], rows: Sequence[tf.Tensor]) -> Any:
    """Map a function over rows as `tf.vectorized_map` does in a graph, without its inner function in compiled graphs.

    TensorFlow differentiates inner functions ahead of time. This never ends if every derivative creates another
    function.
    """
    sizes = [tf.compat.dimension_value(tensor.shape[0]) for tensor in rows]
    n_rows = tf.shape(rows[0])[0] if None in sizes else sizes[0]

    # AutoGraph would rewrite this package's code when TensorFlow traces the gradients of saved models.
    of_row = tf.autograph.experimental.do_not_convert(lambda row: function([tf.gather(tensor, row) for tensor in rows]))
    return _pfor_impl(of_row, n_rows, True)


def register_pfor_converter(kind: str, converter: Callable[[Any], list[Any]]) -> None:
    """Make `vectorized_map` convert nodes of a kind. `ConversionNotImplementedError` leaves a node to TensorFlow."""
    pfor.RegisterPFor(kind)(converter)


def convert_node_with(node: tf.Operation, converter: Callable[[Any], Any]) -> None:
    """Make `vectorized_map` convert one node of a graph, instead of all nodes of its kind."""
    node.pfor_converter = converter


def of_graph(graph: tf.Graph, name: str, make: Callable[[], T]) -> T:
    """Return a value that lives as long as a graph. Make the value on first use.

    It is an attribute of the graph, so that a value that refers to its graph can be collected.
    """
    name = f"_tfpyop_{name}"
    if not hasattr(graph, name):
        setattr(graph, name, make())
    value: T = getattr(graph, name)
    return value


def is_compiled(function: Any) -> bool:
    """Return whether a `tf.function` was created with jit_compile=True."""
    return bool(getattr(function, "_jit_compile", False))


def set_attribute(node: tf.Operation, name: str, text: str) -> None:
    """Write a text attribute to a node of a graph. TensorFlow ignores names that begin with an underscore."""
    node._set_attr(name, tf.compat.v1.AttrValue(s=text.encode()))


def first_of_output(node: Any, name: str) -> int:
    """Return the index, among all outputs of a serialized node, of the first tensor of the named output."""
    first = 0
    for argument in op_def_registry.get(node.op).output_arg:
        if argument.name == name:
            return first
        if argument.number_attr:
            first += node.attr[argument.number_attr].i
        elif argument.type_list_attr:
            first += len(node.attr[argument.type_list_attr].list.type)
        else:
            first += 1
    raise LookupError(name)


def is_trackable(model: Any) -> bool:
    """Return whether TensorFlow can save an object as a model."""
    return hasattr(model, "_trackable_children")


def trace_saved_model(model: Any, signatures: Any) -> Any:
    """Return the graphs that saving a model would write, without its variables."""
    gc.collect()  # gradient names of graphs that are no longer referenced would count as the model's
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "graphs.pb"
        export_meta_graph(model, str(path), signatures)
        return tf.compat.v1.MetaGraphDef.FromString(path.read_bytes())


def install_trampoline(prefix: str, run: Callable[[str, Sequence[Any]], Sequence[Any]]) -> None:
    """Make TensorFlow's runtime call `run` for tokens with this prefix, with the arrays passed to the node.

    The runtime calls one object for all tokens: its table of Python functions. This function extends the table's class.
    """

    class Trampoline(FuncRegistry):  # type: ignore[misc]  # TensorFlow has no type annotations
        """The function table, which first checks for this package's tokens."""

        def __call__(self, token: str, device: Any, args: Sequence[Any]) -> Any:
            if not token.startswith(prefix):
                return super().__call__(token, device, args)
            try:
                return run(token, args)
            except Exception as error:
                hide_package_frames(error)
                raise error  # `raise` alone would restore the frames in Python 3.10

    function_registry.__class__ = Trampoline


class _AnyXlaContext:
    """Represent every non-TPU XLA context in the keys of TensorFlow's function cache."""

    def RequiresUniqueFunctionRetracing(self) -> bool:  # noqa: N802 - TensorFlow's name
        """Request separate traces, as TensorFlow's contexts do on TPUs only."""
        return True


def separate_traces_for_xla(can_serve: Callable[[Any], bool]) -> bool:
    """Make `tf.function` keep one trace for calls in compiled functions and one trace for all other calls.

    The keys of TensorFlow's function cache have a field for the XLA context, which is empty except on TPUs.

    Args:
      can_serve: Whether a trace that was made for one kind of call is correct for the other kind. If so, the
        trace is reused.

    Returns:
      Whether the change was made: False if the function cache of this TensorFlow is not as expected.
    """
    if not _has_known_function_cache():
        return False
    enclosing_context, lookup = function_context._enclosing_xla_context, FunctionCache.lookup
    if hasattr(lookup, "tfpyop"):
        return True
    any_context = _AnyXlaContext()
    without_xla, with_xla = 0, id(any_context)

    @functools.wraps(enclosing_context)
    def enclosing_xla_context() -> Any:
        found = enclosing_context()
        return found if found is None or found.RequiresUniqueFunctionRetracing() else any_context

    @functools.wraps(lookup)
    def lookup_either(cache: Any, function_type: Any, context: Any = None) -> Any:
        trace = lookup(cache, function_type, context)
        key: Any = getattr(context, "context", None)
        if trace is not None or getattr(key, "xla_context_id", None) not in (without_xla, with_xla):  # a TPU's trace
            return trace
        other_id = without_xla if key.xla_context_id == with_xla else with_xla
        other = lookup(cache, function_type, context._replace(context=key._replace(xla_context_id=other_id)))
        return other if other is not None and can_serve(other) else None

    lookup_either.tfpyop = any_context  # type: ignore[attr-defined]  # a mark, so that it is replaced only once
    function_context._enclosing_xla_context = enclosing_xla_context
    FunctionCache.lookup = lookup_either
    return True


def _has_known_function_cache() -> bool:
    """Return whether the names that `separate_traces_for_xla` replaces still mean what they meant originally."""
    try:
        parameters = list(inspect.signature(FunctionCache.lookup).parameters)
        fields = function_context.EagerContext._fields
        is_called = callable(function_context._enclosing_xla_context)
    except (AttributeError, TypeError, ValueError):
        return False
    return is_called and "xla_context_id" in fields and parameters == ["self", "function_type", "context"]
