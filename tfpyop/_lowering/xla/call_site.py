"""Compiled calls as they run: arrays on the memory that XLA lends, the host function, and results where XLA wants them.

Owns the borrowed buffers: no array on a borrowed buffer may outlive its call.
"""

from __future__ import annotations

import contextlib
import gc
import os
import traceback
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfpyop._host.function import HostFunction, read_only
from tfpyop._lowering._tensorflow import are_tapes_stopped, with_tapes
from tfpyop._lowering.profiling import run_host
from tfpyop._lowering.status import failure, outputs_changed_error, shortened
from tfpyop._lowering.tensors import are_kept, take_back, wait_for_release
from tfpyop._lowering.xla.buffers import CallBuffers, shapes_of
from tfpyop._lowering.xla.call_descriptor import CallDescriptor
from tfpyop._lowering.xla.structs import Frame
from tfpyop._registry.op_def import REGISTRY
from tfpyop._spec.coercion import Array
from tfpyop._spec.outputs import ArraySpec, Types, is_compatible
from tfpyop.errors import ContractError, TfpyopError

_MOST_SAID = 500
"""How many characters of an exception's own text are told, so that there is room for its place."""

_TRIALS = 3
"""How many calls may leave arrays in reference cycles before a site is given copies for ever. A young collection frees
most cycles at once; others count as references, unless the function has been lent the array."""

_PATIENCE = 0.5
"""How long, in seconds, references to what was lent may outlive their call before the function is said to keep them."""


class HostCall:
    """Calls from sites that are alike: of one host function, with the same dtypes and shapes."""

    def __init__(self, host: HostFunction, buffers: CallBuffers) -> None:
        """Plan calls with such buffers, which must be what the function takes and returns."""
        self.registrations = REGISTRY.registrations
        self._host = host
        self._buffers = buffers
        self._plan = host.plan([_example(type_) for type_ in buffers.inputs])
        promised = self._plan.outputs
        if len(promised) != len(buffers.outputs) or not all(map(_is_promised, buffers.outputs, promised)):
            raise self._changed(promised)
        self._shapes = [type_.shape for type_ in buffers.outputs]
        self._lends = False
        """Whether the function gets borrowed memory."""
        self._trials = _TRIALS
        """How many more calls may leave arrays in reference cycles; 0 if all are given copies from now on."""

    def run(self, frame: Frame) -> None:
        """Run the host function on the buffers of a call."""
        lends = self._lends
        try:
            inputs, targets = self._buffers.arrays(frame)
        except TfpyopError as error:
            raise error.about(self._host.subject) from None
        out = targets[: self._plan.n_destinations]
        if not lends:
            inputs, out = [read_only(array.copy()) for array in inputs], [np.empty_like(array) for array in out]
        elif out:
            targets = []  # nothing else may refer to what the function is given
        problem = self._run(inputs, out, targets, frame)
        if lends and problem is None and not are_kept(inputs) and not (out and are_kept(out)):
            return
        if lends or self._trials:
            problem = self._watched(inputs, out, problem)
        if problem is not None:
            raise problem

    def _run(
        self, inputs: Sequence[Array], out: Sequence[Array], targets: Sequence[Array], frame: Frame
    ) -> BaseException | None:
        """Run the host function; returns what went wrong, with no frame that would hold an array.

        Args:
          inputs: The arguments, or copies.
          out: Destinations.
          targets: Where results are to be written; none if destinations are there.
          frame: The call frame of the call.
        """
        try:
            if are_tapes_stopped():  # XLA is run by TensorFlow code that wants nothing of itself recorded
                arrays = with_tapes(run_host, self._host, self._plan, inputs, out or None)
            else:
                arrays = run_host(self._host, self._plan, inputs, out or None)
            if targets:
                for number, array in enumerate(arrays):
                    if array.shape != self._shapes[number]:
                        raise self._changed([ArraySpec.of(array)])
                    targets[number][...] = array
            elif arrays:
                self._write_unwritten(arrays, out, frame)
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

    def _write_unwritten(self, arrays: Sequence[Array], out: Sequence[Array], frame: Frame) -> None:
        """Write results where XLA wants them, which the function has not written there."""
        if len(arrays) > 1:  # an output or residual may be a part of another's destination
            arrays = [_moved(array, number, out) for number, array in enumerate(arrays)]
        targets: Sequence[Array] = []
        for number, array in enumerate(arrays):
            if array.shape != self._shapes[number]:
                raise self._changed([ArraySpec.of(array)])
            if number < len(out) and array is out[number] and array.flags.c_contiguous:
                continue
            if not targets:
                _, targets = self._buffers.arrays(frame)  # the function may have changed the shape of its own ones
            targets[number][...] = array

    def _watched(
        self, inputs: Sequence[Array], out: Sequence[Array], problem: BaseException | None
    ) -> BaseException | None:
        """Decide from what the function has kept of its arrays whether the next call lends; return what went wrong.

        Arrays in a reference cycle, as of an exception that was caught, are not kept.
        """
        lends, self._lends = self._lends, False
        if not _are_held(inputs, out):
            self._lends = problem is None  # after an exception, the next call shows what is kept
            return problem
        self._trials -= 1
        before = [array.tobytes() for array in out]
        gc.collect(0)
        if _are_held(inputs, out):
            self._trials = 0
            if lends:  # which is over now: a full collection may take a thousand times as long as the call
                gc.collect()
                for arrays in (inputs, out):  # another thread may hold the frame, as sys._current_frames() does
                    wait_for_release(arrays, _PATIENCE)
        if _are_held(inputs, out) or before != [array.tobytes() for array in out]:  # the latter by another thread
            self._trials = 0
            if not lends:
                return problem
            take_back(out)
            return self._told(problem)
        self._lends = self._trials > 0 and problem is None
        return problem

    def _told(self, problem: BaseException | None) -> BaseException:
        """The error for a function that keeps what it was lent; what is to stop the program does so, with a note."""
        if problem is None or isinstance(problem, Exception):
            return self._kept(problem)
        if hasattr(problem, "add_note"):  # Python 3.11
            problem.add_note(str(self._kept(None)))
        return problem

    def _changed(self, got: Types) -> ContractError:
        return outputs_changed_error(self._host.subject, self._buffers.outputs, got)

    def _kept(self, problem: Exception | None) -> ContractError:
        return ContractError(
            "the function kept a reference to one of its arrays, which it did not do in its first call.",
            subject=self._host.subject,
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
    return are_kept(inputs) or are_kept(out)


def _moved(array: Array, number: int, lent: Sequence[Array]) -> Array:
    """The array, or a copy if it may be a part of memory where another one goes."""
    return array if number < len(lent) and array is lent[number] else array.copy()


_CALLS: dict[Any, weakref.ref[HostCall]] = {}
"""By the text of their sites, with the shapes where the text leaves them open. Their host functions remember them."""


def run(site: bytes, frame: Frame) -> None:
    """Make one call, given the text of its site and its buffers; what XLA's handler is for."""
    key: Any = site
    reference = _CALLS.get(site)
    if reference is None and b"?" in site:
        key = (site, *shapes_of(frame))
        reference = _CALLS.get(key)
    call = None if reference is None else reference()
    if call is None or call.registrations != REGISTRY.registrations:
        call = _make_call(key, CallDescriptor.parse(site), frame)
    call.run(frame)


def _make_call(key: Any, declared: CallDescriptor, frame: Frame) -> HostCall:
    host = REGISTRY.require_op(declared.token).host
    try:
        buffers = CallBuffers(declared, frame)
    except TfpyopError as error:
        raise error.about(host.subject) from None
    call: HostCall = host.remember(key, HostCall(host, buffers))
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
        if id(current) not in found and isinstance(current, BaseException):
            found.add(id(current))
            traceback.clear_frames(current.__traceback__)
            waiting += [other for other in (current.__cause__, current.__context__) if other is not None]
            waiting += _members(current)


def _members(error: BaseException) -> Sequence[Any]:
    """Return the exceptions of a group; what is not a group may have anything under that name, or refuse to tell."""
    with contextlib.suppress(Exception):
        members = getattr(error, "exceptions", ())
        return members if isinstance(members, list | tuple) else ()
    return ()


_PACKAGE = f"{Path(__file__).parents[2]}{os.sep}"
