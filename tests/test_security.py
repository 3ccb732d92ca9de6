"""What docs/security.md says of what is read: names and JSON, for which nothing is imported or run."""

import json
import pickle
import pickletools
import stat
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.saved_ops import cube
from tfpyop import UnsupportedError, export
from tfpyop._host.shared_arrays import shared_directory
from tfpyop._lowering.xla.call_descriptor import CallDescriptor

TOKENS = ["tfpyop:trap:op", 'tfpyop:op@trap{"static":{"axis":1}}', 'tfpyop:trap:op/vjp{"batch":[[1]]}']


@pytest.fixture(autouse=True)
def trap(tmp_path, monkeypatch):
    """A module that can be imported, and says so for ever."""
    (tmp_path / "trap.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    assert "trap" not in sys.modules


@pytest.fixture(params=TOKENS)
def model(request, tmp_path):
    """A SavedModel with a call of an op that the module `trap` would define."""

    @tf.function(input_signature=[tf.TensorSpec([2], tf.float32)])
    def call(x):
        return tf.raw_ops.PyFunc(input=[x], token=request.param, Tout=[tf.float32])[0]

    module = tf.Module()
    module.call = call
    tf.saved_model.save(module, str(tmp_path / "model"))
    return tmp_path / "model"


def test_nothing_is_imported_to_list_the_ops_of_a_model(model):
    (op,) = export.required_ops(model)
    assert (op.module, op.is_available) == ("trap", False)


@pytest.mark.parametrize(
    "payload",
    [
        *("{", '{"static":', '{"static":3}', "{" * 9000, '{"a":' + "[" * 9000),
        *('{"inputs":7}', '{"inputs":"leaf"}', '{"inputs":["list"]}', '{"inputs":[]}', '{"inputs":["leaf","leaf"]}'),
        *('{"batch":3}', '{"batch":[[]]}', '{"batch":[[0]]}', '{"batch":[[1],[1,1]]}', '{"batch":[[1,1]]}'),
    ],
)
def test_a_token_that_cannot_be_read_is_refused(payload, tmp_path):
    module = tf.Module()
    module.call = tf.function(
        lambda x: tf.raw_ops.PyFunc(input=[x], token=f"tfpyop:{cube.name}{payload}", Tout=[tf.float32])[0],
        input_signature=[tf.TensorSpec([2], tf.float32)],
    )
    tf.saved_model.save(module, str(tmp_path))
    message = rf"^op '{cube.name}': cannot parse this op's call data in the model\.\n  Got:      {{"
    for read in (export.required_ops, export.load):
        with pytest.raises(UnsupportedError, match=message):
            read(tmp_path)
    with pytest.raises(tf.errors.OpError, match=message.removeprefix("^")):
        tf.saved_model.load(str(tmp_path)).call([1.0, 2.0])


@pytest.mark.parametrize(
    "site",
    [
        b"",
        b"no types",
        b"t|float32[x]->float32[]",
        b"t|->->->",
        b"t|flaot32[2]->float32[2]",
        b"t|05f4[2]->float32[2]",
        b"\xff|->",
        b"t|object[2]->float32[2]",
        b"t|<f4[2]->float32[2]",
        b"t|float32[1_0]->float32[10]",
        "t|float32[\u0663]->float32[3]".encode(),
        b"t|float32[ 3]->float32[3]",
        b"t|float32[3->float32[3]",
        b"t|float32[+3]->float32[3]",
        b"t|float32[" + b"9" * 5000 + b"]->float32[3]",
    ],
)
def test_a_text_of_a_compiled_call_that_cannot_be_read_is_refused(site):
    with pytest.raises(UnsupportedError, match=r"^cannot parse the call data in a compiled model\.") as caught:
        CallDescriptor.parse(site)
    assert caught.value.got == repr(site[:200])


def test_nothing_is_imported_that_a_model_names(model):
    with pytest.raises(UnsupportedError, match=r"needs ops that are not registered in this process"):
        export.load(model)


def test_nothing_is_imported_when_such_a_model_is_called(model):
    loaded = tf.saved_model.load(str(model))
    with pytest.raises(tf.errors.OpError, match="the op is not registered in this process"):
        loaded.call([1.0, 2.0])


def keras_file(tmp_path, call, token):
    """Return a file of a Keras model that names its op by something else."""
    x = keras.Input((2,))
    path, changed = tmp_path / "model.keras", tmp_path / "changed.keras"
    keras.Model(x, call(x)).save(path)
    own = json.dumps(cube.as_layer().get_config()["op"])
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "config.json":
                assert own.encode() in data
                data = data.replace(own.encode(), json.dumps(token).encode())
            target.writestr(name, data)
    return changed


@pytest.mark.parametrize("token", TOKENS)
def test_nothing_is_imported_that_a_keras_file_names(token, tmp_path):
    with pytest.raises((TypeError, ValueError, UnsupportedError), match="the op is not registered in this process"):
        keras.saving.load_model(keras_file(tmp_path, cube.as_layer(), token))


@pytest.mark.parametrize("call", [cube, cube.as_layer()], ids=["call", "layer"])
@pytest.mark.parametrize("token", [7, 1.5, True, None, [], ["a"], {"a": 1}], ids=repr)
def test_an_op_of_a_keras_file_that_is_not_text_is_refused(call, token, tmp_path):
    with pytest.raises(TypeError, match=r"names an op by a value that is not text\.\n  Expected: the token of an op"):
        keras.saving.load_model(keras_file(tmp_path, call, token))


@pytest.mark.parametrize("call", [cube, cube.as_layer()], ids=["call", "layer"])
@pytest.mark.parametrize(
    "token",
    [
        *("", "tfpyop:", "{", f"tfpyop:{cube.name}{{"),
        'tfpyop:tfpyop:refusal{"count":1,"error":"missing_gradient","op":""}',
    ],
)
def test_a_token_of_a_keras_file_that_cannot_be_read_is_refused(call, token, tmp_path):
    with pytest.raises(TypeError, match="cannot parse this op's call data in the model"):
        keras.saving.load_model(keras_file(tmp_path, call, token))


@pytest.mark.parametrize("payload", ['{"batch":[[1]]}', '{"inputs":[{"dict":[["b","leaf"]]}]}'])
def test_a_layer_refuses_what_it_would_not_follow(payload, tmp_path):
    with pytest.raises(TypeError, match="cannot parse this op's call data in the model"):
        keras.saving.load_model(keras_file(tmp_path, cube.as_layer(), f"tfpyop:{cube.name}{payload}"))


def test_a_pickle_of_an_op_holds_two_names():
    texts = [argument for _, argument, _ in pickletools.genops(pickle.dumps(cube)) if isinstance(argument, str)]
    assert texts == ["tfpyop._op", "_unpickle", "tests.saved_ops", cube.name]


def test_what_processes_share_is_for_this_user_alone():
    with shared_directory(1) as (directory, _):
        assert stat.S_IMODE(directory.stat().st_mode) == stat.S_IRWXU
        np.zeros(3).tofile(directory / "array")
    assert not directory.exists()
