"""Output files: whether one can be written, asked before a command does its work."""

from __future__ import annotations

import os

from tfpyop.errors import RegistrationError


def require_writable(path: str) -> None:
    """Raise RegistrationError for a file that cannot be written. What it holds stays, and no new file is left."""
    is_new = not os.path.lexists(path)
    try:
        with open(path, "ab"):
            pass
        if is_new:
            os.unlink(path)
    except OSError as error:
        raise RegistrationError(f"{path!r} cannot be written: {error.strerror}.", remedy="Give another path.") from None
