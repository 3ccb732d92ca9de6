"""SciPy: solvers that leave reference cycles on their inputs, and a cycle of two lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.integrate import quad, solve_ivp
from scipy.interpolate import CubicSpline
from scipy.optimize import least_squares, minimize, root

from benchmarks.libraries.host_calls import host_calls
from benchmarks.measuring import Case

_PLACES = np.arange(4.0)


def explicit_cycle(x: np.ndarray) -> np.ndarray:
    """One more, after a cycle that only a garbage collection frees."""
    cycle: list[object] = [x]
    cycle.append(cycle)
    return x + 1


FUNCTIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "solve_ivp": lambda x: solve_ivp(lambda _, y: -y, (0, 1), x).y[:, -1],
    "minimize": lambda x: minimize(lambda y: ((y - x) ** 2).sum(), np.zeros_like(x)).x,
    "root": lambda x: root(lambda y: y - x, np.zeros_like(x)).x,
    "least_squares": lambda x: least_squares(lambda y: y - x, np.zeros_like(x)).x,
    "CubicSpline": lambda x: CubicSpline(_PLACES, x)(_PLACES),
    "quad": lambda x: np.full_like(x, quad(lambda t: (t * x).sum(), 0, 1)[0]),
    "an explicit cycle": explicit_cycle,
}


def cases() -> Mapping[str, Case]:
    """All cases, by name."""
    return {key: case for name, function in FUNCTIONS.items() for key, case in host_calls(name, function).items()}
