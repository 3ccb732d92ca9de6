"""JAX: `jax.pure_callback`, with a `jax.custom_vjp` around it for derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.libraries.common import X, Y, large, mod, mod_gradient
from benchmarks.libraries.host_calls import host_calls
from benchmarks.libraries.jax_rules import cases as rule_cases
from benchmarks.measuring import Case, Measure, Run, marginal, seconds, timed

CHAIN = 50
_sin = jax.jit(jax.numpy.sin)
FOUR = jax.ShapeDtypeStruct((4,), np.float32)


def in_numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    """JAX hands over arrays of its own, on which operators would be JAX's."""
    return lambda *arrays: function(*map(np.asarray, arrays))


in_numpy_mod, in_numpy_gradient = in_numpy(mod), in_numpy(mod_gradient)
"""Made once: JAX compiles anew for every function it has not seen."""


def by_callback(x: Any, y: Any) -> Any:
    """The remainder by a callback."""
    return jax.pure_callback(in_numpy_mod, FOUR, x, y, vmap_method="sequential")


@jax.custom_vjp
def differentiable(x: Any, y: Any) -> Any:
    """The same with a derivative."""
    return by_callback(x, y)


differentiable.defvjp(
    lambda x, y: (by_callback(x, y), (x, y)),
    lambda kept, grad: tuple(jax.pure_callback(in_numpy_gradient, (FOUR, FOUR), *kept, grad, vmap_method="sequential")),
)


def cases() -> Mapping[str, Case]:
    """All cases, by name."""
    gradient = jax.grad(lambda x, y: differentiable(x, y).sum(), argnums=(0, 1))
    return {
        **rule_cases(),
        "eager jax": lambda: timed(_ready(by_callback), 50),
        "eager gradient jax": lambda: timed(_ready(gradient), 5),
        "graph gradient jax": lambda: marginal(_gradient_chain, CHAIN, 5),
        "XLA jax": lambda: marginal(_chain(by_callback), CHAIN, 20),
        "XLA added jax": _added,
        "64 MB jax": _large,
        **host_calls("JAX function", lambda x: np.asarray(_sin(x))),
    }


def _ready(function: Callable[[Any, Any], Any]) -> Run:
    x, y = jax.numpy.asarray(X), jax.numpy.asarray(Y)
    return lambda: jax.block_until_ready(function(x, y))


def _chained(function: Callable[[Any, Any], Any], count: int, x: Any, y: Any) -> Any:
    x = x + 0.0
    for _ in range(count):
        x = function(x, y)
    return x


def _chain(function: Callable[[Any, Any], Any]) -> Callable[[int], Run]:
    return lambda count: _ready(jax.jit(lambda x, y: _chained(function, count, x, y)))


def _gradient_chain(count: int) -> Run:
    loss = jax.grad(lambda x, y: _chained(differentiable, count, x, y).sum(), argnums=(0, 1))
    return _ready(jax.jit(loss))


def _added() -> Measure:
    one, none = (_chain(by_callback)(count) for count in (1, 0))
    return lambda: seconds(one, 100) - seconds(none, 100)


def _large() -> Measure:
    x = jax.numpy.asarray(large())
    like = jax.ShapeDtypeStruct(x.shape, x.dtype)
    add = in_numpy(lambda x: x + np.float32(1))
    function = jax.jit(lambda x: jax.pure_callback(add, like, x, vmap_method="sequential"))
    return timed(lambda: function(x).block_until_ready(), 1)
