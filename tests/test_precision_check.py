"""The check of precision: errors without evidence of float32 pass with a reason. `test_mutation.py` runs wrong ops."""

import re

import numpy as np
import pytest
import tensorflow as tf

from tests.right_ops import RIGHT
from tests.wrong_ops import WRONG
from tfpyop import differentiable_op
from tfpyop.testing import CheckError, check_gradient, check_precision
from tfpyop.testing._single_precision import mentions_single

NAMED = {str(right): right for right in RIGHT}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "name",
    [
        "a sum of very different weights",
        "a divided difference",
        "sinc",
        "tanh",
        "an inverse sine",
        "residuals",
        "an object",
        "UNDEFINED at a kink",
        "a complex exponential",
        "a number that is none among others",
        "a JVP from a gradient rule",
    ],
)
def test_right_ops_pass(name, seed):
    right = NAMED[name]
    assert check_precision(right.op, arguments=right.arguments, seed=seed).status == "passed"


def test_the_gradient_check_does_not_see_single_precision():
    (wrong,) = [wrong for wrong in WRONG if str(wrong) == "tf.cast rounds a constant to float32"]
    assert check_gradient(wrong.op, seed=1, max_examples=20).status == "passed"


def test_a_failure_in_float64_has_a_script_with_the_digits_that_differ(capsys):
    (wrong,) = [wrong for wrong in WRONG if str(wrong) == "tf.cast rounds a constant to float32"]
    with pytest.raises(CheckError) as caught:
        check_precision(wrong.op, seed=1)
    exec(caught.value.code, {"op": wrong.op})
    expected, got = (float(line.split()[1]) for line in capsys.readouterr().out.splitlines())
    assert 1e-9 < abs(got / expected - 1) < 1e-7
    assert f"{expected:.15g}" in caught.value.expected


def test_a_failure_in_float16_has_a_script_with_inputs_in_float16(capsys):
    (wrong,) = [wrong for wrong in WRONG if str(wrong) == "a quotient of powers that overflows in float16"]
    with pytest.raises(CheckError) as caught:
        check_precision(wrong.op, seed=1, arguments=wrong.arguments)
    assert "np.float16" in caught.value.code
    with np.errstate(all="ignore"):
        exec(caught.value.code, {"op": wrong.op})
    assert "got nan" in capsys.readouterr().out


def test_errors_without_evidence_of_float32_are_only_mentioned():
    def approximate(op, g):  # as an iterative solver that stops early
        x = op.inputs[0]
        return g * np.cos(x) * (1 + 3e-8 * np.sin(x + 1))

    op = differentiable_op(lambda x: np.sin(x), signature="()->()", domain="[-1, 1]", numpy_grad=approximate)
    outcome = check_precision(op, seed=1)
    assert outcome.status == "passed"
    assert re.search(r"in float64, the cotangent of input 0 \(x\) has a relative error of \d+e-0[89]", outcome.reason)


def test_the_outcome_lists_dtypes_that_the_function_refuses():
    def wide_only(x):
        if x.dtype.itemsize == 2:
            raise ValueError("no half precision")
        return x * x

    op = differentiable_op(wide_only, signature="()->()", numpy_grad=lambda op, g: 2 * g * op.inputs[0])
    reason = check_precision(op, seed=1).reason
    assert reason == "not compared in float16, bfloat16: the function raises there, or is not precise"


def test_a_rule_that_raises_in_half_precision_only_is_mentioned():
    def refuses_half(op, g):
        if g.dtype.itemsize == 2:
            raise ValueError("no half precision")
        return 2 * g * op.inputs[0]

    op = differentiable_op(lambda x: x * x, signature="()->()", numpy_grad=refuses_half)
    reason = check_precision(op, seed=1).reason
    assert reason == "not compared in float16, bfloat16: the rule raises there, or its results are out of range"


def test_functions_in_single_precision_are_not_measured_in_float64():
    op = differentiable_op(
        lambda x: np.sin(x.astype(np.float32)).astype(x.dtype),
        signature="()->()",
        grad=lambda op, g: tf.cast(tf.cos(tf.cast(op.inputs[0], tf.float32)), g.dtype) * g,
    )
    outcome = check_precision(op, seed=1)
    assert outcome.status == "passed"
    assert "not measured in float64" in outcome.reason


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (differentiable_op(lambda x: x, grad="numerical"), "the op has no derivative rule that you wrote"),
        (differentiable_op(lambda x: x, grad=lambda op, g: g, stateful=True), "the op is declared stateful"),
    ],
)
def test_the_check_is_skipped(op, reason):
    assert check_precision(op, seed=1).reason == reason


_SINGLE = np.float32(0.1)


def _by_a_function(x):
    return _SINGLE * x


@pytest.mark.parametrize(
    ("rule", "mentions"),
    [
        (lambda op, g: g * _SINGLE, True),
        (lambda op, g: _by_a_function(g), True),
        (lambda op, g: g.astype("float32"), True),
        (lambda op, g: [np.single(value) for value in g], True),
        (lambda op, g: g * np.float64(0.1) + tf.cos(g), False),
    ],
    ids=["a constant", "a constant of a function", "a name", "in a comprehension", "double"],
)
def test_the_code_of_a_rule_mentions_single_precision(rule, mentions):
    assert mentions_single(rule) == mentions
