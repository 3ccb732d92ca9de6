"""Output files: check that a file can be written before a command starts."""

from __future__ import annotations

from tfpyop import _atomic_files
from tfpyop.errors import RegistrationError


def require_writable(path: str) -> None:
    """Raise RegistrationError if a file cannot be written. Do not change or create the file."""
    try:
        _atomic_files.require_writable(path)
    except OSError as error:
        raise RegistrationError(f"{path!r} cannot be written: {error.strerror}.", remedy="Give another path.") from None
