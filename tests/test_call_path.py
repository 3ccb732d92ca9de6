"""The path of a call through the package: few frames, none of them twice."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfpyop
from tfpyop import differentiable_op

PACKAGE = str(Path(tfpyop.__file__).parent)
MOST_FRAMES = 25
"""Python 3.12 and later have no frames of their own for list comprehensions, so the number is smaller there."""


@differentiable_op(signature="(),()->()", grad=lambda op, cotangent: (cotangent, cotangent))
def add(x, y):
    return x + y


@differentiable_op(signature="()->()")
def scale(x, *, factor):
    return x * factor


@differentiable_op
def total(pair):
    return pair["a"] + pair["b"]


class Model:
    @differentiable_op(signature="()->()")
    def double(self, x):
        return x * 2


def frames_of(call):
    """The frames of the package in one call, after another one that made what is kept."""
    call()
    frames = []

    def profile(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            frames.append(f"{frame.f_code.co_filename[len(PACKAGE) :]}:{frame.f_code.co_name}")

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return frames


X, Y = tf.constant([1.0, 2.0]), tf.constant([3.0, 4.0])
BOUND = Model().double


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: add(X, Y), id="vectors"),
        pytest.param(lambda: add(X[0], Y[0]), id="numbers"),
        pytest.param(lambda: add(X, y=Y), id="keyword"),
        pytest.param(lambda: scale(X, factor=2.0), id="static argument"),
        pytest.param(lambda: BOUND(X), id="method"),
    ],
)
def test_an_eager_call_has_few_frames(call):
    frames = frames_of(call)
    assert len(frames) <= MOST_FRAMES, "\n".join(frames)
    assert frames[0] == "/_op.py:__call__"
    assert "/_host/function.py:run" in frames


def test_the_path_of_a_call_runs_downward():
    order = ["_op", "_registry/function_op_def", "_registry/bind", "_lowering/dispatch", "_lowering/eager", "_host"]
    places = [place.removeprefix("/").partition(".py")[0] for place in frames_of(lambda: add(X, Y))]
    before_host = places[: places.index("_host/function")]
    first = [
        next((number for number, part in enumerate(order) if place.startswith(part)), None) for place in before_host
    ]
    known = [number for number in first if number is not None]
    assert known == sorted(known)


def test_calls_with_static_values_that_are_equal_but_different_are_different():
    @differentiable_op(signature="()->()", dtype=np.str_)
    def kind(x, *, value):
        return np.array([repr(value)] * 2)

    for value in (1, 1.0, True, -0.0, 0.0, 0, False, None, "1", b"1"):
        assert kind(X, value=value).numpy()[0].decode() == repr(value)
