"""Keras: ops in functional, Sequential and subclassed models, trained in every way, and saved for other processes."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import ops, saved_ops
from tests.processes import run_python
from tfpyop import CoercionError, RegistrationError, SignatureError, UnsupportedError, differentiable_op
from tfpyop._import_hooks import _on_keras
from tfpyop._lowering import dispatch
from tfpyop.export import ExportWarning

# Keras itself copies weights in a way that numpy 2 is going to forbid
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ROOT = Path(__file__).parent.parent
X = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
Y = np.sum(X**2, axis=1, keepdims=True)
WAYS = {
    "graph": {"jit_compile": False},
    "compiled": {"jit_compile": True},
    "auto": {"jit_compile": "auto"},
    "eager": {"jit_compile": False, "run_eagerly": True},
}


def hypotenuse(x, y, *, scale=1.0):
    return scale * keras.ops.sqrt(x * x + y * y)


def functional(cube, hypotenuse):
    keras.utils.set_random_seed(1)
    x = keras.Input((4,))
    h = keras.layers.Dense(4)(x)
    z = hypotenuse(cube(h), 0.5, scale=2.0)
    return keras.Model(x, keras.layers.Dense(1)(hypotenuse(z, h)))


def sequential(cube, hypotenuse):
    del hypotenuse
    keras.utils.set_random_seed(1)
    layer = cube.as_layer() if cube is saved_ops.cube else keras.layers.Activation(cube)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), layer, keras.layers.Dense(1)])


def subclassed(cube, hypotenuse):
    class Scaled(keras.layers.Layer):
        def call(self, x):
            return hypotenuse(cube(x), x, scale=3.0)

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.scaled, self.last = keras.layers.Dense(4), Scaled(), keras.layers.Dense(1)

        def call(self, x):
            return self.last(self.scaled(self.first(x)))

    keras.utils.set_random_seed(1)
    return Model()


def trained(model, way):
    model.compile(keras.optimizers.SGD(1e-3), "mse", **WAYS[way])
    history = model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return [*history.history["loss"], model.evaluate(X, Y, verbose=0), *model.predict(X[:3], verbose=0).ravel()]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [functional, sequential, subclassed])
def test_models_train_as_with_functions_of_keras(kind, way):
    got = trained(kind(saved_ops.cube, saved_ops.hypotenuse), way)
    expected = trained(kind(lambda x: x**3, hypotenuse), way)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_symbolic_outputs_have_shapes_and_dtypes():
    x = keras.Input((3, 4), dtype="float64")
    assert (saved_ops.cube(x).shape, saved_ops.cube(x).dtype) == ((None, 3, 4), "float64")
    product = ops.matmul(x, np.ones((4, 5), np.float32).astype(np.float64))
    assert (product.shape, product.dtype) == ((None, 3, 5), "float64")
    first, second = ops.maximum_and_place(keras.Input((4,)))
    assert (first.shape, second.shape, second.dtype) == ((None,), (None,), "int64")


def test_a_model_shows_the_names_of_its_ops():
    keras.backend.clear_session()
    model = functional(saved_ops.cube, saved_ops.hypotenuse)
    lines = []
    model.summary(print_fn=lines.append, line_length=150)
    text = "\n".join(lines)
    for name in ("cube", "hypotenuse", "hypotenuse_1"):
        assert f"{name} (KerasOp)" in text
    dot = keras.utils.model_to_dot(model, show_layer_names=True).to_string()
    assert "hypotenuse_1" in dot
    assert saved_ops.cube.as_layer(name="third").name == "third"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [functional, sequential])
def test_a_model_survives_in_a_file_in_another_process(kind, tmp_path):
    model = kind(saved_ops.cube, saved_ops.hypotenuse)
    model.save(tmp_path / "model.keras")
    model.export(str(tmp_path / "exported"), verbose=False)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", model.predict(X, verbose=0))
    for weight in model.weights:
        weight.assign(weight + 1)
    model.save_weights(tmp_path / "more.weights.h5")
    np.save(tmp_path / "z.npy", model.predict(X, verbose=0))
    program = """
import keras, numpy as np, tensorflow as tf, tests.saved_ops
x, y, z = (np.load(f"{name}.npy") for name in "xyz")
model = keras.saving.load_model("model.keras")
np.testing.assert_allclose(model.predict(x, verbose=0), y, rtol=1e-5)
exported = tf.saved_model.load("exported")
np.testing.assert_allclose(exported.serve(x), y, rtol=1e-5)
model.load_weights("more.weights.h5")
np.testing.assert_allclose(model.predict(x, verbose=0), z, rtol=1e-5)
model.compile("sgd", "mse")
model.fit(x, y, verbose=0)
"""
    run(program, tmp_path)


def run(program, directory, *arguments, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return run_python("-c", program, *arguments, cwd=directory, env=environment, check=True).stdout


def test_a_file_whose_ops_are_missing_says_which(tmp_path):
    functional(saved_ops.cube, saved_ops.hypotenuse).save(tmp_path / "model.keras")
    program = """
import keras, tfpyop
try:
    keras.saving.load_model("model.keras")
except Exception as error:
    print(error)
"""
    said = run(program, tmp_path)
    assert "op 'tests.saved_ops:cube': the op is not registered in this process." in said
    assert "Import the module that defines the op, 'tests.saved_ops', before you load the model" in said


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    monkeypatch.setattr(dispatch, "_symbolic_calls", [])
    _on_keras(keras)
    with pytest.raises(UnsupportedError, match=r'uses the torch backend(?s:.*)KERAS_BACKEND="tensorflow"'):
        saved_ops.cube(keras.KerasTensor((2, 3)))


@pytest.mark.parametrize(
    "make", [lambda op: op(keras.Input((3,))), lambda op: keras.Sequential([keras.Input((3,)), op.as_layer()])]
)
def test_an_op_that_no_other_process_has_is_saved_with_a_warning(make, tmp_path):
    op = differentiable_op(lambda x: 2 * x, signature="()->()", grad=lambda op, g: 2 * g)
    made = make(op)
    model = made if isinstance(made, keras.Model) else keras.Model(made._keras_history.operation.input, made)
    with pytest.warns(ExportWarning, match="created inside a function(?s:.*)or pass name="):
        model.save(tmp_path / "model.keras")


AS_FUNCTIONS = {
    "activation": lambda op: keras.layers.Dense(2, activation=op),
    "Activation": keras.layers.Activation,
    "Lambda": keras.layers.Lambda,
    "initializer": lambda op: keras.layers.Dense(2, bias_initializer=op),
    "regularizer": lambda op: keras.layers.Dense(2, kernel_regularizer=op),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras' own
@pytest.mark.parametrize("make", AS_FUNCTIONS.values(), ids=AS_FUNCTIONS)
@pytest.mark.parametrize("is_local", [False, True])
def test_an_op_in_the_place_of_a_function_is_saved_with_a_warning(make, is_local):
    def doubled(x):
        return 2 * x

    layer = make(differentiable_op(doubled, signature="()->()") if is_local else saved_ops.cube)
    with pytest.warns(ExportWarning, match=r"by the bare name(?s:.*)as_layer\(\)(?s:.*)register_keras_serializable"):
        keras.saving.serialize_keras_object(layer)


def test_an_op_as_a_loss_is_saved_with_a_warning(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", loss=saved_ops.hypotenuse)
    with pytest.warns(ExportWarning, match="by the bare name 'hypotenuse'"):
        model.save(tmp_path / "model.keras")


@pytest.mark.slow
def test_an_op_that_is_registered_with_keras_may_be_an_activation(tmp_path):
    program = """
import sys, warnings
import keras, numpy as np
import tests.saved_ops
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "__array__ implementation")
cube = keras.saving.register_keras_serializable(package="tests")(tests.saved_ops.cube)
x = np.ones((2, 3), np.float32)
if sys.argv[1] == "save":
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation=cube)])
    model.save("model.keras")
    np.save("y.npy", model.predict(x, verbose=0))
else:
    model = keras.saving.load_model("model.keras")
    np.testing.assert_allclose(model.predict(x, verbose=0), np.load("y.npy"))
"""
    for step in ("save", "load"):
        run(program, tmp_path, step)


def test_models_are_cloned():
    model = functional(saved_ops.cube, saved_ops.hypotenuse)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(X), model(X))


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # Keras scales the loss until none is left
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        for kind in (functional, sequential):
            model = kind(saved_ops.cube, saved_ops.hypotenuse)
            assert model.outputs[0].dtype == policy.removeprefix("mixed_")
            expected = kind(lambda x: x**3, hypotenuse).predict(X, verbose=0)
            np.testing.assert_allclose(model.predict(X, verbose=0), expected, rtol=0.1, atol=0.1)
            model.compile(keras.optimizers.SGD(1e-3), "mse")
            assert np.isfinite(model.fit(X, 0 * Y, verbose=0).history["loss"]).all()
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda x: differentiable_op(lambda x: x)(x), UnsupportedError, "output 0 has an unknown shape"),
        (lambda x: ops.matmul(x, x), SignatureError, "does not fit signature"),
        (
            lambda x: saved_ops.hypotenuse(x, tf.sparse.from_dense([1.0])),
            CoercionError,
            r"hypotenuse'.*input 1 is a SparseTensor(?s:.*)tf\.sparse\.to_dense",
        ),
        (lambda x: ops.exp([x, x]), UnsupportedError, r"is a list that contains a KerasTensor(?s:.*)keras\.ops\.stack"),
    ],
)
def test_an_error_for_symbolic_inputs_does_not_mention_keras(call, kind, said):
    with pytest.raises(kind, match=said) as caught:
        call(keras.Input((3,), batch_size=2))
    assert "Exception encountered" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_that_overflow_in_half_precision_are_skipped_as_keras_does(jit_compile):
    @differentiable_op(signature="(n)->(n)")
    def power_spectrum(x):
        return np.abs(np.fft.fft(x)) ** 2

    @power_spectrum.numpy_gradient
    def power_spectrum_gradient(op, grad):  # in float64, also for float16
        (x,) = op.inputs
        return 2 * x.shape[-1] * np.real(np.fft.ifft(grad * np.fft.fft(x)))

    keras.config.set_dtype_policy("mixed_float16")
    try:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Dense(4), power_spectrum.as_layer(), keras.layers.Dense(1)])
        model.compile("adam", "mse", jit_compile=jit_compile)
        model.fit(X, Y, epochs=12, verbose=0)
        assert model.optimizer.dynamic_scale.numpy() < 2**15
        assert model.optimizer.inner_optimizer.iterations.numpy() > 0
        assert all(np.isfinite(weight).all() for weight in model.get_weights())
    finally:
        keras.config.set_dtype_policy("float32")


def test_the_static_values_of_a_layer_come_back_as_they_were(tmp_path):
    layer = saved_ops.first_of.as_layer(choice=(1, {"a": (2, 3)}), label=None)
    model = keras.Sequential([keras.Input((3,)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X[:, :3]), model(X[:, :3]))


def test_an_invalid_static_value_is_an_error_where_it_is_written():
    with pytest.raises(RegistrationError, match=r"hypotenuse'.*no static parameter 'skale'\.\n  Did you mean 'scale'"):
        saved_ops.hypotenuse.as_layer(skale=2.0)


def test_a_layer_of_unknown_shape_is_reported_by_the_op():
    op = differentiable_op(lambda x: x * 1, grad=lambda op, g: g)
    model = keras.Sequential([op.as_layer(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(UnsupportedError, match=r"output 0 has an unknown shape, and Keras needs the shape"):
        model.fit(X, Y, verbose=0)


UNKNOWN = differentiable_op(lambda x: x * 1, grad=lambda op, g: g, name="tests.test_keras:unknown")


class OfUnknownShape(keras.layers.Layer):
    """A layer with an op without a signature.

    Args:
      function: What the layer does with the op.
    """

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        """Call the function."""
        return self.function(x)


UNKNOWN_IN = {
    "returned": UNKNOWN,
    "in a sum": lambda x: UNKNOWN(x) + 1,
    "in a dict": lambda x: {"a": UNKNOWN(x)},
    "in keras.ops": lambda x: keras.ops.sum(UNKNOWN(x), axis=-1),
    "in another layer": lambda x: keras.layers.Flatten()(UNKNOWN(x)),
    "in a function": tf.function(lambda x: UNKNOWN(x), autograph=False),
}


@pytest.mark.parametrize("function", UNKNOWN_IN.values(), ids=UNKNOWN_IN)
def test_an_op_of_unknown_shape_in_a_layer_is_reported_by_the_op(function):
    said = r"unknown' \(.*output 0 has an unknown shape, and Keras needs the shape\.\n  Pass signature="
    with pytest.raises(ValueError, match=said) as caught:
        OfUnknownShape(function)(keras.Input((3,)))
    assert isinstance(caught.value, UnsupportedError)


def test_an_op_of_unknown_shape_in_a_model_is_reported_by_the_op():
    class Model(keras.Model):
        def call(self, x):
            return UNKNOWN(x)

    model = Model()
    model.compile("sgd", "mse")
    with pytest.raises(UnsupportedError, match=r"unknown' \(.*output 0 has an unknown shape, and Keras needs"):
        model.fit(X, X, verbose=0)


def test_a_layer_may_define_the_shape_that_an_op_does_not():
    layer = OfUnknownShape(lambda x: tf.ensure_shape(UNKNOWN(x), [None, 3]))
    assert layer(keras.Input((3,))).shape == (None, 3)
    np.testing.assert_array_equal(layer(X[:, :3]), X[:, :3])


def test_other_unknown_shapes_are_reported_as_before():
    layer = OfUnknownShape(lambda x: tf.numpy_function(np.negative, [x], tf.float32))
    with pytest.raises(ValueError, match=r"as_list\(\) is not defined on an unknown TensorShape") as caught:
        layer(keras.Input((3,)))
    assert not isinstance(caught.value, UnsupportedError)

    @tf.function(input_signature=[tf.TensorSpec([None])])
    def outside_of_keras(x):
        with pytest.raises(ValueError, match=r"^as_list\(\) is not defined on an unknown TensorShape\.$"):
            UNKNOWN(x).shape.as_list()
        return x

    outside_of_keras(X[0])


def test_an_op_that_xla_cannot_compile_is_not_compiled_automatically():
    op = differentiable_op(lambda x: x * 1, shape=lambda shape: shape, grad=lambda op, g: g)
    model = keras.Sequential([keras.layers.Dense(2), op.as_layer()])
    model.compile("sgd", "mse", jit_compile="auto")
    model.fit(X, X[:, :2], verbose=0)


def test_a_layer_takes_its_inputs_one_by_one_or_in_a_list():
    layer = saved_ops.hypotenuse.as_layer(scale=2.0)
    np.testing.assert_allclose(layer(3.0 * X, 4.0 * X), 10 * np.abs(X), rtol=1e-6)
    np.testing.assert_allclose(layer([3.0 * X, 4.0 * X]), 10 * np.abs(X), rtol=1e-6)
