"""Record the progress of tasks in a file that the processes share.

The file has the current example of each task and its start time.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tfpyop.errors import WorkerError

_SLOT = struct.Struct("<qd")
"""The number of the example, counted from 1, and its start time. The number is 0 if the task is not running."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Share a file with one slot for each task.

    The file is created at its full size. Workers then need no further disk space, and timeouts work even if the disk is
    full.
    """

    path: Path
    n_tasks: int

    @classmethod
    def create(cls, path: Path, n_tasks: int) -> Heartbeat:
        """Create the file. Raise OSError if there is no space for it."""
        path.write_bytes(bytes(_SLOT.size * n_tasks))
        return cls(path, n_tasks)

    @contextlib.contextmanager
    def heartbeat(self, task: int) -> Iterator[Callable[[int], None]]:
        """Provide a function that records the start of an example. Call this in the worker.

        Raises:
          WorkerError: The file cannot be written. Without the file, the timeout could not be enforced.
        """
        with self._open() as file:
            try:
                yield lambda example: self._write(file, task, example + 1, time.monotonic())
            finally:
                self._write(file, task, 0, 0.0)

    def running(self) -> list[tuple[int, float]]:
        """Return the numbers of the examples that are running, each with its start time."""
        found = _SLOT.iter_unpack(self.path.read_bytes())
        return [(number - 1, since) for number, since in found if number]

    def clear(self) -> None:
        """Mark all tasks as not running, after the workers have ended."""
        with self._open() as file:
            for task in range(self.n_tasks):
                self._write(file, task, 0, 0.0)

    def _open(self) -> BinaryIO:
        try:
            return open(self.path, "r+b", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from error

    def _write(self, file: BinaryIO, task: int, number: int, since: float) -> None:
        try:
            file.seek(_SLOT.size * task)
            file.write(_SLOT.pack(number, since))
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> WorkerError:
        return WorkerError(
            "a worker cannot record which example it runs.",
            got=f"{self.path}: {error.strerror or error}",
            remedy="Free some space in this directory, and do not remove the directory of a running call.",
        )
