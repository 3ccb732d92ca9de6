"""Run compiled calls: put arrays on XLA's memory, run the host function, and write results where XLA expects them.

Owns the borrowed buffers. No array on a borrowed buffer may outlive its call.
"""

from __future__ import annotations

import contextlib
import gc
import traceback
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfpyop._host.function import HostFunction, read_only
from tfpyop._host.kept_objects import retain
from tfpyop._lowering._tensorflow import are_tapes_stopped, with_tapes
from tfpyop._lowering.profiling import run_host
from tfpyop._lowering.status import failure, outputs_changed_error, user_traceback
from tfpyop._lowering.tensors import are_referenced, revoke, wait_for_release
from tfpyop._lowering.xla.buffers import CallBuffers, shapes_of
from tfpyop._lowering.xla.call_descriptor import CallDescriptor
from tfpyop._lowering.xla.structs import Frame
from tfpyop._registry.op_def import REGISTRY
from tfpyop._spec.coercion import Array
from tfpyop._spec.outputs import ArraySpec, ArraySpecs, is_compatible
from tfpyop.errors import ContractError, TfpyopError, naming

_MOST_SAID = 500
"""Maximum length of an exception's own text, in characters, which leaves room for the location."""

_TRIALS = 3
"""Number of calls that may leave arrays in reference cycles before a site gets copies forever.

A collection of the youngest generation frees most cycles at once. Cycles that remain count as references, except after
a call with borrowed buffers, for which a full collection runs."""

_PATIENCE = 0.5
"""Maximum time, in seconds, that references to borrowed buffers may outlive their call before an error reports them."""


class HostCall:
    """Calls from equal sites: of one host function, with the same dtypes and shapes."""

    def __init__(
        self, host: HostFunction, buffers: CallBuffers, forget: Callable[[weakref.ref[HostFunction]], object]
    ) -> None:
        """Plan calls with these buffers, which must match the inputs and outputs of the function.

        Args:
          host: The host function, which the calls do not keep alive.
          buffers: The buffers of the calls.
          forget: Is called when the host function is collected.
        """
        self.host = weakref.ref(host, forget)
        self.registrations = REGISTRY.registrations
        self._subject = host.subject
        self._buffers = buffers
        self._plan = host.plan([_example(type_) for type_ in buffers.inputs])
        promised = self._plan.outputs
        if len(promised) != len(buffers.outputs) or not all(map(_is_promised, buffers.outputs, promised)):
            raise self._changed(promised)
        self._shapes = [type_.shape for type_ in buffers.outputs]
        self._is_zero_copy = False
        """Whether the function gets borrowed buffers, without copies."""
        self._trials = 0 if host.object_numbers else _TRIALS  # inputs are kept with the objects
        """Number of further calls that may leave arrays in reference cycles. 0 if all calls get copies from now on."""

    def run(self, host: HostFunction, frame: Frame) -> None:
        """Run the host function on the buffers of a call."""
        is_zero_copy = self._is_zero_copy
        try:
            inputs, targets = self._buffers.arrays(frame)
        except TfpyopError as error:
            raise error.with_subject(self._subject) from error.__cause__
        out = targets[: self._plan.n_destinations]
        if not is_zero_copy:
            inputs, out = read_only(array.copy() for array in inputs), [np.empty_like(array) for array in out]
        elif out:
            targets = []  # no other reference to the function's arrays may exist
        problem = self._run(host, inputs, out, targets, frame)
        if is_zero_copy and problem is None and not are_referenced(inputs) and not (out and are_referenced(out)):
            return
        if is_zero_copy or self._trials:
            problem = self._watched(inputs, out, problem)
        if problem is not None:
            raise problem

    def _run(
        self, host: HostFunction, inputs: Sequence[Array], out: Sequence[Array], targets: Sequence[Array], frame: Frame
    ) -> BaseException | None:
        """Run the host function; return the exception, without frames that refer to arrays, or None.

        Args:
          host: The host function.
          inputs: The arguments, or copies.
          out: Destinations.
          targets: The arrays for the results; empty if there are destinations.
          frame: The call frame of the call.
        """
        try:
            if are_tapes_stopped():  # the TensorFlow code that runs XLA has stopped the tapes
                arrays = with_tapes(run_host, host, self._plan, inputs, out or None)
            else:
                arrays = run_host(host, self._plan, inputs, out or None)
            if host.object_numbers:
                retain(arrays[host.object_numbers[0]])  # XLA copies handles and releases their memory
            if targets:
                self._write(arrays, targets)
            elif arrays:
                self._write_unwritten(arrays, out, frame)
        except TfpyopError as error:
            _clear_frames(error)
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)
        except Exception as error:
            text = user_traceback(error, most_characters=_MOST_SAID)
            _clear_frames(error)  # code that keeps the exception must not keep borrowed buffers
            problem = failure(host, inputs, error, trace=text, most_characters=_MOST_SAID)
        except BaseException as error:  # Ctrl-C, or an exit
            _clear_frames(error)
            return error.with_traceback(None)
        else:
            return None
        return problem

    def _write(self, arrays: Sequence[Array], targets: Sequence[Array]) -> None:
        for number, array in enumerate(arrays):
            if array.shape != self._shapes[number]:
                raise self._changed([ArraySpec.of(array)])
            targets[number][...] = array

    def _write_unwritten(self, arrays: Sequence[Array], out: Sequence[Array], frame: Frame) -> None:
        """Write results where XLA expects them, unless the function has already written them there."""
        if len(arrays) > 1:  # an output or residual may be a part of another destination
            arrays = [_moved(array, number, out) for number, array in enumerate(arrays)]
        targets: Sequence[Array] = []
        for number, array in enumerate(arrays):
            if array.shape != self._shapes[number]:
                raise self._changed([ArraySpec.of(array)])
            if number < len(out) and array is out[number] and array.flags.c_contiguous:
                continue
            if not targets:
                _, targets = self._buffers.arrays(frame)  # the function may have changed the shapes of its own arrays
            targets[number][...] = array

    def _watched(
        self, inputs: Sequence[Array], out: Sequence[Array], problem: BaseException | None
    ) -> BaseException | None:
        """Decide whether the next call gets borrowed buffers, from the references that the function kept.

        Return what went wrong. Arrays in a reference cycle, for example of a caught exception, do not count as kept.
        """
        is_zero_copy, self._is_zero_copy = self._is_zero_copy, False
        if not _are_held(inputs, out):
            self._is_zero_copy = problem is None  # after an exception, the next call shows what is kept
            return problem
        self._trials -= 1
        before = [array.tobytes() for array in out]
        gc.collect(0)
        if _are_held(inputs, out):
            self._trials = 0
            if is_zero_copy:  # only once: a full collection may take a thousand times as long as the call
                gc.collect()
                for arrays in (inputs, out):  # another thread may hold the frame, as sys._current_frames() does
                    wait_for_release(arrays, _PATIENCE)
                if _are_held(inputs, out):  # the thread may have left the frame in a cycle
                    gc.collect()
        if _are_held(inputs, out) or before != [array.tobytes() for array in out]:  # another thread wrote
            self._trials = 0
            if not is_zero_copy:
                return problem
            revoke(out)
            return self._reported(problem)
        self._is_zero_copy = self._trials > 0 and problem is None
        return problem

    def _reported(self, problem: BaseException | None) -> BaseException:
        """Return the error for a function that kept borrowed buffers. Return an interrupt itself, with a note."""
        if problem is None or isinstance(problem, Exception):
            return self._kept(problem)
        if hasattr(problem, "add_note"):  # Python 3.11
            problem.add_note(str(self._kept(None)))
        return problem

    def _changed(self, got: ArraySpecs) -> ContractError:
        return outputs_changed_error(self._subject, self._buffers.outputs, got)

    def _kept(self, problem: Exception | None) -> ContractError:
        return ContractError(
            "the function kept a reference to one of its arrays, which it did not do in its first call.",
            subject=self._subject,
            expected="a function that does not use inputs or out= after it has returned",
            got=f"called with {', '.join(map(str, self._plan.inputs))}",
            remedy="Keep a copy instead: x.copy(). XLA owns this memory and reuses it after the call, so do not read "
            "the kept array. From now on, calls with these shapes get copies."
            + (f"\nIt also failed: {problem}" if problem is not None else ""),
        )


def _example(type_: ArraySpec) -> Array:
    """Return an array of this type that takes no memory."""
    return np.broadcast_to(np.zeros((), type_.dtype), [size or 0 for size in type_.shape or ()])


def _is_promised(type_: ArraySpec, promised: ArraySpec) -> bool:
    return type_.dtype == promised.dtype and is_compatible(type_.shape or (), promised.shape)


def _are_held(inputs: Sequence[Array], out: Sequence[Array]) -> bool:
    return are_referenced(inputs) or are_referenced(out)


def _moved(array: Array, number: int, out: Sequence[Array]) -> Array:
    """Return the array, or a copy if it may be part of another destination."""
    return array if number < len(out) and array is out[number] else array.copy()


_MOST_CALLS = 16384
_CALLS: dict[Any, HostCall] = {}
"""Calls by site text, and by the shapes if the text leaves them open, until their host function is collected."""


def run(site: bytes, frame: Frame) -> None:
    """Run one call, given the text of its site and its call frame. XLA's handler calls this function."""
    key: Any = site
    call = _CALLS.get(site)
    if call is None and b"?" in site:
        key = (site, *shapes_of(frame))
        call = _CALLS.get(key)
    host = None if call is None else call.host()
    if call is None or host is None or call.registrations != REGISTRY.registrations:
        declared = CallDescriptor.parse(site)
        host = REGISTRY.require_op(declared.token).host
        call = _make_call(key, host, declared, frame)
    call.run(host, frame)


def _make_call(key: Any, host: HostFunction, declared: CallDescriptor, frame: Frame) -> HostCall:
    with naming(host.subject):
        buffers = CallBuffers(declared, frame)
    if len(_CALLS) >= _MOST_CALLS:
        _CALLS.clear()
    call = _CALLS[key] = HostCall(host, buffers, lambda _: _CALLS.pop(key, None))
    return call


def _clear_frames(error: BaseException) -> None:
    """Clear the frames of an exception and of its causes and contexts, so that they release their objects."""
    found, waiting = set(), [error]
    while waiting:
        current = waiting.pop()
        if id(current) not in found and isinstance(current, BaseException):
            found.add(id(current))
            traceback.clear_frames(current.__traceback__)
            waiting += [other for other in (current.__cause__, current.__context__) if other is not None]
            waiting += _members(current)


def _members(error: BaseException) -> Sequence[Any]:
    """Return the exceptions of a group. Other exceptions may have any attribute of this name, or raise on access."""
    with contextlib.suppress(Exception):
        members = getattr(error, "exceptions", ())
        return members if isinstance(members, list | tuple) else ()
    return ()
