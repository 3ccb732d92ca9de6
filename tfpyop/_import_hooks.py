"""Run the setup that requires TensorFlow or Keras as soon as either package is imported.

The hooks install the lowerings, and let TensorFlow and Keras find ops in the models that they load.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import wrapt

from tfpyop._registry.bind import Lowering, load_with
from tfpyop.errors import UnsupportedError


def install_hooks() -> None:
    """Register the import hooks. A hook runs immediately if its package is already imported."""
    load_with(_lowering)
    wrapt.register_post_import_hook(_on_tensorflow, "tensorflow")
    wrapt.register_post_import_hook(_on_keras, "keras")


def keras_layer() -> Any:
    """Return the Keras layer class for ops. This imports Keras."""
    return importlib.import_module("tfpyop._lowering.keras").OpLayer


def _lowering() -> Lowering:
    lowering: Lowering = importlib.import_module("tfpyop._lowering.dispatch")
    return lowering


def _on_tensorflow(_tensorflow: Any) -> None:
    with contextlib.suppress(UnsupportedError):  # the first call of an op reports it
        importlib.import_module("tfpyop._lowering.py_func").install()
        importlib.import_module("tfpyop._lowering.eager").install()
        importlib.import_module("tfpyop._lowering.autodiff.deferred_errors").install()
        importlib.import_module("tfpyop._lowering.autodiff.record").install()
        importlib.import_module("tfpyop._lowering.vectorized_map").install()
        importlib.import_module("tfpyop._lowering.saved.gradient").install()
        importlib.import_module("tfpyop._lowering.xla.retracing").install()
        importlib.import_module("tfpyop._lowering.xla.nodes").install()


def _on_keras(keras: Any) -> None:
    """Let Keras find ops in the models that it loads."""
    if keras.backend.backend() == "tensorflow":
        with contextlib.suppress(UnsupportedError):  # the first call of an op reports it
            importlib.import_module("tfpyop._lowering.keras").install()
