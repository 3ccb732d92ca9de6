"""An op describes itself: what was declared, and its rules."""

import re

import numpy as np
import tensorflow as tf

from tfpyop import differentiable_op, registered_ops


def test_everything_that_was_declared_is_shown():
    op = differentiable_op(
        lambda x, y, *, scale: x * scale,
        signature="(n),(n)->(n)",
        compute_dtype="float64",
        dtype="float32",
        vectorized=False,
        name="description.declared",
    )
    op.gradient(wrt="x")(lambda op, cotangent: cotangent)
    op.numpy_gradient(wrt="y")(lambda op, cotangent: None)
    op.native(lambda x, y, scale: x * scale)
    assert (
        re.sub(r"tests/test_description\.py:\d+", "HERE", op.describe())
        == """\
op 'description.declared'
  defined at:    HERE
  signature:     (n),(n)->(n)
  inputs:        x, y
  static:        scale
  output dtypes: float32
  options:       compute_dtype=float64, vectorized=False
  gradient:      TensorFlow rule for x (HERE); numpy rule for y (HERE)
  native:        TensorFlow rule (HERE)"""
    )
    assert [(rule.defines, rule.kind, rule.wrt) for rule in op.rules] == [
        ("gradient", "TensorFlow rule", ("x",)),
        ("gradient", "numpy rule", ("y",)),
        ("native", "TensorFlow rule", ()),
    ]


def test_kinds_of_rules():
    def kinds(**options):
        op = differentiable_op(lambda x: x, signature="(n)->(n)", **options)
        return op, lambda: {rule.defines: rule.kind for rule in op.rules}

    op, found = kinds()
    assert found() == {}
    op.adjoint(lambda op, cotangent: cotangent)
    assert found() == {"gradient": "adjoint rule", "JVP": "the op itself, because it is linear"}
    op, found = kinds()
    op.numpy_jacobian(lambda op: np.eye(op.inputs[0].shape[-1]))
    assert found() == {"gradient": "Jacobian rule", "JVP": "Jacobian rule"}
    _, found = kinds(grad="numerical")
    assert found() == {"gradient": 'grad="numerical"', "JVP": 'grad="numerical"'}
    op, found = kinds(non_differentiable=True)
    assert found() == {}
    assert "declared non_differentiable" in op.describe()


def test_notebooks_get_text_and_an_escaped_table():
    op = differentiable_op(lambda x: tf.identity(x), signature="()->()", domain="[0, 1]")
    bundle = op._repr_mimebundle_()
    assert bundle["text/plain"] == op.describe()
    assert "()-&gt;()" in bundle["text/html"]
    assert "<lambda>" not in bundle["text/html"]
    assert "&lt;lambda&gt;" in bundle["text/html"]


def test_the_registered_ops_are_listed_one_a_line():
    op = differentiable_op(lambda x: x, signature="()->()", name="description.listed")
    assert repr(op) in repr(registered_ops()).splitlines()
