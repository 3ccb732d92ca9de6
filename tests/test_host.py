"""The host: what a user's function is given, what is made of its results and exceptions, loops and plans."""

import ctypes
import dataclasses
import math
import re
import sys

import numpy as np
import pytest

from tests.texts import exactly
from tfpyop._host import function as host_function
from tfpyop._host.function import HostFunction
from tfpyop._spec.outputs import ArraySpec, OpOutputSpec
from tfpyop._spec.rule_outputs import CotangentSpec
from tfpyop._spec.signature import Signature
from tfpyop._spec.tree import LEAF, flat
from tfpyop.errors import CoercionError, ContractError, GradientError, SignatureError

SUBJECT = "op 'acme:f' (acme.py:3)"
X = np.float32([3, 6])
has_notes = pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes since Python 3.11")


def promise_of(signature, dtypes=None, residual_names=()):
    signature = signature and Signature.parse(signature)
    dtypes = dtypes or [None] * (1 if signature is None else len(signature.outputs))
    n_outputs = len(dtypes) - len(residual_names)
    dtypes = tuple(dtype and np.dtype(dtype) for dtype in dtypes)
    return OpOutputSpec(signature, None, dtypes, LEAF if n_outputs == 1 else flat(n_outputs), residual_names)


def host_of(function, signature=None, dtypes=None, *, residual_names=(), is_looped=False, **options):
    """The host function of a function of arrays."""
    output_spec = promise_of(signature, dtypes, residual_names)
    looped = output_spec.signature if is_looped else None
    return HostFunction(
        SUBJECT,
        function=lambda arrays: function(*arrays),
        output_spec=output_spec,
        looped=looped and (lambda dtypes: looped),
        **options,
    )


def described(arrays):
    return [str(ArraySpec.of(array)) for array in arrays]


# -- what the function sees


@pytest.mark.parametrize(
    "array",
    [X, np.zeros((2, 0)), np.zeros(()), np.arange(6)[::-2], np.array([b"a"], object), X.view(np.recarray)],
    ids=lambda array: str(ArraySpec.of(array)),
)
def test_the_function_sees_the_memory_of_its_input(array):
    seen = []
    host_of(lambda x: seen.append(x) or 0.5, dtypes=["f4"])([array])
    (view,) = seen
    assert view is not array
    assert (view.dtype, view.shape, view.strides) == (array.dtype, array.shape, array.strides)
    assert view.__array_interface__["data"][0] == array.__array_interface__["data"][0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(np.float32(3), np.array(3, "f4")), (np.bool_(True), np.array(True)), (b"a\0", np.array(b"a\0", object))],
)
def test_a_scalar_comes_as_an_array(value, expected):
    seen = []
    host_of(lambda x: seen.append(x) or 0, "()->()", ["i4"])([value])
    assert type(seen[0]) is np.ndarray
    assert (seen[0].dtype, seen[0].shape, seen[0][()]) == (expected.dtype, (), expected[()])
    assert not seen[0].flags.writeable


@pytest.mark.parametrize("is_looped", [False, True])
@pytest.mark.parametrize("compute_dtype", [None, "f4", "f8"])
@pytest.mark.parametrize(
    "make_writable",
    [lambda x: setattr(x.flags, "writeable", True), lambda x: x.setflags(write=True)],
    ids=["flags", "setflags"],
)
def test_inputs_are_read_only_and_stay_so(is_looped, compute_dtype, make_writable):
    def function(x):
        assert not x.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            x[...] = 0
        with pytest.raises(ValueError, match="cannot set WRITEABLE flag to True"):
            make_writable(x)
        with pytest.raises(ValueError, match="cannot set WRITEABLE flag to True"):
            make_writable(x[::-1])
        return x

    inputs = np.ones((2, 3), "f4")
    dtype = compute_dtype and np.dtype(compute_dtype)
    host = host_of(function, "(n)->(n)", is_looped=is_looped, compute_dtype=dtype)
    assert host([inputs])[0].tolist() == [[1, 1, 1]] * 2


@pytest.mark.parametrize(
    ("dtype", "compute_dtype", "seen"),
    [
        ("f4", "f8", "f8"),
        ("f2", "f4", "f4"),
        ("c8", "f8", "c16"),
        ("f8", "f4", "f4"),
        ("c16", "f4", "c8"),
        ("i4", "f8", "i4"),
        ("?", "f8", "?"),
        ("O", "f8", "O"),
    ],
)
def test_floating_and_complex_inputs_are_cast_to_the_compute_dtype(dtype, compute_dtype, seen):
    dtypes = []
    host = host_of(lambda x: dtypes.append(x.dtype) or x, "()->()", [dtype], compute_dtype=np.dtype(compute_dtype))
    (output,) = host([np.array([1 if dtype != "O" else b"1"], dtype)])
    assert (dtypes, output.dtype) == ([seen], dtype)


def test_an_input_too_large_for_the_compute_dtype_is_reported():
    host = host_of(lambda x, y: x, "(),()->()", compute_dtype=np.dtype("f4"))
    with pytest.raises(
        CoercionError, match="^" + re.escape(f"{SUBJECT}: input 1 has a finite value outside the range")
    ):
        host([X, np.float64([1e300])])


def refusing_half(x, *others):
    if x.dtype.itemsize == 2:
        raise TypeError("array type float16 is unsupported in linalg")
    return x


@pytest.mark.parametrize("dtype", ["f2", "bf16"])
def test_a_function_that_refuses_half_precision_is_called_again_in_single(dtype):
    dtype = np.dtype(__import__("ml_dtypes").bfloat16 if dtype == "bf16" else dtype)
    (output,) = host_of(refusing_half, "()->()")([np.array([1.5], dtype)])
    assert (output.dtype, output.tolist()) == (dtype, [1.5])
    a = np.array([[2, 1], [1, 3]], dtype)
    (inverse,) = host_of(np.linalg.inv, "(n,n)->(n,n)")([a])
    assert inverse.dtype == dtype
    assert np.allclose((a @ inverse).astype("f4"), np.eye(2), atol=0.02)


def test_only_half_precision_is_widened_when_it_is_refused():
    seen = []

    def function(*arrays):
        seen.append([array.dtype for array in arrays])
        return refusing_half(*arrays)

    inputs = [np.array([value], dtype) for value, dtype in [(1, "f2"), (1e300, "f8"), (1e300j, "c16"), (1, "i8")]]
    host_of(function, "(),(),(),()->()", ["f8"])(inputs)
    assert seen == [[np.dtype(name) for name in names.split()] for names in ("f2 f8 c16 i8", "f4 f8 c16 i8")]


@pytest.mark.parametrize("is_stateful", [False, True])
def test_a_stateful_function_is_not_called_again(is_stateful):
    calls = []

    def function(x):
        calls.append(x.dtype)
        raise TypeError("no")

    with pytest.raises(TypeError, match=r"^no\b"):
        host_of(function, "()->()", is_stateful=is_stateful)([np.ones(2, "f2")])
    assert calls == (["f2"] if is_stateful else ["f2", "f4"])
    calls.clear()
    with pytest.raises(TypeError, match=r"^no\b"):
        host_of(function, "()->()", is_stateful=is_stateful)([X])
    assert calls == ["f4"]


# -- what is made of the result


def test_outputs_are_as_promised():
    host = host_of(lambda x: ([1, 2], 3), "(n)->(n),()", [None, "i8"])
    assert described(host([X])) == ["float32[2]", "int64[]"]
    assert list(map(str, host.infer_outputs([ArraySpec(X.dtype, (None,))]))) == ["float32[?]", "int64[]"]


def test_residuals_come_behind_the_outputs():
    host = host_of(lambda x: (x, {"r": [1, 2, 3]}), "(n)->(n),(k)", [None, "i4"], residual_names=("r",))
    assert described(host([X])) == ["float32[2]", "int32[3]"]


@pytest.mark.parametrize(
    ("function", "inputs", "kind", "problem"),
    [
        (lambda x: np.zeros(3), [X], ContractError, "output 0 has the wrong shape."),
        (lambda x: None, [X], ContractError, "output 0 is None."),
        (lambda x: "text", [np.zeros(())], CoercionError, "output 0 has the wrong dtype."),
        (lambda x: x, [X, X], SignatureError, "the call has the wrong number of inputs."),
    ],
)
def test_what_breaks_the_contract_is_reported_with_the_subject(function, inputs, kind, problem):
    with pytest.raises(kind, match="^" + re.escape(f"{SUBJECT}: {problem}")):
        host_of(function, "()->()")(inputs)


def test_inputs_that_do_not_fit_are_reported_with_the_subject():
    host = host_of(lambda x: x, "(n)->()")
    with pytest.raises(SignatureError, match="^" + re.escape(f"{SUBJECT}: input 0 has too few dimensions")):
        host.infer_outputs([ArraySpec(X.dtype, ())])


def test_the_cause_of_a_report_is_kept():
    cause = KeyError("n")

    def shape(shapes):
        raise cause

    output_spec = OpOutputSpec(None, shape, (None,), LEAF)
    host = HostFunction(SUBJECT, function=lambda arrays: arrays[0], output_spec=output_spec)
    for call in (lambda: host([X]), lambda: host.infer_outputs([ArraySpec.of(X)])):
        with pytest.raises(SignatureError, match=re.escape(f"{SUBJECT}: the shape function raised KeyError")) as caught:
            call()
        assert caught.value.__cause__ is cause


# -- what is made of exceptions


class Interrupt(BaseException):
    """What no program expects."""


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """An exception that takes no note."""

    code: int = 3


class UnspeakableError(Exception):
    """An exception that cannot be shown."""

    def __str__(self):
        raise RuntimeError("no")

    __repr__ = __str__


class NotelessError(ValueError):
    """An exception that refuses notes, and to be compared."""

    def add_note(self, note):
        raise RuntimeError("no")

    def __eq__(self, other):
        raise RuntimeError("no")

    __hash__ = None


class Incomparable:
    """What an exception may hold."""

    def __eq__(self, other):
        raise RuntimeError("no")

    __hash__ = object.__hash__


EXCEPTIONS = [
    ZeroDivisionError("by zero"),
    ValueError(),
    ValueError("text", 2),
    ValueError("acme.ini is read-only"),
    ValueError(Incomparable()),
    ValueError(np.zeros(2)),
    KeyError("missing"),
    StopIteration(3),
    KeyboardInterrupt(),
    SystemExit(2),
    Interrupt(),
    FrozenError(),
    UnspeakableError("text"),
    NotelessError("text"),
    NotImplementedError("later"),
]


@pytest.mark.parametrize("error", EXCEPTIONS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("is_looped", [False, True])
def test_the_exception_of_the_function_reaches_the_caller(error, is_looped):
    def function(x):
        raise error

    args = error.args
    with pytest.raises(type(error)) as caught:
        host_of(function, "()->()", is_looped=is_looped)([X])
    assert caught.value is error
    assert len(error.args) == len(args)
    assert all(mine is theirs for mine, theirs in zip(error.args, args, strict=True))
    assert error.__cause__ is error.__context__ is None


@has_notes
@pytest.mark.parametrize(
    ("error", "hint", "inputs", "note"),
    [
        (ZeroDivisionError("by zero"), None, [X], f"Raised in {SUBJECT}, called with float32[2]."),
        (Interrupt(), None, [X, np.int64(1)], f"Raised in {SUBJECT}, called with float32[2], int64[]."),
        (ValueError("no"), "Do otherwise.", [X], f"Raised in {SUBJECT}, called with float32[2]. Do otherwise."),
        (ValueError("no"), None, [], f"Raised in {SUBJECT}, called with no inputs."),
        (ValueError(np.zeros(2)), None, [X], f"Raised in {SUBJECT}, called with float32[2]."),
        (UnspeakableError("no"), None, [X], f"Raised in {SUBJECT}, called with float32[2]."),
    ],
)
def test_an_exception_says_where_it_was_raised(error, hint, inputs, note):
    def function(*arrays):
        raise error

    host = host_of(function, dtypes=["f4"], hint=hint)
    for _ in range(2):  # and says it once
        with pytest.raises(type(error)):
            host(inputs)
    assert error.__notes__ == [note]


LOOP_ADVICE = (
    " The inputs have dimensions [2]. Write the function element by element (np.where), or pass vectorized=False."
)


@has_notes
@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (lambda x: x.numpy(), " The function gets numpy arrays, not tensors. Remove .numpy()."),
        (lambda x: np.linalg.inv(np.zeros((2, 2))), ""),  # singular, which has nothing to do with loop dimensions
        (lambda x: x[0].numpy(), " The function gets numpy arrays, not tensors. Remove .numpy()."),
        (lambda x: None.size, ""),
        (lambda x: 2.0 + None, ""),
        (lambda x: b"\xff".decode(), ""),
        (lambda x: b"" + 1, ""),
        (lambda x: (x,).shape, ""),
        (lambda x: np.add(x, 1.5, out=np.zeros(2, int)), ""),  # cannot cast
        (lambda x: (lambda axis: x)(), ""),
        (lambda x: bool(x), LOOP_ADVICE),
        (lambda x: math.sin(x), LOOP_ADVICE),
        (lambda x: x + np.ones(3), LOOP_ADVICE),
        (lambda x: np.array([x, 1.0]), LOOP_ADVICE),
        (lambda x: x @ np.ones(3), LOOP_ADVICE),
        (lambda x: x.sum(axis=1), LOOP_ADVICE),
        (lambda x: np.linalg.inv(x), LOOP_ADVICE),
    ],
)
def test_advice_fits_the_exception(function, advice):
    with pytest.raises((AttributeError, TypeError, ValueError)) as caught:
        host_of(function, "()->()")([X])
    assert caught.value.__notes__ == [f"Raised in {SUBJECT}, called with float32[2].{advice}"]


@has_notes
def test_the_note_has_the_dtypes_the_function_saw():
    def function(x):
        raise ValueError("operands could not be broadcast together")

    with pytest.raises(ValueError, match="broadcast") as caught:
        host_of(function, "()->()", compute_dtype=np.dtype("f8"))([X])
    hint = "The inputs have dimensions [2]. Write the function element by element (np.where), or pass vectorized=False."
    assert caught.value.__notes__ == [f"Raised in {SUBJECT}, called with float64[2]. {hint}"]


@has_notes
def test_an_exception_that_passes_two_functions_has_a_note_of_each():
    def function(x):
        raise ValueError

    inner = host_of(function)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        HostFunction("op 'outer' (a.py:1)", function=inner, output_spec=inner.output_spec)([X])
    assert [note.split(",")[0] for note in caught.value.__notes__] == [
        f"Raised in {SUBJECT}",
        "Raised in op 'outer' (a.py:1)",
    ]


def _written_by_cython(x):
    """Raise what Cython raises for a typed memoryview of a read-only array."""
    raise ValueError("buffer source array is read-only")


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda x: x.__setitem__(0, 1), "assignment destination is read-only"),
        (lambda x: x.__iadd__(1), "output array is read-only"),
        (lambda x: np.sin(x, out=x), "output array is read-only"),
        (lambda x: x.sort(), "sort array is read-only"),
        (lambda x: x.fill(0), "assignment destination is read-only"),
        (lambda x: np.copyto(x, 0), "assignment destination is read-only"),
        (lambda x: memoryview(x).__setitem__(0, 1.0), "cannot modify read-only memory"),
        (lambda x: ctypes.c_float.from_buffer(x), "underlying buffer is not writable"),
        (lambda x: _written_by_cython(x), "buffer source array is read-only"),
    ],
    ids=["[]", "+=", "out=", "sort", "fill", "copyto", "memoryview", "ctypes", "Cython"],
)
def test_a_function_that_writes_to_its_input_is_an_error_that_advises_a_copy(function, problem):
    message = (
        f"{problem}\n  {SUBJECT}: inputs are read-only, because other code may use the same tensor. Change a copy "
        "instead: x = x.copy()."
    )
    with pytest.raises((ValueError, TypeError), match="read-only") as caught:
        host_of(function, "()->()")([X])
    assert str(caught.value) == message


def test_an_error_of_the_library_is_about_the_op_that_raised_it():
    def function(x):
        raise GradientError("it is wrong.", subject="op 'inner'")

    with pytest.raises(GradientError, match=r"^op 'inner': it is wrong\.$"):
        host_of(function)([X])

    def another(x):
        raise GradientError("it is wrong.")

    with pytest.raises(GradientError, match=exactly(f"{SUBJECT}: it is wrong.")) as caught:
        host_of(another)([X])
    assert not hasattr(caught.value, "__notes__")


# -- loops


def test_a_looped_function_sees_core_dimensions_in_order():
    seen = []

    def function(a, b):
        seen.append((a.tolist(), b.tolist()))
        return a * b, a.sum()

    host = host_of(function, "(n),()->(n),()", is_looped=True)
    a, b = np.arange(12, dtype="f4").reshape(3, 2, 2), np.float32([[10], [20], [30]])
    first, second = host([a, b])
    assert seen == [(a[i, j].tolist(), b[i, 0].tolist()) for i in range(3) for j in range(2)]
    assert np.array_equal(first, a * b[..., None])
    assert np.array_equal(second, a.sum(-1))
    assert described([first, second]) == ["float32[3, 2, 2]", "float32[3, 2]"]


@pytest.mark.parametrize(
    ("shapes", "output"),
    [
        ([(2, 3), (3, 4)], (2, 4)),
        ([(5, 2, 3), (3, 4)], (5, 2, 4)),
        ([(2, 3), (5, 3, 4)], (5, 2, 4)),
        ([(5, 1, 2, 3), (6, 3, 4)], (5, 6, 2, 4)),
        ([(1, 2, 3), (5, 3, 4)], (5, 2, 4)),
        ([(3,), (5, 3, 4)], (5, 4)),
        ([(1, 0, 3), (5, 3, 4)], (5, 0, 4)),
    ],
)
def test_loop_dimensions_are_broadcast(shapes, output):
    generator = np.random.default_rng(0)
    a, b = (generator.normal(size=shape) for shape in shapes)

    def function(a, b):
        assert b.ndim == 2
        return a @ b

    (result,) = host_of(function, "(n?,k),(k,m)->(n?,m)", is_looped=True)([a, b])
    assert result.shape == output
    assert np.allclose(result, a @ b)


def test_without_loop_dimensions_a_looped_function_is_called_once():
    calls = []
    host = host_of(lambda x: calls.append(x.shape) or x, "(n)->(n)", is_looped=True)
    assert host([X])[0].tolist() == X.tolist()
    assert calls == [(2,)]


@pytest.mark.parametrize(("shape", "outputs"), [((0, 2), (0,)), ((3, 0, 2), (3, 0)), ((0, 3, 2), (0, 3))])
def test_an_empty_loop_calls_nothing(shape, outputs):
    def function(x):
        raise AssertionError

    host = host_of(function, "(n)->(n),(n+1),(k),()", [None, "i4", "f8", "c8"], is_looped=True)
    found = host([np.zeros(shape, "f4")])
    assert [array.shape for array in found] == [(*outputs, 2), (*outputs, 3), (*outputs, 0), outputs]
    assert [array.dtype for array in found] == ["f4", "i4", "f8", "c8"]


def test_an_empty_core_is_no_empty_loop():
    calls = []
    host = host_of(lambda x: calls.append(x.shape) or 1.0, "(n)->()", is_looped=True)
    assert host([np.zeros((3, 0), "f4")])[0].tolist() == [1, 1, 1]
    assert calls == [(0,)] * 3


def test_different_shapes_for_different_examples_are_reported():
    host = host_of(lambda x: (x[0], x[x > 0]), "(n)->(),(k)", is_looped=True)
    same, _ = host([np.float32([[1, 2, -1], [3, -1, 4]])])
    assert same.tolist() == [1, 3]
    message = (
        f"{SUBJECT}: output 1 has different shapes for different elements of the loop dimensions.\n"
        "  Got:      [1] and [2]\n  Pad the outputs in the function so that they have equal shapes."
    )
    with pytest.raises(ContractError, match=exactly(message)):
        host([np.float32([[1, 2, -1], [3, -1, -1]])])


def test_each_example_is_held_to_the_promise():
    host = host_of(lambda x: x[:-1], "(n)->(n)", is_looped=True)
    with pytest.raises(
        ContractError, match=r"output 0 has the wrong shape.\n  Expected: float32\[2\]\n.*float32\[1\]\n"
    ):
        host([np.ones((3, 2), "f4")])
    host = host_of(lambda x: float(x) * 1e30, "()->()", is_looped=True)
    with pytest.raises(CoercionError, match="output 0 has a finite value outside the range of float32"):
        host([np.float32([1, 1e30])])


def test_a_looped_rule_has_its_cotangents_summed_over_broadcast_loop_dimensions():
    primal = promise_of("(n),()->(n)")
    signature = primal.signature
    shapes = []

    def rule(a, b, output, cotangent):
        shapes.append([array.shape for array in (a, b, output, cotangent)])
        return cotangent * b, (cotangent * a).sum()

    host = HostFunction(
        SUBJECT,
        function=lambda arrays: rule(*arrays),
        output_spec=CotangentSpec(primal, signature),
        looped=lambda dtypes: signature.extended(signature.outputs, signature.outputs),
    )
    a, b = np.arange(6, dtype="f4").reshape(3, 2), np.float32([[1], [2]])
    output = a * b[..., None]
    found = host([a, b, output, np.ones((2, 3, 2), "f4")])
    assert np.array_equal(found[0], np.full((3, 2), 3))
    assert np.array_equal(found[1], [[15], [15]])
    assert shapes == [[(2,), (), (2,), (2,)]] * 6


# -- plans


class Counting:
    """A promise that counts how often it is asked."""

    def __init__(self, output_spec):
        self.output_spec = output_spec
        self.count = 0

    def infer_outputs(self, inputs):
        self.count += 1
        return self.output_spec.infer_outputs(inputs)

    def __getattr__(self, name):
        return getattr(self.output_spec, name)


def test_a_plan_is_made_once_for_inputs_of_one_kind():
    output_spec = Counting(promise_of("(n)->(n)"))
    host = HostFunction(SUBJECT, function=lambda arrays: arrays[0], output_spec=output_spec)
    for array in (X, X + 1, X, np.ones(3, "f4"), np.ones(2, "f8"), np.ones(2, "i4"), X, np.ones(3, "f4")):
        (output,) = host([array])
        assert (output.dtype, output.shape) == (array.dtype, array.shape)
    assert output_spec.count == 4


def test_plans_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(host_function, "_MOST_PLANS", 8)
    host = host_of(lambda x: x, "(n)->(n)")
    for size in range(50):
        assert host([np.zeros(size)])[0].shape == (size,)
        assert len(host._plans) <= 8
    assert len(host._plans) >= 1


def test_there_is_a_bound_on_plans():
    assert 100 <= host_function._MOST_PLANS <= 10_000


# -- values as they are


def test_evaluate_gives_what_the_function_returns():
    def function(x):
        return [x.astype("f8") * 2, 1j], {"r": "text"}

    host = host_of(function, "()->(),(),()", [None, None, "i4"], residual_names=("r",))
    found = host.evaluate([X])
    assert described(found) == ["float64[2]", "complex128[]", "string[]"]
    assert found[0].tolist() == [6, 12]


def test_evaluate_takes_complex_and_float64_inputs_as_they_are():
    host = host_of(lambda x: x**2, "()->()", ["f4"], compute_dtype=np.dtype("f4"))
    assert host.evaluate([np.array([1 + 1e-30j])])[0].imag.tolist() == [2e-30]


def test_evaluate_loops_too():
    def function(a, b):
        assert (a.shape, b.shape) == ((2,), ())
        return a * b

    host = host_of(function, "(n),()->(n)", ["f4"], is_looped=True)
    a, b = np.arange(6.0).reshape(3, 2), np.array([[1.0], [2.0]])
    (found,) = host.evaluate([a, b])
    assert np.array_equal(found, a * b[..., None])


def test_evaluate_counts_outputs():
    with pytest.raises(ContractError, match="the function returned the wrong number of outputs"):
        host_of(lambda x: (x, x), "()->()").evaluate([X])
