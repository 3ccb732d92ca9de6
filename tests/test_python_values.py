"""Python values on their way into and out of calls: integers, and what contains itself."""

import functools
from collections import UserList, deque

import numpy as np
import pytest
import tensorflow as tf

from tests import modes
from tests.modes import compiled
from tfpyop import differentiable_op
from tfpyop.errors import CoercionError, RegistrationError, TfpyopError

ENDLESS = r"is a list that contains itself, or is nested more than 64 levels deep"
TOO_LARGE = r"input 0 has a finite value outside the range of int32(?s:.*)Python integers become int32\."

square = differentiable_op(lambda x: x * x, signature="()->()")
add = differentiable_op(lambda x, y: x + y, signature="(),()->()")
first = differentiable_op(lambda tree: tree["a"][0])
optional = differentiable_op(lambda x, n=2**40: x * n, signature="(),()->()")


def endless(*items):
    value = list(items)
    value.append(value)
    return value


def branching():
    value = []
    value += [value, value]
    return value


def deep():
    return functools.reduce(lambda value, _: [value], range(2000), 1.0)


def in_graph(function):
    return tf.function(function, autograph=False)


each_context = pytest.mark.parametrize(
    "context", [lambda function: function, in_graph, compiled], ids=["eager", "graph", "XLA"]
)


@each_context
@pytest.mark.parametrize(
    "call",
    [
        lambda: square(2**40),
        lambda: square([1, -(2**31) - 1]),
        lambda: square([[2**63, 1]]),
        lambda: first({"a": (2**40, 1)}),
        lambda: add(2**31, 1),
        lambda: add(2**31, tf.constant(True)),
        lambda: optional(3),
    ],
)
def test_python_integers_that_int32_cannot_hold_are_refused(context, call):
    with pytest.raises(CoercionError, match=TOO_LARGE.replace("input 0", r"input \d")):
        context(call)()


@each_context
def test_python_integers_become_the_same_in_every_context(context):
    tensors = {dtype: tf.constant(1, dtype) for dtype in (tf.int64, tf.uint8, tf.int32, tf.float32, tf.float64)}
    many = differentiable_op(lambda *xs: xs[0], signature="(),(),()->()")
    for inputs, dtype in (
        ([3, 4, 5], tf.int32),
        ([2**40, tensors[tf.int64], 1], tf.int64),
        ([2**40, tensors[tf.int64], tensors[tf.int32]], tf.int64),
        ([2**40, tensors[tf.int64], tf.constant(True)], tf.int64),
        ([200, tensors[tf.uint8], 1], tf.uint8),
        ([3, tensors[tf.float32], tensors[tf.int64]], tf.float32),
        ([2**40, tensors[tf.float64], 1], tf.float64),
        ([np.int64(3), 1, 2], tf.int64),
    ):
        result = context(lambda inputs=inputs: many(*inputs))()
        assert (result.dtype, int(result)) == (dtype, int(inputs[0]))


@each_context
def test_plain_numbers_in_a_list_follow_the_tensors_in_it(context):
    for value, dtype in (
        (lambda: [tf.constant(2.0), 3, np.int32(4), np.float64(5), True], tf.float32),
        (lambda: [[3, 4.5], [tf.constant(2.0, tf.float64), np.float32(1)]], tf.float64),
        (lambda: [tf.constant(2, tf.int64), 2**40], tf.int64),
        (lambda: [tf.constant(2, tf.uint8), 200], tf.uint8),
    ):
        assert context(lambda value=value: square(value()))().dtype == dtype
    with pytest.raises(
        CoercionError, match=r"input 0 has the wrong dtype\.(?s:.*)Plain values in a list take the dtype"
    ):
        context(lambda: square([tf.constant(2), 3.5]))()
    with pytest.raises(CoercionError, match="input 0 is a list of tensors that cannot be stacked"):
        context(lambda: square([tf.constant(2), tf.constant(2.0), 3]))()
    with pytest.raises(CoercionError, match="input 0 has integers that float32 cannot hold exactly"):
        context(lambda: square([tf.constant(2.0), 2**24 + 1]))()
    with pytest.raises(CoercionError, match="input 0 has a finite value outside the range of uint8"):
        context(lambda: square([tf.constant(2, tf.uint8), 256]))()


@pytest.mark.parametrize("make", [list, tuple, deque, UserList])
def test_tensors_in_any_sequence_keep_their_gradients(make):
    stacked = differentiable_op(lambda x: x * x, signature="()->()")
    stacked.gradient(lambda op, cotangent: 2 * op.inputs[0] * cotangent)
    for wrap, n_times in ((lambda x: [make([x, 3.0])], 1), (lambda x: UserList(make([[x, 3.0], [4, x]])), 2)):
        x = tf.constant(2.0)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(stacked(wrap(x)))
        assert tape.gradient(y, x) == 4 * n_times


def test_keras_and_ragged_inputs_give_integers_the_same_dtype():
    import keras

    assert add(keras.Input((), dtype="int64"), 2**40).dtype == "int64"
    with pytest.raises(CoercionError, match=r"outside the range of uint8"):
        add(keras.Input((), dtype="uint8"), 256)
    ragged = tf.ragged.constant([[1], [2, 3]], dtype=tf.int64)
    assert add(ragged, 2**40).to_list() == [[2**40 + 1], [2**40 + 2, 2**40 + 3]]


@pytest.mark.parametrize("mode", modes.WITHOUT_XLA)
@pytest.mark.parametrize(("result", "dtype"), [(2**70, np.int64), ([2**63, -1], np.float64), (2**70, np.float32)])
def test_results_with_integers_that_no_dtype_holds_are_refused(mode, result, dtype):
    op = differentiable_op(lambda x: result, dtype=dtype)
    with pytest.raises(
        (CoercionError, tf.errors.OpError), match="output 0 has integers that no integer dtype can hold"
    ):
        modes.call(mode, op, np.float32(1))


@pytest.mark.parametrize("mode", modes.MODES)
def test_results_keep_integers_that_numpy_would_round(mode):
    op = differentiable_op(lambda x: [2**63 + 1, 1], signature="()->(2)", dtype=np.uint64)
    assert modes.call(mode, op, np.float32(1)).tolist() == [2**63 + 1, 1]


RESULTS = {
    "list": endless,
    "list beside numbers": lambda: endless(1.0, 2.0),
    "branching list": branching,
    "deep list": deep,
    "tuple": lambda: (endless(1.0),),
    "text": lambda: endless("a"),
}


@pytest.mark.parametrize("mode", modes.MODES)
@pytest.mark.parametrize("kind", RESULTS)
def test_results_that_contain_themselves_are_refused(mode, kind):
    op = differentiable_op(lambda x: RESULTS[kind](), signature="()->()")
    with pytest.raises((CoercionError, tf.errors.OpError), match=f"output 0 {ENDLESS}"):
        modes.call(mode, op, np.float32(1))


@pytest.mark.parametrize("kind", ["list", "list beside numbers", "branching list", "deep list", "tuple"])
@pytest.mark.parametrize("attach", ["gradient", "numpy_gradient", "jvp", "numpy_jvp", "native"])
def test_what_rules_and_native_implementations_return_is_refused_alike(attach, kind):
    op = differentiable_op(lambda x: x, signature="()->()", prefer="native" if attach == "native" else None)
    rule = (lambda x: RESULTS[kind]()) if attach == "native" else (lambda op, vector: (RESULTS[kind](),))
    getattr(op, attach)(rule)

    def differentiated(x):
        with tf.GradientTape() as tape, tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            tape.watch(x)
            y = op(x)
        return accumulator.jvp(y) if "jvp" in attach else tape.gradient(y, x)

    for function in (differentiated, in_graph(differentiated)):
        with pytest.raises((CoercionError, tf.errors.OpError), match=rf"{ENDLESS}"):
            function(tf.constant(1.0))


def test_inputs_that_contain_themselves_are_refused():
    tree = {}
    tree["a"] = tree["b"] = tree
    for value in (endless(1.0), endless(tf.constant(1.0)), branching(), deep()):
        with pytest.raises(CoercionError, match=f"input 0 {ENDLESS}"):
            square(value)
    for value in (tree, {"a": (tree,)}, functools.reduce(lambda value, _: (value,), range(1000), 1.0)):
        with pytest.raises(
            TypeError, match=r"^op .*: a value contains itself, or is nested more than 100 levels deep\."
        ):
            first(value)
    rule_op = differentiable_op(lambda x: x).numpy_gradient(lambda op, cotangent: cotangent)
    with pytest.raises(
        TypeError, match=r"^op .*/vjp' \(.*: the op of a rule does not accept tuples or dicts as inputs"
    ):
        rule_op(tree, 1.0, 1.0)


def test_declarations_that_contain_themselves_are_refused():
    tree = {}
    tree["a"] = tree
    with pytest.raises(RegistrationError, match=r"dtype= is invalid: a value contains itself"):
        differentiable_op(lambda x: x, dtype=tree)


@pytest.mark.parametrize("mode", modes.WITHOUT_XLA)
def test_static_values_may_contain_themselves(mode):
    tree = {"list": endless(1)}
    tree["tree"] = tree

    @differentiable_op(signature="()->()")
    def checked(x, *, tree):
        assert tree["tree"] is tree
        assert tree["list"][1] is tree["list"]
        tree["list"].clear()
        return x

    for _ in range(2):
        assert modes.call(mode, lambda x: checked(x, tree=tree), np.float32(3)) == 3
    assert len(tree["list"]) == 2


def test_a_default_that_contains_itself_is_static():
    tree = {}
    tree["tree"] = tree
    op = differentiable_op(lambda x, tree=tree: x * len(tree), signature="()->()")
    assert op(3.0).numpy() == 3


@pytest.mark.parametrize("attach", ["gradient", "jvp"])
def test_a_complex_derivative_of_something_real_is_refused(attach):
    op = differentiable_op(lambda x: x, signature="()->()")
    getattr(op, attach)(lambda op, vector: tf.complex(vector, vector))

    def differentiated(x):
        if attach == "gradient":
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = op(x)
            return tape.gradient(y, x)
        with tf.autodiff.ForwardAccumulator(x, x) as accumulator:
            return accumulator.jvp(op(x))

    for function in (differentiated, in_graph(differentiated)):
        with pytest.raises(
            CoercionError, match=r"input 0 is complex, but the input|tangent 0 is complex, but the output"
        ):
            function(tf.constant(1.0))


def test_errors_of_python_values_name_the_op():
    with pytest.raises(TfpyopError, match=r"^op .*test_python_values"):
        square(2**40)
