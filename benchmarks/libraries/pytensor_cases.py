"""PyTensor: an `Op` with a numpy `perform`, in a compiled function."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op

from benchmarks.libraries.common import X, Y, mod, mod_gradient
from benchmarks.libraries.pytensor_rules import cases as rule_cases
from benchmarks.measuring import Case, Run, marginal, timed

CHAIN = 50
warnings.simplefilter("ignore")  # that functions of numpy run as Python, which is what is measured


class Mod(Op):
    """The remainder."""

    __props__ = ()

    def make_node(self, x: Any, y: Any) -> Apply:
        """One output, like the first input."""
        x, y = pt.as_tensor_variable(x), pt.as_tensor_variable(y)
        return Apply(self, [x, y], [x.type()])

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        """Call numpy."""
        outputs[0][0] = mod(*inputs)

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> Any:
        """The cotangents of both inputs."""
        return ModGradient()(*inputs, cotangents[0])


class ModGradient(Op):
    """Its derivative."""

    __props__ = ()

    def make_node(self, x: Any, y: Any, grad: Any) -> Apply:
        """Two outputs, like the first two inputs."""
        return Apply(self, [x, y, grad], [x.type(), y.type()])

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        """Call numpy."""
        outputs[0][0], outputs[1][0] = mod_gradient(*inputs)


def cases() -> Mapping[str, Case]:
    """All cases, by name."""
    return {
        **rule_cases(),
        "eager pytensor": lambda: timed(_chain(1), 200),
        "eager gradient pytensor": lambda: timed(_gradient(1), 200),
        "graph pytensor": lambda: marginal(_chain, CHAIN, 20),
        "graph gradient pytensor": lambda: marginal(_gradient, CHAIN, 10),
    }


def _chained(count: int) -> Any:
    x, y = pt.fvector("x"), pt.fvector("y")
    z = x
    for _ in range(count):
        z = Mod()(z, y)
    return x, y, z


def _chain(count: int) -> Run:
    x, y, z = _chained(count)
    function = pytensor.function([x, y], z)
    return lambda: function(X, Y)


def _gradient(count: int) -> Run:
    x, y, z = _chained(count)
    function = pytensor.function([x, y], pt.grad(z.sum(), [x, y]))
    return lambda: function(X, Y)
