"""PyTensor: the derivatives of each kind of rule, with the function and its numpy rules in an `Op`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytensor
import pytensor.tensor as pt
from pytensor.gradient import hessian_vector_product, jacobian, pushforward
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.graph.replace import clone_replace
from pytensor.tensor.optimize import minimize, root

from benchmarks.libraries.rule_functions import (
    Run,
    V,
    counted,
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
Rule = Callable[[Sequence[Any], Sequence[Any], Any], list[Any]]


class NumpyOp(Op):
    """An op of vectors whose value, and whose rules, are given by functions."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        pullback: Rule | None = None,
        pushforward: Rule | None = None,
        outputs: Sequence[Any] = (pt.fvector,),
    ) -> None:
        self._function, self._outputs = function, outputs
        self._pullback, self._pushforward = pullback, pushforward

    def make_node(self, *inputs: Any) -> Apply:
        """Give the outputs the declared types."""
        return Apply(self, [*map(pt.as_tensor_variable, inputs)], [kind() for kind in self._outputs])

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        """Call numpy."""
        results = self._function(*inputs)
        for output, result in zip(outputs, results if len(outputs) > 1 else [results], strict=True):
            output[0] = result

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> Any:
        """Return the cotangents of the inputs."""
        if self._pullback is None:
            return super().pullback(inputs, outputs, cotangents)
        return self._pullback(inputs, outputs, cotangents[0])

    def pushforward(self, inputs: Any, outputs: Any, tangents: Any) -> Any:
        """Return the tangent of the output."""
        if self._pushforward is None:
            return super().pushforward(inputs, outputs, tangents)
        return self._pushforward(inputs, outputs, tangents[0])


def _differentiable_vjp() -> Op:
    """Return the numpy VJP of softmax, whose own VJP is in numpy too."""
    second = NumpyOp(rule(softmax_vjp_vjp), outputs=(pt.fvector, pt.fvector))
    return NumpyOp(rule(softmax_vjp), pullback=lambda inputs, _, cotangent: second(*inputs, cotangent))


def _vjp_in_numpy() -> Function:
    vjp = _differentiable_vjp()
    return NumpyOp(counted(softmax), pullback=lambda _, outputs, g: [vjp(outputs[0], g)])


def _vjp_in_pytensor() -> Function:
    def pullback(_: Any, outputs: Any, g: Any) -> list[Any]:
        (y,) = outputs
        return [y * (g - (y * g).sum())]

    return NumpyOp(counted(softmax), pullback=pullback)


def _split_rules() -> Function:
    by_x, by_y = (NumpyOp(rule(lambda g, other: g * other)) for _ in range(2))
    op = NumpyOp(counted(product), pullback=lambda inputs, _, g: [by_x(g, inputs[1]), by_y(g, inputs[0])])
    return lambda x: op(x, pt.constant(V))


def _with_jacobian(jacobian: Callable[[Any], Any]) -> Function:
    return NumpyOp(
        counted(softmax),
        pullback=lambda _, outputs, g: [jacobian(outputs[0]).T @ g],
        pushforward=lambda _, outputs, t: [jacobian(outputs[0]) @ t],
    )


def _jacobian_in_numpy() -> Function:
    def pullback(inputs: Any, _: Any, by_jacobian: Any) -> list[Any]:
        (y,) = inputs
        return [pt.diagonal(by_jacobian) - by_jacobian @ y - by_jacobian.T @ y]

    return _with_jacobian(NumpyOp(rule(softmax_jacobian), pullback=pullback, outputs=(pt.fmatrix,)))


def _root(a: Any) -> Any:
    y = pt.fvector("y")
    solution, _ = root(y**3 + y - a, y)
    return _from_zeros(solution, y, a)


def _minimum(a: Any) -> Any:
    y = pt.fvector("y")
    solution, _ = minimize((y**4 / 4 + y**2 / 2 - a * y).sum(), y, optimizer_kwargs={"tol": 1e-6})
    return _from_zeros(solution, y, a)


def _from_zeros(solution: Any, y: Any, a: Any) -> Any:
    """Start the search at zero, and let the op of PyTensor that searches count how often it does."""
    op = solution.owner.op
    op.perform = counted(op.perform)
    return clone_replace(solution, {y: pt.zeros_like(a)})


def _adjoint() -> Function:
    ops: list[Op] = []
    ops += [
        NumpyOp(counted(running_sum), pullback=lambda *_: [ops[1](_[2])], pushforward=lambda *_: [ops[0](_[2])]),
        NumpyOp(rule(running_sum_adjoint), pullback=lambda *_: [ops[0](_[2])]),
    ]
    return ops[0]


def _jvp_in_numpy() -> Function:
    product = NumpyOp(rule(softmax_vjp))
    return NumpyOp(counted(softmax), pushforward=lambda _, outputs, t: [product(outputs[0], t)])


def _loss(function: Function, x: Any) -> Any:
    return (function(x) ** 2).sum() / 2


def _gradient(function: Function, x: Any, _: Any) -> Any:
    return pt.grad(_loss(function, x), x)


def _jvp(function: Function, x: Any, vector: Any) -> Any:
    y = function(x)
    return [y, pushforward(y, x, vector)]


def _direct_jvp(function: Function, x: Any, vector: Any) -> Any:
    y = function(x)
    return [y, pushforward(y, x, vector, use_op_pushforward=True)]


def _jacobian(function: Function, x: Any, _: Any) -> Any:
    return jacobian(function(x), x)


def _hvp(function: Function, x: Any, vector: Any) -> Any:
    return hessian_vector_product(_loss(function, x), x, vector)


FUNCTIONS: Mapping[str, Callable[[], Function]] = {
    "VJP in numpy": _vjp_in_numpy,
    "VJP in TensorFlow": _vjp_in_pytensor,
    "split rules": _split_rules,
    "Jacobian in TensorFlow": lambda: _with_jacobian(lambda y: pt.diag(y) - pt.outer(y, y)),
    "Jacobian in numpy": _jacobian_in_numpy,
    "equation": lambda: _root,
    "objective": lambda: _minimum,
    "adjoint in numpy": _adjoint,
    "JVP in numpy": _jvp_in_numpy,
}
"""By the names of tfpyop's kinds; what is in TensorFlow there is in PyTensor here."""
DERIVATIVES: Mapping[str, Derive] = {"gradient": _gradient, "JVP": _jvp, "Jacobian": _jacobian, "HVP": _hvp}


def cases() -> Mapping[str, Case]:
    """All cases, by name: of every kind every derivative, though some of them are not defined."""
    runs = {}
    for kind, make in FUNCTIONS.items():
        has_jvp = "VJP" not in kind and kind not in ("split rules", "equation", "objective")
        derivatives = {**DERIVATIVES, "JVP": _direct_jvp} if has_jvp else DERIVATIVES
        runs |= {f"{kind}, {name}": functools.partial(_run, make, derive) for name, derive in derivatives.items()}
    return rule_cases(runs)


def _run(make: Callable[[], Function], derive: Derive) -> Run:
    x, vector = pt.fvector("x"), pt.fvector("vector")
    return pytensor.function([x, vector], derive(make(), x, vector), on_unused_input="ignore")
