"""Damaged models: each kind of damage is one clear error, when the file is read and when its functions run."""

import json
import shutil
import time

import numpy as np
import pytest
import tensorflow as tf

from tests import saved_ops
from tests.test_saved_model import saved
from tfpyop import TfpyopError, UnsupportedError, export
from tfpyop._lowering._tensorflow import parse_saved_model
from tfpyop._lowering.saved.nodes import nodes_of
from tfpyop._registry.op_def import REGISTRY
from tfpyop._registry.token import Token

X = tf.constant([[1.0, 2.0]])
CUBE = "tfpyop:tests.saved_ops:cube"
REFUSAL = "tfpyop:tfpyop:refusal"
OUTPUT = '[["float32",[[0,0],2]]]'


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    saved(saved_ops.cube, directory / "graph")
    saved(saved_ops.cube, directory / "compiled", is_compiled=True)
    saved(saved_ops.plain, directory / "refusal")
    saved(saved_ops.rooted, directory / "guard")
    return directory


@pytest.fixture
def damage(directory, tmp_path):
    """Copy a model, and give an attribute of its nodes another value where it has a certain one."""

    def damage(model, name, value, *, of=b""):
        path = tmp_path / "model"
        shutil.copytree(directory / model, path, dirs_exist_ok=True)
        file = parse_saved_model(str(path))
        count = 0
        for meta_graph in file.meta_graphs:
            for node in nodes_of(meta_graph.graph_def):
                if name in node.attr and of in node.attr[name].s:
                    node.attr[name].s = value(node.attr[name].s) if callable(value) else value
                    count += 1
        assert count
        (path / "saved_model.pb").write_bytes(file.SerializeToString())
        (path / "fingerprint.pb").unlink(missing_ok=True)
        return path

    return damage


def errors_of(path, *, is_run=True):
    """Return what is said by everything that reads a model, and by the gradient of the gradient of its function."""
    said = []
    for read in (export.required_ops, export.load):
        with pytest.raises(TfpyopError) as caught:
            read(path)
        said.append(str(caught.value))
    if is_run:
        with pytest.raises((tf.errors.OpError, TfpyopError)) as caught:
            differentiate_twice(path)
        said.append(str(caught.value))
    return said


def differentiate_twice(path):
    call = tf.saved_model.load(str(path)).call
    with tf.GradientTape() as outer:
        outer.watch(X)
        with tf.GradientTape() as tape:
            tape.watch(X)
            y = call(X)
        first = tape.gradient(y, X)
    return outer.gradient(first, X)


PAYLOADS = {
    "no JSON": "{",
    "no end": '{"static":',
    "too deep": '{"static":{"a":' + "[" * 5000 + "]" * 5000 + "}}",
    "deeper than values may be": '{"static":{"a":' + "[" * 200 + "]" * 200 + "}}",
    "deeper than inputs may be": '{"inputs":' + "[" * 200 + "]" * 200 + "}",
    "an unknown part": '{"new":1}',
    "a part twice": '{"batch":[[1]],"batch":[[1]]}',
    "a huge number": '{"static":{"a":' + "9" * 5000 + "}}",
    "static values of no names": '{"static":[1]}',
    "a value of an unknown kind": '{"static":{"a":{"set":[1]}}}',
    "a value of two kinds": '{"static":{"a":{"tuple":[],"dict":[]}}}',
    "a tuple that is none": '{"static":{"a":{"tuple":1}}}',
    "a dict that is none": '{"static":{"a":{"dict":{"b":1}}}}',
    "a key that is none": '{"static":{"a":{"dict":[[1,2]]}}}',
    "no pair": '{"static":{"a":{"dict":[["b"]]}}}',
    "a key twice": '{"static":{"a":{"dict":[["b",1],["b",2]]}}}',
    "inputs that are no list": '{"inputs":"leaf"}',
    "inputs of an unknown kind": '{"inputs":["list"]}',
    "inputs with a key twice": '{"inputs":[{"dict":[["b","leaf"],["b","leaf"]]}]}',
    "inputs that are a number": '{"inputs":[7]}',
    "levels that are no list": '{"batch":{"a":1}}',
    "levels without rows": '{"batch":[[0]]}',
    "levels of numbers": '{"batch":[[2]]}',
    "levels of booleans": '{"batch":[[true]]}',
    "levels of no number": '{"batch":[["1"]]}',
    "levels of different calls": '{"batch":[[1],[1,1]]}',
    "more levels than dimensions": '{"batch":' + json.dumps([[1]] * 65) + "}",
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_a_payload_that_cannot_be_read(payload):
    message = r"^op 'tests\.saved_ops:cube': cannot parse this op's call data in the model\.\n  Got:      \{"
    with pytest.raises(UnsupportedError, match=message):
        REGISTRY.find_op(f"{CUBE}{payload}")


OUTPUTS = [
    *("[", "[1]", "[[1]]", "[[1,2]]", '[["float32"]]', '[["flaot32",[]]]', '[["float32",2]]'),
    *('[["float32",["a"]]]', '[["float32",[[0]]]]', '[["float32",[[-1,0]]]]', '[["float32",[["+",1]]]]'),
    *('[["float32",[["/",1,1]]]]', '[["float32",[true]]]', '[["float32",[1.5]]]', "[" * 5000 + "]" * 5000),
]


@pytest.mark.parametrize("outputs", [*OUTPUTS, "["], ids=lambda text: text[:20])
def test_outputs_that_cannot_be_read(damage, outputs):
    outputs = outputs if outputs.endswith("]") else f"{outputs}]x]"
    for said in errors_of(damage("graph", "token", f"{CUBE}|{outputs}".encode(), of=b"cube|")):
        assert "op 'tests.saved_ops:cube': cannot parse this op's call data in the model" in said


@pytest.mark.parametrize(
    "outputs", ['[["float32",[[9,0],2]]]', '[["float32",[[0,9],2]]]', '[["float32",[["//",1,0]]]]']
)
def test_outputs_in_terms_of_inputs_that_are_not_there(damage, outputs):
    path = damage("graph", "token", f"{CUBE}|{outputs}".encode(), of=b"cube|")
    with pytest.raises(tf.errors.OpError, match="cannot parse this op's call data in the model"):
        export.load(path).call(X)


@pytest.mark.parametrize(("model", "name"), [("graph", "token"), ("compiled", "_tfpyop_token")])
def test_a_token_that_is_not_text(damage, model, name):
    path = damage(model, name, b"tfpyop:\xff\xfe", of=b"cube")
    for said in errors_of(path, is_run=False):
        assert said.startswith("the call data in the model is not text.\n  Got:      b'tfpyop:\\xff\\xfe'")
    if model == "graph":  # XLA reads its own text, which is not damaged
        with pytest.raises((tf.errors.OpError, UnicodeError, SystemError)):
            tf.saved_model.load(str(path)).call(X)


GRADIENT = {"kind": "call", "detail": 1, "is_compiled": False, "token": f"{CUBE}/vjp"}
GRADIENTS = {
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "nothing": b"",
    "no object": b"[1]",
    "text": b'"call"',
    "too deep": b"[" * 50_000,
    **{
        f"{part}: {value!r}": json.dumps({**GRADIENT, part: value}).encode()
        for part, values in {
            "kind": [None, 7, "other", []],
            "is_compiled": [None, "no", 1],
            "token": [None, 7, [], {}],
        }.items()
        for value in values
    },
    **{
        f"no {part}": json.dumps({name: value for name, value in GRADIENT.items() if name != part}).encode()
        for part in GRADIENT
    },
}


@pytest.mark.parametrize("value", GRADIENTS.values(), ids=GRADIENTS)
def test_a_gradient_that_cannot_be_read(damage, value):
    for said in errors_of(damage("graph", "_tfpyop", value)):
        assert "cannot parse gradient data in the model.\n  Got:      b" in said
        assert "The file may be damaged" in said


@pytest.mark.parametrize(
    ("model", "kind", "detail"),
    [
        *(("graph", "call", detail) for detail in (None, "1", 1.5, True, -1, 1000, [1])),
        *(("guard", "guard", detail) for detail in (None, 1, [1], [1, 2], ["1", "residual_differentiated"])),
        *(("guard", "guard", [number, "residual_differentiated"]) for number in (-1, 1000, True)),
    ],
)
def test_a_gradient_of_other_tensors_than_its_node_has(damage, model, kind, detail):
    def damaged(text):
        return json.dumps({**json.loads(text), "detail": detail}).encode()

    path = damage(model, "_tfpyop", damaged, of=f'"kind": "{kind}"'.encode())
    with pytest.raises((tf.errors.OpError, TfpyopError), match=r"cannot parse gradient data in the model\."):
        differentiate_twice(path)


REFUSALS = {
    "an op that is a number": '{"count":1,"error":"missing_gradient","op":7}',
    "an op that is a list": '{"count":1,"error":"missing_gradient","op":[]}',
    "an op that is none": '{"count":1,"error":"missing_gradient","op":null}',
    "no op": '{"count":1,"error":"missing_gradient"}',
    "an op that is no token": '{"count":1,"error":"missing_gradient","op":"cube"}',
    "a refusal": f'{{"count":1,"error":"missing_gradient","op":"{REFUSAL}"}}',
    "an error that is a number": f'{{"count":1,"error":7,"op":"{CUBE}"}}',
    "a count that is text": f'{{"count":"1","error":"missing_gradient","op":"{CUBE}"}}',
    "a count that is a boolean": f'{{"count":true,"error":"missing_gradient","op":"{CUBE}"}}',
    "no vectors": f'{{"count":0,"error":"missing_gradient","op":"{CUBE}"}}',
    "an unknown part": f'{{"count":1,"error":"missing_gradient","op":"{CUBE}","new":1}}',
    "no object": "{}",
    "no JSON": "{",
}


@pytest.mark.parametrize("payload", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_that_cannot_be_read(damage, payload):
    for said in errors_of(damage("refusal", "token", f"{REFUSAL}{payload}".encode(), of=REFUSAL.encode())):
        assert "op 'tfpyop:refusal': cannot parse this op's call data in the model." in said


def test_a_refusal_for_another_number_of_vectors_than_there_are():
    op = REGISTRY.find_op(f'{REFUSAL}{{"count":3,"error":"missing_gradient","op":"{CUBE}"}}')
    with pytest.raises(TfpyopError, match="the wrong number of inputs"):
        op.host([np.float32(1), np.float32(1)])


def test_a_refusal_of_an_unknown_kind():
    op = REGISTRY.find_op(f'{REFUSAL}{{"count":1,"error":"other","op":"{CUBE}"}}')
    with pytest.raises(UnsupportedError, match="a saved model contains the error kind 'other'"):
        op.host([np.float32(1), np.float32(1)])


def test_a_refusal_over_rows_is_one_where_it_is_loaded():
    payload = f'{{"batch":[[0,1]],"count":1,"error":"missing_gradient","op":"{CUBE}"}}'
    op = REGISTRY.find_op(f"{REFUSAL}{payload}")
    assert REGISTRY.token_of(op) == f"{REFUSAL}{payload}"
    (zeros,) = op.host([np.ones(2, np.float32), np.zeros((3, 2), np.float32)])
    assert zeros.shape == (3, 2)


@pytest.mark.parametrize(
    ("level", "shapes", "said"),
    [
        ([[1, 1]], [(3,)], "the wrong number of inputs"),
        ([[1], [1]], [(3,)], "too few dimensions"),
        ([[1, 1, 1]], [(3,), (2,), (3,)], "different batch sizes"),
        ([[1, 1, 1]], [(3,), (1,), (3,)], "different batch sizes"),
    ],
)
def test_rows_that_are_none(level, shapes, said):
    name = f"{CUBE}/vjp" if len(level[0]) == 3 else CUBE
    token = f"{name}{json.dumps({'batch': level}, separators=(',', ':'))}"
    if len(level[0]) == 2:  # the op has one input
        with pytest.raises(UnsupportedError, match="cannot parse this op's call data in the model"):
            REGISTRY.find_op(token)
        token = token.replace("cube", "cube/vjp")
    host = REGISTRY.find_op(token).host
    arrays = [np.ones(shape, np.float32) for shape in shapes]
    with pytest.raises(TfpyopError, match=said):
        host(arrays)


@pytest.mark.parametrize("name", ["", "/vjp", "/vjp/vjp"])
@pytest.mark.parametrize("count", [64, 10_000])
def test_many_levels_take_no_time(name, count):
    n_inputs = {"": 1, "/vjp": 3, "/vjp/vjp": 7}[name]
    token = f"{CUBE}{name}{json.dumps({'batch': [[1] * n_inputs] * count}, separators=(',', ':'))}"
    start = time.perf_counter()
    if count > 64:
        with pytest.raises(UnsupportedError, match="cannot parse this op's call data"):
            REGISTRY.find_op(token)
    else:
        assert REGISTRY.token_of(REGISTRY.find_op(token)) == token
    assert time.perf_counter() - start < 1


def test_levels_within_levels_are_one_token():
    call = tf.function(lambda x: tf.vectorized_map(lambda y: tf.vectorized_map(saved_ops.cube, y), x), autograph=False)
    nodes = call.get_concrete_function(tf.ones((2, 3, 4))).graph.get_operations()
    tokens = {str(Token.of_node(node.get_attr("token"))) for node in nodes if "PyFunc" in node.type}
    assert f'{CUBE}{{"batch":[[1],[1]]}}' in tokens
