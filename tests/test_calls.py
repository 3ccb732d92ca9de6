"""Calls, in every mode: the value, dtype and shape an op gives are those of the same function in TensorFlow ops."""

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from tests import modes, ops
from tfpyop import differentiable_op
from tfpyop.errors import SignatureError

X = np.float32([1, 2, 3])
every_mode = pytest.mark.parametrize("mode", modes.MODES)
every_mode_without_xla = pytest.mark.parametrize("mode", modes.WITHOUT_XLA)

NARROW = sorted({name for name in dir(tf.dtypes.experimental) if name.startswith(("int", "uint", "float"))} - {"float"})
SUB_BYTE = [name for name in NARROW if not name.startswith("float8")]

VECDOT = [(np.vecdot, 12.0)] if hasattr(np, "vecdot") else []  # since numpy 2


@pytest.mark.parametrize(
    ("mode", "good"),
    [(mode, good) for mode in modes.MODES for good in ops.GOOD if good.op.signature or mode not in modes.XLA_MODES],
    ids=str,
)
def test_an_op_equals_its_native_twin(mode, good):
    result = modes.call(mode, good.op, *good.inputs)
    expected = modes.call("eager", good.native, *good.inputs)
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), result, expected)
    assert [x.dtype for x in tf.nest.flatten(result)] == [x.dtype for x in tf.nest.flatten(expected)]


@pytest.mark.parametrize(
    ("signature", "inputs", "output"),
    [
        ("(m,k),(k,n)->(m,n)", ([None, 3], [3, None]), [None, None]),
        ("(m,k),(k,n)->(m,n)", ([7, None, 2, 3], [3, 4]), [7, None, 2, 4]),
        ("(),()->()", ([None, 1], [5]), [None, 5]),
        ("(n)->(n//2+1)", ([9],), [5]),
        ("(n)->(n//2+1)", ([None],), [None]),
        ("(n)->(k)", ([9],), [None]),
        ("(3),(3)->(3)", ([None], [4, 3]), [4, 3]),
    ],
)
def test_static_shapes_come_out_of_the_signature(signature, inputs, output):
    op = differentiable_op(lambda *arrays: arrays[0], signature=signature)
    function = tf.function(op).get_concrete_function(*map(tf.TensorSpec, inputs))
    assert function.output_shapes.as_list() == output


def test_a_shape_function_gives_the_static_shape():
    op = differentiable_op(lambda x, *, n: np.stack([x] * n), shape=lambda shape, n: (n, *shape))
    assert tf.function(op).get_concrete_function(tf.TensorSpec([3]), n=2).output_shapes == [2, 3]


@pytest.mark.parametrize("mode", [mode for mode in modes.MODES if mode != "XLA, unknown sizes"])  # which refuses shape=
@pytest.mark.parametrize("shape", [(2**63,), (3, 2**70)])
def test_a_shape_function_that_gives_sizes_of_no_tensor_is_reported(mode, shape):
    op = differentiable_op(lambda x: x, shape=lambda _: shape)
    errors = (SignatureError, tf.errors.OpError)
    with pytest.raises(
        errors, match=r"the shape function returned a size that is too large for a tensor\.\n  Expected: sizes below"
    ):
        modes.call(mode, op, X)


def test_a_shape_function_is_not_called_with_unknown_dimensions():
    op = differentiable_op(lambda x: x, shape=lambda shape: (shape[0] + 0,))
    assert tf.function(op).get_concrete_function(tf.TensorSpec([None])).output_shapes.rank is None


@every_mode
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.uint64, bool, np.complex64])
def test_tensors_keep_their_dtype(mode, dtype):
    op = differentiable_op(lambda x: x, signature="()->()")
    assert modes.call(mode, op, np.ones(2, dtype)).dtype == dtype


@every_mode
def test_bfloat16_goes_in_and_out(mode):
    op = differentiable_op(lambda x: x.astype(np.float32) * 2, signature="()->()")
    result = modes.call(mode, lambda x: tf.cast(op(tf.cast(x, tf.bfloat16)), tf.float32), X)
    np.testing.assert_array_equal(result, 2 * X)


@pytest.mark.parametrize(
    ("mode", "name"),
    [(mode, name) for mode in modes.MODES for name in NARROW if mode not in modes.XLA_MODES or name not in SUB_BYTE],
)
def test_narrow_dtypes_go_in_and_out(mode, name):
    x = np.array([1, 0, 1, 0]).astype(tf.as_dtype(name).as_numpy_dtype)
    reverse = differentiable_op(lambda x: x[::-1].copy(), signature="(n)->(n)")
    add = differentiable_op(lambda x, y: x + y, signature="(),()->()")
    narrow = differentiable_op(lambda x: x.astype(np.float32).astype(x.dtype), signature="()->()", dtype=name)
    for op, expected in ((reverse, x[::-1]), (lambda x: add(x, x), x + x), (narrow, x)):
        result = modes.call(mode, op, x)
        assert result.dtype == x.dtype
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("arguments", "dtype"),
    [
        ((1.5, 2), tf.float32),
        ((1, 2), tf.int32),
        ((True, False), tf.bool),
        (([1.0, 2.0], np.ones(2)), tf.float32),
        ((tf.constant(1.0, tf.float64), 1.5), tf.float64),
        ((tf.constant(1.0, tf.float16), np.ones(2)), tf.float16),
        ((tf.constant(1, tf.int64), 2), tf.int64),
        ((tf.Variable(1.0), 2), tf.float32),
        ((np.int64(3), 2), tf.int64),
        ((1 + 2j, 1.0), tf.complex64),
        (([tf.constant(1.0), tf.constant(2.0)], 2), tf.float32),
        ((tf.Variable([1.0, 2.0]), tf.constant([1, 2])), tf.float32),
    ],
)
def test_plain_values_take_the_dtype_of_the_rules(arguments, dtype):
    op = differentiable_op(lambda x, y: np.logical_or(x, y) if x.dtype == bool else x + y, signature="(),()->()")
    assert op(*arguments).dtype == dtype
    assert tf.function(lambda: op(*arguments))().dtype == dtype


@every_mode
def test_float64_results_come_back_in_the_dtype_of_the_inputs(mode):
    op = differentiable_op(lambda x: np.float64(x) * 2, signature="()->()")
    assert modes.call(mode, op, X).dtype == np.float32


@every_mode
def test_complex128_results_come_back_as_complex64(mode):
    op = differentiable_op(lambda x: np.complex128(x) * 2, signature="()->()")
    assert modes.call(mode, op, np.complex64(X)).dtype == np.complex64


@every_mode
def test_the_function_computes_in_the_compute_dtype(mode):
    op = differentiable_op(lambda x: np.full(x.shape, x.dtype.itemsize), compute_dtype="float64", signature="()->()")
    assert modes.call(mode, op, X).tolist() == [8, 8, 8]


@every_mode
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: [1, 2, 3], [1, 2, 3]),
        (lambda x: x[::-1], [3, 2, 1]),
        (lambda x: np.asfortranarray(np.stack([x, x]))[1], [1, 2, 3]),
        (lambda x: (x,), [1, 2, 3]),
        (lambda x: np.full(3, np.nan), [np.nan] * 3),
        (lambda x: np.full(3, np.inf), [np.inf] * 3),
        (lambda x: x > 1, [0, 1, 1]),
    ],
)
def test_results_of_many_kinds_are_taken(mode, function, expected):
    op = differentiable_op(function, signature="()->()")
    np.testing.assert_array_equal(modes.call(mode, op, X), np.float32(expected))


@every_mode
@pytest.mark.parametrize("function", [lambda x: 2, lambda x: 2.0, lambda x: np.float64(2), lambda x: np.array(2)])
def test_scalars_are_0d_outputs(mode, function):
    result = modes.call(mode, differentiable_op(function, signature="(n)->()"), X)
    assert (np.shape(result), result) == ((), 2)


@every_mode
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)])
def test_empty_and_0d_arrays_go_through(mode, shape):
    seen = []
    op = differentiable_op(lambda x: (seen.append(type(x)), x * 2)[1], signature="()->()")
    assert np.shape(modes.call(mode, op, np.ones(shape, np.float32))) == shape
    assert seen == [] if mode in modes.XLA_MODES and 0 in shape else [np.ndarray]  # XLA makes no calls for nothing


@every_mode_without_xla
def test_strings_go_in_and_out(mode):
    op = differentiable_op(np.vectorize(bytes.upper, otypes=[object]), signature="()->()", dtype="string")
    assert modes.call(mode, op, np.array(["ab", "é"])).tolist() == [b"AB", "é".encode()]
    assert modes.call(mode, op, np.array("ab")) == b"AB"


@every_mode_without_xla
def test_strings_become_numbers(mode):
    op = differentiable_op(np.vectorize(len, otypes=[int]), signature="()->()", dtype=np.int32)
    assert modes.call(mode, op, np.array(["a", "bcd"])).tolist() == [1, 3]


class Pair(NamedTuple):
    first: object
    second: object


@dataclasses.dataclass
class Record:
    first: object
    second: object


@every_mode
@pytest.mark.parametrize("structure", [Pair, Record, lambda a, b: {"first": a, "second": b}, lambda a, b: (a, b)])
def test_nested_arguments_reach_the_function_in_their_form(mode, structure):
    form = type(structure(1, 2))
    seen = []

    def function(pair):
        seen.append(type(pair))
        values = list(pair.values()) if form is dict else list(vars(pair).values()) if form is Record else list(pair)
        return values[0] - values[1]

    op = differentiable_op(function, signature="(),()->()")
    assert modes.call(mode, lambda x: op(structure(x, 1.0)), X).tolist() == [0, 1, 2]
    assert set(seen) == {form}


@every_mode_without_xla
def test_nested_outputs_take_the_form_of_the_dtypes(mode):
    op = differentiable_op(lambda x: {"b": (x, x + 1), "a": 3}, dtype={"a": np.int32, "b": (None, np.float64)})
    result = modes.call(mode, op, X)
    assert (result["a"].dtype, result["b"][0].dtype, result["b"][1].dtype) == (np.int32, np.float32, np.float64)


@every_mode
def test_keywords_are_inputs_too(mode):
    assert modes.call(mode, lambda x, y: ops.mod(y=y, x=x), X, X + 1).tolist() == X.tolist()


@every_mode
def test_defaults_are_inputs(mode):
    op = differentiable_op(lambda x, y=2.0, z=1.0: x * y + z, signature="(),(),()->()")
    assert modes.call(mode, op, X).tolist() == [3, 5, 7]
    assert modes.call(mode, lambda x: op(x, z=0.0), X).tolist() == [2, 4, 6]


@every_mode_without_xla
def test_defaults_beyond_the_signature_stay_with_the_function(mode):
    assert modes.call(mode, differentiable_op(np.unique, signature="(n)->(k)"), X[[0, 0, 1]]).tolist() == [1, 2]


@every_mode
def test_static_arguments_reach_the_function(mode):
    op = differentiable_op(lambda n, x, *, k=(1, 2): n * x + k[0], signature="()->()", static_argnames="n")
    assert modes.call(mode, lambda x: op(3, x), X).tolist() == [4, 7, 10]
    assert modes.call(mode, lambda x: op(x=x, n=3, k=(0,)), X).tolist() == [3, 6, 9]


@every_mode
def test_static_arguments_need_not_be_json(mode):
    op = differentiable_op(lambda x, *, f: f(x), signature="()->()")
    assert modes.call(mode, lambda x: op(x, f=np.negative) + op(x, f=np.square), X).tolist() == [0, 2, 6]


@every_mode
@pytest.mark.parametrize(("function", "expected"), [(np.hypot, 5.0), (np.matmul, 12.0), *VECDOT])
def test_ufuncs_bring_their_signature(mode, function, expected):
    inputs = [np.float32([3]), np.float32([4])]
    assert modes.call(mode, differentiable_op(function), *inputs).item() == expected


@every_mode
def test_a_ufunc_brings_its_output_dtypes(mode):
    assert modes.call(mode, differentiable_op(np.isnan), X).dtype == bool
    mantissa, exponent = modes.call(mode, differentiable_op(np.frexp), X)
    assert (mantissa.dtype, exponent.dtype) == (np.float32, np.int32)


@every_mode
def test_functions_without_a_python_signature_work(mode):
    assert modes.call(mode, differentiable_op(max, signature="(n)->()"), X) == 3


@every_mode
def test_methods_are_bound_to_their_instance(mode):
    class Scale:
        def __init__(self, factor):
            self.factor = factor

        @differentiable_op(signature="()->()")
        def scale(self, x):
            return self.factor * x

        @staticmethod
        @differentiable_op(signature="()->()")
        def double(x):
            return 2 * x

    two, three = Scale(2), Scale(3)
    assert modes.call(mode, lambda x: two.scale(x) + 10 * three.scale(x), X).tolist() == [32, 64, 96]
    assert modes.call(mode, lambda x: two.double(x) + Scale.double(x), X).tolist() == [4, 8, 12]


@every_mode
def test_results_that_alias_an_input_or_a_kept_array_are_copied(mode):
    memory = np.zeros(1024 + 64, np.float32)
    start = -memory.ctypes.data % 64 // 4
    kept = memory[start : start + 1024]  # aligned as TensorFlow likes to adopt it
    op = differentiable_op(lambda x: kept, signature="(n)->(n)")
    result = modes.call(mode, op, np.zeros(1024, np.float32))
    kept[:] = 1
    assert not result.any()


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_a_kept_input_survives_the_call(mode):
    kept = []
    op = differentiable_op(lambda x: (kept.append(x), x + 1)[1], signature="()->()")
    for value in range(20):
        modes.call(mode, op, np.full(1000, value, np.float32))
    assert [int(array.min()) for array in kept] == [int(array.max()) for array in kept] == list(range(20))


def test_stateful_ops_run_once_a_call_in_program_order():
    calls = []
    op = differentiable_op(lambda x: (calls.append(float(x)), x)[1], signature="()->()", stateful=True)

    @tf.function
    def function():
        for number in range(5):
            op(number)

    function()
    assert calls == [0, 1, 2, 3, 4]


def test_pure_ops_may_be_dropped():
    calls = []
    op = differentiable_op(lambda x: (calls.append(1), x)[1], signature="()->()")
    tf.function(lambda x: (op(x), x)[1])(X)
    assert calls == []


def test_a_dataset_maps_an_op_in_parallel():
    dataset = tf.data.Dataset.range(100, output_type=tf.int64).map(
        lambda x: ops.power(tf.cast(x, tf.float32)), num_parallel_calls=4
    )
    assert [float(x) for x in dataset] == [float(x * x) for x in range(100)]


def test_a_dataset_maps_an_op_itself():
    assert list(tf.data.Dataset.from_tensor_slices(X).map(ops.power).as_numpy_iterator()) == [1, 4, 9]


def test_a_symbolic_tensor_outside_of_its_graph_is_refused():
    leaked = []
    tf.function(lambda x: (leaked.append(x), x)[1])(X)
    with pytest.raises(NotImplementedError, match="input 0 is a symbolic tensor of a graph"):
        ops.exp(leaked[0])
