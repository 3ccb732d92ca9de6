import functools
import re
from collections import UserList, deque
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import hypothesis.extra.numpy as npst
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.texts import exactly
from tfpyop._spec import coercion
from tfpyop._spec.coercion import DTypeContext, advise_rule, cast, coerce_input, coerce_output, parse_dtype
from tfpyop.errors import CoercionError, RegistrationError

NO_TENSOR = (
    "input 0 is not a tensor, array, number or string.\n  Got:      {}\n  If it is an input, convert it to an array. "
    "If not, make its parameter keyword-only, or name it in static_argnames."
)
NO_RESULT = (
    "output 0 is not a tensor, array, number or string.\n  Got:      {}\n  Return an array. For several outputs, name "
    "them in the signature, or give dtype= as a tuple or dict of the same form."
)
TOO_LARGE = (
    "x has a finite value outside the range of {wanted}.\n  Expected: {wanted}{shape}\n  Got:      {actual}{shape} "
    "with {size}\n  Scale the values, or use {actual} for tensors and dtype=."
)
INEXACT = (
    "x has integers that {wanted} cannot hold exactly.\n  Expected: {wanted}{shape}\n  Got:      {actual}{shape}\n"
    "  Declare dtype=np.{actual}, or round explicitly: x.astype({module}.{wanted})."
)
INEXACT_INPUT = (
    "x has integers that {wanted} cannot hold exactly.\n  Expected: {wanted}{shape}\n  Got:      int64{shape}\n"
    "  Pass np.float64(x) if the rounding is acceptable, or np.int64(x) to pass integers."
)
COERCIONS = [lambda x: coerce_input(x, DTypeContext(), what="x"), lambda x: coerce_output(x, np.dtype("f4"), what="x")]
properties = settings(deadline=None)
shapes = npst.array_shapes(min_dims=0, max_dims=2, min_side=0)


def dtypes(text):
    return [np.dtype({"bf16": ml_dtypes.bfloat16, "string": object}.get(name, name)) for name in text.split()]


STRING, BFLOAT16 = dtypes("string bf16")
NUMBERS = dtypes("? u1 u2 u4 u8 i1 i2 i4 i8 f2 bf16 f4 f8 c8 c16")


def is_same(array, dtype, value):
    return type(array) is np.ndarray and array.dtype == dtype and array.tolist() == value


def beside(text):
    """What tensors of these dtypes have to give to the numbers beside them."""
    return DTypeContext.of(dtypes(text))


@pytest.mark.parametrize(
    ("value", "alone_and_beside"),
    [
        (1.5, "f4 f2 bf16 f4 f8"),
        ([], "f4 f2 bf16 f4 f8"),
        (np.float64(1.5), "f4 f2 bf16 f4 f8"),
        (np.longdouble(1.5), "f4 f2 bf16 f4 f8"),
        (np.array([[1.5], [2.5]]), "f4 f2 bf16 f4 f8"),
        (np.zeros((2, 0)), "f4 f2 bf16 f4 f8"),
        (1, "i4 f2 bf16 f4 f8"),
        ((1, True), "i4 f2 bf16 f4 f8"),
        (True, "? ? ? ? ?"),
        (1 + 2j, "c8 c8 c8 c8 c16"),
        ([1, np.complex128(2j)], "c8 c8 c8 c8 c16"),
    ],
)
def test_numbers_take_the_floating_dtype_of_the_tensors_beside_them(value, alone_and_beside):
    for partner, expected in zip(["", "f2", "bf16", "f4", "f8"], dtypes(alone_and_beside), strict=True):
        assert is_same(coerce_input(value, beside(partner), what="x"), expected, np.asarray(value).tolist())


@pytest.mark.parametrize(
    ("tensors", "floating", "integer"),
    [
        ("", None, None),
        ("string", None, None),
        ("?", None, None),
        ("f4", "f4", None),
        ("f4 f4 i8 ? string", "f4", None),
        ("f4 f8", "f8", None),
        ("bf16 f4", "f4", None),
        ("bf16", "bf16", None),
        ("c8", "f4", None),
        ("c16 f4 i4", "f8", None),
        ("i8", None, "i8"),
        ("u1 u1 string", None, "u1"),
        ("i4 i8", None, "i8"),
        ("u1 i1", None, "i2"),
        ("i4 ?", None, "i4"),
        ("u8 i8", None, None),
    ],
)
def test_tensors_give_numbers_their_floating_or_their_integer_result_dtype(tensors, floating, integer):
    expected = [None if name is None else dtypes(name)[0] for name in (floating, integer)]
    assert [beside(tensors).floating, beside(tensors).integer] == expected


def test_floating_dtypes_without_a_common_one_give_numbers_none():
    message = (
        "cannot infer the dtype of a plain number: the tensors in this call have no common dtype.\n  Got:      "
        "bfloat16 and float16\n"
        "  Convert the number to a tensor, for example tf.constant(x, tf.float32)."
    )
    with pytest.raises(CoercionError, match=exactly(message)):
        beside("f2 bf16")


@pytest.mark.parametrize("tensors", ["", "?", "string", "u8 i8"])
@pytest.mark.parametrize("value", [0, 2**31 - 1, -(2**31), [1, -(2**31)], [[2**31 - 1]]])
def test_python_integers_alone_are_int32(value, tensors):
    assert is_same(coerce_input(value, beside(tensors), what="x"), "i4", value)


BEYOND = [
    (2**31, "int64[]", "2.15e+09"),
    (-(2**31) - 1, "int64[]", "-2.15e+09"),
    (2**40, "int64[]", "1.1e+12"),
    ([1, 2**40], "int64[2]", "1.1e+12"),
    ([[True, -(2**63)]], "int64[1, 2]", "-9.22e+18"),
    (2**63, "uint64[]", "9.22e+18"),
    ([2**63, 1], "uint64[2]", "9.22e+18"),  # numpy makes floats of these two
    ((2**53 + 1, 2**64 - 1), "uint64[2]", "1.84e+19"),
    ([np.int64(2**40)], "int64[1]", "1.1e+12"),
]


@pytest.mark.parametrize("tensors", ["", "?", "string"])
@pytest.mark.parametrize(("value", "got", "size"), BEYOND)
def test_python_integers_alone_that_int32_cannot_hold_are_reported(value, got, size, tensors):
    dtype, _, shape = got.partition("[")
    message = (
        f"x has a finite value outside the range of int32.\n  Expected: int32[{shape}\n  Got:      {got} with {size}\n"
        f"  Python integers become int32. For another dtype, pass np.{dtype}(x)."
    )
    with pytest.raises(CoercionError, match=exactly(message)):
        coerce_input(value, beside(tensors), what="x")
    kept = coerce_input(getattr(np, dtype)(value), beside(tensors), what="x")
    assert is_same(kept, dtype, np.array(value, object).tolist() if shape != "]" else value)


@pytest.mark.parametrize(("value", "tensors"), [(2**40, "i8"), (2**40, "i4 i8"), ([2**63, 1], "u8"), (2**40, "i8 ?")])
def test_python_integers_may_be_as_large_as_the_tensors_beside_them_allow(value, tensors):
    assert is_same(coerce_input(value, beside(tensors), what="x"), beside(tensors).integer, value)


@pytest.mark.parametrize(("value", "tensors"), [(300, "u1"), (-1, "u8"), ([1, 2**40], "i4 ?"), (2**63, "i8")])
def test_python_integers_out_of_the_range_of_the_tensors_beside_them_are_reported(value, tensors):
    dtype = beside(tensors).integer
    pattern = (
        rf"^x has a finite value outside the range of {dtype}\.\n  Expected: {dtype}\[.*\n  Got: .*\n"
        r"  Python integers take the dtype of the integer tensors in the call\. "
        r"For another dtype, pass np\.u?int64\(x\)\.$"
    )
    with pytest.raises(CoercionError, match=pattern):
        coerce_input(value, beside(tensors), what="x")


NO_INTEGERS = (
    "x has integers that no integer dtype can hold.\n"
    "  Expected: integers from -2**63 to 2**63 - 1, or from 0 to 2**64 - 1\n"
    "  Got:      {}\n  Convert them to floats if the rounding is acceptable: float(x)."
)


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (2**64, "18446744073709551616"),
        (-(2**63) - 1, "-9223372036854775809"),
        ([2**63, -1], "integers from -1 to 9223372036854775808"),
        ([[2**70], [0]], "integers from 0 to 1180591620717411303424"),
        ([np.uint64(2**63), np.int64(-1)], "integers from -1 to 9223372036854775808"),
        ([np.array([2**63], np.uint64), np.array([-1])], "integers from -1 to 9223372036854775808"),
        (-(10**5000), "-2**16609 or less"),
        (10**5000, "2**16609 or more"),
        ([1.5, 10**400], "2**1328 or more"),
    ],
    ids=lambda value: f"{type(value).__name__}",
)
@pytest.mark.parametrize(
    "coerce",
    [
        lambda x: coerce_input(x, beside(""), what="x"),
        lambda x: coerce_input(x, beside("f8"), what="x"),
        lambda x: coerce_input(x, beside("u8"), what="x"),
        lambda x: coerce_output(x, np.dtype("f8"), what="x"),
        lambda x: coerce_output(x, np.dtype("u8"), what="x"),
    ],
)
def test_integers_are_neither_rounded_nor_wrapped_around_on_the_way_into_an_array(coerce, value, got):
    with pytest.raises(CoercionError, match=exactly(NO_INTEGERS.format(got))):
        coerce(value)


def test_integers_that_need_64_bits_come_out_as_they_are():
    assert is_same(coerce_output([2**63, 1], np.dtype("u8"), what="x"), "u8", [2**63, 1])
    assert is_same(coerce_output([2**63 - 1, -1], np.dtype("i8"), what="x"), "i8", [2**63 - 1, -1])
    with pytest.raises(CoercionError, match=r"^x has integers that float64 cannot hold exactly\."):
        coerce_output([2**63 + 1, 1], np.dtype("f8"), what="x")


def test_a_list_with_a_float_in_it_is_one_of_floats():
    for value in ([2.0**60, 1], [1.5, 2**70], [np.inf, 2**63], [1j, 2**70]):
        assert coerce_output(value, np.dtype("c16"), what="x").tolist() == value


class Index:
    """An integer, as Python takes it for an index."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


@pytest.mark.parametrize(
    ("value", "expected"), [(Index(3), 3), ([Index(3), 4], [3, 4]), ([[Index(3)], [Index(5)]], [[3], [5]])]
)
def test_what_python_takes_for_an_integer_is_one(value, expected):
    assert is_same(coerce_input(value, beside(""), what="x"), "i4", expected)
    assert is_same(coerce_input(value, beside("f4"), what="x"), "f4", expected)
    assert is_same(coerce_output(value, np.dtype("i2"), what="x"), "i2", expected)


@pytest.mark.parametrize("dtype", dtypes("u1 u2 u4 u8 i1 i2 i4 i8"), ids=str)
@pytest.mark.parametrize("value", [100, [1, 100], [[True, 2]]])
def test_python_integers_follow_the_integer_tensors_beside_them(dtype, value):
    assert is_same(coerce_input(value, DTypeContext.of([dtype]), what="x"), dtype, value)


@pytest.mark.parametrize("dtype", dtypes("? u1 u2 u4 u8 i1 i2 i4 i8 f2 bf16 f4 c8"), ids=str)
def test_other_numpy_values_keep_their_dtype(dtype):
    for value in (np.ones((2, 1), dtype), np.ones((), dtype), np.ones((), dtype)[()], np.ones((0, 3), dtype)):
        for partner in ("", "f2", "bf16", "f4", "f8", "u1", "i8"):
            assert is_same(coerce_input(value, beside(partner), what="x"), dtype, value.tolist())


@pytest.mark.parametrize("partner", ["u1", "i8"])
def test_floats_do_not_follow_integer_tensors(partner):
    assert is_same(coerce_input(2.5, beside(partner), what="x"), "f4", 2.5)
    assert is_same(coerce_input(2.5j, beside(partner), what="x"), "c8", 2.5j)
    assert is_same(coerce_input(True, beside(partner), what="x"), "?", True)


@pytest.mark.parametrize(
    "coerce", [lambda x: coerce_input(x, DTypeContext(), what="x"), lambda x: coerce_output(x, STRING, what="x")]
)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("é", b"\xc3\xa9"),
        (b"\xff\0", b"\xff\0"),
        ([["a"], ["bc"]], [[b"a"], [b"bc"]]),
        (np.array(["a", "é"]), [b"a", b"\xc3\xa9"]),
        (np.array([b"a", b"bc"]), [b"a", b"bc"]),
        (np.array([["a", b"b\0"]], object), [[b"a", b"b\0"]]),
        (np.array("a", object), b"a"),
        (np.array([], "U3"), []),
        (["a", b"\xff\0"], [b"a", b"\xff\0"]),
        (["é\0", ""], [b"\xc3\xa9\0", b""]),
        ([["a", b"\0"], ["long text", b"\xff"]], [[b"a", b"\0"], [b"long text", b"\xff"]]),
        ([("a", b"\xff\0")], [[b"a", b"\xff\0"]]),
    ],
)
def test_strings_become_objects_of_bytes(coerce, value, expected):
    assert is_same(coerce(value), STRING, expected)


@pytest.mark.parametrize(
    "value", [["a", 1], [["a", "b"], [1, 2]], ["a", None], ["a", ["b"]], [("a", 1)], np.array([1, 2], object)], ids=repr
)
@pytest.mark.parametrize("partner", ["", "f4"])
def test_what_is_not_all_text_is_not_made_text(value, partner):
    kind = type(value).__name__
    with pytest.raises(CoercionError, match=exactly(NO_TENSOR.format(f"{kind}: {value!r}"))):
        coerce_input(value, beside(partner), what="input 0")
    for promised in dtypes("string f4 i8"):
        with pytest.raises(CoercionError, match=exactly(NO_RESULT.format(f"{kind}: {value!r}"))):
            coerce_output(value, promised, what="output 0")


@pytest.mark.parametrize(
    "value", [np.ma.array([1.0, 2.0], mask=[False, True]), np.ma.array([1.0, 2.0]), np.ma.masked, np.ma.array(["a"])]
)
@pytest.mark.parametrize(
    "coerce",
    [lambda x: coerce_input(x, DTypeContext(), what="x"), lambda x: coerce_output(x, x.dtype, what="x")],
    ids=["in", "out"],
)
def test_a_masked_array_is_refused(value, coerce):
    message = "x is a masked array, but tensors have no mask.\n  Use .filled(...) first."
    with pytest.raises(CoercionError, match=exactly(message)):
        coerce(value)


@pytest.mark.parametrize("coerce", COERCIONS, ids=["in", "out"])
@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: [[x], [x]], lambda x: ([x],), lambda x: deque([x])])
def test_a_masked_array_in_a_list_is_refused(wrap, coerce):
    with pytest.raises(CoercionError, match=r"^x is a masked array, but tensors have no mask\."):
        coerce(wrap(np.ma.array([1.0, 2.0], mask=[False, True])))
    with pytest.raises(CoercionError, match=r"^x is a masked array, but tensors have no mask\."):
        coerce(wrap(np.ma.masked))


def test_numbers_in_arrays_are_not_made_text():
    for value in ([np.array(["a"]), np.array([1])], [np.array([1]), ["a"]]):
        with pytest.raises(CoercionError, match=r"^x is not a tensor, array, number or string\."):
            coerce_input(value, DTypeContext(), what="x")


def nested_in_itself(make, *items):
    value = make(items)
    value.append(value)
    return value


ENDLESS = {
    "once": lambda: nested_in_itself(list),
    "twice": lambda: nested_in_itself(list, nested_in_itself(list)),
    "beside numbers": lambda: nested_in_itself(list, 1.0, 2.0),
    "beside text": lambda: nested_in_itself(list, "a"),
    "in a tuple": lambda: (nested_in_itself(list, 1.0),),
    "deque": lambda: nested_in_itself(deque, 1.0),
    "UserList": lambda: nested_in_itself(UserList, 1.0),
    "branching": lambda: (lambda value: value.extend([value, value]) or value)([]),
    "deep": lambda: functools.reduce(lambda value, _: [value], range(65), 1.0),
    "very deep": lambda: functools.reduce(lambda value, _: [value], range(100_000), 1.0),
    "wide and deep": lambda: functools.reduce(lambda value, _: [value, value], range(100), 1.0),
}


@pytest.mark.parametrize("coerce", COERCIONS, ids=["in", "out"])
@pytest.mark.parametrize("kind", ENDLESS)
def test_a_list_that_contains_itself_is_reported(kind, coerce):
    message = (
        "x is a list that contains itself, or is nested more than 64 levels deep.\n  Expected: at most 64 dimensions\n"
        "  Convert it to an array first."
    )
    with pytest.raises(CoercionError, match=exactly(message)):
        coerce(ENDLESS[kind]())


def test_lists_may_have_as_many_levels_as_arrays_have_dimensions():
    n_dimensions = 64 if int(np.__version__.split(".")[0]) >= 2 else 32
    value = functools.reduce(lambda value, _: [value], range(n_dimensions), 1.0)
    assert coerce_input(value, DTypeContext(), what="x").shape == (1,) * n_dimensions


class Refusing:
    """An object whose own code raises, whatever is asked of it."""

    def __array__(self, *arguments, **options):
        raise RuntimeError("no array")

    def __repr__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize("coerce", COERCIONS, ids=["in", "out"])
def test_what_raises_on_its_way_into_an_array_is_reported(coerce):
    message = r"^x cannot be converted to an array\.\n  Got:      Refusing, which raises RuntimeError: no array\n"
    with pytest.raises(CoercionError, match=message) as caught:
        coerce(Refusing())
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("coerce", COERCIONS, ids=["in", "out"])
def test_what_cannot_be_shown_is_reported(coerce):
    class Silent:
        __repr__ = Refusing.__repr__

    with pytest.raises(CoercionError, match=r"\n  Got:      Silent: a value whose repr\(\) raises\n"):
        coerce(Silent())
    with pytest.raises(CoercionError, match=r"\n  Got:      list: a value whose repr\(\) raises\n"):
        coerce([Silent()])


@pytest.mark.parametrize("value", ["\ud800", ["a", "\ud800"], np.array(["\ud800"])])
@pytest.mark.parametrize(
    "coerce", [lambda x: coerce_input(x, DTypeContext(), what="x"), lambda x: coerce_output(x, STRING, what="x")]
)
def test_text_that_utf8_cannot_encode_is_reported(coerce, value):
    message = (
        "x has text that UTF-8 cannot encode.\n  Got:      '\\ud800'\n"
        '  Encode the text first, for example text.encode(errors="surrogateescape").'
    )
    with pytest.raises(CoercionError, match=exactly(message)):
        coerce(value)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="since numpy 2")
def test_text_of_any_length_becomes_objects_of_bytes():
    value = np.array(["a", "é"], dtype=np.dtypes.StringDType())
    assert is_same(coerce_input(value, DTypeContext(), what="x"), STRING, [b"a", b"\xc3\xa9"])
    assert is_same(coerce_output(value, STRING, what="x"), STRING, [b"a", b"\xc3\xa9"])


@pytest.mark.parametrize("promised", NUMBERS, ids=str)
@pytest.mark.parametrize("actual", NUMBERS, ids=str)
def test_a_result_is_cast_exactly_where_numpy_sees_the_same_kind(actual, promised):
    value = np.ones((1, 2), actual)
    known = [np.dtype("f2") if dtype == BFLOAT16 else dtype for dtype in (actual, promised)]
    if np.can_cast(*known, "same_kind"):
        assert is_same(coerce_output(value, promised, what="x"), promised, value.tolist())
    else:
        message = f"x has the wrong dtype.\n  Expected: {promised}[1, 2]\n  Got:      {actual}[1, 2]\n  "
        with pytest.raises(CoercionError, match=f"^{re.escape(message)}"):
            coerce_output(value, promised, what="x")


@pytest.mark.parametrize("value", [1.0, True, [1, 2.5], np.float64(2), np.zeros((0, 2)), np.ones(2).view(np.recarray)])
def test_results_become_plain_arrays(value):
    assert is_same(coerce_output(value, np.dtype("f4"), what="x"), "f4", np.asarray(value).tolist())


@pytest.mark.parametrize(
    ("value", "promised", "expected", "got", "remedy"),
    [
        (
            1.5,
            "i4",
            "int32[]",
            "float64[]",
            "Pass floating inputs (2.0 instead of 2), convert the result, or declare dtype=np.float64.",
        ),
        (np.int8([1]), "u1", "uint8[1]", "int8[1]", "Declare dtype=np.int8, or convert the result in the function."),
        (1, "?", "bool[]", "int64[]", "Declare dtype=np.int64, or convert the result in the function."),
        (1j, "f4", "float32[]", "complex128[]", "Return the real part, or declare dtype=np.complex128."),
        (np.complex64(1j), "f8", "float64[]", "complex64[]", "Return the real part, or declare dtype=np.complex64."),
        ("a", "f4", "float32[]", "string[]", 'Declare dtype="string".'),
        (1.5, "string", "string[]", "float64[]", "Return strings, or declare dtype=np.float64."),
    ],
)
def test_a_result_of_another_kind_is_reported(value, promised, expected, got, remedy):
    message = f"output 0 has the wrong dtype.\n  Expected: {expected}\n  Got:      {got}\n  "
    with pytest.raises(CoercionError, match=exactly(message + remedy)):
        coerce_output(value, *dtypes(promised), what="output 0")
    is_complex = got.startswith("complex")
    message += (  # the user has not promised it
        "If the input is real, return the real part: np.real(c) if np.isrealobj(op.inputs[2]) else c."
        if is_complex
        else "Return numbers."
    )
    with pytest.raises(CoercionError, match=exactly(message)):
        coerce_output(value, *dtypes(promised), what="output 0", advise=advise_rule("op.inputs[2]"))


@pytest.mark.parametrize(("value", "promised"), [(1, "u1"), ([0, 255], "u1"), (2**63, "u8"), ([[7]], "u4")])
def test_python_integers_that_fit_pass_for_unsigned_ones(value, promised):
    assert is_same(coerce_output(value, np.dtype(promised), what="x"), promised, value)


@pytest.mark.parametrize(("value", "size"), [([1, -1], -1), (256, 256), ([2**40], "1.1e+12")])
def test_python_integers_that_do_not_fit_an_unsigned_dtype_are_reported(value, size):
    message = TOO_LARGE.format(wanted="uint8", actual="int64", shape=list(np.shape(value)), size=size)
    with pytest.raises(CoercionError, match=exactly(message)):
        coerce_output(value, np.dtype("u1"), what="x")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, NO_TENSOR.format("NoneType: None")),
        (
            [[1], [2, 3]],
            "input 0 is a nested list with rows of different lengths, which cannot become an array.\n"
            "  Pad the rows, or pass each row as a separate array.",
        ),
        (
            np.datetime64("2020-01-01"),
            "input 0 has a dtype that TensorFlow does not support.\n  Expected: numbers, booleans or strings\n"
            "  Got:      datetime64[D][]\n  Convert it with numpy first, for example x.astype(np.int64).",
        ),
    ],
)
def test_a_value_that_makes_no_tensor_is_reported(value, message):
    with pytest.raises(CoercionError, match=exactly(message)):
        coerce_input(value, DTypeContext(), what="input 0")


@pytest.mark.parametrize(
    ("value", "wanted", "actual", "shape", "size"),
    [
        (np.float32(3.4e38), "bf16", "float32", "[]", "3.4e+38"),
        ([[1.0, -1e5, np.inf]], "f2", "float64", "[1, 3]", "-1e+05"),
        ([1, 70_000], "f2", "int64", "[2]", "7e+04"),
        (ml_dtypes.bfloat16(1e30), "f2", "bfloat16", "[]", "1e+30"),
        ([3e38, 1e39j], "c8", "complex128", "[2]", "1e+39"),
        (complex(1e39, np.inf), "c8", "complex128", "[]", "1e+39"),
        ([1, -300], "i1", "int64", "[2]", "-300"),
        (np.uint64(2**63), "i8", "uint64", "[]", "9.22e+18"),
    ],
)
def test_a_finite_value_that_the_dtype_cannot_hold_is_reported(value, wanted, actual, shape, size):
    message = TOO_LARGE.format(wanted=dtypes(wanted)[0], actual=actual, shape=shape, size=size)
    with pytest.raises(CoercionError, match=exactly(message)), np.errstate(all="ignore"):
        coerce_output(value, *dtypes(wanted), what="x")


WHOLE = [
    ([2**24, 1, -(2**24)], "f4", True),
    ([1, 2**24 + 1], "f4", False),
    ([2**24 + 2], "f4", True),
    ([2049], "f2", False),
    ([2048, 2050], "f2", True),
    ([257], "bf16", False),
    ([256, 258], "bf16", True),
    ([2**53], "f8", True),
    ([-(2**53) - 1], "f8", False),
    ([2**24 + 1], "c8", False),
    ([2**53], "c16", True),
    ([2**63 - 1], "f4", False),
    ([-(2**63)], "f4", True),
    ([2**63 - 1], "f8", False),
    ([2**63 - 1], "c16", False),
    (np.uint64([2**64 - 1]), "f4", False),
    (np.uint64([2**64 - 1]), "f8", False),
    (np.uint64([2**63]), "bf16", True),
]


@pytest.mark.parametrize(("value", "wanted", "is_exact"), WHOLE)
@pytest.mark.parametrize("state", ["ignore", "warn", "raise"])
def test_integers_become_floats_only_if_these_hold_them_exactly(value, wanted, is_exact, state):
    array, (dtype,) = np.asarray(value), dtypes(wanted)
    shape, module = "[1]" if array.size == 1 else "[2]", "ml_dtypes" if dtype.kind == "V" else "np"
    message = INEXACT.format(wanted=dtype, actual=array.dtype, shape=shape, module=module)
    with np.errstate(all=state):
        if is_exact:
            for result in (coerce_output(array, dtype, what="x"), cast(array, dtype, what="x")):
                assert (result.dtype, result.real.astype("f8").tolist()) == (dtype, array.tolist())
        else:
            with pytest.raises(CoercionError, match=exactly(message)):
                coerce_output(array, dtype, what="x")


@pytest.mark.parametrize(("partner", "value"), [("f4", 2**24 + 1), ("f2", [1, 2049]), ("c8", [2**24 + 1])])
def test_python_integers_that_the_tensors_beside_them_cannot_hold_are_reported(partner, value):
    shape, wanted = list(np.shape(value)), coercion.real_dtype(*dtypes(partner))
    with pytest.raises(CoercionError, match=exactly(INEXACT_INPUT.format(wanted=wanted, shape=shape))):
        coerce_input(value, beside(partner), what="x")
    for advised in (np.float64(value), np.int64(value)):
        coerce_input(advised, beside(partner), what="x")
    with pytest.raises(CoercionError, match=r"^x has a finite value outside the range of uint8"):
        coerce_input(value, beside("u1"), what="x")


@pytest.mark.parametrize("state", ["ignore", "warn", "raise"])
@pytest.mark.parametrize("wanted", dtypes("f2 bf16 f4"), ids=str)
def test_the_users_error_state_does_not_matter(wanted, state):
    with np.errstate(all=state):
        small = coerce_output(np.array([np.nan, np.inf, 1e-300, -0.0]), wanted, what="x")
        assert np.array_equal(small, np.array([np.nan, np.inf, 0, 0], wanted), equal_nan=True)
        with pytest.raises(CoercionError, match=f"^x has a finite value outside the range of {wanted}"):
            coerce_output(np.array([np.nan, 1e300]), wanted, what="x")


@pytest.mark.parametrize("wanted", dtypes("f2 bf16 f4 c8 c16 i1 i2 i4 u1 u2 u4 u8"), ids=str)
@properties
@given(data=st.data())
def test_a_cast_is_numpys_unless_a_finite_value_would_be_lost(wanted, data):
    array = data.draw(npst.arrays(np.int64 if wanted.kind in "iu" else np.float64, shapes))
    with np.errstate(over="ignore"):
        naive = array.astype(wanted)
    is_wrapped = wanted.kind in "iu" and naive.tolist() != array.tolist()
    if is_wrapped or (np.isfinite(array) & ~np.isfinite(naive)).any():
        with pytest.raises(CoercionError, match=f"^x has a finite value outside the range of {wanted}"):
            cast(array, wanted, what="x")
    else:
        result = cast(array, wanted, what="x")
        assert (result.dtype, result.shape, result.tobytes()) == (wanted, array.shape, naive.tobytes())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["float64", float, np.dtype("f8"), SimpleNamespace(as_numpy_dtype=np.float64)], "f8"),
        (["bfloat16", ml_dtypes.bfloat16], "bf16"),
        ([">f4", "<f4", np.dtype(">f4"), np.dtype("f4").newbyteorder()], "f4"),
        (
            [
                "string",
                str,
                bytes,
                object,
                STRING,
                "S3",
                np.str_,
                np.dtype("U5"),
                SimpleNamespace(as_numpy_dtype=object),
            ],
            "string",
        ),
    ],
)
def test_dtypes_are_read_as_users_write_them(values, expected):
    found = list(map(parse_dtype, values))
    assert found == dtypes(expected) * len(values)
    assert all(dtype.isnative for dtype in found)


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2", ">u8", ">c8", ">c16"])
@pytest.mark.parametrize("tensors", ["", "f4", "f8", "i4"])
def test_inputs_of_the_other_byte_order_are_turned_around(dtype, tensors):
    result = coerce_input(np.array([1, 2], dtype), beside(tensors), what="x")
    assert result.tolist() == [1, 2]
    assert result.dtype.isnative


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2", ">u8", ">c8", ">c16"])
def test_results_of_the_other_byte_order_are_turned_around(dtype):
    for promised in (np.dtype(dtype).newbyteorder("="), np.dtype("c16")):
        result = coerce_output(np.array([1, 2], dtype), promised, what="x")
        assert is_same(result, promised, [1, 2])
        assert result.dtype.isnative


@pytest.mark.parametrize(
    "value",
    ["flaot32", "bfloat61", 5, [1, 2], "M8[s]", "f4,f4", np.void, "longdouble", np.longdouble, np.clongdouble],
)
def test_what_is_no_dtype_of_a_tensor_is_reported(value):
    message = f'{value!r} is not a valid tensor dtype.\n  Use for example np.float32, tf.int64 or "string".'
    with pytest.raises(RegistrationError, match=exactly(message)):
        parse_dtype(value)


@pytest.mark.parametrize(
    ("inputs", "result"),
    [
        ("f4 f8", "f8"),
        ("f4 i8 ? string", "f4"),
        ("bf16 f4", "f4"),
        ("c8 f8", "c16"),
        ("i4 i8 ?", "i8"),
        ("u1 i1", "i2"),
        ("? string", "?"),
    ],
)
def test_floating_inputs_alone_decide_the_result(inputs, result):
    assert [coercion.result_dtype(dtypes(inputs))] == dtypes(result)


@pytest.mark.parametrize("pair", ["f4 f4", "c8 f4", "c16 f8", "bf16 bf16", "i8 i8"])
def test_the_real_part_has_a_dtype(pair):
    dtype, real = dtypes(pair)
    assert coercion.real_dtype(dtype) == real


@pytest.mark.parametrize(
    ("inputs", "got", "remedy"),
    [
        (
            "string",
            "string",
            "Pass numbers. If the function reads text, declare the dtype, for example dtype=np.float32.",
        ),
        ("f2 bf16", "float16, bfloat16", "Declare the dtype, for example dtype=np.float32."),
    ],
)
def test_a_result_dtype_that_does_not_follow_is_reported(inputs, got, remedy):
    message = f"cannot infer the output dtype from the inputs.\n  Got:      {got}\n  {remedy}"
    with pytest.raises(CoercionError, match=exactly(message)):
        coercion.result_dtype(dtypes(inputs))


@pytest.mark.parametrize("pair", ["f4 f8", "f2 f8", "bf16 f8", "c8 c16", "i4 i4", "? ?"])
def test_floating_and_complex_arrays_are_widened(pair):
    dtype, widened = dtypes(pair)
    assert is_same(coercion.widen(np.ones(1, dtype), np.dtype("f8"), what="x"), widened, [1])


@pytest.mark.parametrize(
    ("function", "inputs", "outputs"),
    [
        (np.add, "i4 i8", "i8"),
        (np.add, "f4 i8", "f4"),
        (np.sin, "i4", "f4"),
        (np.absolute, "c16", "f8"),
        (np.frexp, "f4", "f4 i4"),
        (np.matmul, "c8 f8", "c16"),
    ],
)
def test_a_ufunc_brings_its_output_dtypes_with_floats_as_its_inputs_have_them(function, inputs, outputs):
    assert coercion.ufunc_output_dtypes(function, dtypes(inputs)) == tuple(dtypes(outputs))


def test_a_ufunc_without_a_loop_is_reported():
    message = (
        "bitwise_and has no loop for these input dtypes.\n  Got:      float32, int32\n  Use one of these input "
        "dtypes: ??->?, "
    )
    with pytest.raises(CoercionError, match=re.escape(message)):
        coercion.ufunc_output_dtypes(np.bitwise_and, dtypes("f4 i4"))


@pytest.mark.parametrize(
    ("value", "tensor", "got"), [(-1, np.uint8, "-1"), ([-9], ml_dtypes.int4, "-9"), (8, ml_dtypes.int4, "8")]
)
def test_an_integer_outside_the_range_is_shown_with_its_sign(value, tensor, got):
    with pytest.raises(CoercionError, match=rf" outside the range of .*\n.*\n  Got:      int64\S* with {got}\n"):
        coerce_input(value, DTypeContext.of([np.dtype(tensor)]), what="x")


def test_an_overflow_of_long_doubles_shows_the_finite_value():
    assert np.finfo(np.longdouble).max > 1e308 * np.longdouble(10), "long doubles are wider than doubles here"
    wide = np.array([np.inf, np.longdouble("1e400")])
    with pytest.raises(CoercionError, match=r"with 1e\+400\n  Scale the values: no dtype of tensors"):
        coerce_input(wide, DTypeContext(), what="x")
    with pytest.raises(
        CoercionError, match=r"with -1e\+300\n  Scale the values, or pass tf.constant\(x\.astype\(np\.float64"
    ):
        coerce_input(np.longdouble([-1e300]), DTypeContext(), what="x")
    with pytest.raises(CoercionError, match=r"with 1e\+300\n  Scale the values, or use complex128 for tensors"):
        cast(np.clongdouble([1e300]), np.dtype("c8"), what="x")


@pytest.mark.parametrize("coerce", COERCIONS)
@pytest.mark.parametrize("number", [Decimal("0.1"), Fraction(1, 3)])
def test_numbers_without_a_dtype_must_be_converted(coerce, number):
    name = type(number).__name__
    with pytest.raises(CoercionError, match=rf"^x is a {name}, which has no dtype\.\n.*\n  Convert each"):
        coerce(number)
    with pytest.raises(CoercionError, match=rf"^x contains a {name}, which has no dtype\."):
        coerce([1.0, number])
