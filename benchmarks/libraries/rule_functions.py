"""What the libraries differentiate in the group "rules", in numpy, with counters of the calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.measuring import Case, Count, Measure, seconds, timed

Array = np.ndarray
Run = Callable[[Array, Array], Any]

X = np.linspace(-1, 1, 8, dtype=np.float32)
OTHER_X = X[::-1] * np.float32(0.9)
"""Calls are counted at a point that has not been seen before."""
V = np.linspace(0.5, 1.5, 8, dtype=np.float32)
"""The tangent of a JVP, and the vector of a Hessian-vector product."""
_SECONDS, _MOST_REPEATS = 0.02, 50
"""How long a derivative is repeated, and how often at most."""
_calls = {"function": 0, "rules": 0}


def counted(function: Callable[..., Any], what: str = "function") -> Callable[..., Any]:
    """Return a function whose calls are counted, as calls of the function or of its rules."""

    @functools.wraps(function)
    def call(*arrays: Any) -> Any:
        _calls[what] += 1
        return function(*arrays)

    return call


def rule(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a rule whose calls are counted."""
    return counted(function, "rules")


def rule_cases(runs: Mapping[str, Callable[[], Run]]) -> Mapping[str, Case]:
    """Return two cases for each derivative, one that measures its time and one that counts its calls.

    Args:
      runs: For each kind and derivative, what makes a function that computes the derivative at x along v.
    """
    made = {name: functools.cache(make) for name, make in runs.items()}
    return {
        **{f"rules {name}": functools.partial(_timed, make) for name, make in made.items()},
        **{f"calls rules {name}": functools.partial(_counting, make) for name, make in made.items()},
    }


def _timed(make: Callable[[], Run]) -> Measure:
    run = make()
    run(X, V)  # traces and compiles
    run(X, V)
    once = seconds(lambda: run(X, V), 1)
    return timed(lambda: run(X, V), max(1, min(_MOST_REPEATS, int(_SECONDS / once))))


def _counting(make: Callable[[], Run]) -> Count:
    run = make()
    run(X, V)

    def count() -> tuple[int, int]:
        _calls.update(function=0, rules=0)
        run(OTHER_X, V)
        return _calls["function"], _calls["rules"]

    return count


def softmax(x: Array) -> Array:
    """Exponentials of small numbers, with a sum of one; the complex step can pass through."""
    powers = np.exp(x)
    return powers / powers.sum(-1, keepdims=True)


def softmax_vjp(y: Array, vector: Array) -> Array:
    """The Jacobian, which is symmetric, times a cotangent or a tangent."""
    return y * (vector - (y * vector).sum(-1, keepdims=True))


def softmax_vjp_vjp(y: Array, vector: Array, cotangent: Array) -> tuple[Array, Array]:
    """The cotangents of both arguments of `softmax_vjp`."""
    by_vector = softmax_vjp(y, cotangent)
    inner = (y * vector).sum(-1, keepdims=True)
    return cotangent * (vector - inner) - (y * cotangent).sum(-1, keepdims=True) * vector, by_vector


def softmax_jacobian(y: Array) -> Array:
    """The Jacobian."""
    return y[..., :, None] * (np.eye(y.shape[-1], dtype=y.dtype) - y[..., None, :])


def running_sum(x: Array) -> Array:
    """A linear function."""
    return np.cumsum(x, axis=-1)


def running_sum_adjoint(vector: Array) -> Array:
    """Its adjoint."""
    return np.cumsum(vector[..., ::-1], axis=-1)[..., ::-1]


def three_points(x: Array) -> Array:
    """A function whose Jacobian is tridiagonal."""
    y = np.sin(x)
    y[..., 1:] += x[..., :-1] ** 2
    y[..., :-1] -= x[..., 1:]
    return y


def product(x: Array, y: Array) -> Array:
    """A function of two inputs, of which only the first one is differentiated."""
    return x * y


ROOT_STEPS = 40


def cubic_root(a: Array) -> Array:
    """Solve y**3 + y = a by Newton's method."""
    y = np.zeros_like(a)
    for _ in range(ROOT_STEPS):
        y = y - (y**3 + y - a) / (3 * y**2 + 1)
    return y
