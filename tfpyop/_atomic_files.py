"""Write whole files and directories atomically: write them next to their target, then move them.

A failed write leaves the target unchanged and leaves no temporary files. A killed process may leave a hidden entry
whose name begins with `.tfpyop-`. This entry can be deleted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: concurrent writers of one directory are not serialized
    fcntl = None  # type: ignore[assignment]

_PREFIX = ".tfpyop-"


def require_writable(path: str) -> None:
    """Raise OSError if a file cannot be written. Do not change existing files."""
    target = _target(path)
    if _is_special(target):
        return
    with tempfile.NamedTemporaryFile(prefix=_PREFIX, dir=target.parent):
        pass


def write_file(path: str, content: bytes) -> None:
    """Replace a file with new content. If this fails, keep the old file.

    Symbolic links are followed, and the permissions of an old file are kept. Devices and pipes are written directly.
    """
    target = _target(path)
    if _is_special(target):
        target.write_bytes(content)
        return
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=target.parent) as directory:
        written = Path(directory) / target.name
        with open(written, "wb") as file:  # created with the permissions of the user's umask
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # some file systems report a full disk only at this point
        if mode is not None:
            written.chmod(mode)
        written.replace(target)


@contextlib.contextmanager
def writing_directory(path: str, *, owned: tuple[str, ...], last: str) -> Iterator[Path]:
    """Yield a directory to write to, and move it to its target when the block ends without an error.

    An existing target keeps its permissions and all entries that are not owned. Its owned entries are replaced
    together, by one writer at a time.

    Args:
      path: The target.
      owned: The entries that a writer replaces. Owned entries that are not written are removed.
      last: The entry without which the directory is not valid. It is removed first and added last, so that a reader
        never takes a mixture of old and new entries for a valid directory.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{path!r} is not a directory")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
    home = target if target.exists() else target.parent  # a mount point may be on another file system than its parent
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=home) as directory:
        written = Path(directory) / "new"
        written.mkdir()
        yield written
        _flush(written)
        if home is not target:
            try:
                written.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
            else:
                return
        # also reached if another writer created the target first
        with _alone(target):
            _replace_entries(written, target, owned, last)


def _replace_entries(written: Path, target: Path, owned: tuple[str, ...], last: str) -> None:
    """Move old entries away and new entries in. Move everything back if this fails."""
    old = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=target))  # kept if moving back fails: it holds the old entries
    names = sorted({*owned, *os.listdir(written)}, key=lambda name: name != last)
    moves = [(target / name, old / name) for name in names if os.path.lexists(target / name)]
    moves += [(written / name, target / name) for name in reversed(names) if (written / name).exists()]
    done: list[tuple[Path, Path]] = []
    try:
        for source, destination in moves:
            source.rename(destination)
            done.append((source, destination))
    except BaseException:
        for source, destination in reversed(done):
            destination.rename(source)
        old.rmdir()
        raise
    shutil.rmtree(old)


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Make other writers of a directory wait."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _flush(directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            with open(file, "rb+") as opened:
                os.fsync(opened.fileno())


def _target(path: str) -> Path:
    """Return the file that a path refers to; raise OSError if it cannot be written."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory", path)
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "Permission denied", path)
    return target


def _is_special(target: Path) -> bool:
    return target.exists() and not target.is_file()
