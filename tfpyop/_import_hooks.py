"""Import hooks: what must happen as soon as TensorFlow or Keras is there: they learn to find ops."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import wrapt

from tfpyop.errors import UnsupportedError


def install_hooks() -> None:
    """Wait for TensorFlow to be imported, or act at once if it is."""
    wrapt.register_post_import_hook(_on_tensorflow, "tensorflow")
    wrapt.register_post_import_hook(_on_keras, "keras")


def _on_tensorflow(_tensorflow: Any) -> None:
    with contextlib.suppress(UnsupportedError):  # the first call of an op will say it
        importlib.import_module("tfpyop.lowering.py_func").install()
        importlib.import_module("tfpyop.lowering.eager").install()
        importlib.import_module("tfpyop.lowering.refusals").install()
        importlib.import_module("tfpyop.lowering.batching").install()
        importlib.import_module("tfpyop.lowering.saved_gradient").install()
        importlib.import_module("tfpyop.lowering.retracing").install()
        importlib.import_module("tfpyop.lowering.xla").install()


def _on_keras(keras: Any) -> None:
    """Let Keras find ops in the models that it loads."""
    if keras.backend.backend() == "tensorflow":
        with contextlib.suppress(UnsupportedError):  # the first call of an op will say it
            importlib.import_module("tfpyop.lowering.keras").install()
