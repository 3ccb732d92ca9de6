"""Defaults that are not JSON: a model is not run with another default than the one it was saved with."""

import enum
import functools
import sys
import types

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tests import modes
from tfpyop import UnsupportedError, differentiable_op, export
from tfpyop._registry.op_def import REGISTRY
from tfpyop._spec.default_marks import marks_of
from tfpyop.errors import ExportWarning


class Mode(enum.Enum):
    FAST = 1
    EXACT = 2


class Other(enum.Enum):
    FAST = 1


def solve(x):
    return x


DEFAULTS = {
    "an enum": Mode.FAST,
    "its other member": Mode.EXACT,
    "another enum": Other.FAST,
    "a function": solve,
    "numpy's": np.linalg.solve,
    "a dispatched one": np.sum,
    "a ufunc": np.sin,
    "another": np.cos,
    "a type": np.float32,
    "a dtype": np.dtype("float32"),
    "another dtype": np.dtype(ml_dtypes.bfloat16),
    "TensorFlow's": tf.float32,
    "an array": np.ones((2, 2)),
    "another array": np.eye(2),
    "its float32": np.eye(2, dtype=np.float32),
    "a scalar": np.float64(0.5),
    "complex": 1j,
    "bytes": b"a",
    "a set": frozenset({1, 2}),
    "a tuple with one": (Mode.FAST, 1),
    "another tuple": (Mode.FAST, True),
    "a dict with one": {"a": np.sin},
    "a partial": functools.partial(solve, x=1),
    "another partial": functools.partial(solve, x=2),
}
NAMELESS = {
    "a lambda": lambda x: x,
    "an object": object(),
    "a method": np.random.default_rng(0).normal,
    "a list of such": [object()],
    "objects": np.array([object()]),
}


OP = """
@differentiable_op(signature='()->()', grad=lambda op, g: g)
def op(x, *, option=default):
    return x * 2
"""


def test_every_default_has_a_mark_of_its_own():
    marks = marks_of(DEFAULTS)
    assert None not in marks.values()
    assert len(set(marks.values())) == len(marks)
    assert marks == marks_of(DEFAULTS)
    assert marks["numpy's"] == "numpy.linalg:solve"


@pytest.mark.parametrize("value", NAMELESS.values(), ids=NAMELESS)
def test_what_has_no_name_has_no_mark(value):
    assert marks_of({"value": value}) == {"value": None}


def defined(default, module="default_ops"):
    """The op of a module that is executed (again) with this default."""
    own = types.ModuleType(module)
    own.default, own.differentiable_op = default, differentiable_op
    sys.modules[module] = own
    exec(OP, own.__dict__)
    return own.op


@pytest.fixture(autouse=True)
def _forget():
    yield
    sys.modules.pop("default_ops", None)


def token_of(op):
    return REGISTRY.token_of(
        op._definition.specialize(None, {"option": op._definition.function.__kwdefaults__["option"]})
    )


@pytest.mark.parametrize("default", DEFAULTS.values(), ids=DEFAULTS)
def test_a_call_works_in_every_mode(default):
    op = defined(default)
    for mode in ("eager", "graph", "XLA"):
        assert modes.call(mode, lambda x: op(x), np.float32([1, 2])).tolist() == [2, 4]
    assert '"marks":{"option":' in token_of(op)
    assert modes.gradient("tape inside", lambda x: op(x), np.float32([1, 2]))[0].tolist() == [1, 1]


def saved_with(default, path):
    op, module = defined(default), tf.Module()
    module.call = tf.function(lambda x: op(x), input_signature=[tf.TensorSpec([None])], autograph=False)
    export.save(module, path)


def test_a_model_runs_with_the_same_default(tmp_path):
    saved_with(Mode.FAST, tmp_path)
    defined(Mode.FAST)
    assert tf.saved_model.load(tmp_path).call(tf.constant([1.0])).numpy().tolist() == [2]


@pytest.mark.parametrize(
    ("default", "got"),
    [
        (Mode.EXACT, r"Mode EXACT 2\): <Mode.EXACT: 2>"),
        (1, r"1\n  Restore the default"),
        (object(), "<object object at "),
    ],
)
def test_a_model_is_refused_where_the_default_is_another(tmp_path, default, got):
    saved_with(Mode.FAST, tmp_path)
    defined(default)
    loaded = tf.saved_model.load(tmp_path)
    said = (
        rf"op 'default_ops:op'(?s:.*)default of 'option' has changed(?s:.*)Expected: .*Mode FAST 1\)\n  Got:  .*{got}"
    )
    with pytest.raises((UnsupportedError, tf.errors.OpError), match=said):
        loaded.call(tf.constant([1.0]))


def test_a_default_that_cannot_be_compared_is_saved_with_a_warning(tmp_path):
    with pytest.warns(ExportWarning, match=r"default of 'option' cannot be stored(?s:.*)uses its own default"):
        saved_with(object(), tmp_path)


def test_another_value_than_such_a_default_needs_no_warning(tmp_path, recwarn):
    op, module = defined(object()), tf.Module()
    module.call = tf.function(lambda x: op(x, option=1), input_signature=[tf.TensorSpec([None])], autograph=False)
    export.save(module, tmp_path)
    assert not [warning for warning in recwarn if issubclass(warning.category, ExportWarning)]
