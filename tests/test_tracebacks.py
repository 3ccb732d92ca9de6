"""Tracebacks show lines of users, not of the package, unless TensorFlow's filtering is switched off."""

import re
import traceback

import numpy as np
import pytest
import tensorflow as tf

from tests.modes import compiled
from tfpyop import differentiable_op
from tfpyop._tracebacks import _PACKAGE, is_package_file

X = tf.constant([1.0, 2.0])
MARK = "the line of the user"


def fails(x):
    raise ValueError("no")  # the line of the user


def fails_inside(x):
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError("no") from error  # the line of the user


def shown(call, *arguments):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its text is tested
        call(*arguments)
    return "".join(traceback.format_exception(caught.value)).splitlines()


def package_frames(lines):
    """The frames of the package, without those around a graph that eager code calls, which TensorFlow's list has."""
    found = [re.match(r' *File "(.*?)", line \d+, in (\w+)', line) for line in lines]
    return [match[0] for match in found if match and is_package_file(match[1]) and match[2] not in ("replaced", "call")]


def test_files_of_packages_with_a_longer_name_are_the_users():
    assert is_package_file(f"{_PACKAGE}_op.py")
    assert not is_package_file(f"{_PACKAGE[:-1]}_mine/ops.py")


@pytest.fixture
def unfiltered():
    tf.debugging.disable_traceback_filtering()
    yield
    tf.debugging.enable_traceback_filtering()


@pytest.mark.parametrize("function", [fails, fails_inside])
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_an_exception_of_a_function_shows_one_frame_of_the_package_at_most(function, mode):
    op = differentiable_op(function, signature="()->()", name=f"traceback.{function.__name__}.{mode}")
    call = {"eager": op, "graph": tf.function(lambda x: op(x), autograph=False), "XLA": compiled(op)}[mode]
    lines = shown(call, X)
    assert len(package_frames(lines)) <= 1
    assert any(MARK in line for line in lines[-10:])
    if function is fails_inside:
        assert any("KeyError: 'first'" in line for line in lines)


def test_an_exception_of_a_rule_shows_two_frames_of_the_package_at_most():
    op = differentiable_op(lambda x: x, signature="()->()", grad=lambda op, cotangent: fails(cotangent))

    def differentiate():
        with tf.GradientTape() as tape:
            tape.watch(X)
            y = op(X)
        tape.gradient(y, X)

    lines = shown(differentiate)
    assert len(package_frames(lines)) <= 2
    assert any(MARK in line for line in lines[-10:])


def test_an_error_of_the_package_shows_the_call():
    op = differentiable_op(lambda x: np.zeros(3), signature="(n)->()", name="traceback.shape")
    lines = shown(lambda: op(X))
    assert len(package_frames(lines)) == 1
    assert any("lines = shown(lambda: op(X))" in line for line in lines)


def test_a_switch_of_tensorflow_shows_all_frames(unfiltered):
    op = differentiable_op(fails, signature="()->()", name="traceback.all")
    assert len(package_frames(shown(op, X))) > 5
