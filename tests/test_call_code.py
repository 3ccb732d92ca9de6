"""The code of calls, as reports show it: it makes the same arguments again."""

import enum
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tfpyop.testing import Arguments
from tfpyop.testing._examples import value_code


class Color(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    left: object
    right: object


VALUES = {
    "double": np.array([[1.5, -0.0], [np.inf, np.nan]]),
    "single": np.float32(0.1),
    "half precision of a brain": np.array([1.5, -2], ml_dtypes.bfloat16),
    "its scalar": ml_dtypes.bfloat16(0.5),
    "zeros of both signs": np.array([0.0, -0.0], np.float32),
    "all the same": np.full((2, 2), -0.0, np.float32),
    "complex": np.array([complex(np.nan, 1), complex(-0.0, -np.inf), 1 - 2j], np.complex64),
    "complex on a branch cut": np.array([complex(-1.0, -0.0), complex(-0.0, 2)]),
    "empty": np.zeros((0, 3), np.int8),
    "integers": np.array([2**63, 1], np.uint64),
    "text": np.array([b"a", b"bc"], object),
    "nested": {"a": (np.float32(1),), "b": [np.array([True, False]), None], "pair": Pair(1, np.array(2, np.int32))},
    "an option": Color.RED,
    "not a number": float("nan"),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_the_code_of_a_value_makes_it_again(value):
    again = eval(value_code(value), {"np": np, "tf": tf, "Color": Color, "Pair": Pair})
    tf.nest.assert_same_structure(value, again)
    for was, now in zip(tf.nest.flatten(value), tf.nest.flatten(again), strict=True):
        if isinstance(was, np.ndarray | np.generic):
            was, now = np.asarray(was), np.asarray(now)
            assert (was.dtype, was.shape) == (now.dtype, now.shape)
            assert was.tolist() == now.tolist() if was.dtype == object else was.tobytes() == now.tobytes()
        else:
            assert was is now or repr(was) == repr(now)


def test_the_order_of_memory_is_kept():
    code = value_code(np.asfortranarray(np.arange(4, dtype=np.int32).reshape(2, 2)))
    assert eval(code, {"np": np}).flags.f_contiguous


def test_the_call_has_its_static_arguments():
    assert Arguments((np.float32(1),), {"color": Color.RED}).code("f") == "f(np.float32(1.0), color=Color.RED)"
