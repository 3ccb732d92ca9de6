"""Exceptions in checks: a function may refuse a point, and every other error must come through."""

import numpy as np
import pytest
import tensorflow as tf

from tests import ops
from tfpyop import ContractError, differentiable_op
from tfpyop.errors import GradientError
from tfpyop.testing import CheckError, check_gradient
from tfpyop.testing import _derivatives as derivatives
from tfpyop.testing._check_runner import CheckRunner
from tfpyop.testing._diagnosis import cause_of_mixing
from tfpyop.testing._failures import is_refusal

POINT, DIRECTION = [np.array(2.0)], [np.array(1.0)]


def function_that_raises_off(error):
    def call(arrays):
        if arrays[0].shape != () or arrays[0] != 2.0:
            raise error
        return [arrays[0] * 3]

    return derivatives.Function(call, [0], [0])


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ValueError("no"), True), (GradientError("not credible."), True), (ContractError("two outputs."), False)],
)
def test_a_broken_contract_is_not_a_refusal(error, expected):
    assert is_refusal(error) is expected


@pytest.mark.parametrize("error", [ValueError("no"), ArithmeticError("no"), GradientError("not credible.")])
def test_where_a_function_refuses_points_nearby_nothing_counts(error):
    found = derivatives.slopes(function_that_raises_off(error), POINT, DIRECTION)
    assert not found.counts[0].any()


def test_a_broken_contract_nearby_is_an_error():
    with pytest.raises(ContractError, match=r"two outputs\."):
        derivatives.slopes(function_that_raises_off(ContractError("two outputs.")), POINT, DIRECTION)


def test_a_broken_contract_at_one_sided_slopes_is_an_error():
    function = function_that_raises_off(ContractError("two outputs."))
    with pytest.raises(ContractError, match=r"two outputs\."):
        derivatives._sides(function, POINT, DIRECTION, [np.array(6.0)], 1e-3)


@pytest.mark.parametrize("error", [TypeError("ours"), ValueError("ours"), GradientError("ours")])
def test_an_error_of_the_numerical_method_is_not_taken_for_a_refusal(monkeypatch, error):
    class Broken:
        def directional_derivative(self, function, point, direction):
            function.call(point)
            raise error

    monkeypatch.setattr(derivatives, "_METHOD", Broken())
    with pytest.raises(type(error), match="ours"):
        derivatives.slopes(derivatives.Function(lambda arrays: [arrays[0] * 3], [0], [0]), POINT, DIRECTION)


def test_a_diagnosis_does_not_hide_a_broken_contract():
    assert cause_of_mixing(function_that_raises_off(ValueError("no")), POINT) == []
    with pytest.raises(ContractError, match=r"two outputs\."):
        cause_of_mixing(function_that_raises_off(ContractError("two outputs.")), POINT)


def test_a_broken_contract_does_not_reject_an_example():
    check = CheckRunner(ops.exp, "check_gradient", max_examples=1, seed=1)
    with pytest.raises(ContractError, match=r"two outputs\."):
        check.reject(ContractError("two outputs."))


def test_a_rule_that_breaks_its_contract_only_at_a_kink_is_reported():
    def rule(op, g):
        gradient = g * tf.sign(op.inputs[0])
        return gradient[None] if tf.reduce_all(op.inputs[0] == 0) else gradient

    op = differentiable_op(np.abs, signature="()->()", grad=rule)
    with pytest.raises(CheckError, match="a value that is not a valid cotangent of an input"):
        check_gradient(op, modes="eager", seed=1)
