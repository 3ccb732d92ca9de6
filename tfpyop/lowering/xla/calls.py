"""Compiled calls as they run: arrays on the memory that XLA lends, the host function, and results where XLA wants them.

Owns what is lent: no array on it may outlive its call.
"""

from __future__ import annotations

import gc
import os
import traceback
import weakref
from collections.abc import Sequence
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

import numpy as np

from tfpyop._coercion import Array, DType
from tfpyop._host import HostFunction, read_only
from tfpyop._promise import ArrayType, Types, is_compatible
from tfpyop._registry import REGISTRY
from tfpyop.errors import ContractError, TfpyopError
from tfpyop.lowering._tensorflow import with_tapes
from tfpyop.lowering.failures import failure, shortened
from tfpyop.lowering.profiling import run_host
from tfpyop.lowering.tensors import are_kept
from tfpyop.lowering.xla.call_text import ELEMENT_TYPES, CallText
from tfpyop.lowering.xla.structs import LENT, LENT_FROM, Buffer, pointers, reader

_READ_ONLY = PickleBuffer(memoryview(LENT).toreadonly())
"""The same memory for inputs: numpy does not make arrays on it writable again, as it would through a memoryview."""

_Slot = tuple[tuple[int, ...], DType]
"""Shape and dtype of one argument or result."""

_MOST_SAID = 500
"""How many characters of an exception's own text are told, so that there is room for its place."""

_data_of = reader(Buffer, "data")


class HostCall:
    """Calls from sites that are alike: of one host function, with the same dtypes and shapes."""

    def __init__(self, host: HostFunction, declared: CallText, arguments: int, results: int) -> None:
        """Read the buffers of the first call, which must be as declared."""
        self.registrations = REGISTRY.registrations
        self._host = host
        self._read_arguments = pointers(len(declared.inputs))  # stateful calls have one more, for the order
        self._read_results = pointers(len(declared.outputs))
        self._inputs = _slots(declared.inputs, self._read_arguments(arguments))
        self._outputs = _slots(declared.outputs, self._read_results(results))
        self._plan = host.plan([np.empty(*slot) for slot in self._inputs])
        self._destinations = self._outputs[: self._plan.n_destinations]
        promised = [type_.dtype for type_ in self._plan.outputs]
        if promised != [dtype for _, dtype in self._outputs]:
            raise self._changed(promised)
        self._lends: bool | None = None
        """Whether the function may have memory that is lent: if it kept nothing in its first call."""

    def __call__(self, arguments: int, results: int) -> None:
        """Run the host function on buffers, given where the pointers to them are."""
        inputs, out, lends = [], [], self._lends
        buffers = self._read_arguments(arguments)
        for number, slot in enumerate(self._inputs):
            inputs.append(_lent(_READ_ONLY, slot, buffers[number]))
        buffers = self._read_results(results)
        for number, slot in enumerate(self._destinations):
            out.append(_lent(LENT, slot, buffers[number]))
        if not lends:
            inputs, out = [read_only(array.copy()) for array in inputs], [np.empty_like(array) for array in out]
        problem = self._run(inputs, out, out if lends else (), buffers)
        if lends is not False:
            if self._keeps(inputs, out):
                problem = self._told(problem) if lends else problem
                self._lends = False
            else:
                self._lends = None if problem is not None else True  # after an exception, what is kept shows again
        if problem is not None:
            raise problem

    def _run(
        self, inputs: Sequence[Array], out: Sequence[Array], lent: Sequence[Array], buffers: Sequence[int]
    ) -> BaseException | None:
        """Run the host function; returns what went wrong, with no frame that would hold an array.

        Args:
          inputs: The arguments, or copies.
          out: Destinations.
          lent: The same if they are where XLA wants the results, else none.
          buffers: The results.
        """
        try:
            # XLA is run by TensorFlow code that wants nothing of itself recorded
            arrays = with_tapes(run_host, self._host, self._plan, inputs, out or None)
            if lent and len(arrays) > 1:  # an output or residual may be a part of another's destination
                arrays = [_moved(array, number, lent) for number, array in enumerate(arrays)]
            for number, array in enumerate(arrays):
                target = _lent(LENT, self._outputs[number], buffers[number])
                if array.shape != target.shape:
                    raise self._changed([array.dtype for array in arrays])
                if number >= len(lent) or array is not lent[number] or array.strides != target.strides:
                    target[...] = array
        except TfpyopError as error:
            _clear_frames(error)
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)
        except Exception as error:
            text = _user_traceback(error)
            _clear_frames(error)  # whoever keeps the exception must not keep what is lent
            problem = failure(self._host.subject, inputs, error, traceback=text, most_characters=_MOST_SAID)
        except BaseException as error:  # Ctrl-C, or an exit
            _clear_frames(error)
            return error.with_traceback(None)
        else:
            return None
        return problem

    def _keeps(self, inputs: Sequence[Array], out: Sequence[Array]) -> bool:
        """Whether the function has kept an array; in a cycle, as of an exception that was caught, it is nobody's.

        What has written to it meanwhile, and is gone, was not a cycle.
        """
        if not (are_kept(inputs) or are_kept(out)):
            return False
        before = [array.tobytes() for array in out]
        gc.collect()
        return are_kept(inputs) or are_kept(out) or before != [array.tobytes() for array in out]

    def _told(self, problem: BaseException | None) -> BaseException:
        """The error for a function that keeps what it was lent; what is to stop the program does so, with a note."""
        if problem is None or isinstance(problem, Exception):
            return self._kept(problem)
        if hasattr(problem, "add_note"):  # Python 3.11
            problem.add_note(str(self._kept(None)))
        return problem

    def _changed(self, dtypes: Sequence[DType]) -> ContractError:
        return ContractError(
            "the op is another than the one that was compiled.",
            subject=self._host.subject,
            expected=", ".join(str(ArrayType(dtype, shape)) for shape, dtype in self._outputs),
            got=f"outputs of {', '.join(map(str, dtypes))}, or of other shapes",
            remedy="Trace the function again: its module was reloaded, with another signature or dtype.",
        )

    def _kept(self, problem: Exception | None) -> ContractError:
        return ContractError(
            "the function kept an array that it was given, though it had not in its first call.",
            subject=self._host.subject,
            expected="a function that leaves inputs and out= alone once it has returned",
            got=f"called with {', '.join(map(str, self._plan.inputs))}",
            remedy="XLA lends this memory for the time of the call. Keep a copy instead: x.copy(). What was kept here "
            "must not be read; from now on calls with these shapes are given copies."
            + (f"\nIt also failed: {problem}" if problem is not None else ""),
        )


def _slots(types: Types, buffers: Sequence[int]) -> list[_Slot]:
    """What buffers hold, which must be as declared."""
    slots = []
    for type_, address in zip(types, buffers, strict=True):
        buffer = Buffer.from_address(address)
        if buffer.dtype != ELEMENT_TYPES[type_.dtype.name][1] or not is_compatible(buffer.shape, type_.shape):
            raise AssertionError(f"{type_} of shape {buffer.shape}")  # of a graph that was tampered with, also under -O
        slots.append((buffer.shape, type_.dtype))
    return slots


def _lent(memory: Any, slot: _Slot, buffer: int) -> Array:
    """An array on a buffer's memory. Without elements it may have none."""
    shape, dtype = slot
    (data,) = _data_of(buffer)
    array: Array = np.ndarray(shape, dtype, memory, data - LENT_FROM if data else 0)
    return array


def _moved(array: Array, number: int, lent: Sequence[Array]) -> Array:
    """The array, or a copy if it may be a part of memory where another one goes."""
    return array if number < len(lent) and array is lent[number] else array.copy()


_CALLS: dict[Any, weakref.ref[HostCall]] = {}
"""By the text of their sites, with the shapes where the text leaves them open. Their host functions remember them."""


def run(site: bytes, n_arguments: int, arguments: int, results: int) -> None:
    """Make one call; what XLA's handler is for."""
    key: Any = site
    reference = _CALLS.get(site)
    if reference is None and b"?" in site:
        buffers = pointers(n_arguments)(arguments)
        key = (site, *(Buffer.from_address(buffer).shape for buffer in buffers))
        reference = _CALLS.get(key)
    call = None if reference is None else reference()
    if call is None or call.registrations != REGISTRY.registrations:
        call = _make_call(key, CallText.parse(site), arguments, results)
    call(arguments, results)


def _make_call(key: Any, declared: CallText, arguments: int, results: int) -> HostCall:
    op = REGISTRY.require_host_op(declared.token)
    call: HostCall = op.host.remember(key, HostCall(op.host, declared, arguments, results))
    _CALLS[key] = weakref.ref(call, lambda _: _CALLS.pop(key, None))
    return call


def _user_traceback(error: BaseException) -> str:
    """The traceback from the user's function on; of long texts, which have been said already, the beginning."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return "".join(shortened(part, _MOST_SAID) for part in traceback.format_exception(type(error), error, frames))


def _is_ours(file: str) -> bool:
    return file.startswith(_PACKAGE)


def _clear_frames(error: BaseException) -> None:
    """Let go of what the frames of an exception hold, and of those it came from."""
    found, waiting = set(), [error]
    while waiting:
        current = waiting.pop()
        if id(current) not in found:
            found.add(id(current))
            traceback.clear_frames(current.__traceback__)
            waiting += [other for other in (current.__cause__, current.__context__) if other is not None]
            waiting += getattr(current, "exceptions", ())  # of a group


_PACKAGE = f"{Path(__file__).parents[2]}{os.sep}"
