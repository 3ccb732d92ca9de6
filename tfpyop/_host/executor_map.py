"""Run the elements of loop dimensions with an executor: in threads, in processes or on a cluster.

Tasks carry the op's token and arrays, never functions. A worker imports the op's module to find the function.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfpyop._host.heartbeat import Heartbeat
from tfpyop._host.kept_objects import copied
from tfpyop._host.shared_arrays import MemoryMappedArray, load, shared_directory, store
from tfpyop._spec.coercion import Array
from tfpyop._spec.executor_source import ExecutorSource
from tfpyop.errors import WorkerError, annotate, naming
from tfpyop.parallel import ProcessPool, is_worker_process

_CHUNKS_A_WORKER = 4
_USUAL_WORKERS = 4
"""The assumed number of workers of an executor that does not report it."""
_MOST_ATTEMPTS = 3
"""The maximum number of attempts if the failure of another call terminated this call's workers."""
_LONGEST_WAIT = 0.5
"""The maximum time, in seconds, between two checks for examples that exceed the timeout."""
_THREAD = threading.local()

Example = Sequence[Array]
ImportHost = Callable[[str], Callable[[list[Array]], list[Array]]]


@dataclass(frozen=True, slots=True)
class ExecutorMap:
    """Map one function over examples with an executor.

    Args:
      source: Provides the executor.
      token: Returns the token of the function's op.
      import_host: Returns the function for a token. It is called in the worker and must be importable.
    """

    source: ExecutorSource
    token: Callable[[], str]
    import_host: ImportHost

    def is_worker(self) -> bool:
        """Return whether this thread is a worker that runs tasks. A worker must not wait for other workers."""
        if is_worker_process() or getattr(_THREAD, "is_worker", False):
            return True
        prefix = getattr(self.source.executor(), "_thread_name_prefix", None)  # of a ThreadPoolExecutor
        return bool(prefix) and threading.current_thread().name.startswith(f"{prefix}_")

    def run(self, examples: Sequence[Example], subject: str) -> list[list[Array]]:
        """Return the results of all examples, in order.

        Raises:
          WorkerError: A worker terminated, or an example exceeded the timeout.
          Exception: The exception of the first example that failed, with a note of its number.
        """
        executor = self.source.executor()
        chunks = list(_chunks(executor, len(examples)))
        with contextlib.ExitStack() as stack:
            directory, progress = None, None
            if isinstance(executor, ProcessPool):
                with naming(subject):
                    directory, progress = stack.enter_context(shared_directory(len(chunks)))
            tasks = [
                Chunk(
                    self.import_host,
                    self.token(),
                    _stacked(examples[begin:end], begin, directory),
                    begin,
                    number,
                    directory,
                    progress,
                )
                for number, (begin, end) in enumerate(chunks)
            ]
            call = MapRun(subject, tasks, len(examples), progress)
            if isinstance(executor, ProcessPool):
                replies = call.run_on_pool(executor)
            else:
                replies = call.run_on_executor(executor, self.source)
            return call.results(replies)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Carry some examples of an op to a worker.

    Attributes:
      import_host: Returns the function for the token.
      token: The token of the function's op.
      arrays: Each input of all examples, stacked.
      begin: The number of the first example.
      number: The number of the task.
      directory: The directory that this process and the worker share; None if they share nothing.
      progress: Records which example runs; None if the processes share nothing.
    """

    import_host: ImportHost
    token: str
    arrays: list[Array | MemoryMappedArray]
    begin: int
    number: int
    directory: Path | None
    progress: Heartbeat | None

    def heartbeat(self) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        """Return a context that provides a function to record the start of an example. Call it in the worker."""
        if self.progress is None:
            return contextlib.nullcontext(lambda example: None)
        return self.progress.heartbeat(self.number)


@dataclass(frozen=True)
class ChunkResult:
    """Store the results of a task, up to the first example that failed."""

    results: list[list[Array | MemoryMappedArray]]
    error: BaseException | None = None
    traceback: str = ""

    def __reduce__(self) -> Any:
        """Pickle the result for another process. Replace an exception that cannot be pickled."""
        return ChunkResult, (self.results, self.error and _picklable(self.error), self.traceback)


_Future = concurrent.futures.Future[ChunkResult]


class _RemoteError(Exception):
    """Show the traceback from another process as text, because traceback objects cannot be sent."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _picklable(error: BaseException) -> BaseException:
    """Return the exception, or a RuntimeError with its name and text if pickling would change it."""
    try:
        text = str(error)
    except Exception as second:  # str() of an exception may raise
        text = f"(its text raised {type(second).__name__})"
    try:
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == text:
            return error
    except BaseException:  # its own code runs, and may even exit: send its text instead
        pass
    substitute = RuntimeError(f"{type(error).__name__}: {text}")
    for note in getattr(error, "__notes__", ()):
        annotate(substitute, str(note))
    return substitute


def run_chunk(task: Chunk) -> ChunkResult:
    """Run some examples. Call this in the worker."""
    results: list[list[Array | MemoryMappedArray]] = []
    was_worker, _THREAD.is_worker = getattr(_THREAD, "is_worker", False), True
    try:
        host = task.import_host(task.token)
        arrays = [load(array) for array in task.arrays]
        with task.heartbeat() as begin:
            for number, example in enumerate(zip(*arrays, strict=True), task.begin):
                begin(number)
                values = [copied(result) for result in host(list(example))]  # it may reuse its memory
                results.append([store(value, task.directory, f"{number}-{n}") for n, value in enumerate(values)])
    except BaseException as error:
        return ChunkResult(results, error, "".join(traceback.format_exception(error)))
    finally:
        _THREAD.is_worker = was_worker
    return ChunkResult(results)


@dataclass(frozen=True, slots=True)
class MapRun:
    """Run one call: submit its tasks and collect the results."""

    subject: str
    tasks: Sequence[Chunk]
    count: int
    progress: Heartbeat | None

    def run_on_pool(self, pool: ProcessPool) -> list[ChunkResult]:
        """Return the results from a process pool. If one worker of a pool terminates, all its workers do.

        If no example of this call was running then, the tasks are submitted again.
        """
        for attempt in range(1, _MOST_ATTEMPTS + 1):
            workers = self._started(pool)
            try:
                return self._replies(self._futures(workers), pool.timeout)
            except _LateError as late:
                pool.end(workers)
                raise self._error(
                    "an example exceeded the timeout.",
                    got=f"more than {pool.timeout:g} seconds for example {late.number} of {self.count}",
                    remedy="Pass a longer timeout= to the pool. Its workers were terminated; the next call starts new "
                    "workers.",
                ) from None
            except (concurrent.futures.BrokenExecutor, RuntimeError) as error:
                running, was_broken = self._running(), isinstance(error, concurrent.futures.BrokenExecutor)
                pool.end(workers)
                if (was_broken and running) or attempt == _MOST_ATTEMPTS:
                    when = f"during example {running} of {self.count}" if running else "between examples"
                    raise self._error(
                        "a worker process terminated unexpectedly.",
                        got=f"termination {when}: {error}",
                        remedy="The function may have crashed or run out of memory. The next call starts new workers.",
                    ) from error
                if self.progress is not None:
                    self.progress.clear()
            except Exception as error:
                pool.end(workers)
                raise self._not_run(error, "Its workers were terminated; the next call starts new workers.") from error
            except BaseException:  # Ctrl-C, or an exit
                pool.end(workers)
                raise
        raise AssertionError

    def _started(self, pool: ProcessPool) -> concurrent.futures.Executor:
        try:
            return pool.workers()
        except OSError as error:
            raise self._error(
                "cannot start the op's worker processes.",
                got=f"{type(error).__name__}: {error}",
                remedy="Check the free space in /dev/shm, the free memory, and the system limits on processes and "
                "open files.",
            ) from error

    def run_on_executor(self, executor: concurrent.futures.Executor, source: ExecutorSource) -> list[ChunkResult]:
        """Return the results from an executor that is not a process pool of tfpyop."""
        futures: list[_Future] = []
        try:
            futures += self._futures(executor)
            return self._replies(futures, None)
        except concurrent.futures.BrokenExecutor as error:
            source.forget()
            raise self._error(
                "a worker terminated unexpectedly.",
                got=f"{type(error).__name__}: {error}",
                remedy="The function may have crashed or run out of memory. This executor may not run further calls. "
                "Pass a factory, executor=lambda: ..., so that the next call creates a new executor.",
            ) from error
        except Exception as error:
            source.forget()
            raise self._not_run(
                error, "The executor may have been shut down. Keep it open as long as the op is called."
            ) from error
        finally:
            for future in futures:
                future.cancel()

    def results(self, replies: Sequence[ChunkResult]) -> list[list[Array]]:
        """Return the results of all examples, or raise the exception of the first example that failed."""
        with naming(self.subject):
            results = [[load(value) for value in values] for reply in replies for values in reply.results]
        error = replies[-1].error
        if error is None:
            return results
        annotate(error, f"Raised in {self.subject}, for example {len(results)} of {self.count}, by a worker.")
        if error.__traceback__ is None:
            raise error from _RemoteError(replies[-1].traceback)
        raise error

    def _futures(self, executor: concurrent.futures.Executor) -> list[_Future]:
        return [executor.submit(run_chunk, task) for task in self.tasks]

    def _replies(self, futures: Sequence[_Future], timeout: float | None) -> list[ChunkResult]:
        """Return the results of all tasks, or of the tasks up to the first example that failed."""
        replies: list[ChunkResult] = []
        for future in futures:
            while timeout is not None and not future.done():
                concurrent.futures.wait([future], min(timeout / 4, _LONGEST_WAIT))
                self._require_progress(timeout)
            replies.append(future.result())
            if replies[-1].error is not None:
                break
        return replies

    def _require_progress(self, timeout: float) -> None:
        assert self.progress is not None
        for example, since in self.progress.running():
            if time.monotonic() - since > timeout:
                raise _LateError(example)

    def _running(self) -> str:
        """Return the numbers of the examples that were running when a worker terminated unexpectedly."""
        assert self.progress is not None
        return " or ".join(str(example) for example, _ in self.progress.running())

    def _not_run(self, error: Exception, remedy: str) -> WorkerError:
        """Return the error for an exception of the executor. Exceptions of the function arrive in chunk results."""
        return self._error(
            "the op's executor does not run the op.", got=f"{type(error).__name__}: {error}", remedy=remedy
        )

    def _error(self, problem: str, *, got: str, remedy: str) -> WorkerError:
        return WorkerError(problem, got=got, subject=self.subject, remedy=remedy)


class _LateError(Exception):
    """Report that an example has exceeded the timeout."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _chunks(executor: concurrent.futures.Executor, count: int) -> Iterator[tuple[int, int]]:
    """Yield the first example and the end of each task."""
    if isinstance(executor, ProcessPool):
        workers = executor.n_workers
    else:
        workers = getattr(executor, "_max_workers", None) or _USUAL_WORKERS
    size = max(1, math.ceil(count / (_CHUNKS_A_WORKER * workers)))
    for begin in range(0, count, size):
        yield begin, min(begin + size, count)


def _stacked(examples: Sequence[Example], begin: int, directory: Path | None) -> list[Array | MemoryMappedArray]:
    return [
        store(np.stack(values), directory, f"input-{begin}-{number}")
        for number, values in enumerate(zip(*examples, strict=True))
    ]
