"""Hide the package's frames in tracebacks, so that users see their own lines.

TensorFlow's switch `tf.debugging.disable_traceback_filtering()` shows these frames too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType

_PACKAGE = f"{Path(__file__).parent}{os.sep}"


def hide_package_frames(error: BaseException) -> None:
    """Remove the package's frames from the tracebacks of an exception, of its causes and of its contexts."""
    if not _is_filtering():
        return
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            current.__traceback__ = _of_users(current.__traceback__)
            waiting += [current.__cause__, current.__context__]


def is_package_file(file: str) -> bool:
    """Return whether a source file belongs to the package."""
    return file.startswith(_PACKAGE)


def _of_users(traceback: TracebackType | None) -> TracebackType | None:
    """Return a copy of a traceback without the package's frames."""
    entries = []
    while traceback is not None:
        if not is_package_file(traceback.tb_frame.f_code.co_filename):
            entries.append(traceback)
        traceback = traceback.tb_next
    kept: TracebackType | None = None
    for entry in reversed(entries):
        kept = TracebackType(kept, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return kept


def _is_filtering() -> bool:
    """Return TensorFlow's setting. Tracebacks are filtered until TensorFlow is imported."""
    debugging = getattr(sys.modules.get("tensorflow"), "debugging", None)
    return debugging is None or bool(debugging.is_traceback_filtering_enabled())
