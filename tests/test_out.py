"""`out=`: functions that write into what the library gives them, in memory that is then the tensor's own."""

import ctypes
import functools
import inspect
import pickle
import threading
import weakref

import numpy as np
import pytest
import tensorflow as tf

from tests import modes
from tfpyop import differentiable_op
from tfpyop._lowering import tensors

X = np.float32([1, 2, 3])
every_mode = pytest.mark.parametrize("mode", modes.MODES)


def address(array):
    return array.__array_interface__["data"][0]


@every_mode
def test_a_function_gets_its_destination(mode):
    given = []

    def function(x, *, out):
        given.append((out.shape, out.dtype, out.flags.writeable, address(out) % 64))
        return np.add(x, 1, out=out)

    op = differentiable_op(function, signature="()->()", grad=lambda op, g: g)
    for _ in range(3):
        assert modes.call(mode, op, X).tolist() == [2, 3, 4]
    assert {part[:3] for part in given} == {((3,), np.dtype(np.float32), True)}
    assert mode in modes.XLA_MODES or {part[3] for part in given} == {0}


@every_mode
def test_several_outputs_come_as_a_tuple(mode):
    def function(x, *, out=None):
        np.add(x, 1, out=out[0])
        np.subtract(x, 1, out=out[1])
        return out

    op = differentiable_op(function, signature="()->(),()")
    assert [array.tolist() for array in modes.call(mode, op, X)] == [[2, 3, 4], [0, 1, 2]]


def test_an_eager_result_is_adopted_without_a_copy():
    given = []

    def function(x, *, out):
        given.append(address(out))
        return np.add(x, 1, out=out)

    result = differentiable_op(function, signature="()->()")(tf.zeros(10_000))
    assert address(result._numpy()) == given[0]
    assert given[0] % 64 == 0


@every_mode
@pytest.mark.parametrize("part", [lambda out: out, lambda out: out[1:], memoryview], ids=["all", "a part", "a view"])
def test_a_destination_that_was_kept_cannot_change_the_result(mode, part):
    kept = []

    def function(x, *, out):
        kept.append(part(out))
        return np.add(x, 1, out=out)

    op = differentiable_op(function, signature="()->()")
    results = [modes.call(mode, op, X + number) for number in range(3)]
    for array in kept:
        array[0:1] = np.float32([99])
    assert [result.tolist() for result in results] == [[2, 3, 4], [3, 4, 5], [4, 5, 6]]


@every_mode
def test_a_destination_that_was_kept_weakly_cannot_change_the_result(mode):
    kept = []

    def function(x, *, out):
        kept.append(weakref.ref(out))
        return np.add(x, 1, out=out)

    result = modes.call(mode, differentiable_op(function, signature="()->()"), X)
    for reference in kept:
        array = reference()
        if array is not None:
            array[0] = 99
    assert result.tolist() == [2, 3, 4]


@every_mode
@pytest.mark.parametrize("returned", [lambda a, b: (b, a), lambda a, b: (a[::-1], a), lambda a, b: (b[::-1], b)])
def test_outputs_may_be_parts_of_each_others_destinations(mode, returned):
    def function(x, *, out):
        a, b = (np.empty_like(x), np.empty_like(x)) if out is None else out
        np.add(x, 1, out=a)
        np.subtract(x, 1, out=b)
        return returned(a, b)

    op = differentiable_op(function, signature="(n)->(n),(n)")
    expected = [array.tolist() for array in returned(X + 1, X - 1)]
    compiled = tf.function(op, jit_compile=True) if mode == "XLA" else op
    for _ in range(3):
        assert [array.tolist() for array in modes.call(mode, op, X)] == expected
        assert [array.numpy().tolist() for array in compiled(X)] == expected


@every_mode
def test_a_function_may_return_something_else(mode):
    op = differentiable_op(lambda x, *, out: x + 1, signature="()->()")
    assert modes.call(mode, op, X).tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    "options",
    [{}, {"signature": "()->()", "compute_dtype": "float64"}, {"signature": "(n)->(k)"}],
    ids=["unknown shape", "compute_dtype", "run-time size"],
)
def test_there_is_no_destination_where_its_type_is_not_known(options):
    given = []
    op = differentiable_op(lambda x, *, out: (given.append(out), x)[1], **options)
    op(X)
    assert given == [None]


def test_the_host_loop_has_no_destinations():
    given = []
    op = differentiable_op(lambda x, *, out: (given.append(out), x)[1], signature="()->()", vectorized=False)
    assert op(X).numpy().tolist() == X.tolist()
    assert given == [None] * 3


def test_callers_cannot_give_a_destination():
    op = differentiable_op(lambda x, *, out=None: x, signature="()->()")
    with pytest.raises(TypeError, match=r"op .*got an unexpected keyword argument 'out'"):
        op(X, out=X)
    assert "out" not in op.__signature__.parameters


def test_an_out_that_is_an_option_stays_one():
    op = differentiable_op(lambda x, *, out="twice": 2 * x if out == "twice" else x, signature="()->()")
    assert op(X).numpy().tolist() == [2, 4, 6]
    assert op(X, out="once").numpy().tolist() == [1, 2, 3]


def test_several_rows_at_once():
    op = differentiable_op(lambda x, *, out: x + 1 if out is None else np.add(x, 1, out=out), signature="()->()")
    assert tf.vectorized_map(op, tf.constant(X)).numpy().tolist() == [2, 3, 4]


@every_mode
def test_a_destination_changed_in_place_gives_the_values_that_it_shows(mode):
    def function(x, *, out):
        np.add(x, 1, out=out)
        out.dtype = np.int32
        return out.astype(np.float32)

    op = differentiable_op(function, signature="()->()")
    expected = (X + 1).view(np.int32).astype(np.float32).tolist()
    compiled = tf.function(op, jit_compile=True) if mode == "XLA" else op
    for _ in range(3):
        assert modes.call(mode, op, X).tolist() == expected
        assert compiled(X).numpy().tolist() == expected


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}], ids=["graph", "XLA"])
@pytest.mark.parametrize("has_default", [True, False])
def test_a_function_is_made_of_a_method_with_a_destination(options, has_default):
    class Scale:
        factor = 3

        @differentiable_op(signature="()->()")
        def optional(self, x, *, out=None):
            return np.multiply(x, self.factor, out=out)

        @differentiable_op(signature="()->()")
        def required(self, x, *, out):
            return np.multiply(x, self.factor, out=out)

    scale = Scale()
    op = scale.optional if has_default else scale.required
    assert list(inspect.signature(op).parameters) == ["x"]
    assert tf.function(op, **options)(X).numpy().tolist() == [3, 6, 9]


KEPT = {
    "a part": lambda out: out[1:],
    "a part without elements": lambda out: out[:0],
    "all memory": lambda out: out.base,
    "all memory, weakly": lambda out: None if out.base is None else weakref.ref(out.base),
    "a subclass": lambda out: out.view(np.recarray),
    "strided": np.lib.stride_tricks.as_strided,
    "an iterator": lambda out: out.flat,
    "a method": lambda out: out.fill,
    "a call": lambda out: functools.partial(np.copyto, out, 99),
    "a pointer": lambda out: out.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
    "an array of ctypes": lambda out: (ctypes.c_float * 3).from_buffer(out),
    "a buffer": pickle.PickleBuffer,
    "bytes": lambda out: memoryview(out).cast("B"),
    "DLPack": lambda out: out.__dlpack__(),
}


@pytest.mark.parametrize("how", KEPT.values(), ids=KEPT)
def test_whatever_refers_to_the_destination_is_seen(how):
    kept, addresses = [], []

    def function(x, *, out):
        kept.append(how(out))
        addresses.append(address(out))
        return np.add(x, 1, out=out)

    op = differentiable_op(function, signature="()->()")
    assert address(op(X)._numpy()) != addresses[0]


@every_mode
def test_a_thread_that_writes_late_does_not_change_the_result(mode):
    threads, goes_on = [], threading.Event()

    def write_late(out):
        assert goes_on.wait(30)
        out[...] = 99

    def function(x, *, out):
        threads.append(threading.Thread(target=write_late, args=(out,)))
        threads[-1].start()
        return np.add(x, 1, out=out)

    result = modes.call(mode, differentiable_op(function, signature="()->()"), X)
    goes_on.set()
    for thread in threads:
        thread.join()
    assert result.tolist() == [2, 3, 4]


def compiled_with_borrowed_memory(function):
    """A compiled call whose next destination is XLA's own memory."""
    call = tf.function(differentiable_op(function, signature="()->()"), jit_compile=True, autograph=False)
    for _ in range(2):
        assert call(X).numpy().tolist() == [2, 3, 4]
    return call


def test_xla_keeps_its_memory_until_a_late_thread_has_written():
    threads, is_late = [], []

    def write_late(part):
        threading.Event().wait(0.3)
        part[...] = 99

    def function(x, *, out):
        if is_late:
            threads.append(threading.Thread(target=write_late, args=(out[1:],)))
            threads[-1].start()
        return np.add(x, 1, out=out)

    call = compiled_with_borrowed_memory(function)
    is_late.append(True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="the function kept a reference"):
        call(X)
    assert not threads[0].is_alive()
    assert call(X).numpy().tolist() == [2, 3, 4]  # in memory of its own now
    threads[1].join()


def test_a_borrowed_buffer_of_xla_that_was_kept_cannot_be_written():
    kept, is_kept = [], []

    def function(x, *, out):
        if is_kept:
            kept.append(out)
        return np.add(x, 1, out=out)

    call = compiled_with_borrowed_memory(function)
    is_kept.append(True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="the function kept a reference"):
        call(X)
    with pytest.raises(ValueError, match="read-only"):
        kept[0][...] = 99
    result = call(X)
    kept[1][...] = 99
    assert result.numpy().tolist() == [2, 3, 4]


@pytest.mark.parametrize("count", [lambda array: 1, lambda array: 99], ids=["too few", "too many"])
def test_a_python_that_does_not_count_references_is_recognized(monkeypatch, count):
    assert tensors._counts_references()
    monkeypatch.setattr(tensors, "getrefcount", count)
    monkeypatch.setattr(tensors, "_UNKEPT", tensors._references_unkept())
    assert not tensors._counts_references()


@every_mode
def test_calls_are_right_where_references_are_not_counted(monkeypatch, mode):
    monkeypatch.setattr(tensors, "_COUNTS_REFERENCES", False)
    kept = []

    def function(x, *, out):
        kept.append(out)
        return np.add(x, 1, out=out)

    op = differentiable_op(function, signature="()->()")
    for value in range(5):
        assert modes.call(mode, op, X + value).tolist() == [value + 2, value + 3, value + 4]
        result = modes.call(mode, op, X)
        for array in kept:
            array[...] = 9
        assert result.tolist() == [2, 3, 4]
