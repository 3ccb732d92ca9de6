"""Pass arrays between processes: large arrays through files in shared memory, small arrays directly."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfpyop._host.heartbeat import Heartbeat
from tfpyop._spec.coercion import Array, DType
from tfpyop.errors import WorkerError

_LARGE = 1 << 20
"""The minimum size, in bytes, of arrays that go through a file in shared memory instead of a pipe."""
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class MemoryMappedArray:
    """Refer to an array whose elements are in a file."""

    path: Path
    dtype: DType
    shape: tuple[int, ...]


def store(array: Array, directory: Path | None, name: str) -> Array | MemoryMappedArray:
    """Write a large array to a file and return a reference to the file. Return a small array unchanged.

    If there is no space for the file, return the array unchanged too.
    """
    if directory is None or array.nbytes < _LARGE or array.dtype.hasobject:
        return array
    path = directory / name
    try:
        with open(path, "wb") as file:
            file.write(_bytes_of(array))
    except OSError:  # a full disk or too many open files; a pipe needs neither
        path.unlink(missing_ok=True)
        return array
    return MemoryMappedArray(path, array.dtype, array.shape)


def load(array: Array | MemoryMappedArray) -> Array:
    """Return an array, from its file if it is in a file.

    Raises:
      WorkerError: The file cannot be read.
    """
    if not isinstance(array, MemoryMappedArray):
        return array
    try:
        return np.memmap(array.path, array.dtype, "r", shape=array.shape)
    except (OSError, ValueError) as error:  # ValueError is for a truncated file
        raise WorkerError(
            "cannot read an array that the op shares with its workers.",
            got=f"{array.path}: {error}",
            remedy="Do not remove files of a running call, and check the limits on memory and open files (ulimit -a).",
        ) from error


def _bytes_of(array: Array) -> memoryview:
    """Return the memory of an array. `tofile` would not report that there is no space for the last block."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


@contextlib.contextmanager
def shared_directory(n_tasks: int) -> Iterator[tuple[Path, Heartbeat]]:
    """Create a directory that processes on this machine share for one call, in memory if possible, otherwise on disk.

    Raises:
      WorkerError: There is no space for the directory.
    """
    made: list[Path] = []
    try:
        yield _make_directory(n_tasks, made)
    finally:
        _remove(made)


def _make_directory(n_tasks: int, made: list[Path]) -> tuple[Path, Heartbeat]:
    """Create the directory. Record in `made` what must be removed, so that an interrupt leaves no files behind."""
    problems = []
    for parent in (_SHARED_MEMORY, Path(tempfile.gettempdir())):
        if not os.access(parent, os.W_OK):
            problems.append(f"{parent}: cannot be written")
            continue
        directory = parent / f"tfpyop-{os.getpid()}-{os.urandom(8).hex()}"
        made.append(directory)
        try:
            directory.mkdir(mode=0o700)
            return directory, Heartbeat.create(directory / "progress", n_tasks)
        except FileExistsError as error:  # it belongs to another process
            made.remove(directory)
            problems.append(f"{parent}: {error.strerror or error}")
        except OSError as error:
            problems.append(f"{parent}: {error.strerror or error}")
    raise WorkerError(
        "there is no space for the files that the op shares with its workers.",
        got="; ".join(dict.fromkeys(problems)),
        remedy="Free some space in one of these directories. To choose the second directory, set TMPDIR.",
    )


def _remove(directories: Sequence[Path]) -> None:
    """Remove directories with all files in them. Ignore directories that another user has already removed."""
    try:
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)
    except BaseException:  # Ctrl-C
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)
        raise
