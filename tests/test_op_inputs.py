"""Static values and inputs of calls: defaults, nesting, text, byte order."""

import re

import numpy as np
import pytest
import tensorflow as tf

from tests.forms import X, Y
from tfpyop import CoercionError, SignatureError, differentiable_op, get_op, registered_ops
from tfpyop._registry.token import split


def tokens(concrete):
    nodes = [node for node in concrete.graph.get_operations() if "PyFunc" in node.type]
    return [split(node.get_attr("token").decode())[0] for node in nodes]


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (3, r'tfpyop:tests:power@tests\.test_op_inputs\{"static":\{"exponent":3\}\}'),
        (2, r'tfpyop:tests:power@tests\.test_op_inputs\{"defaults":\{"exponent":2\}\}'),
        (np.int64(3), r"tfpyop:tests:power#[0-9a-f]{8}-\d+"),
        (np.float64(0.5), r"tfpyop:tests:power#[0-9a-f]{8}-\d+"),
    ],
)
def test_a_static_value_that_is_no_json_has_a_token_of_this_process(value, token):
    if "tests:power" not in registered_ops():
        differentiable_op(lambda x, *, exponent=2: x**exponent, name="tests:power", signature="()->()")
    power = get_op("tests:power")
    function = tf.function(lambda x: power(x, exponent=value))
    assert np.allclose(function(X), X**value)
    (found,) = tokens(function.get_concrete_function(X))
    assert re.fullmatch(token, found)


def test_a_dict_comes_in_and_goes_out_in_its_order():
    op = differentiable_op(
        lambda named: {key: value + len(named) for key, value in named.items()}, dtype={"b": None, "a": None}
    )
    for call in (op, tf.function(op)):
        result = call({"b": X, "a": Y})
        assert [(key, value.numpy().tolist()) for key, value in result.items()] == [("b", [5, 8]), ("a", [6, 10])]
    keys = []
    op = differentiable_op(lambda named: keys.append(list(named)) or named["b"])
    for call in (op, tf.function(lambda b, a: op({"b": b, "a": a}))):
        arguments = [{"b": X, "a": Y}] if call is op else [X, Y]
        assert call(*arguments).numpy().tolist() == [3, 6]
    assert keys == [["b", "a"], ["b", "a"]]


@pytest.mark.parametrize("call", [lambda function: function, tf.function], ids=["eager", "graph"])
def test_a_parameter_with_text_or_an_object_for_a_default_is_static(call):
    def function(x, mode="double", function=np.sin):
        assert (mode, function) in [("double", np.sin), ("triple", np.cos)]
        return 2 * x if mode == "double" else 3 * x

    op = differentiable_op(function, signature="()->()")
    assert call(lambda x: op(x))(X).numpy().tolist() == [6, 12]
    assert call(lambda x: op(x, "triple", np.cos))(X).numpy().tolist() == [9, 18]
    assert call(lambda x: op(x, function=np.cos, mode="triple"))(X).numpy().tolist() == [9, 18]


@pytest.mark.parametrize("call", [lambda function: function, tf.function], ids=["eager", "graph"])
def test_none_at_the_end_is_no_input(call):
    seen = []
    op = differentiable_op(lambda x, y=None, z=None: seen.append((y is None, z is None)) or x)
    assert call(lambda x: op(x))(X).numpy().tolist() == [3, 6]
    assert call(lambda x: op(x, x))(X).numpy().tolist() == [3, 6]
    assert call(lambda x: op(x, None, x))(X).numpy().tolist() == [3, 6]
    assert seen == [(True, True), (False, True), (True, False)]


@pytest.mark.parametrize("call", [lambda function: function, tf.function], ids=["eager", "graph"])
def test_a_wrong_number_of_inputs_names_the_parameters(call):
    op = differentiable_op(lambda x, y=1.0, *, n=2: x, signature="(),()->()")
    with pytest.raises(
        SignatureError, match=r"inputs\.\n  Expected: 2, as the signature says\n  Got:      3: x \(2 in"
    ):
        call(lambda x: op((x, x), x))(X)


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i4", ">i2", ">u2", ">i8", ">c8", ">c16"])
@pytest.mark.parametrize("call", [lambda function: function, tf.function], ids=["eager", "graph"])
def test_the_byte_order_of_an_array_does_not_matter(call, dtype):
    seen = []
    op = differentiable_op(lambda x: seen.append(x.dtype) or (2 * x).astype(x.dtype.newbyteorder()), signature="()->()")
    assert call(lambda: op(np.array([1, 2], dtype)))().numpy().tolist() == [2, 4]
    assert seen[0].isnative


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_python_integers_follow_an_integer_tensor(dtype):
    op = differentiable_op(lambda x, y: x + y, signature="(),()->()")
    assert op(tf.constant([1, 2], dtype), 100).dtype == dtype
    with pytest.raises(CoercionError, match="input 1 has a finite value outside the range of"):
        op(tf.constant([1, 2], dtype), 2**63)


def test_the_users_error_state_reaches_the_function_and_nothing_else():
    states = []

    def function(x):
        states.append(np.geterr())
        return np.float64([np.nan, 1e-300])

    op = differentiable_op(function, signature="()->()")
    with np.errstate(all="raise"):
        expected = np.geterr()
        assert np.isnan(op(X).numpy()).tolist() == [True, False]
    assert states == [expected]


def test_parameters_with_defaults_need_no_input_in_the_signature():
    op = differentiable_op(lambda x, a=1, b=2, c=3: a * b * c * x, signature="()->()")
    assert op(X).numpy().tolist() == [18, 36]
