"""Ops that an instance or a call creates with `name=`: they are listed as long as they are referenced."""

import gc
import sys
import threading
import weakref

import numpy as np
import pytest
import tensorflow as tf

from tests import modes
from tfpyop import RegistrationError, differentiable_op, get_op, registered_ops
from tfpyop._registry.op_def import REGISTRY

NAME = "tests.instances:solve"
X = np.float32([1, 2])


class Solver:
    """A layer as people write them: a handle of a library, and an op that uses it."""

    def __init__(self, factor=2.0, name=NAME):
        self.factor = factor
        self.op = differentiable_op(
            self.solve,
            signature="(n)->(k)",
            sizes={"k": lambda n: int(n * self.factor / self.factor)},
            residuals={"factor": ("()", np.float64)},
            numpy_grad=self.gradient,
            vectorized=False,
            name=name,
        )

    def solve(self, x):
        return self.factor * x, {"factor": self.factor}

    def gradient(self, op, cotangent):
        return op.residuals.factor * cotangent


def of_a_function(name=NAME):
    handle = Handle()
    op = differentiable_op(lambda x: handle.factor * x, signature="()->()", grad=lambda op, g: 2 * g, name=name)
    return op, weakref.ref(handle)


class Handle:
    factor = np.float32(2)


def is_gone(reference):
    gc.collect()
    return reference() is None


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    gc.collect()
    assert NAME not in REGISTRY.listed()


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA", "session"])
def test_the_memory_is_freed_after_calls_and_gradients(mode):
    solver = Solver()
    assert modes.call(mode, solver.op, X).tolist() == [2, 4]
    assert NAME in registered_ops()
    solver = weakref.ref(solver)
    assert is_gone(solver)
    assert NAME not in registered_ops()


@pytest.mark.parametrize("mode", ["tape, eager", "tape inside", "tape outside", "tape outside, XLA"])
def test_the_memory_is_freed_after_gradients(mode):
    solver = Solver()
    assert modes.gradient(mode, solver.op, X)[0].tolist() == [2, 2]
    solver = weakref.ref(solver)
    assert is_gone(solver)


def test_the_memory_is_freed_after_batching_and_keras():
    import keras

    solver = Solver()
    tf.vectorized_map(solver.op, tf.constant([X, X]))
    inputs = keras.Input((2,))
    model = keras.Model(inputs, solver.op(inputs))
    assert model(np.stack([X])).numpy().tolist() == [[2, 4]]
    solver = weakref.ref(solver)
    gc.collect()
    assert model(np.stack([X])).numpy().tolist() == [[2, 4]]  # the model keeps the op
    del model, inputs
    keras.backend.clear_session()
    assert is_gone(solver)


def test_the_memory_of_a_function_made_by_a_function_is_freed():
    op, handle = of_a_function()
    assert modes.gradient("tape inside", op, X)[0].tolist() == [2, 2]
    assert get_op(NAME) is op
    del op
    assert is_gone(handle)


def test_a_graph_and_a_tape_keep_the_op():
    function = tf.function(Solver().op).get_concrete_function(tf.constant(X))
    gc.collect()
    assert NAME in REGISTRY.listed()
    assert function(tf.constant(X)).numpy().tolist() == [2, 4]
    del function
    gc.collect()
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = Solver().op(x)
    gc.collect()
    assert tape.gradient(y, x).numpy().tolist() == [2, 2]


def test_one_instance_after_the_other_may_use_a_name():
    for factor in (2.0, 3.0):
        solver = Solver(factor)
        for options in ({}, {"jit_compile": True}):
            assert tf.function(solver.op, **options)(X).numpy().tolist() == [factor, 2 * factor]
        del solver  # part of a reference cycle, which is not collected yet


def test_two_instances_at_once_may_not():
    solver = Solver()
    with pytest.raises(RegistrationError, match=f"another op already has the name '{NAME}'"):
        Solver()
    assert get_op(NAME) is solver.op


def test_a_saved_model_uses_the_op_while_it_lives(tmp_path):
    solver, module = Solver(), tf.Module()
    module.solve = tf.function(solver.op, input_signature=[tf.TensorSpec([2])])
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    assert loaded.solve(tf.constant(X)).numpy().tolist() == [2, 4]
    del module, solver
    gc.collect()
    with pytest.raises(tf.errors.OpError, match=f"'{NAME}'"):
        loaded.solve(tf.constant(X))
    again = Solver(3.0)
    assert loaded.solve(tf.constant(X)).numpy().tolist() == [3, 6]
    del again


MODULE = """
from tfpyop import differentiable_op

def register(name, factor):
    differentiable_op(lambda x: factor * x, signature="()->()", name=name)

for name, factor in [("tests.instances:double", 2), ("tests.instances:triple", 3)]:
    register(name, factor)
"""


def test_ops_that_functions_create_while_a_module_is_imported_are_kept(tmp_path, monkeypatch):
    (tmp_path / "ops_in_a_loop.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    __import__("ops_in_a_loop")
    gc.collect()
    assert get_op("tests.instances:triple")(2.0).numpy() == 6
    monkeypatch.delitem(sys.modules, "ops_in_a_loop")


def test_functions_of_a_module_that_a_function_names_are_kept():
    differentiable_op(np.sinc, signature="()->()", name="tests.instances:sinc")
    gc.collect()
    assert "tests.instances:sinc" in registered_ops()


def test_ops_are_listed_while_threads_define_and_drop_ops():
    is_done = threading.Event()
    failures = []

    def read():
        try:
            while not is_done.is_set():
                list(registered_ops().values())
                list(registered_ops().items())
                repr(registered_ops())
        except Exception as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for number in range(300):
            differentiable_op(lambda x: x, name=f"instances.listed.{number % 7}.{number}")
    finally:
        is_done.set()
        for reader in readers:
            reader.join()
    assert not failures
