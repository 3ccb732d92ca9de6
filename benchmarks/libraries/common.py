"""What all libraries wrap: the remainder, elementwise, of four floats, and its derivative, in numpy."""

from __future__ import annotations

import numpy as np

X = np.array([0.3, 0.7, 1.2, 1.7], np.float32)
Y = np.array([0.2, 0.5, 1.0, 2.9], np.float32)
ROWS = (10, 100, 1_000, 10_000)
"""How many rows are mapped over."""
OPS_OF_GRAPH = (10, 100, 1_000)
"""How many ops a graph has."""
WORKERS = (1, 2)
"""How many threads or processes there are."""
SIZES = (1, 100, 10_000, 1_000_000)
"""Of how many floats arrays are."""
LARGE = 16_000_000
"""Elements of an array of 64 MB."""


def large() -> np.ndarray:
    """An array of 64 MB; one of zeros would be one page, read again."""
    return np.random.default_rng(0).random(LARGE, np.float32)


def mod(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The remainder."""
    return np.mod(x, y)


def mod_gradient(x: np.ndarray, y: np.ndarray, grad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cotangents of both inputs."""
    return grad, -grad * np.floor(x / y)
