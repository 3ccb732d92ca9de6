"""Short ways through a call give what the long ways give: values, derivatives and errors."""

import numpy as np
import pytest
import tensorflow as tf

from tests import ops
from tfpyop import _host, differentiable_op
from tfpyop._lowering import eager

X, Y = np.float32([[1.5, -2.0], [0.25, 3.0]]), np.float32([[0.5, 2.0], [-1.0, 1.0]])


@differentiable_op(signature="(),()->(),()")
def sum_and_product(x, y):
    return x + y, x * y


@sum_and_product.numpy_gradient
def sum_and_product_gradient(op, by_sum, by_product):
    x, y = op.inputs
    return by_sum + by_product * y, by_sum + by_product * x


@differentiable_op(signature="(),()->()")
def scaled(x, count):
    return x * count.astype(x.dtype)


@scaled.numpy_gradient
def scaled_gradient(op, grad):
    return grad * op.inputs[1].astype(grad.dtype), None


def returning(value):
    return differentiable_op(lambda x: value, signature="()->()", non_differentiable=True)


CALLS = {
    "one output": (ops.numpy_mod, [X, np.abs(Y)]),
    "broadcasting": (ops.numpy_mod, [X, np.float32(2)]),
    "several outputs": (sum_and_product, [X, Y]),
    "an integer input": (scaled, [X, np.int32(3)]),
    "float64": (ops.numpy_mod, [X.astype(np.float64), np.abs(Y).astype(np.float64)]),
    "float16": (ops.numpy_mod, [X.astype(np.float16), np.abs(Y).astype(np.float16)]),
    "complex": (sum_and_product, [X + 1j, Y - 1j]),
    "empty": (ops.numpy_mod, [X[:0], X[:0]]),
    "no gradient": (differentiable_op(lambda x: x, signature="()->()"), [X]),
    "wrong shape": (returning(np.float32([1])), [X]),
    "wrong dtype": (returning(X + 1j), [X]),
    "wider": (returning(X.astype(np.float64)), [X]),
    "a list": (returning(X.tolist()), [X]),
    "a scalar": (returning(np.float32(3)), [X[0, 0]]),
    "None": (returning(None), [X]),
    "one output too many": (returning((X, X)), [X]),
    "a tuple of one": (returning((X,)), [X]),
    "a subclass": (returning(np.ma.masked_array(X, X > 1)), [X]),
    "too few inputs": (ops.numpy_mod, [X]),
    "sizes that do not fit": (ops.numpy_mod, [X, Y[:, :1].repeat(3, 1)]),
}


def outcome(op, arrays):
    """What a call and its gradient give, or the text of what they raise."""
    tensors = [tf.constant(array) for array in arrays]
    try:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            outputs = op(*tensors)
        gradients = tape.gradient(outputs, tensors)
    except Exception as error:
        return type(error), str(error)
    return [
        None if tensor is None else (tensor.dtype, tensor.numpy().tolist())
        for tensor in tf.nest.flatten([outputs, gradients])
    ]


AS_PROMISED = ["one output", "several outputs", "an integer input", "float64", "complex", "empty"]
"""Calls whose results, and those of their rules, are taken as they stand."""


def watched(monkeypatch, module, name):
    """What a function answers from now on."""
    answers, function = [], getattr(module, name)

    def watching(*arguments):
        answers.append(function(*arguments))
        return answers[-1]

    monkeypatch.setattr(module, name, watching)
    return answers


@pytest.mark.parametrize("name", CALLS)
def test_eager_calls_that_leave_nothing_to_decide(name, monkeypatch):
    answers = watched(monkeypatch, eager, "is_plain")
    short = outcome(*CALLS[name])
    assert all(answers)
    assert answers or name == "too few inputs"
    monkeypatch.setattr(eager, "is_plain", lambda op, leaves: False)
    assert outcome(*CALLS[name]) == short


@pytest.mark.parametrize("name", CALLS)
def test_results_that_are_what_was_promised(name, monkeypatch):
    answers = watched(monkeypatch, _host, "_are_of_types")
    short = outcome(*CALLS[name])
    if name in AS_PROMISED:
        assert len(answers) == (1 if name == "an integer input" else 2)  # the rule returns None for an integer
        assert all(answers)
    monkeypatch.setattr(_host, "_are_of_types", lambda values, types: False)
    assert outcome(*CALLS[name]) == short
