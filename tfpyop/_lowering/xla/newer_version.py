"""Versions of XLA's interface that are newer than this package: used if a self-test in another process passes.

A wrong layout may crash a process, so the self-test does not run in the process of the user. Owns the other process and
the cache of its results.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import tensorflow as tf

from tfpyop._atomic_files import write_file
from tfpyop._lowering.xla.layouts import ApiVersion, Layout
from tfpyop._version import __version__

_PROGRAM = "import sys; from tfpyop._lowering.xla.self_test import main; main(tuple(sys.argv[1:]))"
_MOST_SECONDS = 120
_MOST_CHARACTERS = 300


@functools.cache
def problem(version: ApiVersion, layout: Layout, *, may_test: bool) -> str:
    """Return why a newer version cannot be used, as the end of a sentence; an empty text if the self-test passed.

    Args:
      version: The version of XLA's interface.
      layout: The layout that it should have.
      may_test: Whether to run the test if no earlier process has passed it.
    """
    key = f"{version}; {' '.join(layout.stages)}; TensorFlow {tf.version.GIT_VERSION}; tfpyop {__version__}"
    path = _cache() / hashlib.sha256(key.encode()).hexdigest()
    with contextlib.suppress(OSError):
        if path.read_text() == key:
            return ""
    if not may_test:
        return "which has not been tested yet"
    found = _failure(layout)
    if found:
        return f"which failed a self-test: {found}"
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(str(path), key.encode())
    return ""


def _cache() -> Path:
    """Return the directory of passed tests. It belongs to the user, because a file in it permits access to memory."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "tfpyop" / "xla"


def _failure(layout: Layout) -> str:
    """Run the self-test in another process; return what failed, or an empty text."""
    if getattr(sys, "frozen", False) or not sys.executable:
        return "no Python interpreter was found to run it"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", _PROGRAM, *layout.stages]
    try:
        process = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_MOST_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{error}"[:_MOST_CHARACTERS]
    if process.returncode == 0:
        return ""
    said = process.stderr.strip().splitlines()[-1:] if process.returncode > 0 else []
    return "".join(said)[:_MOST_CHARACTERS] or f"its process ended with status {process.returncode}"
