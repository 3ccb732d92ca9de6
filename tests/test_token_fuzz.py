"""Tokens, payloads and what else model files hold of ops: whatever is in them, it is read or refused with one error."""

import json
import warnings

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import saved_ops
from tests.test_saved_model import saved
from tfpyop import RegistrationError, TfpyopError, UnsupportedError, export
from tfpyop._lowering.autodiff.gradient_node import NodeGradient
from tfpyop._lowering.traced_outputs import TracedOutputs, read_call
from tfpyop._registry.op_def import REGISTRY, ConcreteOp
from tfpyop._registry.token import Token, joined, split
from tfpyop._spec.outputs import ArraySpec, is_compatible
from tfpyop._spec.payload import MOST_LEVELS

bounded = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
NAME = "tests.saved_ops:"
TOKENS = [
    f"tfpyop:{NAME}cube",
    f'tfpyop:{NAME}cube{{"batch":[[1],[1]]}}',
    f'tfpyop:{NAME}cube/vjp{{"batch":[[1,0,1]]}}',
    f"tfpyop:{NAME}cube/vjp/vjp",
    f'tfpyop:{NAME}rooted{{"defaults":{{"power":1}}}}',
    f'tfpyop:{NAME}hypotenuse/vjp{{"static":{{"scale":2.0}}}}',
    f'tfpyop:{NAME}first_of{{"static":{{"choice":{{"tuple":[1,{{"dict":[["a",{{"tuple":[]}}]]}}]}},"label":null}}}}',
    f'tfpyop:{NAME}square{{"inputs":["leaf"]}}',
    f'tfpyop:tfpyop:refusal{{"count":1,"error":"missing_gradient","op":"tfpyop:{NAME}plain"}}',
    'tfpyop:tfpyop:refusal{"batch":[[1,1]],"count":1,"error":"lost","op":""}',
    f"tfpyop:{NAME}cube#0123abcd-7",
]
PARTS = ["batch", "defaults", "static", "inputs", "count", "error", "op", "tuple", "dict", "leaf", "none", "power", "a"]

scalars = st.none() | st.booleans() | st.integers(-2, 70) | st.floats() | st.sampled_from([*PARTS, *TOKENS]) | st.text()
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(PARTS) | st.text(), inner, max_size=4),
    max_leaves=20,
)


@st.composite
def damaged(draw, texts):
    """Draw one of some texts, with a few pieces removed, repeated, exchanged or replaced."""
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(1, 4))):
        begin, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        piece = draw(
            st.sampled_from(["", text[begin:end] * 2, *'{}[]",:|/@#', "1", "-1", "1e999", "/vjp", "[1],"])
            | st.text(max_size=3)
        )
        text = text[:begin] + piece + text[end:]
    return text


tokens = st.builds(
    lambda name, payload: f"tfpyop:{name}{payload}",
    st.sampled_from([NAME + name for name in ("cube", "cube/vjp", "rooted", "first_of", "plain")] + ["tfpyop:refusal"])
    | st.text(),
    st.just("") | st.dictionaries(st.sampled_from(PARTS), json_values, max_size=4).map(json.dumps) | st.text(),
)


def require(error, *problems, subject="op '"):
    """Require that an error has a subject and one of some problems."""
    assert (error.subject or subject).startswith(subject)
    assert any(problem in error.problem for problem in problems)


def found(token):
    """Return the concrete op of a token, None if it is not known, or the error that says it cannot be read."""
    try:
        return REGISTRY.find_op(token)
    except UnsupportedError as error:
        require(error, "cannot parse", "has no static parameter")
        return error


@bounded
@given(tokens | damaged(TOKENS))
@example("tfpyop:")
@example("tfpyop:tfpyop:refusal/vjp")
def test_a_token_is_found_unknown_or_refused(token):
    op = found(token)
    if op is None or isinstance(op, UnsupportedError):
        with pytest.raises(UnsupportedError):
            REGISTRY.require_op(token)
        return
    assert isinstance(op, ConcreteOp)
    assert len(getattr(op.host, "in_axes", ())) <= MOST_LEVELS
    assert found(REGISTRY.token_of(op)) is op  # it is written as it is read, however it was spelled
    assert Token.parse(REGISTRY.token_of(op)).payload == op.payload


shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@bounded
@given(
    st.sampled_from([f"{NAME}cube", f"{NAME}cube/vjp", f"{NAME}cube/vjp/vjp", "tfpyop:refusal"]),
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=4), max_size=3),
    st.lists(shapes, max_size=8),
)
def test_a_call_over_rows_gives_rows_or_one_error(name, levels, input_shapes):
    parts = {"count": 1, "error": "lost", "op": ""} if name == "tfpyop:refusal" else {}
    op = found(f"tfpyop:{name}{json.dumps({**parts, 'batch': levels})}")
    arrays = [np.zeros(shape, np.float32) for shape in input_shapes]
    if isinstance(op, UnsupportedError):
        return
    try:
        results = op.host(arrays)
    except TfpyopError:
        return
    promised = op.host.infer_outputs(list(map(ArraySpec.of, arrays)))
    assert [result.dtype for result in results] == [type_.dtype for type_ in promised]
    assert all(is_compatible(result.shape, type_.shape) for result, type_ in zip(results, promised, strict=True))


GRADIENTS = [
    json.dumps({"kind": kind, "detail": detail, "is_compiled": False, "token": token})
    for kind, detail in (("call", 1), ("guard", [1, "detached_rule"]))
    for token in TOKENS
]
gradients = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(["call", "guard"]) | json_values,
        "detail": json_values,
        "is_compiled": st.booleans() | json_values,
        "token": st.sampled_from(TOKENS) | json_values,
    },
).map(json.dumps)


@bounded
@given((gradients | damaged(GRADIENTS)).map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=50))
def test_a_gradient_is_read_or_refused(text):
    try:
        gradient = NodeGradient.parse(text)
    except UnsupportedError as error:
        require(error, "cannot parse")
        return
    assert gradient.kind in ("call", "guard")
    assert (type(gradient.is_compiled), type(gradient.token)) == (bool, str)


sizes = st.recursive(
    st.integers(0, 5) | st.tuples(st.integers(0, 3), st.integers(0, 3)).map(list),
    lambda inner: st.tuples(st.sampled_from(["+", "-", "*", "//", "broadcast"]), inner, inner).map(list),
    max_leaves=5,
)
outputs = st.lists(
    st.tuples(
        st.sampled_from(["float32", "float64", "int32", "string", "bfloat16", "complex64", "bool"]),
        st.none() | st.lists(st.none() | sizes, max_size=3),
    ).map(list),
    max_size=3,
)
OUTPUTS = ['[["float32",[[0,0],3]]]', '[["int32",null],["string",[["+",[0,1],1]]]]']


@bounded
@given(outputs)
def test_outputs_are_read_back(value):
    text = json.dumps(value, separators=(",", ":"))
    assert TracedOutputs.parse(text).text == text
    for token in TOKENS:
        assert split(joined(token, text)) == (token, text)
        assert split(token) == (token, None)


@bounded
@given(
    outputs.map(json.dumps) | damaged(OUTPUTS) | json_values.map(json.dumps),
    st.lists(shapes, max_size=3),
    st.lists(st.tuples(shapes, st.sampled_from([np.float32, np.int32, object])), max_size=3),
)
def test_results_are_compared_with_outputs_or_these_are_refused(text, input_shapes, results):
    try:
        token, traced = read_call(joined(TOKENS[0], text))
    except UnsupportedError as error:
        require(error, "cannot parse")
        return
    if traced is None:
        assert not text.endswith("]")
        return
    assert token == TOKENS[0] or "|" in text
    inputs = [np.zeros(shape) for shape in input_shapes]
    try:
        traced.check("op 'f'", inputs, [np.zeros(shape, dtype) for shape, dtype in results])
    except TfpyopError as error:
        require(error, "the op has changed", "cannot parse", subject="op 'f'")
    else:
        assert len(json.loads(traced.text)) == len(results)


SIGNATURES = ["()->()", "(n)->(n)", "(n)->()", "(n)->(n+1)", "(m,n)->(n,m)", "(n)->(2*n-1)", "(m,n)->(m//2)"]


@bounded
@given(
    st.sampled_from(SIGNATURES),
    st.lists(st.integers(1, 4), min_size=2, max_size=4),
    st.data(),
)
def test_outputs_in_terms_of_unknown_sizes_come_out_as_promised(signature, shape, data):
    host = OPS[signature].host
    known = [size if data.draw(st.booleans()) else None for size in shape]
    spec = [ArraySpec(np.dtype(np.float32), tuple(known))]
    traced = TracedOutputs.parse(TracedOutputs.of(host, spec, host.infer_outputs(spec)).text)
    (promised,) = host.infer_outputs([ArraySpec(np.dtype(np.float32), tuple(shape))])
    result = np.zeros(promised.shape, promised.dtype)
    traced.check("op", [np.zeros(shape)], [result])
    with pytest.raises(TfpyopError, match="the op has changed"):
        traced.check("op", [np.zeros(shape)], [result[None]])
    with pytest.raises(TfpyopError, match="the op has changed"):
        traced.check("op", [np.zeros(shape)], [result.astype(np.float64)])


def _op(signature):
    op = saved_ops.differentiable_op(lambda x: x, signature=signature, non_differentiable=True)
    return op._definition.specialize(None, {})


OPS = {text: _op(text) for text in SIGNATURES}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    saved(saved_ops.cube, directory)
    return directory, (directory / "saved_model.pb").read_bytes()


@settings(bounded, max_examples=150)
@given(st.data())
def test_a_file_with_damaged_bytes_is_read_or_refused(model, data):
    directory, content = model
    damage = bytearray(content)
    places = [content.index(mark) for mark in (b"tfpyop:", b"_tfpyop", b'{"kind')]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places).flatmap(lambda place: st.integers(place - 5, place + 60)))
        damage[place] = data.draw(st.integers(0, 255))
    (directory / "saved_model.pb").write_bytes(damage)
    try:
        found = export.required_ops(directory)
    except (RegistrationError, UnsupportedError):
        return
    assert all(isinstance(op, export.RequiredOp) for op in found)


@settings(bounded, max_examples=25)
@given(damaged([f'tfpyop:{NAME}cube{payload}|[["float32",[[0,0],2]]]' for payload in ("", '{"batch":[[1]]}', "/vjp")]))
def test_a_graph_with_a_damaged_token_runs_as_before_or_raises(token):
    function = tf.function(
        lambda x: tf.raw_ops.PyFuncStateless(input=[x], token=token, Tout=[tf.float32])[0], autograph=False
    )
    x = tf.constant([[1.0, 2.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            result = function(x)
        except (tf.errors.OpError, UnicodeEncodeError):
            return
    np.testing.assert_array_equal(result, x**3)
