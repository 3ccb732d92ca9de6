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
from tfpyop.lowering.xla_ffi import Buffer, data_of, memory_at

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


class _HostCall:
    """Calls from sites that are alike: of one host function, with the same dtypes and shapes."""

    def __init__(self, host: HostFunction, site: Site, arguments: Sequence[int], results: Sequence[int]) -> None:
        """Read the first buffers, which must be as the site says."""
        self.registrations = REGISTRY.registrations
        self._host = host  # a stateful call has one buffer more on each side, which keeps the order
        self._n_inputs, self._n_buffers = len(site.inputs), len(site.inputs) + len(site.outputs)
        self._types = [*map(_read_buffer, arguments, site.inputs), *map(_read_buffer, results, site.outputs)]
        self._shapes = [type_.shape or () for type_ in self._types]
        self._plan = host.plan([np.empty(type_.shape or (), type_.dtype) for type_ in self._types[: self._n_inputs]])
        promised = [type_.dtype for type_ in self._plan.outputs]
        if promised != [type_.dtype for type_ in site.outputs]:
            raise self._changed(promised)
        self._idle: dict[tuple[int, ...], list[Array]] = {}
        """Flat arrays on memory that was lent before, by its addresses. Each is in use once; threads make their own."""
        self._lends: bool | None = None
        """Whether the function may have memory that is lent: if it kept nothing in its first call."""

    def __call__(self, arguments: Sequence[int], results: Sequence[int]) -> None:
        """Run the host function on these buffers."""
        n_inputs = self._n_inputs
        data = tuple([data_of(buffer) for buffer in (*arguments[:n_inputs], *results)][: self._n_buffers])
        arrays = self._idle.pop(data, None) or self._arrays(data)
        views = list(map(np.ndarray.reshape, arrays, self._shapes))  # anew: a function may have changed one
        del arrays
        if self._lends:
            self._run(views[:n_inputs], views[n_inputs : n_inputs + self._plan.n_destinations], views[n_inputs:])
            if are_kept(views):
                self._lends = False
                gc.collect()  # a cycle, as of an exception that was caught, is nobody's
                if are_kept(views):
                    raise self._kept()
        else:
            self._run_on_copies(views[:n_inputs], views[n_inputs:])
        if len(self._idle) >= _MOST_IDLE:
            self._idle.clear()
        self._idle[data] = [view.base for view in views]  # type: ignore[misc]  # they are views

    def _arrays(self, data: Sequence[int]) -> list[Array]:
        """Flat arrays on memory that is lent; inputs cannot be written."""
        return [
            _array_at(start, type_, is_writable=number >= self._n_inputs)
            for number, (start, type_) in enumerate(zip(data, self._types, strict=True))
        ]

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
        for array, target in zip(arrays, targets, strict=True):
            if array.shape != target.shape:
                raise self._changed([array.dtype for array in arrays])
        if out and len(targets) > 1:  # one output may be a part of another's destination
            arrays = [array if array is target else array.copy() for array, target in zip(arrays, targets, strict=True)]
        for array, target in zip(arrays, targets, strict=True):
            if array is not target:
                target[...] = array

    def _changed(self, dtypes: Sequence[DType]) -> ContractError:
        return ContractError(
            "the op is another than the one that was compiled.",
            subject=self._host.subject,
            expected=", ".join(map(str, self._types[self._n_inputs :])),
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


def _read_buffer(address: int, declared: ArrayType) -> ArrayType:
    """The type of a buffer, which must be as declared."""
    buffer = Buffer.from_address(address)
    assert buffer.dtype == ELEMENT_TYPES[declared.dtype.name][1], declared
    assert is_compatible(buffer.shape, declared.shape), declared
    return ArrayType(declared.dtype, buffer.shape)


def _array_at(address: int, type_: ArrayType, *, is_writable: bool) -> Array:
    """A flat array on memory of XLA's."""
    n_bytes = math.prod(size or 0 for size in type_.shape or ()) * type_.dtype.itemsize
    if not n_bytes:
        return np.empty(0, type_.dtype)
    memory = memory_at(address, n_bytes)
    return np.frombuffer(memory if is_writable else memory.toreadonly(), type_.dtype)


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
