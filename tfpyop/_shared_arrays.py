"""Shared arrays: large ones go from process to process through files in memory, small ones as they are."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfpyop._coercion import Array, DType

_LARGE = 1 << 20
"""From how many bytes on arrays go through a file in shared memory rather than a pipe."""
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class InFile:
    """An array that is in a file, as its elements."""

    path: Path
    dtype: DType
    shape: tuple[int, ...]


def put(array: Array, directory: Path | None, name: str) -> Array | InFile:
    """The array, or the file it is put into if it is large and there is room."""
    if directory is None or array.nbytes < _LARGE or array.dtype.hasobject:
        return array
    path = directory / name
    try:
        with open(path, "wb") as file:
            array.tofile(file)
    except OSError:
        path.unlink(missing_ok=True)
        return array
    return InFile(path, array.dtype, array.shape)


def taken(array: Array | InFile) -> Array:
    """The array, out of its file if it is in one."""
    if isinstance(array, InFile):
        return np.memmap(array.path, array.dtype, "r", shape=array.shape)
    return array


@contextlib.contextmanager
def shared_directory(is_local: bool) -> Iterator[Path | None]:
    """A directory in memory that processes of this machine share, for one call."""
    if not is_local:
        yield None
        return
    memory = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix=f"tfpyop-{os.getpid()}-", dir=memory))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
