"""Values of every kind, as results and as inputs: what comes out is what went in, or an error of ours says why not.

No value may be changed silently, and eager calls, graphs and XLA must agree.
"""

import datetime
import decimal
import fractions
import functools
import itertools
import math
from collections import OrderedDict, UserList, deque, namedtuple

import hypothesis.extra.numpy as npst
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfpyop import differentiable_op
from tfpyop.errors import TfpyopError

twice = pytest.mark.parametrize("max_examples", [60, pytest.param(2000, marks=pytest.mark.slow)])


def bounded(max_examples):
    """The settings for so many examples, the same in every run."""
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(
        max_examples=max_examples, deadline=None, derandomize=True, database=None, suppress_health_check=checks
    )


DTYPES = {
    "undeclared": None,
    "bool": np.bool_,
    "uint8": np.uint8,
    "int32": np.int32,
    "int64": np.int64,
    "uint64": np.uint64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
    "complex64": np.complex64,
    "string": "string",
}
Pair = namedtuple("Pair", "left right")


class Raising:
    """An object all of whose own code raises."""

    def _fail(self, *arguments, **options):
        raise RuntimeError("of no use")

    __array__ = __len__ = __getitem__ = __iter__ = __repr__ = __index__ = __float__ = __bool__ = _fail


class ItsOwnItem:
    """A sequence whose only item is itself."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        if index:
            raise IndexError
        return self


def endless(items):
    value = list(items)
    value.append(value)
    return value


def array_in_itself():
    array = np.empty(1, object)
    array[0] = array
    return array


integers = st.one_of(
    st.integers(-300, 300),
    st.integers(-(2**70), 2**70),
    st.builds(
        lambda bits, offset, sign: sign * (2**bits + offset),
        st.sampled_from([8, 11, 16, 24, 31, 32, 53, 63, 64, 1100]),
        st.integers(-2, 2),
        st.sampled_from([-1, 1]),
    ),
)
floats = st.floats() | st.floats(width=16) | st.sampled_from([3.5e38, 1e300, -1e-300, 65520.0, 2.0**63])
numbers = st.one_of(st.booleans(), integers, floats, st.complex_numbers())
texts = st.text(max_size=3) | st.binary(max_size=3) | st.sampled_from(["é", "\ud800", "a\0", b"\xff\0"])
shapes = st.sampled_from([(), (2,), (2,), (1,), (0,), (2, 1), (1, 2)])
plain_dtypes = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(endianness="?"),
    npst.unsigned_integer_dtypes(endianness="?"),
    npst.floating_dtypes(endianness="?"),
    npst.complex_number_dtypes(endianness="?"),
    npst.byte_string_dtypes(max_len=3),
    npst.unicode_string_dtypes(max_len=3),
)
odd_dtypes = npst.datetime64_dtypes() | npst.timedelta64_dtypes() | npst.array_dtypes()
arrays = st.builds(
    lambda array, variant: variant(array),
    plain_dtypes.flatmap(lambda dtype: npst.arrays(dtype, shapes)),
    st.sampled_from([np.asarray, np.asarray, np.asfortranarray, lambda x: x[()], lambda x: x.astype(object)]),
)
extension_arrays = st.builds(
    lambda values, dtype: np.array(values, dtype),
    st.lists(st.integers(-8, 7), min_size=2, max_size=2),
    st.sampled_from([ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, ml_dtypes.int4]),
)
masked = st.builds(
    lambda array, flag: np.ma.array(array, mask=np.full(np.shape(array), flag)),
    npst.arrays(np.float32, shapes),
    st.booleans(),
)
objects = st.builds(
    lambda make: make(),
    st.sampled_from(
        [
            Raising,
            ItsOwnItem,
            array_in_itself,
            object,
            lambda: None,
            lambda: np.ma.masked,
            lambda: (i for i in range(2)),
            lambda: itertools.count(),
            lambda: range(2),
            lambda: {1.0, 2.0},
            lambda: {"a": 1.0},
            lambda: OrderedDict(a=1.0),
            lambda: bytearray(b"ab"),
            lambda: memoryview(b"ab"),
            lambda: fractions.Fraction(1, 3),
            lambda: decimal.Decimal("0.1"),
            lambda: datetime.date(2020, 1, 1),
            lambda: Pair(1.0, 2.0),
            lambda: functools.reduce(lambda value, _: [value], range(1500), 1.0),
            lambda: functools.reduce(lambda value, _: [value, value], range(200), 1.0),
            lambda: tf.constant([1.0, 2.0]),
            lambda: tf.Variable(2**24 + 1),
            lambda: np.array([2**70, 1], object),
            lambda: np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]),
        ]
    ),
)
leaves = st.one_of(numbers, numbers, texts, arrays, arrays, masked, objects)
values = st.recursive(
    leaves,
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=2).map(tuple),
        st.lists(children, max_size=2).map(deque),
        st.lists(children, max_size=2).map(UserList),
        st.lists(children, max_size=2).map(endless),
        st.lists(children, min_size=1, max_size=1).map(lambda items: items * 2),
    ),
    max_leaves=5,
)
values |= extension_arrays | st.lists(numbers, min_size=2, max_size=2)  # the former round what is beside them in lists


# -- what must come out, worked out without the rules of the library


def shape_and_items(value):
    """The shape and the items of a value made of numbers, text, lists and arrays; ValueError for anything else."""
    if isinstance(value, list | tuple | deque | UserList):
        parts = [shape_and_items(item) for item in value]
        if len({shape for shape, _ in parts}) > 1:
            raise ValueError(value)
        shape = (len(parts), *(parts[0][0] if parts else ()))
        return shape, [item for _, items in parts for item in items]
    if isinstance(value, tf.Tensor | tf.Variable):
        return shape_and_items(value.numpy())
    if isinstance(value, range | bytearray | memoryview):
        return (len(value),), list(value)
    if isinstance(value, np.ndarray | np.generic) and not isinstance(value, np.ma.MaskedArray):
        array = np.asarray(value)
        return array.shape, [array[index] for index in np.ndindex(array.shape)]
    if isinstance(value, bool | int | float | complex | str | bytes):
        return (), [value]
    raise ValueError(value)


def is_kept(item, result):
    """Whether one item of a result is what it was: integers and text exactly, floats as near as the dtype is."""
    if isinstance(item, str | bytes):
        return result == (item.encode() if isinstance(item, str) else bytes(item))
    if isinstance(result, bytes):
        return False
    given, got = np.asarray(item), np.asarray(result)
    if isinstance(item, int | np.integer | np.bool_) or given.dtype.kind in "iub" or given.dtype.name == "int4":
        return complex(got).imag == 0 and not math.isinf(complex(got).real) and int(complex_real(got)) == int(item)
    number, kept = np.clongdouble(given), np.clongdouble(complex(got))
    return all(is_near(*parts, got.dtype) for parts in ((number.real, kept.real), (number.imag, kept.imag)))


def complex_real(number):
    """The real part, as an exact Python number."""
    return number.item() if number.dtype.kind in "iub" else complex(number).real


def is_near(given, kept, dtype):
    """Whether a float is kept: rounded to the dtype, and neither infinite nor NaN unless it was."""
    if not np.isfinite(given):
        return bool(np.isnan(given) == np.isnan(kept)) and (bool(np.isnan(given)) or bool(given == kept))
    if dtype.kind in "iub":
        return bool(given == kept)
    information = ml_dtypes.finfo(np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype)
    smallest = np.longdouble(float(information.smallest_subnormal))
    return bool(np.isfinite(kept)) and bool(
        abs(given - kept) <= max(abs(given) * np.longdouble(float(information.eps)), smallest)
    )


def check(value, result):
    """Compare what a call returned with what went in."""
    shape, items = shape_and_items(value)
    array = result.numpy() if isinstance(result, tf.Tensor) else result
    assert np.shape(array) == shape, (value, array)
    found = [array[index] for index in np.ndindex(shape)] if isinstance(array, np.ndarray) else [array]
    if any(isinstance(item, float | complex | np.inexact) for item in items):  # of a list of floats
        items = [complex(item) if isinstance(item, int | np.integer | np.bool_) else item for item in items]
    assert all(map(is_kept, items, found)), (value, array)


def shown(array):
    """All numbers or texts, such that NaN equals NaN; TensorFlow gives one text as bytes.

    Subnormal numbers count as zero, because TensorFlow's threads make them zero.
    """
    if isinstance(array, bytes) or array.dtype == object or array.dtype.kind in "iub" or array.dtype.name == "int4":
        return repr(array if isinstance(array, bytes) else array.tolist())
    parts = [array.real, array.imag] if array.dtype.kind == "c" else [array]
    smallest = float(ml_dtypes.finfo(parts[0].dtype).smallest_normal)
    rounded = [np.where(np.abs(part) < smallest, 0, part).astype(np.float64) + 0.0 for part in parts]
    return repr([part.tolist() for part in rounded])


# -- results

_returned = [None]


def op_returning(dtype, signature):
    return differentiable_op(lambda x: _returned[0], signature=signature, dtype=dtype, stateful=True, vectorized=True)


@functools.cache
def calls_returning(name, signature, *, is_compiled=False):
    """An eager and a traced call of an op that returns whatever is put in its place."""
    op = op_returning(DTYPES[name], signature)
    return op, tf.function(op, autograph=False, jit_compile=is_compiled)


def outcome(call, *arguments):
    """What a call returned, or the text of the error of ours that it raised; any other error is a failure."""
    try:
        return call(*arguments)
    except TfpyopError as error:
        return str(error)
    except tf.errors.OpError as error:
        if "op '" not in error.message:  # in a graph the text is all that is left of an error of ours
            raise
        return error.message


ROUNDED_BY_NUMPY = [[2**63, 1], [2**53 + 1, 1.5], [np.ma.array([1.0], mask=[True])], [np.ma.masked, 1.0]]


@pytest.mark.parametrize("signature", [None, "()->(k)", "()->()"], ids=str)
@twice
def test_a_result_is_kept_or_refused(signature, max_examples):
    @bounded(max_examples)
    @given(name=st.sampled_from(sorted(DTYPES)), value=values)
    def check_all(name, value):
        check_result(name, signature, value)

    for name, value in itertools.product(DTYPES, ROUNDED_BY_NUMPY):
        check_result(name, signature, value)
    check_all()


def check_result(name, signature, value):
    _returned[0] = value
    eager, traced = calls_returning(name, signature)
    result = outcome(eager, 1.0)
    again = outcome(traced, tf.constant(1.0))
    if isinstance(result, str):
        problem = result.split("\n")[0]
        assert problem.startswith("op '")
        assert isinstance(again, str)
        assert problem in again
        return
    if not (isinstance(value, tuple) and len(value) == 1):  # a tuple of one output is that output
        check(value, result)
    assert result.dtype == (tf.float32 if DTYPES[name] is None else tf.as_dtype(DTYPES[name]))
    assert again.dtype == result.dtype
    assert shown(again.numpy()) == shown(result.numpy())


@twice
def test_xla_keeps_and_refuses_the_same_results(max_examples):
    @bounded(max_examples)
    @given(name=st.sampled_from(["undeclared", "bool", "int32", "uint64", "float16", "complex64"]), value=values)
    def check_all(name, value):
        _returned[0] = value
        eager, compiled = calls_returning(name, "()->(2)", is_compiled=True)
        result, again = outcome(eager, 1.0), outcome(compiled, tf.constant(1.0))
        if isinstance(result, str):
            assert isinstance(again, str)
            assert result.split("\n")[0] in again
        else:
            assert again.dtype == result.dtype
            assert shown(again.numpy()) == shown(result.numpy())

    check_all()


# -- inputs

_seen = []


@differentiable_op(stateful=True, dtype=np.float32)
def seeing(x, y):
    _seen.append(x)
    return np.float32(0)


BESIDE = {
    "nothing": True,
    "uint8": tf.constant(1, tf.uint8),
    "int64": tf.constant(1, tf.int64),
    "float16": tf.constant(1, tf.float16),
    "float32": tf.constant(1.0),
    "float64": tf.constant(1.0, tf.float64),
    "complex64": tf.constant(1, tf.complex64),
}


def is_taken_apart(value):
    """Whether an input is not one array but a structure, whose parts are inputs."""
    return value is None or isinstance(value, tuple | dict)


@twice
def test_an_input_is_kept_or_refused(max_examples):
    @bounded(3 * max_examples)
    @given(name=st.sampled_from(sorted(BESIDE)), value=values.filter(lambda value: not is_taken_apart(value)))
    def check_all(name, value):
        check_input(name, value)

    for name, value in itertools.product(BESIDE, [2**40, *ROUNDED_BY_NUMPY]):
        check_input(name, value)
    check_all()


def check_input(name, value):
    eager = outcome_of_input(value, BESIDE[name], is_traced=False)
    traced = outcome_of_input(value, BESIDE[name], is_traced=True)
    if isinstance(eager, str):
        assert isinstance(traced, str)
        assert eager.split("\n")[0] in traced
        return
    check(value, eager)
    assert (eager.dtype, eager.shape) == (traced.dtype, traced.shape)
    assert shown(traced) == shown(eager)


def outcome_of_input(value, beside, *, is_traced):
    _seen.clear()
    call = tf.function(lambda: seeing(value, beside), autograph=False) if is_traced else lambda: seeing(value, beside)
    result = outcome(call)
    return result if isinstance(result, str) else _seen[0]


@bounded(200)
@given(value=st.one_of(integers, st.lists(integers, min_size=1, max_size=3)), name=st.sampled_from(sorted(BESIDE)))
def test_the_dtype_of_an_integer_does_not_depend_on_its_value(value, name):
    result = outcome_of_input(value, BESIDE[name], is_traced=False)
    if not isinstance(result, str):
        assert result.dtype == outcome_of_input(0, BESIDE[name], is_traced=False).dtype
