"""tfpyop: the derivatives of each kind of rule, compiled by XLA, as JAX's are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import tfpyop
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
    three_points,
)
from benchmarks.measuring import Case
from tfpyop import differentiable_op

Function = Callable[[tf.Tensor], tf.Tensor]
Derive = Callable[[Function, tf.Tensor, tf.Tensor], Any]
"""Differentiates a function at a point, along a vector if there is a direction."""


def _softmax(**options: Any) -> Any:
    return differentiable_op(counted(softmax), signature="(n)->(n)", **options)


def _second(op: Any, cotangent: Any) -> Any:
    _, y, vector = op.inputs
    return (None, *softmax_vjp_vjp(y, vector, cotangent))


def _vjp_in_numpy() -> Function:
    op = _softmax()
    vjp = op.numpy_gradient(rule(lambda op, g: softmax_vjp(op.outputs[0], g)))
    vjp.numpy_gradient(uses_outputs=False)(rule(_second))
    return op


def _vjp_in_tensorflow() -> Function:
    def gradient(op: Any, g: tf.Tensor) -> tf.Tensor:
        (y,) = op.outputs
        return y * (g - tf.reduce_sum(y * g, -1, keepdims=True))

    return _softmax(grad=gradient)


def _split_rules() -> Function:
    op = differentiable_op(counted(product), signature="(n),(n)->(n)")
    op.numpy_gradient(wrt="x", uses_outputs=False)(rule(lambda op, g: g * op.inputs[1]))
    op.numpy_gradient(wrt="y", uses_outputs=False)(rule(lambda op, g: g * op.inputs[0]))
    return lambda x: op(x, V)


def _jacobian_in_tensorflow() -> Function:
    op = _softmax()

    @op.jacobian
    def jacobian(op: Any) -> tf.Tensor:
        (y,) = op.outputs
        return tf.linalg.diag(y) - y[..., :, None] * y[..., None, :]

    return op


def _jacobian_in_numpy() -> Function:
    op = _softmax()
    vjp = op.numpy_jacobian(rule(lambda op: softmax_jacobian(op.outputs[0])))

    @vjp.gradient
    def second(op: Any, cotangent: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        _, y, g = op.inputs
        inner = tf.reduce_sum(y * g, -1, keepdims=True)
        by_y = cotangent * (g - inner) - tf.reduce_sum(y * cotangent, -1, keepdims=True) * g
        return None, by_y, y * (cotangent - tf.reduce_sum(y * cotangent, -1, keepdims=True))

    return op


def _adjoint_in_numpy() -> Function:
    op = differentiable_op(counted(running_sum), signature="(n)->(n)")
    op.numpy_adjoint(rule(lambda op, g: running_sum_adjoint(g)))
    return op


def _equation() -> Function:
    op = differentiable_op(counted(cubic_root), signature="(n)->(n)")
    op.implicit(lambda op: op.outputs[0] ** 3 + op.outputs[0] - op.inputs[0])
    return op


def _objective() -> Function:
    op = differentiable_op(counted(cubic_root), signature="(n)->(n)")

    @op.stationary
    def objective(op: Any) -> tf.Tensor:
        (a,), (y,) = op.inputs, op.outputs
        return tf.reduce_sum(y**4 / 4 + y**2 / 2 - a * y, -1)

    return op


def _jvp_in_numpy() -> Function:
    op = _softmax()
    op.numpy_jvp(rule(lambda op, t: softmax_vjp(op.outputs[0], t)))
    return op


def _vjp_from_jvp() -> Function:
    op = _softmax(grad="from-jvp")
    op.numpy_jvp(rule(lambda op, t: softmax_vjp(op.outputs[0], t)))
    return op


def _jvp_from_vjp() -> Function:
    op = _softmax(jvp="from-vjp")
    op.numpy_gradient(rule(lambda op, g: softmax_vjp(op.outputs[0], g)))
    return op


def _numerical_with_sparsity() -> Function:
    banded = np.abs(np.subtract.outer(np.arange(len(V)), np.arange(len(V)))) <= 1
    return differentiable_op(counted(three_points), signature="(n)->(n)", grad=tfpyop.numerical(sparsity=banded))


def _gradient(function: Function, x: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(function(x) ** 2) / 2
    return tape.gradient(loss, x)


def _jvp(function: Function, x: tf.Tensor, vector: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.autodiff.ForwardAccumulator(x, vector) as accumulator:
        y = function(x)
    return y, accumulator.jvp(y)


def _jacobian(function: Function, x: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.jacobian(y, x)


def _hvp(function: Function, x: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        tape.watch(x)
        slope = tf.reduce_sum(_gradient(function, x, vector) * vector)
    return tape.gradient(slope, x)


OPS: Mapping[str, Callable[[], Function]] = {
    "VJP in numpy": _vjp_in_numpy,
    "VJP in TensorFlow": _vjp_in_tensorflow,
    "split rules": _split_rules,
    "Jacobian in TensorFlow": _jacobian_in_tensorflow,
    "Jacobian in numpy": _jacobian_in_numpy,
    "equation": _equation,
    "objective": _objective,
    "adjoint in numpy": _adjoint_in_numpy,
    "JVP in numpy": _jvp_in_numpy,
    "from-jvp, numpy": _vjp_from_jvp,
    "from-vjp, numpy": _jvp_from_vjp,
    "numerical, tridiagonal": _numerical_with_sparsity,
    "numerical": lambda: _softmax(grad="numerical"),
    "complex step": lambda: _softmax(grad="complex-step"),
}
DERIVATIVES: Mapping[str, Derive] = {"gradient": _gradient, "JVP": _jvp, "Jacobian": _jacobian, "HVP": _hvp}


def cases() -> Mapping[str, Case]:
    """All cases, by name: of every kind every derivative, though some of them are not defined."""
    return rule_cases(
        {
            f"{kind}, {name}": functools.partial(_run, make, derive)
            for kind, make in OPS.items()
            for name, derive in DERIVATIVES.items()
        }
    )


def _run(make: Callable[[], Function], derive: Derive) -> Run:
    function = functools.partial(derive, make())
    compiled = tf.function(lambda x, vector: function(x, vector), autograph=False, jit_compile=True)
    return lambda x, vector: compiled(tf.constant(x), tf.constant(vector))
