"""Ops of every form: decorated functions, methods, ufuncs, functions of C, and ops that only this process can name."""

import functools
import math

import numpy as np
import pytest

from tfpyop import (
    differentiable_op,
)

X = np.float32([3, 6])
Y = np.float32([4, 8])


@differentiable_op
def bare(x, y):
    """The length of the hypotenuse."""
    return np.hypot(x, y)


@differentiable_op()
def without_options(x, y):
    return np.hypot(x, y)


@differentiable_op(signature="(),()->()", dtype=np.float32)
def with_options(x: object, y: object = 4.0, *, factor: int = 1) -> object:
    """A multiple of the length of the hypotenuse."""
    return factor * np.hypot(x, y)


@with_options.numpy_gradient
def with_options_gradient(op, cotangent):
    x, y = op.inputs
    return cotangent * x / op.outputs[0], cotangent * y / op.outputs[0]


@with_options.numpy_jvp
def with_options_jvp(op, *tangents):
    return sum(tangent * x for tangent, x in zip(tangents, op.inputs, strict=True)) / op.outputs[0]


class Scale:
    """Methods of several kinds, and instances that can be called."""

    def __init__(self, factor=2):
        self.factor = factor

    @differentiable_op
    def method(self, x):
        return self.factor * x

    @staticmethod
    @differentiable_op
    def static(x):
        return 2 * x

    @classmethod
    def of_class(cls, x):
        return 2 * x

    class Part:
        @differentiable_op
        def method(self, x):
            return x

    def plain(self, x):
        return self.factor * x

    def __call__(self, x):
        return self.factor * x


def plain(x, y=4.0):
    return np.hypot(x, y)


def made_in_a_function(function):
    """An op of a function that is made in a function too."""

    @differentiable_op
    def inner(x):
        return function(x)

    return inner


direct = differentiable_op(plain)
hypot = differentiable_op(np.hypot)
named = differentiable_op(lambda x: x, name="tests.named/op-1")
named_ufunc = differentiable_op(np.arctan2, name="tests:angle", signature="(),()->()")
unique = differentiable_op(np.unique, signature="(n)->(k)")
floor = differentiable_op(math.floor, signature="()->()")
maximum = differentiable_op(max, signature="(n)->()")

REGISTERED = {
    "tests.forms:bare": bare,
    "tests.forms:without_options": without_options,
    "tests.forms:with_options": with_options,
    "tests.forms:Scale.method": Scale.method,
    "tests.forms:Scale.static": Scale.static,
    "tests.forms:Scale.Part.method": Scale.Part.method,
    "tests.forms:plain": direct,
    "tests.forms:hypot": hypot,
    "tests.named/op-1": named,
    "tests:angle": named_ufunc,
    "tests.forms:unique": unique,
    "tests.forms:floor": floor,
    "tests.forms:max": maximum,
}
RULES = {
    "tests.forms:with_options/vjp": with_options_gradient,
    "tests.forms:with_options/jvp": with_options_jvp,
}
LOCAL = {
    "tests.forms:<lambda>": differentiable_op(lambda x: x),
    "tests.forms:made_in_a_function.<locals>.inner": made_in_a_function(np.sin),
    "tests.forms:partial": differentiable_op(functools.partial(plain, 1.0)),
    "tests.forms:Scale.plain": differentiable_op(Scale().plain),
    "tests.forms:Scale": differentiable_op(Scale()),
}
every_registered = pytest.mark.parametrize(("name", "op"), REGISTERED.items(), ids=REGISTERED)
every_found = pytest.mark.parametrize(("name", "op"), (REGISTERED | RULES).items(), ids=REGISTERED | RULES)
every_local = pytest.mark.parametrize(("name", "op"), LOCAL.items(), ids=LOCAL)
every_op = pytest.mark.parametrize("op", [*REGISTERED.values(), *RULES.values(), *LOCAL.values()], ids=repr)
