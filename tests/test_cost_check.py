"""The check of cost: necessary calls pass, in every kind of rule. `test_mutation.py` runs the wrong ops."""

import functools
import threading

import numpy as np
import pytest
from scipy import special

from tests.right_ops import RIGHT
from tests.wrong_ops import WRONG
from tfpyop import differentiable_op
from tfpyop.testing import CheckError, check_cost
from tfpyop.testing._call_counter import CallCounter
from tfpyop.testing._rule_source import SourceError

NAMED = {str(right): right for right in RIGHT}


@pytest.mark.parametrize(
    "name",
    [
        "a Jacobian in TensorFlow ops",
        "a sparse Jacobian",
        "partial derivatives in numpy",
        "an equation",
        "a gradient from a JVP rule",
        "a JVP from a gradient rule",
        "an op that is linear in one input",
        "a function of rows alone",
        "exactly one loop dimension",
        "an object for each element",
        "rules for some inputs",
        "a second rule in TensorFlow",
        "a bound method",
        "a destination",
        "needs",
    ],
)
def test_necessary_calls_pass(name):
    right = NAMED[name]
    assert check_cost(right.op, arguments=right.arguments, seed=1).status == "passed"


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_calls_of_the_op_are_found_in_each_mode(mode):
    (wrong,) = [wrong for wrong in WRONG if str(wrong) == "a numpy rule calls the function again"]
    with pytest.raises(CheckError, match="a gradient calls the function again for the same inputs") as caught:
        check_cost(wrong.op, seed=1, modes=[mode])
    failure = caught.value
    assert (failure.mode, failure.expected, failure.got) == (mode, "1 call", "2 calls")
    assert "use op.outputs" in failure.cause


def test_calls_that_a_graph_merges_pass():
    (wrong,) = [wrong for wrong in WRONG if str(wrong) == "a rule calls its op again"]
    assert check_cost(wrong.op, seed=1, modes="graph").status == "passed"


def test_calls_for_another_static_argument_pass():
    def bessel(x, *, order=0):
        return special.jv(order, x)

    op = differentiable_op(bessel, signature="()->()", domain="[0.1, 10]")

    @op.gradient
    def rule(of_call, g):
        order = of_call.static.order
        x = of_call.inputs[0]
        return g * (op(x, order=order - 1) - op(x, order=order + 1)) / 2

    assert check_cost(op, seed=1).status == "passed"


def test_calls_for_other_inputs_pass():
    op = differentiable_op(lambda x: np.sin(x), signature="()->()")
    op.gradient(lambda of_call, g: g * op(of_call.inputs[0] + np.pi / 2))
    assert check_cost(op, seed=1).status == "passed"


def test_two_rules_that_share_a_function_pass():
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()")

    def rule(of_call, g):
        return g * of_call.inputs[1 - of_call.needs.index(True)]

    op.numpy_gradient(rule, wrt="x")
    op.numpy_gradient(rule, wrt="y")
    assert check_cost(op, seed=1).status == "passed"


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (differentiable_op(lambda x: x, grad="numerical"), "the op has no derivative rule that you wrote"),
        (differentiable_op(lambda x: x, grad=lambda op, g: g, stateful=True), "the op is declared stateful"),
        (
            differentiable_op(np.sin, name="tests.ufunc", grad=lambda op, g: g),
            "calls of the function cannot be counted, because it is not in Python code",
        ),
    ],
)
def test_the_check_is_skipped(op, reason):
    assert check_cost(op, seed=1).reason == reason


def test_the_check_is_skipped_in_other_modes():
    op = differentiable_op(lambda x: x, grad=lambda op, g: g)
    assert check_cost(op, seed=1, modes="XLA").reason == "none of the modes applies to this op"


# -- the counter


def _scaled(x, factor=2, *, shift=0):
    return factor * x + shift


def test_the_counter_counts_equal_calls_and_keeps_defaults():
    counter = CallCounter(_scaled)
    with counter.counting():
        assert _scaled(1.0) == 2.0
        assert _scaled(1.0, shift=1) == 3.0
        np.testing.assert_array_equal(_scaled(np.ones(2), 3), [3, 3])
        np.testing.assert_array_equal(_scaled(np.ones(2), 3), [3, 3])
    assert sorted(counter.calls.values()) == [1, 1, 2]
    _scaled(1.0)
    assert counter.n_calls == 4


def test_the_counter_counts_functions_with_free_variables_in_all_threads():
    factor, shift = 2, 1

    def function(x):
        return factor * x + shift

    counter = CallCounter(functools.partial(function))
    results = []
    with counter.counting():
        threads = [threading.Thread(target=lambda: results.append(function(3))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (results, counter.n_calls) == ([7] * 4, 4)


def test_a_function_that_raises_keeps_its_code():
    def function():
        raise ValueError("no value")

    counter, code = CallCounter(function), function.__code__
    with pytest.raises(ValueError, match="no value"), counter.counting():
        function()
    assert function.__code__ is code
    assert counter.n_calls == 1


def test_functions_without_python_code_cannot_be_counted():
    with pytest.raises(SourceError):
        CallCounter(np.sin)
