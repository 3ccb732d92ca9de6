"""HIPS autograd: a primitive with VJPs, which is numpy all the way."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from autograd.differential_operators import make_vjp
from autograd.extend import defvjp, primitive

from benchmarks.libraries.common import X, Y, mod
from benchmarks.measuring import Case, timed

remainder = primitive(mod)
defvjp(remainder, lambda ans, x, y: lambda grad: grad, lambda ans, x, y: lambda grad: -grad * np.floor(x / y))


def cases() -> Mapping[str, Case]:
    """All cases, by name."""
    ones = np.ones(4, np.float32)

    def gradient() -> object:
        vjp, _ = make_vjp(remainder, argnum=(0, 1))(X, Y)
        return vjp(ones)

    return {
        "eager autograd": lambda: timed(lambda: remainder(X, Y), 500),
        "eager gradient autograd": lambda: timed(gradient, 100),
    }
