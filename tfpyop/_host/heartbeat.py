"""Progress: which example of a call each task runs, and since when, in a file that its processes share."""

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
"""The number of the example, counted from 1, and the time of its beginning; 0 if the task does not run."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A file with a slot for each task.

    It is written in full when it is made: a worker then needs no more room, so that a disk that fills up meanwhile
    stops nothing, and timeouts are still kept.
    """

    path: Path
    n_tasks: int

    @classmethod
    def create(cls, path: Path, n_tasks: int) -> Heartbeat:
        """Make the file; OSError if there is no room for it."""
        path.write_bytes(bytes(_SLOT.size * n_tasks))
        return cls(path, n_tasks)

    @contextlib.contextmanager
    def heartbeat(self, task: int) -> Iterator[Callable[[int], None]]:
        """In a worker: give a function that notes which example begins.

        Raises:
          WorkerError: The file cannot be written. Without it, no timeout would end the example.
        """
        with self._open() as file:
            try:
                yield lambda example: self._write(file, task, example + 1, time.monotonic())
            finally:
                self._write(file, task, 0, 0.0)

    def running(self) -> list[tuple[int, float]]:
        """Return the examples that run now, each with the time of its beginning."""
        found = _SLOT.iter_unpack(self.path.read_bytes())
        return [(number - 1, since) for number, since in found if number]

    def clear(self) -> None:
        """Forget what runs, after the workers have ended."""
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
