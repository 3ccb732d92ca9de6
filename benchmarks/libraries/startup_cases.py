"""What importing and decorating cost."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping

import numpy as np

from benchmarks.measuring import Case, Measure, timed
from tfpyop import differentiable_op

_OPS = 20
_NUMBERS = itertools.count()
_BYTECODE = tempfile.TemporaryDirectory()


def cases() -> Mapping[str, Case]:
    """All cases, by name."""
    return {
        "import numpy, wrapt": lambda: lambda: _import("numpy, wrapt"),
        "import tfpyop": lambda: lambda: _import("tfpyop"),
        "import over": lambda: lambda: _import("tfpyop") - _import("numpy, wrapt"),
        "decorate": _decorate,
    }


def _import(modules: str) -> float:
    """How long a new Python takes that imports modules, from their bytecode as an installed package has it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = _BYTECODE.name
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True, env=environment)
    return time.perf_counter() - start


def _decorate() -> Measure:
    def decorate() -> None:
        for _ in range(_OPS):

            @differentiable_op(signature="(),()->()", name=f"benchmarks:mod-{next(_NUMBERS)}")
            def mod(x: np.ndarray, y: np.ndarray) -> np.ndarray:
                return x % y

            @mod.numpy_gradient
            def mod_gradient(op: object, grad: np.ndarray) -> object:
                return grad, grad

    measure = timed(decorate, 5)
    return lambda: measure() / _OPS
