"""Compiled calls: every dtype and shape, the order of stateful calls, memory that is lent, sites that are alike."""

import gc
import re
import resource
import sys
import textwrap
import threading
import time
import types
import weakref

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tests import ops
from tests.modes import compiled
from tests.processes import run_python
from tfpyop import SignatureError, UnsupportedError, differentiable_op
from tfpyop._lowering import tensors
from tfpyop._lowering.xla import call_site as xla_calls
from tfpyop._lowering.xla import exception_table
from tfpyop._lowering.xla import ffi as xla_ffi
from tfpyop._lowering.xla.call_descriptor import ELEMENT_TYPES
from tfpyop._registry.op_def import REGISTRY

X = np.float32([1, 2, 3])
FLOAT8 = [  # three of the five came after TensorFlow 2.18
    getattr(ml_dtypes, name)
    for name in ELEMENT_TYPES
    if name.startswith("float8") and hasattr(tf.dtypes.experimental, name)
]
SUB_BYTE = [
    name for name in ("int4", "uint4", "int2", "uint2", "float4_e2m1fn") if hasattr(tf.dtypes.experimental, name)
]
DTYPES = [
    *(np.dtype(name) for name in ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]),
    np.dtype(ml_dtypes.bfloat16),
    *map(np.dtype, FLOAT8),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 0)], ids=str)
def test_every_dtype_goes_in_and_out(dtype, shape):
    array = (np.arange(np.prod(shape)).reshape(shape) + 1).astype(dtype)
    seen = []
    op = differentiable_op(lambda x: (seen.append((x.dtype, x.copy())), x)[1], signature="()->()")
    result = compiled(op)(tf.constant(array)).numpy()
    np.testing.assert_array_equal(result, array)
    assert (result.dtype, result.shape) == (dtype, shape)
    if array.size:
        assert seen[0][0] == dtype
        np.testing.assert_array_equal(seen[0][1], array)


def test_arrays_are_row_by_row_whatever_xla_computed_them_from():
    op = differentiable_op(lambda x: x.ravel().reshape(x.shape), signature="(m,n)->(m,n)")
    x = tf.reshape(tf.range(6.0), [2, 3])
    np.testing.assert_array_equal(compiled(lambda x: op(tf.transpose(x) * 2))(x), x.numpy().T * 2)
    np.testing.assert_array_equal(compiled(lambda x: tf.transpose(op(x * 2)))(x), x.numpy().T * 2)


@pytest.mark.parametrize(
    ("signature", "function", "inputs"),
    [
        ("(n),(m)->(n+m-1)", np.convolve, [(4,), (3,)]),
        ("(n)->((n-1)//2)", lambda x: x[..., : (x.shape[-1] - 1) // 2], [(5,)]),
        ("(n)->(n//2+1)", lambda x: x[..., : x.shape[-1] // 2 + 1], [(2, 5)]),
        ("(m,k),(k,n)->(m,n)", np.matmul, [(5, 1, 2, 3), (4, 3, 2)]),
        ("(n,n)->(n),(n,n)", lambda x: (x[..., 0], x), [(2, 3, 3)]),
        ("(3),(3)->(3)", np.cross, [(4, 3), (3,)]),
        ("(n)->()", lambda x: x.sum(-1), [(4, 3)]),
        ("()->(2,3)", lambda x: np.broadcast_to(x[..., None, None], (*x.shape, 2, 3)), [(4,)]),
        ("(n)->(2*n)", lambda x: np.concatenate([x, x], -1), [(4,)]),
    ],
)
def test_unknown_sizes_follow_from_the_signature(signature, function, inputs):
    op = differentiable_op(function, signature=signature)
    specs = [tf.TensorSpec([None] * len(shape)) for shape in inputs]
    arrays = [np.random.default_rng(0).random(shape, np.float32) for shape in inputs]
    call = compiled(lambda *tensors: op(*tensors), input_signature=specs)
    for result, expected in zip(*map(tf.nest.flatten, (call(*arrays), function(*arrays))), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_stateful_calls_are_made_once_each_in_the_order_of_the_program():
    calls = []
    op = differentiable_op(lambda x: (calls.append(float(x)), x)[1], signature="()->()", stateful=True)

    @compiled
    def function(x):
        for number in range(20):
            op(x + number)
        return x

    function(tf.constant(1.0))
    assert calls == [1.0 + number for number in range(20)]
    function(tf.constant(100.0))
    assert calls[20:] == [100.0 + number for number in range(20)]


def counted_calls():
    """A stateful op that returns which call it was."""
    calls = []
    return differentiable_op(
        lambda x: (calls.append(1), x + np.float32(len(calls)))[1], signature="()->()", stateful=True
    )


def by_call(function):
    return function(tf.constant(0.0))


def by_concrete_function(function):
    return function.get_concrete_function(tf.TensorSpec([]))(tf.constant(0.0))


ROADS = pytest.mark.parametrize("run", [by_call, by_concrete_function])


@ROADS
@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"autograph": False}], ids=str)
def test_stateful_calls_in_an_inner_function_are_refused_however_the_outer_one_is_traced(run, options):
    inner = tf.function(counted_calls(), **options)
    with pytest.raises(UnsupportedError, match="XLA does not guarantee the order of calls in loops, branches and"):
        run(tf.function(lambda x: inner(x), jit_compile=True))


@ROADS
def test_a_compiled_function_with_stateful_calls_may_be_called_by_one_that_is_not_compiled(run):
    op = counted_calls()
    inner = tf.function(lambda x: op(op(x)), jit_compile=True)
    assert run(inner).numpy() == 1 + 2
    assert run(tf.function(lambda x: inner(x) + 0)).numpy() == 3 + 4


@ROADS
def test_stateful_calls_in_loops_and_branches_are_refused(run):
    op = counted_calls()
    for function in (
        lambda x: tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, op(x)), (0, x))[1],
        lambda x: tf.cond(x > 0, lambda: op(x), lambda: x),
        lambda x: tf.switch_case(tf.cast(x, tf.int32), [lambda: op(x), lambda: x]),
        lambda x: tf.map_fn(op, x[None])[0],
    ):
        with pytest.raises(UnsupportedError, match="XLA does not guarantee the order"):
            run(tf.function(function, jit_compile=True))


@pytest.mark.parametrize(
    ("signature", "shape"), [("(n)->(n-5)", [-2]), ("(n)->(n*1000000000)", [3000000000]), ("(n)->(2,n-4)", [2, -1])]
)
def test_sizes_that_no_array_has_are_refused_in_our_words(signature, shape):
    op = differentiable_op(lambda x: x, signature=signature)
    call = compiled(op, input_signature=[tf.TensorSpec([None])])
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        call(X)
    problem = f"{op._definition.subject}: an output has no possible shape: {shape}"
    assert problem in caught.value.message
    assert "must be compatible" not in caught.value.message


@pytest.mark.parametrize("n", [0, 1, 2, 5])
@pytest.mark.parametrize("signature", ["(n)->(n//2)", "(n)->(n//2+1)", "(n)->((n+1)//3)"])
def test_sizes_are_rounded_down_from_zero_on(signature, n):
    size = eval(signature.partition("->")[2], {"n": n})
    op = differentiable_op(lambda x: np.zeros(size, np.float32), signature=signature)
    assert compiled(op, input_signature=[tf.TensorSpec([None])])(tf.zeros(n)).shape == (size,)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_negative_numerator_is_rounded_down_as_in_python(n):
    op = differentiable_op(lambda x: np.zeros((n - 3) // 2 + 2, np.float32), signature="(n)->((n-3)//2+2)")
    assert compiled(op, input_signature=[tf.TensorSpec([None])])(tf.zeros(n)).shape == ((n - 3) // 2 + 2,)


def test_pure_calls_with_unused_results_are_left_out():
    calls = []
    op = differentiable_op(lambda x: (calls.append(1), x)[1], signature="()->()")
    compiled(lambda x: (op(x), x)[1])(X)
    assert calls == []


def test_an_unstacked_call_in_vectorized_map():
    op = differentiable_op(np.square, numpy_grad=lambda op, g: 2 * g * op.inputs[0])
    result = compiled(lambda x: tf.vectorized_map(lambda row: row * op(tf.constant(3.0)), x))(X)
    assert result.numpy().tolist() == [9, 18, 27]


@pytest.mark.slow
def test_keras_trains_alike_compiled_and_not():
    import keras

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.last = keras.layers.Dense(8), keras.layers.Dense(1)

        def call(self, x):
            return self.last(ops.exp(-self.first(x)))

    x = np.random.default_rng(0).normal(size=(70, 4)).astype(np.float32)
    y = x.sum(1, keepdims=True)
    losses = []
    for jit_compile in (True, False):
        keras.utils.set_random_seed(1)
        model = Model()
        model.compile(loss="mse", optimizer="adam", jit_compile=jit_compile)
        history = model.fit(x, y, verbose=0, batch_size=32, epochs=3)
        losses.append([*history.history["loss"], model.evaluate(x, y, verbose=0), *model.predict(x, verbose=0).ravel()])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


@pytest.mark.slow
def test_sites_of_other_shapes_are_distinguished_when_functions_come_and_go():
    op = differentiable_op(lambda x: x * 2, signature="()->()")
    for number in range(300):
        shape = (number % 7, 1 + number % 5, 2)[: 1 + number % 3]
        result = compiled(lambda x: op(x) + 1)(tf.ones(shape))
        np.testing.assert_array_equal(result, np.full(shape, 3, np.float32))
        if number % 50 == 0:
            gc.collect()


@pytest.mark.slow
def test_nothing_is_kept_of_ops_that_are_gone():
    def compile_one(number):
        op = differentiable_op(lambda x: x + number, signature="()->()")
        assert compiled(op)(X).numpy().tolist() == (X + number).tolist()

    compile_one(0)
    gc.collect()
    known = len(xla_calls._CALLS)
    for number in range(20):
        compile_one(number)
    gc.collect()
    assert len(xla_calls._CALLS) <= known


def test_many_threads_compile_and_call():
    op = differentiable_op(lambda x: x * 2, signature="()->()", numpy_grad=lambda op, g: 2 * g)
    wrong = []

    def work(number):
        x = tf.fill([number + 1], float(number))

        @compiled
        def function(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = op(x)
            return y, tape.gradient(y, x)

        for _ in range(100):
            value, gradient = function(x)
            if set(value.numpy()) != {2.0 * number} or set(gradient.numpy()) != {2.0}:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_replaced_op_is_the_one_that_runs(tmp_path, monkeypatch):
    import importlib

    path = tmp_path / "xla_reloaded.py"
    source = (
        "from tfpyop import differentiable_op\n@differentiable_op(signature='()->()')\ndef op(x):\n    return x * {}\n"
    )
    path.write_text(source.format(2))
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("xla_reloaded")
    function = compiled(module.op)
    assert function(X).numpy().tolist() == [2, 4, 6]
    path.write_text(source.format(30))
    importlib.invalidate_caches()
    importlib.reload(module)
    assert function(X).numpy().tolist() == [30, 60, 90]


@pytest.mark.slow
def test_ten_thousand_calls_leave_memory_flat():
    op = ops.exp
    function = compiled(op)
    x = tf.zeros(1000)

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    for _ in range(1000):
        function(x)
    before = resident()
    for _ in range(10_000):
        function(x)
    assert resident() - before < 4e6  # a kept array a call would be 40 MB


@pytest.mark.slow
def test_ctrl_c_at_any_moment_leaves_the_process_alive():
    script = """
import faulthandler, os, signal, threading, time
import numpy as np, tensorflow as tf
from tfpyop import differentiable_op
faulthandler.dump_traceback_later(100, exit=True)
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit that it is ignored
op = differentiable_op(lambda x: x + 1, signature="()->()")
@tf.function(jit_compile=True)
def function(x):
    for _ in range(50):
        x = op(x)
    return x
x = tf.zeros(3)
function(x)
stopped = 0
ready = threading.Event()
def interrupt():
    ready.wait()
    while stopped < 200:
        time.sleep(0.0007)
        os.kill(os.getpid(), signal.SIGINT)
def run():
    global stopped
    while stopped < 200:
        try:
            try:
                while True:
                    assert function(x).numpy().tolist() == [50, 50, 50]
            except KeyboardInterrupt:
                stopped += 1
        except KeyboardInterrupt:
            stopped += 1
thread = threading.Thread(target=interrupt)
thread.start()
while True:
    try:
        ready.set()
        run()
        thread.join()
        break
    except KeyboardInterrupt:
        pass
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("alive", function(x).numpy().tolist())
"""
    process = run_python("-c", script)
    assert process.stdout.splitlines()[-1:] == ["alive [50.0, 50.0, 50.0]"], process.stderr[-3000:]
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("daemon", [False, True])
def test_calls_while_the_interpreter_shuts_down_do_not_crash(daemon):
    script = f"""
import atexit, threading, time
import tensorflow as tf
from tfpyop import differentiable_op
op = differentiable_op(lambda x: x + 1, signature="()->()")
function = tf.function(op, jit_compile=True)
x = tf.zeros(3)
function(x)
def work():
    end = time.time() + 1
    while time.time() < end:
        function(x)
threading.Thread(target=work, daemon={daemon}).start()
atexit.register(lambda: print("at exit", function(x).numpy().tolist()))
time.sleep(0.1)
"""
    process = run_python("-c", script)
    assert process.stdout == "at exit [1.0, 1.0, 1.0]\n", process.stderr[-3000:]
    assert process.returncode == 0, process.stderr[-3000:]


def test_the_handler_is_guarded_from_its_first_instruction():
    import dis

    handler = xla_ffi.handler(xla_ffi.load_api(), lambda *_: None)
    if sys.version_info >= (3, 11):
        first = dis._parse_exception_table(handler.__code__)[0]
        assert (first.start, first.depth) == (0, 0)


@pytest.mark.parametrize("numbers", [[0, 4, 70, 0], [1, 64, 4096, 3], [5, 63, 4095, 262144], [1, 1, 1, 1]])
def test_exception_tables_are_written_as_they_are_read(numbers):
    assert exception_table.read_entry(exception_table.write_entry(numbers))[0] == numbers


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception tables exist since Python 3.11")
@pytest.mark.parametrize(
    "damage",
    [
        lambda table: b"",
        lambda table: table[:3],
        lambda table: bytes([table[0] & 0x7F]) + table[1:],
        lambda table: exception_table.write_entry([0, 4, 10_000, 0]) + table,
        lambda table: exception_table.write_entry([9_000, 4, 1, 0]),
        lambda table: table + table,
    ],
    ids=["empty", "cut off", "without a mark", "target", "start", "order"],
)
def test_exception_tables_of_an_unknown_format_stay_unchanged(damage):
    def function():
        try:
            return len("a")
        except BaseException:
            return 0

    code = function.__code__
    assert exception_table.guarded_from_the_start(code).co_exceptiontable != code.co_exceptiontable
    damaged = code.replace(co_exceptiontable=damage(code.co_exceptiontable))
    assert exception_table.guarded_from_the_start(damaged) is damaged


def test_inputs_stay_read_only_in_later_calls():
    def function(x):
        x.flags.writeable = True
        x += 1
        return x

    call = compiled(differentiable_op(lambda x: function(x) if x[0] == 7 else x + 0, signature="(n)->(n)"))
    call(X)
    call(X)
    with pytest.raises(tf.errors.InvalidArgumentError, match="cannot set WRITEABLE flag"):
        call(tf.constant([7.0, 2, 3]))


def test_a_reloaded_op_of_another_dtype_is_refused(tmp_path, monkeypatch):
    import importlib

    path = tmp_path / "xla_changed.py"
    source = "from tfpyop import differentiable_op\nop = differentiable_op(lambda x: {}, name='xla_changed')\n"
    path.write_text(source.format("x, signature='()->()'"))
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("xla_changed")
    function = compiled(lambda x: module.op(x))
    function(X)
    for changed in ("x > 1, signature='()->()', dtype=bool", "x.sum(-1), signature='(n)->()'"):
        path.write_text(source.format(changed) + "#" * len(changed))
        importlib.invalidate_caches()
        importlib.reload(module)
        with pytest.raises(tf.errors.InvalidArgumentError, match="the op has changed since the graph that calls"):
            function(X)


def test_a_cycle_is_not_taken_for_a_kept_array():
    def function(x):
        if x[0] > 1:
            try:
                raise ValueError
            except ValueError as error:
                error.myself = error
        return x + 1

    call = compiled(differentiable_op(function, signature="(n)->(n)"))
    for start in (0.0, 0.0, 2.0, 2.0):
        assert call(tf.fill([3], start)).numpy().tolist() == [start + 1] * 3


def test_long_texts_are_shortened():
    def function(x):
        raise ValueError("long " * 10_000)

    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"(?s)the function raised ValueError.*\[\.\.\.\]"
    ) as caught:
        compiled(differentiable_op(function, signature="()->()"))(X)
    assert len(caught.value.message) < 3000


@pytest.mark.slow
def test_a_saved_function_runs_in_a_process_that_has_imported_the_op(tmp_path):
    (tmp_path / "saved_ops.py").write_text(
        "from tfpyop import differentiable_op\n"
        "square = differentiable_op(lambda x: x * x, signature='()->()', name='saved_ops:square',"
        " grad=lambda op, g: 2 * g * op.inputs[0])\n"
    )
    save = """
import tensorflow as tf, saved_ops
module = tf.Module()
module.f = tf.function(saved_ops.square, jit_compile=True, input_signature=[tf.TensorSpec([None])])
module.f(tf.ones(2))
tf.saved_model.save(module, "saved")
"""
    load = """
import tensorflow as tf, saved_ops
f = tf.saved_model.load("saved").f
x = tf.constant([1.0, 2.0, 3.0])
with tf.GradientTape() as tape:
    tape.watch(x)
    y = f(x)
print(y.numpy().tolist(), tape.gradient(y, x).numpy().tolist())
"""
    for script in (save, load):
        process = run_python("-c", script, cwd=tmp_path, check=True)
    assert process.stdout == "[1.0, 4.0, 9.0] [2.0, 4.0, 6.0]\n"


@pytest.mark.slow
def test_a_timeout_that_strikes_anywhere_leaves_the_process_alive():
    script = """
import signal
import tensorflow as tf
from tfpyop import differentiable_op

class Timeout(Exception):
    pass

def raise_timeout(*_):
    raise Timeout

def fail(x):
    raise ValueError("wrong " * 50)

signal.signal(signal.SIGALRM, raise_timeout)
function = tf.function(differentiable_op(fail, signature="()->()"), jit_compile=True)
x = tf.zeros(3)
for number in range(1500):
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-5 + number % 100 * 1e-5)
        try:
            function(x)
        except Exception:
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Exception:
        pass
print("alive")
"""
    process = run_python("-c", script, timeout=200)
    assert process.stdout == "alive\n", process.stderr[-3000:]
    assert process.returncode == 0


def test_a_function_that_keeps_an_input_and_raises_is_reported():
    kept = []

    def function(x):
        if x[0] > 1:
            kept.append(x)
            raise ValueError("too large")
        return x + 1

    call = compiled(differentiable_op(function, signature="(n)->(n)"))
    for _ in range(2):
        assert call(tf.zeros(3)).numpy().tolist() == [1, 1, 1]
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"(?s)the function kept a reference.*It also failed.*too large"
    ):
        call(tf.fill([3], 5.0))
    with pytest.raises(tf.errors.InvalidArgumentError, match="the function raised ValueError: too large"):
        call(tf.fill([3], 5.0))  # of a copy now, which may be kept
    assert kept[1].tolist() == [5, 5, 5]
    assert call(tf.zeros(3)).numpy().tolist() == [1, 1, 1]


def test_an_exception_that_holds_an_input_does_not_count_once_it_is_gone():
    def function(x):
        if x[0] > 1:
            raise ValueError("too large", x)
        return x + 1

    call = compiled(differentiable_op(function, signature="(n)->(n)"))
    for start in (0.0, 0.0, 2.0, 2.0, 0.0):
        if start:
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"the function raised ValueError: \('too large'"):
                call(tf.fill([3], start))
        else:
            assert call(tf.fill([3], start)).numpy().tolist() == [1, 1, 1]


def test_a_kept_exception_does_not_keep_borrowed_buffers():
    kept = []

    def function(x):
        if x[0] > 1:
            try:
                raise ValueError("too large")
            except ValueError as error:
                kept.append(error)
                raise
        return x + 1

    call = compiled(differentiable_op(function, signature="(n)->(n)"))
    for _ in range(2):
        call(tf.zeros(3))
    with pytest.raises(tf.errors.InvalidArgumentError, match="the function raised ValueError: too large"):
        call(tf.fill([3], 5.0))
    frames = kept[0].__traceback__
    assert frames is not None
    while frames is not None:
        assert not any(isinstance(value, np.ndarray) for value in frames.tb_frame.f_locals.values())
        frames = frames.tb_next


def test_each_call_makes_arrays_of_its_own_on_the_same_memory():
    def function(x):
        if x[0] > 1:
            x.shape = (3, 1)  # of this array, not of the next call's
        return np.ravel(x) + 1

    call = compiled(differentiable_op(function, signature="(n)->(n)"))
    for start in (0.0, 0.0, 2.0, 2.0, 0.0):
        assert call(tf.fill([3], start)).numpy().tolist() == [start + 1] * 3


def test_one_compiled_function_is_called_with_many_shapes_by_many_threads():
    op = differentiable_op(lambda x: np.concatenate([x, x[:1]]), signature="(n)->(n+1)")
    function = compiled(lambda x: op(x) + 1, input_signature=[tf.TensorSpec([None])])
    wrong = []

    def work(number):
        for call in range(60):
            x = np.arange(1 + (7 * number + call) % 40, dtype=np.float32)
            if function(x).numpy().tolist() != [*(x + 1), 1]:
                wrong.append(x.shape)

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_calls_at_every_depth_up_to_the_recursion_limit_leave_the_process_alive():
    script = """
import sys
import tensorflow as tf
from tfpyop import differentiable_op
function = tf.function(differentiable_op(lambda x: x + 1, signature="()->()"), jit_compile=True)
x = tf.zeros(3)
function(x)
def call(depth):
    return call(depth - 1) if depth else function(x).numpy().tolist()
limit = sys.getrecursionlimit()
seen = set()
for depth in range(limit - 150, limit):
    try:
        seen.add(str(call(depth)))
    except RecursionError:
        seen.add("RecursionError")
    except tf.errors.OpError as error:
        seen.add("RecursionError" if "RecursionError" in error.message else error.message)
print(sorted(seen), function(x).numpy().tolist())
"""
    process = run_python("-c", script)
    assert process.stdout == "['RecursionError', '[1.0, 1.0, 1.0]'] [1.0, 1.0, 1.0]\n", process.stderr[-3000:]


def test_a_residual_in_the_memory_of_an_output_is_read_before_that_is_written():
    def function(x, *, out=None):
        if out is None:
            return x + 1, {"r": np.full_like(x, 5)}
        out[...] = 5
        return x + 1, {"r": out}

    op = differentiable_op(
        function, signature="()->()", residuals={"r": ("()", np.float32)}, grad=lambda op, g: op.residuals.r * g
    )

    @compiled
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        return tape.gradient(y, x)

    for _ in range(3):
        assert gradient(tf.constant(X)).numpy().tolist() == [5, 5, 5]


def test_an_interrupt_keeps_no_borrowed_buffer_in_its_context():
    def interrupted(x):
        if x[0] > 1:
            try:
                raise ValueError
            except ValueError:
                raise KeyboardInterrupt from None
        return x + 1

    call = compiled(differentiable_op(interrupted, signature="(n)->(n)"))
    for _ in range(2):
        call(tf.zeros(3))
    with pytest.raises((KeyboardInterrupt, tf.errors.CancelledError)) as caught:
        call(tf.fill([3], 5.0))
    error = caught.value
    while error.__context__ is not None:
        error = error.__context__
    frames = error.__traceback__
    while frames is not None:
        if frames.tb_frame.f_code.co_name == "interrupted":
            assert not frames.tb_frame.f_locals
        frames = frames.tb_next


def test_a_function_that_keeps_an_input_and_is_interrupted_is_reported():
    kept = []

    def keeping(x):
        if x[0] > 1:
            kept.append(x)
            raise KeyboardInterrupt
        return x + 1

    call = compiled(differentiable_op(keeping, signature="(n)->(n)"))
    for _ in range(2):
        call(tf.zeros(3))
    with pytest.raises((KeyboardInterrupt, tf.errors.CancelledError)) as caught:
        call(tf.fill([3], 5.0))
    if isinstance(caught.value, KeyboardInterrupt) and sys.version_info >= (3, 11):
        assert "the function kept a reference" in caught.value.__notes__[-1]
    kept.clear()
    with pytest.raises((KeyboardInterrupt, tf.errors.CancelledError)):
        call(tf.fill([3], 5.0))
    assert kept[0].tolist() == [5, 5, 5]  # a copy now


@pytest.mark.parametrize("is_batched", [False, True])
@pytest.mark.parametrize(
    "rule", [lambda op, g: g[:-1], lambda op, g: tf.tile(g, [2]), lambda op, g: tf.reshape(tf.reduce_sum(g), [1])]
)
def test_a_cotangent_of_a_wrong_size_is_refused_in_our_words(rule, is_batched):
    op = differentiable_op(lambda x: x**2, signature="()->()", grad=rule)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        return tape.gradient(y, x)

    function = (lambda x: tf.vectorized_map(gradient, x)) if is_batched else gradient
    x = np.stack([X, X]) if is_batched else X
    call = compiled(function, input_signature=[tf.TensorSpec([None] * x.ndim)])
    with pytest.raises(tf.errors.InvalidArgumentError, match="the cotangent of input 0 has the wrong shape"):
        call(x)


def test_a_cotangent_of_unknown_rank_is_refused_with_the_way_out():
    cotangents = []
    op = differentiable_op(lambda x: x**2, signature="()->()", grad=lambda op, g: cotangents[0] * g)

    @compiled
    def gradient(x, v):
        cotangents[:] = [v]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        return tape.gradient(y, x)

    with pytest.raises(SignatureError, match=r"the cotangent of input 0 has an unknown rank;(?s:.*)tf\.ensure_shape"):
        gradient.get_concrete_function(tf.TensorSpec([None]), tf.TensorSpec(None))


def test_a_host_function_may_call_a_compiled_function_with_a_stateful_op():
    calls = []
    counted = differentiable_op(lambda x: (calls.append(1), x)[1], signature="()->()", stateful=True)
    inner = compiled(counted)
    outer = compiled(differentiable_op(lambda x: inner(x).numpy() + 1, signature="()->()"))
    np.testing.assert_array_equal(outer(X), X + 1)
    assert calls


def test_a_graph_from_elsewhere_keeps_what_it_calls():
    name = "tests_a_graph_from_elsewhere"
    differentiable_op(lambda x: x + 1, signature="()->()", name=name)
    first = REGISTRY.find_op(f"tfpyop:{name}")
    reference = weakref.ref(first)
    del first
    gc.collect()
    assert REGISTRY.find_op(f"tfpyop:{name}") is reference()


def test_a_rule_without_results_runs_nothing():
    square = differentiable_op(lambda x: x * x, signature="()->()")
    rule = square.numpy_gradient(lambda op, g: 2 * op.inputs[0] * g)
    i = tf.constant([1, 2])
    assert compiled(lambda x: (rule(x, x, x), x)[1])(i).numpy().tolist() == [1, 2]


def test_a_long_text_leaves_the_place_of_the_error():
    def failing(x):
        raise ValueError("m" * 3000)

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        compiled(differentiable_op(failing, signature="()->()"))(X)
    assert "in failing" in caught.value.message
    assert "Called with: float32[3]" in caught.value.message


def test_products_that_overflow_on_the_way_are_refused():
    op = differentiable_op(lambda x: x, signature="(n)->(n*n*n)")
    function = compiled(op, input_signature=[tf.TensorSpec([None])])
    with pytest.raises(tf.errors.InvalidArgumentError, match="no possible shape"):
        function(tf.zeros([2**22]))


@pytest.mark.parametrize("directory", ["{y}", "{0}", "{7}", "{", "}"])
def test_braces_in_a_path_are_shown_as_other_brackets(directory):
    names = {}
    exec(compile("def function(x): return x", f"/tmp/{directory}/ops.py", "exec"), names)
    op = differentiable_op(names["function"], signature="(n)->(n-5)", name=f"braces-{directory.encode().hex()}")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"no possible shape: \[-2\]"):
        compiled(op, input_signature=[tf.TensorSpec([None])])(X)


def test_a_cycle_in_the_first_call_is_not_taken_for_a_kept_array():
    def with_cycle(x):
        cycle = [x]
        cycle.append(cycle)
        return x + 1

    op = differentiable_op(with_cycle, signature="()->()")
    gc.disable()
    try:
        call = compiled(op)
        call(X)
    finally:
        gc.enable()
    [reference] = [
        r for key, r in xla_calls._CALLS.items() if b"with_cycle" in (key if isinstance(key, bytes) else key[0])
    ]
    assert reference._is_zero_copy


def test_tapes_inside_of_a_function_record():
    def slope(x):
        v = tf.Variable(x)
        with tf.GradientTape() as tape:
            y = v * v
        return tape.gradient(y, v).numpy()

    op = differentiable_op(slope, signature="()->()", non_differentiable=True)
    np.testing.assert_array_equal(op(X), 2 * X)
    np.testing.assert_array_equal(compiled(op)(X), 2 * X)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = compiled(op)(x)
    assert tape.gradient(y, x) is None  # what is around the compiled function records nothing of it


def test_a_thread_that_writes_into_borrowed_memory_after_the_return_is_found(monkeypatch):
    threads, may_write, written_when_taken_back = [], threading.Event(), []

    def late(x, *, out=None):
        np.multiply(x, 2, out=out)
        if threads:

            def write(array):
                assert may_write.wait(30)
                array.fill(-9)

            threads.append(threading.Thread(target=write, args=(out,)))
            threads[-1].start()
        return out

    def revoke(arrays):
        may_write.set()  # not before it is found that the thread has the memory
        tensors.revoke(arrays)
        written_when_taken_back.append((arrays[0] == -9).all())

    monkeypatch.setattr(xla_calls, "revoke", revoke)
    monkeypatch.setattr(tensors, "_PATIENCE", 30)
    call = compiled(differentiable_op(late, signature="(n)->(n)", non_differentiable=True))
    np.testing.assert_array_equal(call(X), 2 * X)
    threads.append(None)
    with pytest.raises(tf.errors.InvalidArgumentError, match="the function kept a reference"):
        call(X)
    threads[1].join()
    assert written_when_taken_back == [True]  # the memory is not given back to XLA while the thread may write
    may_write.clear()
    np.testing.assert_array_equal(call(X), 2 * X)  # it is given copies
    may_write.set()
    threads[2].join()
    assert len(written_when_taken_back) == 1


@pytest.mark.parametrize("in_cycle", [False, True])
def test_a_thread_that_looks_at_frames_is_not_taken_for_a_function_that_keeps_arrays(monkeypatch, in_cycle):
    looks, frames = [], []

    def seen(x):
        if looks:
            frames.append(sys._current_frames())  # as profilers do, in a thread of their own
        return x * 2

    def end(seconds):
        if in_cycle and frames:  # as when one of the frames has the dict in a variable
            frames[0][0] = frames[0]
        frames.clear()

    call = compiled(differentiable_op(seen, signature="(n)->(n)", non_differentiable=True))
    np.testing.assert_array_equal(call(X), 2 * X)
    looks.append(True)
    monkeypatch.setattr(tensors, "time", types.SimpleNamespace(monotonic=time.monotonic, sleep=end))
    np.testing.assert_array_equal(call(X), 2 * X)
    assert frames == []


def test_copies_are_given_for_ever_once_the_function_has_kept_an_array():
    kept, what = [], []

    def sometimes(x):
        if what[-1] == "keep":
            kept.append(x)
        if what[-1] == "raise":
            raise ValueError("no")
        return x + 1

    call = compiled(differentiable_op(sometimes, signature="()->()", non_differentiable=True))
    for doing in ["keep", "raise", "nothing", "keep", "nothing", "keep"]:
        what.append(doing)
        if doing == "raise":
            with pytest.raises(tf.errors.InvalidArgumentError, match="no"):
                call(X)
        else:
            np.testing.assert_array_equal(call(X), X + 1)
    assert all(np.array_equal(array, X) for array in kept)


def _cube_by_a_numpy_rule():
    op = differentiable_op(lambda x: x**3, signature="()->()")
    op.numpy_gradient(lambda op, g: 3 * op.inputs[0] ** 2 * g)
    return op


def _power_whose_rule_calls_itself():
    @differentiable_op(signature="()->()")
    def power(x, *, n=3):
        return x**n

    power.gradient(lambda op, g: g * op.static.n * power(op.inputs[0], n=op.static.n - 1))
    return power


@pytest.mark.parametrize("make", [_cube_by_a_numpy_rule, _power_whose_rule_calls_itself])
@pytest.mark.parametrize("is_persistent", [False, True])
def test_rows_under_two_tapes_are_traced_to_an_end(make, is_persistent):
    op = make()

    @compiled
    def gradient(x):
        with tf.GradientTape() as outer, tf.GradientTape(persistent=is_persistent) as tape:
            tape.watch(x)
            outer.watch(x)
            y = tf.vectorized_map(op, x)
        return tape.gradient(y, x)

    x = np.float32([[0.5, 1.5], [1.5, 2.5]])
    np.testing.assert_allclose(gradient(x), 3 * x**2, rtol=1e-6)


def masked_mean(op, x):
    return tf.reduce_mean(op(tf.boolean_mask(x, x > 0)))


@pytest.mark.parametrize("spec", [[3], [None]], ids=str)
def test_sizes_that_xla_learns_when_it_runs_are_refused_also_where_no_value_is_used(spec):
    op = differentiable_op(lambda x: 3 * x, signature="()->()", grad=lambda op, g: 3 * g)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = masked_mean(op, x)
        return tape.gradient(loss, x)

    for function in (gradient, lambda x: tf.size(op(tf.boolean_mask(x, x > 0)))):
        with pytest.raises(tf.errors.OpError, match="dynamic dimension"):
            compiled(function, input_signature=[tf.TensorSpec(spec)])(tf.constant([-1.0, 1.0, 2.0]))


def test_unused_calls_of_sizes_known_when_xla_compiles_are_still_left_out():
    calls = []
    op = differentiable_op(lambda x: (calls.append(1), 3 * x)[1], signature="()->()")

    def size_of_result(x):
        n_true = tf.shape(tf.where(x > 0))[0]  # such a size as a number, which makes no sizes of its own
        return tf.size(op(x * tf.cast(n_true, x.dtype)))

    assert compiled(size_of_result, input_signature=[tf.TensorSpec([None])])(X).numpy() == 3
    assert calls == []


LARGE_SHAPES = [
    (2**31 - 1, 2**31 - 1),
    (2**31 - 1, 2**31 - 1, 2),
    (2**30, 2**30),
    (2**31 - 1, 2**31 - 1, 0),
    (2**20,) * 4,
]


def call_in_a_process(lines):
    """Run these lines after imports; returns what they print. A mistake here ends the process."""
    script = "import numpy as np, tensorflow as tf\nfrom tfpyop import differentiable_op\n" + textwrap.dedent(lines)
    process = run_python("-c", script, check=True)
    return process.stdout.splitlines()


def test_arrays_that_no_memory_holds_are_refused_before_xla_runs():
    printed = call_in_a_process(f"""
        for shape in {LARGE_SHAPES}:
            text = ",".join(map(str, shape))
            for signature in (f"(k)->({{text}})", f"(k)->({{text}}),({{text}}),({{text}})"):
                op = differentiable_op(lambda x: x, signature=signature)
                for result in (lambda x: op(x), lambda x: tf.size(tf.nest.flatten(op(x))[0])):
                    try:
                        tf.function(result, jit_compile=True, autograph=False)(tf.zeros(1))
                    except Exception as error:
                        print(type(error).__name__, str(error).replace("\\n", " "))
    """)
    assert len(printed) == 4 * len(LARGE_SHAPES)
    for line in printed:
        assert re.match(
            r"UnsupportedError op .*: output 0 is too large\.   Expected: at most 2\*\*48 bytes   "
            r"Got:      float32\[\d[\d, ]+\]   Fix the sizes",
            line,
        ), line


def test_sizes_that_make_arrays_no_memory_holds_are_refused_when_xla_compiles():
    printed = call_in_a_process(f"""
        for shape in {LARGE_SHAPES}:
            op = differentiable_op(lambda x: x, signature=f"(k)->({{','.join(f'k*{{size}}' for size in shape)}})")
            both = differentiable_op(lambda x: x, signature=f"(k)->(k),({{','.join(f'k*{{size}}' for size in shape)}})")
            for function in (op, lambda x: both(x)[0]):
                try:
                    tf.function(function, jit_compile=True, input_signature=[tf.TensorSpec([None])])(tf.zeros(1))
                except tf.errors.OpError as error:
                    print(error.message.replace("\\n", " "))
    """)
    assert len(printed) == 2 * len(LARGE_SHAPES)
    for line, shape in zip(printed, np.repeat(np.array(LARGE_SHAPES, object), 2), strict=True):
        assert f"an output has no possible shape: {list(shape)}" in line


@pytest.mark.parametrize("factor", ["", "k*"])
@pytest.mark.parametrize("shape", [(0, 2**31 - 1), (2**20, 0, 2**10), (0, 0, 0)])
def test_large_arrays_without_elements_are_compiled(shape, factor):
    sizes = ",".join(f"{factor}{size}" for size in shape)
    op = differentiable_op(lambda x: np.zeros(shape, np.float32), signature=f"(k)->({sizes})")
    assert compiled(op, input_signature=[tf.TensorSpec([None])])(tf.zeros(1)).shape == shape


@pytest.mark.parametrize("signature", ["(n),(m)->(n,m)", "(n,m)->(m,n)", "(n),(m)->(n,m),(m)"])
def test_products_of_the_sizes_of_inputs_are_compared_with_memory(signature):
    n_inputs = signature.partition("->")[0].count("(")
    op = differentiable_op(lambda *arrays: arrays[0], signature=signature)
    specs = [tf.TensorSpec([None] * (3 - n_inputs)) for _ in range(n_inputs)]
    call = compiled(lambda *tensors: op(*tensors), input_signature=specs)
    (node,) = [node for node in call.get_concrete_function().graph.get_operations() if node.type == "XlaCallModule"]
    assert b"shape_assertion" in node.get_attr("module")


@pytest.mark.parametrize("name", SUB_BYTE)
def test_numbers_shorter_than_a_byte_are_refused_with_the_reason(name):
    dtype = tf.as_dtype(name)
    op = differentiable_op(lambda x: x[..., ::-1].copy(), signature="(n)->(n)")
    narrow = differentiable_op(lambda x: x.astype(dtype.as_numpy_dtype), signature="()->()", dtype=name)
    for function, spec in ((op, dtype), (narrow, tf.float32)):
        with pytest.raises(UnsupportedError, match=rf"XLA packs several {name} numbers into a byte"):
            compiled(function).get_concrete_function(tf.TensorSpec([4], spec))


def in_a_cycle(x):
    cycle = [x]
    cycle.append(cycle)


def with_cycle(x):
    in_a_cycle(x)
    return x + 1


def with_an_older_cycle(x):
    in_a_cycle(x)
    gc.collect(0)  # of what is reachable, which makes it older
    return x + 1


def with_a_cycle_that_grows_old(x):
    cycle = [x]
    cycle.append(cycle)
    gc.collect(0)  # while it is in use: a young collection frees it no more
    return x + 1


def with_cycles_at_times(x):
    return with_a_cycle_that_grows_old(x) if x[0] % 2 else x + 1


def with_a_caught_exception(x):
    try:
        raise ValueError
    except ValueError as error:
        error.myself = error
    return x + 1


def with_a_solver(x):
    from scipy.optimize import root

    return root(lambda y: y - x - 1, np.zeros_like(x)).x


@pytest.fixture
def full_collections():
    """The full garbage collections since the test began, of which none is automatic."""
    found = []

    def note(phase, info):
        if phase == "start" and info["generation"] == 2:
            found.append(info)

    gc.callbacks.append(note)
    gc.disable()
    yield found
    gc.enable()
    gc.callbacks.remove(note)


@pytest.mark.parametrize("uses_out", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        *(with_cycle, with_an_older_cycle, with_a_cycle_that_grows_old),
        *(with_cycles_at_times, with_a_caught_exception, with_a_solver),
    ],
)
def test_reference_cycles_cost_one_full_collection_at_most(function, uses_out, full_collections):
    def writing(x, *, out=None):
        return np.add(function(x), np.zeros_like(x), out=out)

    op = differentiable_op(writing if uses_out else function, signature="(n)->(n)", dtype=np.float64)
    call = compiled(op)
    for start in range(30):
        x = tf.fill([3], tf.constant(float(start), tf.float64))
        np.testing.assert_allclose(call(x), np.full(3, start + 1.0))
    assert len(full_collections) <= 1


def test_a_function_that_keeps_arrays_only_later_is_still_reported(full_collections):
    kept = []

    def keeping(x):
        if x[0] == 20:
            kept.append(x)
        return with_cycle(x) if x[0] == 5 else x + 1

    call = compiled(differentiable_op(keeping, signature="(n)->(n)"))
    for start in range(20):
        assert call(tf.fill([3], float(start))).numpy().tolist() == [start + 1] * 3
    with pytest.raises(tf.errors.InvalidArgumentError, match="the function kept a reference"):
        call(tf.fill([3], 20.0))
    kept.clear()
    for _ in range(3):
        assert call(tf.fill([3], 20.0)).numpy().tolist() == [21] * 3
    assert [array.tolist() for array in kept] == [[20] * 3] * 3
    assert len(full_collections) == 2  # before and after the wait for other threads
