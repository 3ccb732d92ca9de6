"""Saved models in another process that has imported the module of the ops: values, derivatives, training."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests import saved_ops
from tests.processes import run_python

ROOT = Path(__file__).parent.parent
CHILD = """
import json, sys
import tensorflow as tf
{imports}

def tried(function):
    try:
        return function()
    except Exception as error:
        return f"{{type(error).__name__}}: {{error}}"

def derivatives(call, x):
    def first():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = call(x)
        return tf.convert_to_tensor(tape.gradient(y, x))

    def second():
        with tf.GradientTape() as tape:
            tape.watch(x)
            g = first()
        return tape.gradient(g, x)

    return [tried(lambda: f().numpy().tolist()) for f in (lambda: call(x), first, second)]

results = {{}}
for name in sys.argv[2:]:
    model = tf.saved_model.load(f"{{sys.argv[1]}}/{{name}}")
    x = tf.constant([[1.5, 2.5]])
    if name != "model":
        results[name] = derivatives(model.call, x)
    if name == "cube":
        results["graph"] = derivatives(tf.function(model.call), x)
        signature = model.signatures["serving_default"]
        results["signature"] = [signature(x=x)["output_0"].numpy().tolist()]
    if name == "model":
        before = model.loss().numpy()
        for _ in range(20):
            model.train()
        results["training"] = [float(before), float(model.loss().numpy())]
        with tf.GradientTape() as tape:
            loss = model.loss()
        results["gradient"] = [g.numpy().tolist() for g in tape.gradient(loss, model.trainable)]
        checkpoint = tf.train.Checkpoint(model=model)
        checkpoint.restore(f"{{sys.argv[1]}}/checkpoint-1").assert_consumed()
        results["restored"] = model.trainable[0].numpy().tolist()
print(json.dumps(results))
"""


def saved(function, path, *, is_compiled=False):
    module = tf.Module()
    spec = tf.TensorSpec([None, 2], tf.float32, name="x")
    module.call = tf.function(function, [spec], autograph=False, jit_compile=is_compiled)
    tf.saved_model.save(module, str(path))


class Model(tf.Module):
    def __init__(self, cube):
        super().__init__()
        self.cube = cube
        self.weight = tf.Variable([1.0, 2.0])
        self.trainable = [self.weight]

    @tf.function(input_signature=[])
    def loss(self):
        return tf.reduce_sum((self.cube(self.weight) - 3.0) ** 2)

    @tf.function(input_signature=[])
    def train(self):
        with tf.GradientTape() as tape:
            loss = self.loss()
        self.weight.assign_sub(0.002 * tape.gradient(loss, self.weight))
        return loss


def in_child(directory, *names, imports="import tests.saved_ops"):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = run_python("-c", CHILD.format(imports=imports), directory, *names, env=environment, check=True)
    return json.loads(process.stdout)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def results(directory):
    """What the loaded functions gave: value, first and second derivative at 1.5 and 2.5."""
    names = ["plain", "square", "cube", "sine", "rooted"]
    for name in names:
        saved(getattr(saved_ops, name), directory / name)
        saved(getattr(saved_ops, name), directory / f"{name}_compiled", is_compiled=True)
    saved(lambda x: saved_ops.rooted(x, power=3), directory / "rooted_static")
    saved(lambda x: tf.vectorized_map(saved_ops.cube, x), directory / "rows")
    model = Model(saved_ops.cube)
    tf.saved_model.save(model, str(directory / "model"))
    tf.train.Checkpoint(model=model).save(str(directory / "checkpoint"))
    return in_child(directory, *names, *(f"{name}_compiled" for name in names), "rooted_static", "rows", "model")


X = np.array([[1.5, 2.5]])
EXPECTED = {
    "square": [X**2, 2 * X, 2 * np.ones_like(X)],
    "cube": [X**3, 3 * X**2, 6 * X],
    "rooted": [X**0.5, 0.5 * X**-0.5],
    "rooted_static": [X**1.5, 1.5 * X**0.5],
    "sine": [np.sin(X), np.cos(X)],
    "rows": [X**3, 3 * X**2, 6 * X],
    "graph": [X**3, 3 * X**2, 6 * X],
    "signature": [X**3],
}


@pytest.mark.parametrize("name", [*EXPECTED, "square_compiled", "cube_compiled", "rooted_compiled", "sine_compiled"])
def test_a_loaded_function_gives_values_and_derivatives(results, name):
    expected = EXPECTED[name.removesuffix("_compiled")]
    for wanted, got in zip(expected, results[name], strict=False):
        np.testing.assert_allclose(got, wanted, rtol=1e-4)


@pytest.mark.parametrize("name", ["plain", "plain_compiled"])
def test_an_op_without_a_rule_is_saved_and_refuses_its_gradient_where_it_is_loaded(results, name):
    value, first, _ = results[name]
    assert value == [[1.0, 2.0]]
    assert "op 'tests.saved_ops:plain'" in first
    assert "cannot compute the gradient: the op has no gradient rule" in first


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sine", "provides first derivatives only"),
        ("sine_compiled", "provides first derivatives only"),
        ("rooted", "through a residual"),
        ("rooted_compiled", "through a residual"),
    ],
)
def test_an_undefined_second_derivative_is_refused_where_it_is_loaded(results, name, said):
    assert said in results[name][2]


def test_a_loaded_model_is_trained_and_restored(results):
    before, after = results["training"]
    assert after < 0.1 * before
    assert np.shape(results["gradient"]) == (1, 2)
    assert results["restored"] == [1.0, 2.0]


def test_without_the_module_the_first_call_says_what_is_missing(results, directory):
    value, *_ = in_child(directory, "cube_compiled", imports="import tfpyop")["cube_compiled"]
    assert "op 'tests.saved_ops:cube'" in value
    assert "Import the module that defines the op, 'tests.saved_ops'," in value


@pytest.mark.slow
def test_a_loaded_model_that_is_saved_again_keeps_its_first_derivatives(tmp_path):
    saved(saved_ops.cube, tmp_path / "first")
    tf.saved_model.save(tf.saved_model.load(str(tmp_path / "first")), str(tmp_path / "second"))
    _, first, second = in_child(tmp_path, "second")["second"]
    np.testing.assert_allclose(first, 3 * X**2, rtol=1e-6)
    assert "a loaded model: cannot compute a second derivative: it was lost" in second


def test_a_function_with_placeholders_for_what_cannot_be_computed_is_saved(tmp_path):
    """The tape over a VJP makes such placeholders, though only the derivative by the cotangent is used."""

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None])])
        def call(self, x):
            u = tf.ones_like(x)
            with tf.GradientTape() as outer:
                outer.watch(u)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    y = saved_ops.cube(x)
                g = inner.gradient(y, x, output_gradients=u)
            return outer.gradient(g, u)

    module, x = Module(), tf.constant([2.0, 3.0])
    assert module.call(x).numpy().tolist() == [12, 27]
    tf.saved_model.save(module, str(tmp_path))
    assert tf.saved_model.load(str(tmp_path)).call(x).numpy().tolist() == [12, 27]
