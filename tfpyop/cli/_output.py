"""Output files: whether one can be written, asked before a command does its work."""

from __future__ import annotations

from tfpyop import _atomic_files
from tfpyop.errors import RegistrationError


def require_writable(path: str) -> None:
    """Raise RegistrationError for a file that cannot be written. What it holds stays, and no new file is left."""
    try:
        _atomic_files.require_writable(path)
    except OSError as error:
        raise RegistrationError(f"{path!r} cannot be written: {error.strerror}.", remedy="Give another path.") from None
