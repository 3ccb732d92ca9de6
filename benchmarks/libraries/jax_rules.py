"""JAX: the derivatives of each kind of rule, with the function and its numpy rules in `jax.pure_callback`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import linear_call

from benchmarks.libraries.rule_functions import (
    Run,
    V,
    counted,
    cubic_root,
    product,
    rule,
    rule_cases,
    running_sum,
    running_sum_adjoint,
    softmax,
    softmax_jacobian,
    softmax_vjp,
    softmax_vjp_vjp,
)
from benchmarks.measuring import Case

Function = Callable[[Any], Any]
Derive = Callable[[Function, Any, Any], Any]


def _in_numpy(function: Callable[..., Any], outputs: int | None = None, rank: int = 1) -> Callable[..., Any]:
    """Return a callback that takes batches and returns one array, or a tuple of `outputs` arrays."""

    def on_host(*arrays: Any) -> Any:
        return function(*map(np.asarray, arrays))

    def call(*arrays: Any) -> Any:
        like = jax.ShapeDtypeStruct(arrays[0].shape * rank, arrays[0].dtype)
        result = like if outputs is None else (like,) * outputs
        return jax.pure_callback(on_host, result, *arrays, vmap_method="broadcast_all")

    return call


def _host_softmax() -> Callable[..., Any]:
    return _in_numpy(counted(softmax))


def _differentiable_vjp() -> Callable[[Any, Any], Any]:
    """Return the numpy VJP of softmax, whose own VJP is in numpy too."""
    call, second = _in_numpy(rule(softmax_vjp)), _in_numpy(rule(softmax_vjp_vjp), outputs=2)
    vjp = jax.custom_vjp(call)
    vjp.defvjp(lambda y, g: (call(y, g), (y, g)), lambda kept, cotangent: tuple(second(*kept, cotangent)))
    return vjp


def _with_vjp(vjp: Callable[[Any, Any], Any]) -> Function:
    on_host = _host_softmax()
    function = jax.custom_vjp(on_host)

    def forward(x: Any) -> Any:
        y = function(x)  # this function itself, so that the rule can be differentiated
        return y, y

    function.defvjp(forward, lambda y, g: (vjp(y, g),))
    return function


def _split_rules() -> Function:
    on_host, by_x, by_y = (_in_numpy(function) for function in (counted(product), rule(_times), rule(_times)))
    function = jax.custom_vjp(on_host)
    function.defvjp(lambda x, y: (on_host(x, y), (x, y)), lambda kept, g: (by_x(g, kept[1]), by_y(g, kept[0])))
    return lambda x: function(x, V)


def _times(g: np.ndarray, other: np.ndarray) -> np.ndarray:
    return g * other


def _with_jacobian(jacobian: Callable[[Any], Any]) -> Function:
    function = jax.custom_jvp(_host_softmax())

    @function.defjvp
    def jvp(primals: Any, tangents: Any) -> Any:
        y = function(*primals)
        return y, jacobian(y) @ tangents[0]

    return function


def _jacobian_in_jax(y: Any) -> Any:
    return jnp.diag(y) - jnp.outer(y, y)


def _differentiable_jacobian() -> Callable[[Any], Any]:
    """Return the numpy Jacobian of softmax, with a derivative in JAX."""
    jacobian = jax.custom_jvp(_in_numpy(rule(softmax_jacobian), rank=2))

    @jacobian.defjvp
    def jvp(primals: Any, tangents: Any) -> Any:
        (y,), (t,) = primals, tangents
        return jacobian(y), jnp.diag(t) - jnp.outer(t, y) - jnp.outer(y, t)

    return jacobian


def _root(equation: Callable[[Any, Any], Any]) -> Function:
    from jaxopt.implicit_diff import custom_root  # here, because the other cases do not need it

    on_host = _in_numpy(counted(cubic_root))
    solver = custom_root(equation)(lambda start, a: on_host(a))
    return lambda a: solver(None, a)


def _equation(y: Any, a: Any) -> Any:
    return y**3 + y - a


def _objective(y: Any, a: Any) -> Any:
    return (y**4 / 4 + y**2 / 2 - a * y).sum()


def _adjoint() -> Function:
    forward, adjoint = _in_numpy(counted(running_sum)), _in_numpy(rule(running_sum_adjoint))
    return lambda x: linear_call(lambda _, x: forward(x), lambda _, g: adjoint(g), (), x)


def _jvp_in_numpy() -> Function:
    function, product = jax.custom_jvp(_host_softmax()), _in_numpy(rule(softmax_vjp))

    @function.defjvp
    def jvp(primals: Any, tangents: Any) -> Any:
        y = function(*primals)
        return y, product(y, *tangents)

    return function


def _loss(function: Function, x: Any) -> Any:
    return (function(x) ** 2).sum() / 2


def _gradient(function: Function, x: Any, _: Any) -> Any:
    return jax.grad(functools.partial(_loss, function))(x)


def _jvp(function: Function, x: Any, vector: Any) -> Any:
    return jax.jvp(function, (x,), (vector,))


def _jacobian(function: Function, x: Any, _: Any) -> Any:
    return jax.jacrev(function)(x)


def _forward_jacobian(function: Function, x: Any, _: Any) -> Any:
    return jax.jacfwd(function)(x)


def _hvp(function: Function, x: Any, vector: Any) -> Any:
    return jax.grad(lambda x: jnp.vdot(_gradient(function, x, vector), vector))(x)


def _forward_hvp(function: Function, x: Any, vector: Any) -> Any:
    _, product = jax.jvp(lambda x: _gradient(function, x, vector), (x,), (vector,))
    return product


FUNCTIONS: Mapping[str, Callable[[], Function]] = {
    "VJP in numpy": lambda: _with_vjp(_differentiable_vjp()),
    "VJP in TensorFlow": lambda: _with_vjp(lambda y, g: y * (g - jnp.vdot(y, g))),
    "split rules": _split_rules,
    "Jacobian in TensorFlow": lambda: _with_jacobian(_jacobian_in_jax),
    "Jacobian in numpy": lambda: _with_jacobian(_differentiable_jacobian()),
    "equation": lambda: _root(_equation),
    "objective": lambda: _root(jax.grad(_objective)),
    "adjoint in numpy": _adjoint,
    "JVP in numpy": _jvp_in_numpy,
}
"""By the names of tfpyop's kinds; what is in TensorFlow there is in JAX here."""
REVERSE: Mapping[str, Derive] = {"gradient": _gradient, "JVP": _jvp, "Jacobian": _jacobian, "HVP": _hvp}
FORWARD: Mapping[str, Derive] = {**REVERSE, "HVP": _forward_hvp}


def cases() -> Mapping[str, Case]:
    """All cases, by name: of every kind every derivative, though some of them are not defined."""
    runs = {}
    for kind, make in FUNCTIONS.items():
        derivatives = REVERSE if "VJP" in kind or kind in ("split rules", "equation", "objective") else FORWARD
        if kind == "JVP in numpy":
            derivatives = {**FORWARD, "Jacobian": _forward_jacobian}
        runs |= {f"{kind}, {name}": functools.partial(_run, make, derive) for name, derive in derivatives.items()}
    return rule_cases(runs)


def _run(make: Callable[[], Function], derive: Derive) -> Run:
    compiled = jax.jit(functools.partial(derive, make()))
    return lambda x, vector: jax.block_until_ready(compiled(x, vector))
