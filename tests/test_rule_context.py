"""What a rule is given: values by name that do not change."""

import copy
import pickle
from collections.abc import Mapping

import numpy as np
import pytest
import tensorflow as tf

from tests import modes
from tfpyop import differentiable_op
from tfpyop._spec.rule_context import NamedValues, RuleContext

X = np.float32([1, 2, 3])
VALUES = {"lu": 1, "values": 2, "keys": 3}


@pytest.fixture
def named():
    return NamedValues(VALUES, "residual", "op 'acme:f' (acme.py:3)")


def test_values_are_read_as_attributes_and_as_items(named):
    assert (named.lu, named.values, named.keys) == (1, 2, 3)
    assert {name: named[name] for name in named} == VALUES
    assert (len(named), "lu" in named, "LU" in named, isinstance(named, Mapping)) == (3, True, False, True)
    assert repr(named) == "NamedValues(lu=1, values=2, keys=3)"


def test_values_of_other_names_are_a_mapping():
    named = NamedValues({"axis": -1}, "static argument", "op")
    assert (dict(named), dict(**named), named.get("k", 3), named == {"axis": -1}) == (
        {"axis": -1},
        {"axis": -1},
        3,
        True,
    )


@pytest.mark.parametrize("name", ["lu", "new"])
def test_values_do_not_change(named, name):
    with pytest.raises(AttributeError, match=f"^cannot set '{name}': the first argument of a rule is read-only"):
        setattr(named, name, 2)
    with pytest.raises(AttributeError, match=f"^cannot delete '{name}': the first argument of a rule is read-only"):
        delattr(named, name)
    with pytest.raises(TypeError, match="does not support item assignment"):
        named[name] = 2


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda named: pickle.loads(pickle.dumps(named))], ids=["copy", "deep", "pickle"]
)
def test_values_are_copied_whole(named, again):
    assert (vars(again(named)), repr(again(named))) == (vars(named), repr(named))
    with pytest.raises(AttributeError, match=r"^op 'acme:f' \(acme.py:3\): no residual 'LU'. Declared: 'lu', 'values'"):
        again(named).LU  # noqa: B018


def test_a_context_is_copied_whole(named):
    context = RuleContext("acme:f", (1,), (2,), named, named, (True,))
    assert repr(copy.copy(context)) == repr(context)


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
@pytest.mark.parametrize("attach", ["gradient", "numpy_gradient"])
def test_rules_read_residuals_and_static_arguments_either_way(mode, attach):
    def function(x, *, values=2):
        return values * x, {"values": 3 * x, "lu": x}

    def rule(op, cotangent):
        assert op.static.values == op.static["values"] == 2
        return op.residuals.values * op.residuals["lu"] / op.residuals.lu * cotangent

    op = differentiable_op(
        function, signature="(n)->(n)", residuals={"values": ("(n)", np.float32), "lu": ("(n)", np.float32)}
    )
    getattr(op, attach)(rule)
    (gradient,) = modes.gradient(mode, op, X)
    assert gradient.tolist() == [3, 6, 9]


def test_a_residual_may_be_called_values_over_rows():
    op = differentiable_op(
        lambda x: (x, {"values": 3 * x}), signature="()->()", residuals={"values": ("()", np.float32)}
    )
    op.numpy_gradient(lambda op, cotangent: op.residuals.values * cotangent)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.vectorized_map(op, x)
    assert tape.gradient(y, x).numpy().tolist() == [3, 6, 9]
