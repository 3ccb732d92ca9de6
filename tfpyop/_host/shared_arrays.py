"""Shared arrays: large ones go from process to process through files in memory, small ones as they are."""

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
"""From how many bytes on arrays go through a file in shared memory rather than a pipe."""
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class MemoryMappedArray:
    """An array that is in a file, as its elements."""

    path: Path
    dtype: DType
    shape: tuple[int, ...]


def store(array: Array, directory: Path | None, name: str) -> Array | MemoryMappedArray:
    """The array, or the file it is put into if it is large and there is room."""
    if directory is None or array.nbytes < _LARGE or array.dtype.hasobject:
        return array
    path = directory / name
    try:
        with open(path, "wb") as file:
            file.write(_bytes_of(array))
    except OSError:  # the disk is full, or too many files are open: the pipe needs neither
        path.unlink(missing_ok=True)
        return array
    return MemoryMappedArray(path, array.dtype, array.shape)


def load(array: Array | MemoryMappedArray) -> Array:
    """The array, out of its file if it is in one.

    Raises:
      WorkerError: The file cannot be read.
    """
    if not isinstance(array, MemoryMappedArray):
        return array
    try:
        return np.memmap(array.path, array.dtype, "r", shape=array.shape)
    except (OSError, ValueError) as error:  # the latter for a file that has been cut off
        raise WorkerError(
            "cannot read an array that the op shares with its workers.",
            got=f"{array.path}: {error}",
            remedy="Do not remove files of a running call, and check the limits on memory and open files (ulimit -a).",
        ) from error


def _bytes_of(array: Array) -> memoryview:
    """The memory of an array; `tofile` would not report that the last block has found no room."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


@contextlib.contextmanager
def shared_directory(n_tasks: int) -> Iterator[tuple[Path, Heartbeat]]:
    """Make a directory for one call that processes of this machine share, in memory or else on disk.

    Raises:
      WorkerError: There is no room for it.
    """
    made: list[Path] = []
    try:
        yield _make_directory(n_tasks, made)
    finally:
        _remove(made)


def _make_directory(n_tasks: int, made: list[Path]) -> tuple[Path, Heartbeat]:
    """Make the directory, and note in `made` what is to be removed, so that an interrupt leaves nothing behind."""
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
        except FileExistsError as error:  # somebody else's
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
    """Remove directories with all files in them. Another user of the machine may have removed them."""
    try:
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)
    except BaseException:  # Ctrl-C
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)
        raise
