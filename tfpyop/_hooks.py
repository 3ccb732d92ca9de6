"""What must happen as soon as TensorFlow is there: its runtime learns to find host functions, and to batch."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import wrapt

from tfpyop.errors import UnsupportedError


def install_hooks() -> None:
    """Wait for TensorFlow to be imported, or act at once if it is."""
    wrapt.register_post_import_hook(_on_tensorflow, "tensorflow")


def _on_tensorflow(_tensorflow: Any) -> None:
    with contextlib.suppress(UnsupportedError):  # the first call of an op will say it
        importlib.import_module("tfpyop.lowering.py_func").install()
        importlib.import_module("tfpyop.lowering.refusals").install()
        importlib.import_module("tfpyop.lowering.batching").install()
        importlib.import_module("tfpyop.lowering.saved").install()
        importlib.import_module("tfpyop.lowering.xla").install()
