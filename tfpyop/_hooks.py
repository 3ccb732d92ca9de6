"""What must happen as soon as TensorFlow is there: its runtime learns to find host functions by their tokens."""

from __future__ import annotations

import importlib
from typing import Any

import wrapt


def install_hooks() -> None:
    """Wait for TensorFlow to be imported, or act at once if it is."""
    wrapt.register_post_import_hook(_on_tensorflow, "tensorflow")


def _on_tensorflow(_tensorflow: Any) -> None:
    importlib.import_module("tfpyop.lowering.graph").install()
