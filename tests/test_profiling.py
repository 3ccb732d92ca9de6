"""Calls of functions and rules are events of TensorFlow's profiler, and their nodes have the names of ops."""

import numpy as np
import pytest
import tensorflow as tf

from tfpyop import differentiable_op


@differentiable_op(signature="()->()")
def profiled_sine(x):
    return np.sin(x)


@profiled_sine.numpy_gradient
def profiled_rule(op, grad):
    return grad * np.cos(op.inputs[0])


def value_and_gradient(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = profiled_sine(x)
    return y, tape.gradient(y, x)


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_calls_are_events_of_the_profiler(mode, tmp_path):
    run = value_and_gradient
    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "XLA")
    x = tf.ones(4)
    run(x)
    with tf.profiler.experimental.Profile(str(tmp_path)):
        run(x)
    (trace,) = tmp_path.rglob("*.xplane.pb")
    events = trace.read_bytes()
    assert b"op 'tests.test_profiling:profiled_sine' (" in events
    assert b"op 'tests.test_profiling:profiled_sine/vjp' (" in events


def test_nodes_have_the_names_of_ops():
    function = tf.function(value_and_gradient).get_concrete_function(tf.TensorSpec([4]))
    names = {node.name.split("/")[-1] for node in function.graph.get_operations() if node.type == "PyFuncStateless"}
    assert names == {"profiled_sine", "vjp"}
