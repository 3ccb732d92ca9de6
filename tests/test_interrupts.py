"""Ctrl-C, and whatever else a signal handler raises, comes out of calls as what it is, wherever it arrives."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context as tensorflow_context

from tests import interrupted_calls
from tests.processes import run_python
from tfpyop._lowering._tensorflow import EagerTensor


@pytest.fixture(scope="module")
def results():
    """What came out of calls in a process of their own: the test runner has signal handlers and timers, too."""
    # A crash of the process is TensorFlow's own when it makes a tensor.
    process = run_python("-m", interrupted_calls.__name__, "0.4", check=True)
    return json.loads(process.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["eager", "out=", "a Python number"])
def test_an_interrupt_of_a_call_arrives_as_itself(results, kind):
    raised, caught = results[kind]["raised"], results[kind]["caught"]
    assert caught == raised
    assert raised["KeyboardInterrupt"] > 50


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gradient", "numpy gradient", "forward mode"])
def test_an_interrupt_of_a_derivative_arrives_as_itself(results, kind):
    raised, caught = results[kind]["raised"], results[kind]["caught"]
    assert not [name for name in caught if name.startswith("SystemError")]
    # TensorFlow's own traceback filter loses a few: it makes a TypeError of a frame that has no line number
    assert caught["KeyboardInterrupt"] >= 0.5 * raised["KeyboardInterrupt"] > 5


def python_calls_during(make):
    """The Python functions that run meanwhile: in each, Python would run a signal handler."""
    names = []

    def profile(frame, event, _):
        if event == "call":
            names.append(frame.f_code.co_name)

    previous = sys.getprofile()
    sys.setprofile(profile)
    try:
        make()
    finally:
        sys.setprofile(previous)
    return names


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_, np.complex64, tf.bfloat16.as_numpy_dtype, object])
def test_no_python_code_runs_while_a_tensor_is_made_or_read(dtype):
    value = b"text" if dtype is object else 0
    small, large = np.full(3, value, dtype), np.full(4096, value, dtype)

    def make():
        EagerTensor(small, None, None)._numpy_internal()
        EagerTensor(large, None, None)._numpy_internal()

    make()
    assert python_calls_during(make) == ["make"]


def test_the_context_still_has_its_handle():
    context = tensorflow_context.context()
    context.ensure_initialized()
    assert context._handle is context._context_handle
    assert type(context._handle).__name__ == "PyCapsule"
