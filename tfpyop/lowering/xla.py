"""Host calls under XLA: nodes that hold a StableHLO module with a custom call, and what runs when XLA makes it.

XLA lends the memory of arguments and results for the time of a call.
"""

from __future__ import annotations

import gc
import math
import os
import traceback
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop._coercion import STRING, Array, DType
from tfpyop._host import HostFunction, read_only
from tfpyop._promise import ArrayType, OpPromise, Promise, Types, is_compatible
from tfpyop._registry import REGISTRY
from tfpyop._rules import HostOp
from tfpyop._signature import Sizes
from tfpyop.errors import ContractError, SignatureError, TfpyopError, UnsupportedError
from tfpyop.lowering import xla_ffi
from tfpyop.lowering._tensorflow import InXlaContext, call_module
from tfpyop.lowering.failures import failure, unknown_op
from tfpyop.lowering.stablehlo import ELEMENT_TYPES, Site, check_of_shape, host_call
from tfpyop.lowering.tensors import are_kept, type_of
from tfpyop.lowering.xla_ffi import Buffer, memory_of

TOKEN_ATTRIBUTE = "_tfpyop_token"
"""The attribute of a node that names its host function."""

_MOST_IDLE = 32

_ORDER = "tfpyop_order"
"""The collection of a graph that holds what the next stateful call comes after."""


def install() -> None:
    """Let compiled code call host functions, also such as another process has traced."""
    xla_ffi.register(_run)


def host_node(op: HostOp, tensors: Sequence[tf.Tensor], types: Types, promised: Sequence[ArrayType]) -> list[tf.Tensor]:
    """Add a node that calls the host function; returns its outputs, without a gradient.

    Raises:
      UnsupportedError: XLA has no such dtype, no way to call Python, or no order for a stateful call.
      SignatureError: The shapes of the outputs do not follow from those of the inputs.
    """
    try:
        _check_dtypes([*types, *promised])
        sizes = _sizes(op.host, types, promised)
        graph = tf.compat.v1.get_default_graph()
        order = _order(graph) if op.host.is_stateful else []
        install()
    except TfpyopError as error:
        raise error.about(op.host.subject) from None
    site = Site(op.token, types, promised, is_ordered=op.host.is_stateful)
    results = call_module(
        [*tensors, *order],
        version=9,
        module=host_call(xla_ffi.TARGET, site, sizes),
        Tout=[*(tf.as_dtype(type_.dtype) for type_ in promised), *([tf.int32] * len(order))],
        Sout=[*(tf.TensorShape(type_.shape) for type_ in promised), *([tf.TensorShape([])] * len(order))],
        platforms=["CPU"],
    )
    results[0].op._set_attr(TOKEN_ATTRIBUTE, tf.compat.v1.AttrValue(s=op.token.encode()))  # as graph files keep it
    if order:
        graph.get_collection_ref(_ORDER)[:] = results[-1:]
    return list(results[: len(promised)])


def check_shape(tensors: Sequence[tf.Tensor], allowed: Sequence[Sizes], message: str) -> None:
    """Let XLA refuse to compile unless the last tensor has one of these shapes."""
    types = [type_of(tensor) for tensor in tensors]
    rank = len(types[-1].shape or ())
    candidates = [sizes for sizes in allowed if len(sizes) == rank]
    if not candidates:
        raise ContractError(message, got=str(types[-1]))
    graph = tf.compat.v1.get_default_graph()
    n_nodes = len(graph.get_operations())
    module = check_of_shape(types, candidates, message)
    call_module(list(tensors), version=9, module=module, Tout=[], Sout=[], platforms=["CPU"])
    graph.get_operations()[n_nodes].pfor_converter = lambda _: []  # rows of one shape need one check


def _check_dtypes(types: Types) -> None:
    for type_ in types:
        if type_.dtype.name not in ELEMENT_TYPES:
            raise UnsupportedError(
                f"XLA has no arrays of {'strings' if type_.dtype == STRING else type_.dtype}.",
                expected=f"one of {', '.join(ELEMENT_TYPES)}",
                got=str(type_),
                remedy="Leave the op outside of functions with jit_compile=True, or pass numbers.",
            )


def _sizes(host: HostFunction, types: Types, promised: Sequence[ArrayType]) -> list[Sizes]:
    """The shapes of the outputs in terms of the inputs' dimensions."""
    for number, type_ in enumerate(types):
        if type_.shape is None:
            raise SignatureError(
                f"the rank of input {number} is not known, and XLA must know it when it compiles.",
                got=str(type_),
                remedy="Say it with tf.ensure_shape or input_signature=; sizes may stay unknown.",
            )
    sizes = host.output_sizes(types)
    for number, (known, type_) in enumerate(zip(sizes, promised, strict=True)):
        if known is None:
            raise SignatureError(
                f"the shape of output {number} is not known, and XLA must know it when it compiles.",
                expected="sizes that follow from those of the inputs",
                got=f"{type_} for inputs {', '.join(map(str, types))}",
                remedy=_remedy(host.promise, types),
            )
    return [known for known in sizes if known is not None]


def _remedy(promise: Promise, types: Types) -> str:
    signature = promise.signature if isinstance(promise, OpPromise) else None
    if signature is not None:
        names = ", ".join(sorted(signature.run_time_names))
        return (
            f"Signature {signature.text!r} leaves {names} to the run time. Write what it is in terms of the inputs, as "
            'in "(n)->(n//2+1)", or pad the output to such a size.'
        )
    example = ",".join(["()"] * len(types))
    if isinstance(promise, OpPromise) and promise.shape is not None:
        return (
            f'shape= tells it for known sizes only. Write a signature, for example "{example}->()" for a function that '
            "works element by element, or make all sizes known with input_signature= or tf.ensure_shape."
        )
    return f'Give the op a signature, for example signature="{example}->()" if it works element by element.'


def _order(graph: tf.Graph) -> list[tf.Tensor]:
    """What a stateful call must come after: the one before it in the same graph, or nothing."""
    if not (InXlaContext(graph) or InXlaContext(graph.outer_graph)):  # TensorFlow marks either, depending on the road
        raise UnsupportedError(
            "it is stateful, and XLA promises no order to calls in loops, branches and inner functions.",
            remedy="Call it in the function with jit_compile=True itself, or outside of it.",
        )
    return list(graph.get_collection_ref(_ORDER)) or [tf.constant(0)]


class _Slot:
    """One argument or result of calls that are alike: the type of its buffers, and arrays on memory seen before."""

    def __init__(self, address: int, declared: ArrayType, *, is_result: bool) -> None:
        """Read the first buffer, which must be as declared."""
        buffer = Buffer.from_address(address)
        is_as_declared = buffer.dtype == ELEMENT_TYPES[declared.dtype.name][1]
        assert is_as_declared, declared
        assert is_compatible(buffer.shape, declared.shape), declared
        self.dtype = declared.dtype
        self.shape = buffer.shape
        self._is_result = is_result
        self._memory = memory_of(math.prod(buffer.shape) * declared.dtype.itemsize)
        self._idle: dict[int | None, Array] = {}

    def lend(self, data: int | None) -> Array:
        """A view on memory that is lent for the time of a call."""
        array = self._idle.pop(data, None)  # each is in use once: another thread makes its own
        view: Array = (self._make(data) if array is None else array).reshape(self.shape)
        return view

    def take_back(self, data: int | None, view: Array) -> None:
        """Keep the array behind a view that nobody has any more, for the next call with the same memory."""
        if len(self._idle) >= _MOST_IDLE:
            self._idle.clear()
        array = view.base
        assert array is not None
        self._idle[data] = array

    def _make(self, data: int | None) -> Array:
        if not data:  # of no elements
            return np.empty(0, self.dtype)
        memory = memoryview(self._memory.from_address(data))
        return np.frombuffer(memory if self._is_result else memory.toreadonly(), self.dtype)


class _HostCall:
    """Calls from sites that are alike: of one host function, with the same dtypes and shapes."""

    def __init__(self, host: HostFunction, site: Site, arguments: Sequence[int], results: Sequence[int]) -> None:
        self.registrations = REGISTRY.registrations
        self._host = host  # a stateful call has one buffer more on each side, which keeps the order
        self._inputs = [_Slot(*pair, is_result=False) for pair in zip(arguments, site.inputs, strict=False)]
        self._outputs = [_Slot(*pair, is_result=True) for pair in zip(results, site.outputs, strict=False)]
        self._slots = self._inputs + self._outputs
        self._plan = host.plan([np.empty(slot.shape, slot.dtype) for slot in self._inputs])
        promised = [type_.dtype for type_ in self._plan.outputs]
        if promised != [type_.dtype for type_ in site.outputs]:
            raise self._changed(promised)
        self._lends: bool | None = None
        """Whether the function may have memory that is lent: if it kept nothing in its first call."""

    def __call__(self, arguments: Sequence[int], results: Sequence[int]) -> None:
        """Run the host function on these buffers."""
        slots = self._slots
        n_inputs = len(self._inputs)
        data = [Buffer.from_address(address).data for address in [*arguments[:n_inputs], *results]]
        views = [slot.lend(start) for slot, start in zip(slots, data, strict=False)]
        inputs, targets = views[:n_inputs], views[n_inputs:]
        views.clear()
        if self._lends:
            self._run(inputs, targets[: self._plan.n_destinations], targets)
            if are_kept(inputs) or are_kept(targets):
                self._lends = False
                gc.collect()  # a cycle, as of an exception that was caught, is nobody's
                if are_kept(inputs) or are_kept(targets):
                    raise self._kept()
        else:
            self._run_on_copies(inputs, targets)
        for slot, start, view in zip(slots, data, inputs + targets, strict=False):
            slot.take_back(start, view)

    def _run_on_copies(self, inputs: Sequence[Array], targets: Sequence[Array]) -> None:
        copies = [read_only(array.copy()) for array in inputs]
        out = [np.empty_like(target) for target in targets[: self._plan.n_destinations]]
        self._run(copies, out, targets)
        if self._lends is None:
            self._lends = not (are_kept(copies) or are_kept(out))

    def _run(self, views: Sequence[Array], out: Sequence[Array], targets: Sequence[Array]) -> None:
        try:
            arrays = self._host.run(self._plan, views, out or None)
        except TfpyopError:
            raise
        except Exception as error:
            self._lends = None  # the next call shows again what the function keeps
            text = _user_traceback(error)
            traceback.clear_frames(error.__traceback__)  # whoever keeps the exception must not keep what is lent
            raise failure(self._host.subject, views, error, text) from None
        pairs = [pair for pair in zip(arrays, targets, strict=True) if pair[0] is not pair[1]]
        if any(array.shape != target.shape for array, target in pairs):
            raise self._changed([array.dtype for array in arrays])
        if out and len(targets) > 1:  # one output may be a part of another's destination
            pairs = [(array.copy(), target) for array, target in pairs]
        for array, target in pairs:
            target[...] = array

    def _changed(self, dtypes: Sequence[DType]) -> ContractError:
        return ContractError(
            "the op is another than the one that was compiled.",
            subject=self._host.subject,
            expected=", ".join(str(ArrayType(slot.dtype, slot.shape)) for slot in self._outputs),
            got=f"outputs of {', '.join(map(str, dtypes))}, or of other shapes",
            remedy="Trace the function again: its module was reloaded, with another signature or dtype.",
        )

    def _kept(self) -> ContractError:
        return ContractError(
            "the function kept an array that it was given, though it had not in its first call.",
            subject=self._host.subject,
            expected="a function that leaves inputs and out= alone once it has returned",
            got=f"called with {', '.join(map(str, self._plan.inputs))}",
            remedy="XLA lends this memory for the time of the call. Keep a copy instead: x.copy(). What was kept here "
            "must not be read; from now on calls with these shapes are given copies.",
        )


_CALLS: dict[Any, weakref.ref[_HostCall]] = {}
"""By the text of their sites, with the shapes where the text leaves them open. Kept by their host functions."""


def _run(text: bytes, arguments: Sequence[int], results: Sequence[int]) -> None:
    """Make one call; what XLA's handler is for."""
    key: Any = text
    if b"?" in text:
        key = (text, *(Buffer.from_address(address).shape for address in arguments))
    reference = _CALLS.get(key)
    call = None if reference is None else reference()
    if call is None or call.registrations != REGISTRY.registrations:
        call = _make_call(key, Site.parse(text.decode()), arguments, results)
    call(arguments, results)


def _make_call(key: Any, site: Site, arguments: Sequence[int], results: Sequence[int]) -> _HostCall:
    op = REGISTRY.find_host_op(site.token)
    if op is None:
        raise unknown_op(site.token)
    call: _HostCall = op.host.keep(key, _HostCall(op.host, site, arguments, results))
    _CALLS[key] = weakref.ref(call, lambda _: _CALLS.pop(key, None))
    return call


def _user_traceback(error: BaseException) -> str:
    """The traceback from the user's function on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def _is_ours(file: str) -> bool:
    return file.startswith(_PACKAGE)


_PACKAGE = os.path.dirname(os.path.dirname(__file__))
