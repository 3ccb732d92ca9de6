"""Another process that loads saved models. It ends with one check, or with several checks that share it.

Owns both sides: the parent's handle, and the code that runs in the child (`serve`). They exchange pickles over the
child's standard streams. Both sides run the same version of this module.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tfpyop._spec.coercion import Array
from tfpyop.testing._derivatives import vjp

_MOST_ERROR_LINES = 4
_MOST_SECONDS = 300
"""Maximum time for one reply, in seconds, including the start of TensorFlow."""


class Loaded(NamedTuple):
    """The results of a loaded function.

    Attributes:
      outputs: The outputs of the function.
      cotangents: The cotangents of the inputs if all output cotangents are ones. None where there is no cotangent.
    """

    outputs: list[Array]
    cotangents: list[Array | None]


class LoadingError(Exception):
    """The other process could not handle a request. The text is its error."""


_SHARED: contextvars.ContextVar[dict[str, OtherProcess] | None] = contextvars.ContextVar("shared", default=None)


@contextlib.contextmanager
def sharing_processes() -> Iterator[None]:
    """Let all checks inside share one process for each module. The processes end together."""
    if _SHARED.get() is not None:
        yield
        return
    processes: dict[str, OtherProcess] = {}
    token = _SHARED.set(processes)
    try:
        yield
    finally:
        _SHARED.reset(token)
        for process in processes.values():
            process.end()


def start_process(module: str) -> None:
    """Start the shared process for a module, which takes some seconds, before a check needs it."""
    shared = _SHARED.get()
    if shared is not None:
        shared[module] = _running(shared.get(module), module)


def _running(process: OtherProcess | None, module: str) -> OtherProcess:
    """Return the process if it runs, or a new process."""
    if process is not None and process.is_running:
        return process
    if process is not None:
        process.end()
    return OtherProcess(module)


class ModuleProcess:
    """The process for a module: a shared process, or an own process that starts with the first call.

    Args:
      module: The name of the module.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._own: OtherProcess | None = None

    def __enter__(self) -> ModuleProcess:
        """Return this object."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the process if it is not shared."""
        if self._own is not None:
            self._own.end()

    def call(self, path: str, inputs: Sequence[Array], *, is_differentiated: bool) -> Loaded:
        """Call the function `call` of the model saved at a path.

        Raises:
          LoadingError: Importing, loading or calling raised in the process, or ended the process.
        """
        return self._process().call(path, inputs, is_differentiated=is_differentiated)

    def _process(self) -> OtherProcess:
        start_process(self._module)
        shared = _SHARED.get()
        if shared is not None:
            return shared[self._module]
        self._own = _running(self._own, self._module)
        return self._own


class OtherProcess:
    """A process that has imported one module, and calls functions of saved models.

    Args:
      module: The name of the module to import first, with the search path of this process.
    """

    def __init__(self, module: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it is open as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._module = module

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def end(self) -> None:
        """End the process, if it has not been ended."""
        if self._errors.closed:
            return
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def call(self, path: str, inputs: Sequence[Array], *, is_differentiated: bool) -> Loaded:
        """Call the function `call` of the model saved at a path.

        Raises:
          LoadingError: Importing, loading or calling raised in the process, or ended the process.
        """
        reply = self._answer((self._module, path, list(inputs), is_differentiated))
        if reply is None:
            reply = f"the process ended with status {self._process.wait()}: {self._said()}"
        if isinstance(reply, str):
            raise LoadingError(reply)
        return Loaded(*reply)

    def _answer(self, request: Any) -> Any:
        """Return the reply of the process, or None if the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        limit = threading.Timer(_MOST_SECONDS, self._process.kill)
        limit.start()
        try:
            with contextlib.suppress(EOFError, BrokenPipeError):
                pickle.dump(request, self._process.stdin)
                self._process.stdin.flush()
                return pickle.load(self._process.stdout)
        finally:
            limit.cancel()
        return None

    def _said(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return "\n".join(lines[-_MOST_ERROR_LINES:])


def serve() -> None:
    """Answer requests in the other process until the input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of the module must not mix with replies
    models: dict[str, Any] = {}
    with contextlib.suppress(EOFError):
        while True:
            module, path, inputs, is_differentiated = pickle.load(sys.stdin.buffer)
            try:
                importlib.import_module(module)
                reply: Any = _called(_model(models, path), inputs, is_differentiated=is_differentiated)
            except Exception as error:
                reply = "".join(traceback.format_exception_only(error)).strip()
            pickle.dump(reply, replies)
            replies.flush()


def _model(models: dict[str, Any], path: str) -> Any:
    import tensorflow as tf

    if path not in models:
        models[path] = tf.saved_model.load(path)
    return models[path]


def _called(model: Any, inputs: Sequence[Array], *, is_differentiated: bool) -> tuple[list[Array], list[Array | None]]:
    import tensorflow as tf

    tensors = [tf.constant(array) for array in inputs]
    outputs = list(model.call(*tensors))
    cotangents: list[Any] = []
    if is_differentiated:
        ones = [tf.ones_like(output) for output in outputs]
        cotangents = vjp(lambda tensors: list(model.call(*tensors)), tensors, ones)
    return [output.numpy() for output in outputs], [None if c is None else c.numpy() for c in cotangents]
