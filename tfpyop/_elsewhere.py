"""Elsewhere: the examples of a looped function, run by an executor in threads, in processes or on a cluster.

Tasks carry the op's token and arrays, never functions: who runs one has imported, or imports, the op's module.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import math
import os
import pickle
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfpyop._coercion import Array
from tfpyop._registry import REGISTRY
from tfpyop._token import Token
from tfpyop.errors import UnsupportedError, WorkerError, annotate

_CHUNKS_A_WORKER = 4
_USUAL_WORKERS = 4
"""How many workers an executor is taken to have that does not tell."""
_LARGE = 1 << 20
"""From how many bytes on arrays go through a file in shared memory rather than a pipe."""
_SHARED_MEMORY = Path("/dev/shm")

Example = Sequence[Array]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Where the examples of one function are run.

    Args:
      executor: Gives any `concurrent.futures.Executor`; one of `tfpyop.parallel` can be reset, and shares memory.
      module: The module that defines the op.
      token: Gives the token of the function.
    """

    executor: Callable[[], concurrent.futures.Executor]
    module: str
    token: Callable[[], str]

    def run(self, examples: Sequence[Example], subject: str) -> list[list[Array]]:
        """The results of all examples, in their order.

        Raises:
          WorkerError: A worker has ended, or a call took too long.
          Exception: What the function raised for the first example that failed, with a note of its number.
        """
        executor = self.executor()
        chunks = list(_chunks(executor, len(examples)))
        reset = getattr(executor, "reset", None)
        with _directory(reset is not None) as directory:
            tasks = [
                _Task(self.module, self.token(), _stacked(examples[begin:end], begin, directory), begin, directory)
                for begin, end in chunks
            ]
            futures = [executor.submit(run_task, task) for task in tasks]
            try:
                replies = list(_replies(futures, getattr(executor, "timeout", None)))
            except (concurrent.futures.BrokenExecutor, concurrent.futures.TimeoutError) as error:
                for future in futures:
                    future.cancel()
                running = _running(tasks, futures, chunks)
                if reset is not None:
                    reset()
                raise _failure(error, subject, running, len(examples)) from error
        for reply in replies:
            if reply.error is not None:
                place = f"example {reply.begin + len(reply.results)} of {len(examples)}"
                annotate(reply.error, f"Raised in {subject}, for {place}, by a worker:\n{reply.traceback}")
                raise reply.error
        return [results for reply in replies for results in reply.results]


@dataclass(frozen=True, slots=True)
class _Task:
    """Some examples of an op, for a worker.

    Attributes:
      arrays: Each input of all examples, stacked; or the file it is in.
      begin: The number of the first example.
      directory: Where the worker says which example it runs; None if there is none.
    """

    module: str
    token: str
    arrays: list[Array | Path]
    begin: int
    directory: Path | None


@dataclass(frozen=True, slots=True)
class _Reply:
    """The results of a task, up to the first example that failed."""

    begin: int
    results: list[list[Array]]
    error: BaseException | None = None
    traceback: str = ""


def run_task(task: _Task) -> _Reply:
    """In the worker: run some examples."""
    importlib.import_module(task.module)
    op = REGISTRY.find_host_op(task.token)
    results: list[list[Array]] = []
    if op is None:
        name = Token.parse(task.token).op
        error = UnsupportedError(
            "it is not known where its executor runs it.",
            subject=f"op {name.partition('#')[0]!r}",
            remedy=f"Make it at the top level of {task.module!r}, which every worker imports; __main__ is none.",
        )
        return _Reply(task.begin, results, error)
    arrays = [np.load(array, mmap_mode="r") if isinstance(array, Path) else array for array in task.arrays]
    for number, example in enumerate(zip(*arrays, strict=True), task.begin):
        if task.directory is not None:
            (task.directory / f"at-{task.begin}").write_text(str(number))
        try:
            results.append([np.array(result) for result in op.host(list(example))])
        except BaseException as error:
            text = "".join(traceback.format_exception(error))
            return _Reply(task.begin, results, _picklable(error), text)
    return _Reply(task.begin, results)


def _chunks(executor: concurrent.futures.Executor, count: int) -> Iterator[tuple[int, int]]:
    """Where the examples of each task begin and end."""
    workers = getattr(executor, "_max_workers", None) or _USUAL_WORKERS
    size = max(1, math.ceil(count / (_CHUNKS_A_WORKER * workers)))
    for begin in range(0, count, size):
        yield begin, min(begin + size, count)


def _picklable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _replies(futures: Sequence[concurrent.futures.Future[_Reply]], timeout: float | None) -> Iterator[_Reply]:
    done, missing = concurrent.futures.wait(futures, timeout, concurrent.futures.FIRST_EXCEPTION)
    if missing and not any(future.exception() for future in done):
        raise concurrent.futures.TimeoutError
    for future in futures:
        yield future.result()


def _stacked(examples: Sequence[Example], begin: int, directory: Path | None) -> list[Array | Path]:
    stacked: list[Array | Path] = []
    for number, values in enumerate(zip(*examples, strict=True)):
        array = np.stack(values)
        if directory is None or array.nbytes < _LARGE:
            stacked.append(array)
        else:
            path = directory / f"input-{begin}-{number}.npy"
            np.save(path, array)
            stacked.append(path)
    return stacked


@contextlib.contextmanager
def _directory(is_local: bool) -> Iterator[Path | None]:
    """A directory in memory that processes of this machine share, for one call."""
    if not is_local:
        yield None
        return
    memory = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
    directory = Path(tempfile.mkdtemp(prefix=f"tfpyop-{os.getpid()}-", dir=memory))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _running(
    tasks: Sequence[_Task],
    futures: Sequence[concurrent.futures.Future[_Reply]],
    chunks: Sequence[tuple[int, int]],
) -> str:
    """Which examples were being run, as far as it is known."""
    found = []
    for task, future, (begin, end) in zip(tasks, futures, chunks, strict=True):
        if future.done() and not future.cancelled() and future.exception() is None:
            continue
        at = None if task.directory is None else task.directory / f"at-{task.begin}"
        if at is None:
            found.append(f"{begin} to {end - 1}")
        elif at.exists():
            found.append(at.read_text())
    return " or ".join(found) or "0"


def _failure(error: Exception, subject: str, running: str, count: int) -> WorkerError:
    is_late = isinstance(error, concurrent.futures.TimeoutError)
    return WorkerError(
        "a worker took too long." if is_late else "a worker process ended.",
        got=f"while it ran example {running} of {count}" + (f": {error}" if str(error) else ""),
        subject=subject,
        remedy="The next call starts new workers. "
        + ("Give the pool a longer timeout=." if is_late else "The function may have crashed or run out of memory."),
    )
