"""Models that earlier versions saved: they load, and give the same values and derivatives as ever."""

import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import ops, save
from tfpyop import export

MODELS = sorted((Path(__file__).parent / "models").glob("*.zip"))
X = np.float32([[1.5, 2.5], [0.5, 4.0]])
ONES = np.ones_like(X)
NORM = np.linalg.norm(X, axis=-1, keepdims=True)
SOFTMAX = ops.softmax.numpy(X)
DIAGONAL = 3 * X[:, :, None] ** 2 * np.eye(2)
EXPECTED = {
    # name: value, gradient of the sum of the values, gradient of the sum of that
    "square": (X**2, 2 * X, 2 * ONES),
    "cube": (X**3, 3 * X**2, 6 * X),
    "sine": (np.sin(X), np.cos(X), "second derivative"),
    "dot": (2 * (X**2).sum(-1), 4 * X, 4 * ONES),
    "scaled": (2 * X, 2 * ONES, None),
    "scaled_static": (1.5 * X, 1.5 * ONES, None),
    "rooted": (X**0.5, 0.5 * X**-0.5, "second derivative"),
    "rooted_static": (X**1.5, 1.5 * X**0.5, "second derivative"),
    "rolled": (X[:, ::-1], ONES, None),
    "both": (-3 * X**2, -6 * X, -6 * ONES),
    "norm": (NORM[:, 0], X / NORM, None),
    "floor": (np.floor(X), "no gradient rule", None),
    "softmax": (SOFTMAX, 0 * X, None),
    "rows": (X**3, 3 * X**2, 6 * X),
    "rows_of_rows": (X**3, 3 * X**2, 6 * X),
    "jacobian": (DIAGONAL, 6 * X, None),
    "gradient": (3 * X**2, 6 * X, None),
    "pushed": (2 * X, None, None),
    "repeated": (np.tile(X, 3), 3 * ONES, None),
    "counted": (X + 1, ONES, None),
    "joined": (np.full(X.shape, 10), None, None),
}
CALLS = [("graphs", name) for name in EXPECTED] + [("compiled", name) for name in save.FUNCTIONS]


@pytest.fixture(scope="module", params=MODELS, ids=[path.stem for path in MODELS])
def directory(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(directory)
    return directory


@pytest.fixture(scope="module")
def models(directory):
    return {name: export.load(directory / name) for name in ("graphs", "compiled", "native")}


def derivatives(function):
    """Return functions for the value of a function, for its gradient, and for the gradient of that."""

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tf.convert_to_tensor(tape.gradient(y, x))  # vectorized_map gives IndexedSlices

    def second(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            first = gradient(x)
        return tape.gradient(first, x)

    return function, gradient, second


def test_there_are_models_of_every_released_version():
    assert "v0.1" in [path.stem for path in MODELS]


@pytest.mark.parametrize(("model", "name"), CALLS)
def test_a_model_of_an_earlier_version_gives_values_and_derivatives(models, model, name):
    function = getattr(models[model], name)
    for derivative, expected in zip(derivatives(function), EXPECTED[name], strict=True):
        if expected is None:
            continue
        if isinstance(expected, str):
            with pytest.raises(tf.errors.OpError, match=expected):
                derivative(tf.constant(X))
        else:
            np.testing.assert_allclose(derivative(tf.constant(X)), expected, rtol=1e-4, atol=1e-6)


def test_a_native_model_of_an_earlier_version_needs_no_op(directory, models):
    assert export.required_ops(directory / "native") == []
    value, gradient, _ = derivatives(models["native"].softmax)
    np.testing.assert_allclose(value(tf.constant(X)), SOFTMAX, rtol=1e-5)
    np.testing.assert_allclose(gradient(tf.constant(X)), 0 * X, atol=1e-6)


@pytest.mark.parametrize("model", ["graphs", "compiled"])
def test_the_ops_of_a_model_of_an_earlier_version_are_listed(directory, model):
    names = {"lab.dot", *(f"tests.models.ops:{name}" for name in vars(ops) if name in save.FUNCTIONS)}
    names |= {"tests.models.ops:forward"}
    names |= {f"tests.models.ops:{name}" for name in (save.NOT_COMPILED if model == "graphs" else ())}
    assert {op.name for op in export.required_ops(directory / model)} >= names - {"tests.models.ops:dot"}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["graphs", "compiled"])
def test_a_model_of_an_earlier_version_can_be_saved_again(models, model, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export.save(models[model], tmp_path)
    value, gradient, _ = derivatives(export.load(tmp_path).cube)
    np.testing.assert_allclose(value(tf.constant(X)), X**3, rtol=1e-6)
    if model == "graphs":
        np.testing.assert_allclose(gradient(tf.constant(X)), 3 * X**2, rtol=1e-6)


def test_a_keras_file_of_an_earlier_version_is_loaded(directory):
    model = keras.saving.load_model(directory / "model.keras")
    np.testing.assert_allclose(model(X), 1.5 * X**3, rtol=1e-6)
    _, gradient, _ = derivatives(model)
    np.testing.assert_allclose(gradient(tf.constant(X)), 4.5 * X**2, rtol=1e-6)
