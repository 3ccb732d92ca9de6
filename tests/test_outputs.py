"""What ops and the ops of their rules promise, and how results are held to it."""

import itertools
import re
from collections import OrderedDict
from types import MappingProxyType
from typing import NamedTuple

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.texts import exactly
from tfpyop._spec.outputs import ArraySpec, OpOutputSpec, is_compatible
from tfpyop._spec.rule_outputs import CotangentSpec, RuleInputs, SameAsInputsSpec, TangentSpec
from tfpyop._spec.rule_values import broadcast_shapes_of, rule_values, summed_axes
from tfpyop._spec.signature import Signature
from tfpyop._spec.tree import LEAF, flat, flatten
from tfpyop.errors import CoercionError, ContractError, SignatureError

properties = settings(deadline=None)
F4, F8, C8, I4, STRING = map(np.dtype, ("f4", "f8", "c8", "i4", "O"))


class Pair(NamedTuple):
    first: object
    second: object


def types(*texts):
    """Types as they are shown: `float32[2, ?]`, `int32[...]`."""
    found = []
    for name, sizes in (re.fullmatch(r"(\w+)\[(.*)\]", text).groups() for text in texts):
        shape = (
            None if sizes == "..." else tuple(None if size == "?" else int(size) for size in sizes.split(", ") if size)
        )
        found.append(ArraySpec(STRING if name == "string" else np.dtype(name), shape))
    return found


def dtypes_of(found):
    return [type_.dtype for type_ in found]


def shown(found):
    return list(map(str, found))


def output_spec(signature=None, *, dtype=None, shape=None, residuals=None, ufunc=None):
    """What an op promises that is declared like this; residuals by name, with their core dimensions."""
    residuals = residuals or {}
    declared, structure = flatten(dtype, is_declaration=True)
    if signature is not None:
        signature = Signature.parse(signature)
        if structure is LEAF:
            declared *= len(signature.outputs)
            structure = LEAF if len(declared) == 1 else flat(len(declared))
        signature = signature.with_outputs([core for core, _ in residuals.values()])
    declared = [None if name is None else np.dtype(name) for name in declared]
    declared += [np.dtype(name) for _, name in residuals.values()]
    return OpOutputSpec(signature, shape, tuple(declared), structure, tuple(residuals), ufunc)


@pytest.mark.parametrize("text", ["float32[?, 3]", "int64[]", "string[2]", "complex64[...]"])
def test_a_type_is_shown_as_dtype_and_shape(text):
    (found,) = types(text)
    assert str(found) == text


def test_an_array_has_a_type():
    assert shown(map(ArraySpec.of, [np.zeros((2, 0), "i2"), np.array("a", object)])) == ["int16[2, 0]", "string[]"]


# -- what ops promise

OUTPUT_TYPES = {
    "the result type": (output_spec("()->()"), ["float32[2]"], ["float32[2]"]),
    "a declared dtype": (output_spec("()->()", dtype="i8"), ["float32[2]"], ["int64[2]"]),
    "one dtype for all": (output_spec("()->(),()", dtype="f8"), ["float32[2]"], ["float64[2]", "float64[2]"]),
    "one of them": (
        output_spec("(n)->(),(n)", dtype=("i4", None)),
        ["complex64[5, 2]"],
        ["int32[5]", "complex64[5, 2]"],
    ),
    "floats decide": (output_spec("(),()->()"), ["int64[2]", "float32[]"], ["float32[2]"]),
    "unknown sizes": (output_spec("(n),(m)->(n+m-1)"), ["float32[?]", "float32[3]"], ["float32[?]"]),
    "an unknown rank": (output_spec("(n)->(n),()"), ["float32[...]"], ["float32[...]", "float32[...]"]),
    "a run-time size": (output_spec("(n)->(k),()"), ["float32[2, 3]"], ["float32[2, ?]", "float32[2]"]),
    "nothing": (output_spec(), ["float32[2]"], ["float32[...]"]),
    "dtypes alone": (output_spec(dtype=("f4", "i4")), ["string[2]"], ["float32[...]", "int32[...]"]),
    "a dict": (output_spec(dtype={"b": "f4", "a": None}), ["int8[2]"], ["float32[...]", "int8[...]"]),
    "no input": (output_spec("->(3)", dtype="f4"), [], ["float32[3]"]),
    "residuals": (
        output_spec("(n,n),(n)->(n)", residuals={"lu": ("(n,n)", "f8"), "signs": ("()", "i4")}),
        ["float32[7, 2, 2]", "float32[2]"],
        ["float32[7, 2]", "float64[7, 2, 2]", "int32[7]"],
    ),
    "a residual's run-time size": (
        output_spec("(n)->()", residuals={"kept": ("(k)", "i8")}),
        ["float32[3]"],
        ["float32[]", "int64[?]"],
    ),
    "a shape function": (output_spec(shape=lambda shapes: shapes[0][1:]), ["float32[2, 3]"], ["float32[3]"]),
    "a shape function for two": (
        output_spec(shape=lambda shapes: [shapes[0], list(shapes[1])], dtype=(None, "i4")),
        ["float32[2, 3]", "float32[]"],
        ["float32[2, 3]", "int32[]"],
    ),
    "a shape function's array": (
        output_spec(shape=lambda shapes: np.array(shapes[0]) + 1),
        ["float32[2]"],
        ["float32[3]"],
    ),
    "a shape function and an unknown size": (output_spec(shape=max), ["float32[?]", "float32[2]"], ["float32[...]"]),
    "a shape function and an unknown rank": (output_spec(shape=max), ["float32[...]"], ["float32[...]"]),
    "a ufunc's dtypes": (output_spec("()->(),()", ufunc=np.frexp), ["float32[2]"], ["float32[2]", "int32[2]"]),
    "a ufunc's and a declared one": (
        output_spec("()->(),()", ufunc=np.frexp, dtype=(None, "i8")),
        ["float32[2]"],
        ["float32[2]", "int64[2]"],
    ),
    "a ufunc's declared ones": (
        output_spec("(),()->()", ufunc=np.bitwise_and, dtype="i4"),
        ["float32[]"] * 2,
        ["int32[]"],
    ),
}


@pytest.mark.parametrize(("op", "inputs", "outputs"), OUTPUT_TYPES.values(), ids=OUTPUT_TYPES)
def test_an_op_promises_what_signature_shape_function_and_dtypes_say(op, inputs, outputs):
    found = op.infer_outputs(types(*inputs))
    assert shown(found) == outputs
    assert len(found) == op.n_outputs(dtypes_of(types(*inputs))) + len(op.residual_names)


def test_inputs_that_do_not_fit_the_signature_are_reported():
    with pytest.raises(SignatureError, match="input 1 does not fit signature"):
        output_spec("(n),(n)->()").infer_outputs(types("float32[3]", "float32[2]"))


def test_a_dtype_that_does_not_follow_is_reported_only_if_it_was_not_declared():
    with pytest.raises(CoercionError, match="cannot infer the output dtype from the inputs"):
        output_spec("()->()").infer_outputs(types("string[2]"))
    assert shown(output_spec("()->()", dtype="f4").infer_outputs(types("string[2]"))) == ["float32[2]"]


def test_what_a_shape_function_raises_is_the_cause():
    cause = KeyError("n")

    def shape(shapes):
        raise cause

    message = "the shape function raised KeyError: 'n'\n  Got:      input shapes [2, 3], []"
    message += (
        "\n  Fix the shape function. It is called as shape(*input_shapes, **static), with a tuple of sizes for each "
        "input."
    )
    with pytest.raises(SignatureError, match=exactly(message)) as caught:
        output_spec(shape=shape).infer_outputs(types("float32[2, 3]", "float32[]"))
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize(
    ("returned", "dtype", "expected"),
    [
        *[(returned, None, "a tuple of sizes") for returned in (3, None, "ab", (1.5,), (-1,), ((3,), (3,)), (None,))],
        *[
            (returned, (None, None), "2 tuples of sizes")
            for returned in ((3,), ((3,),), ((3,), 3), ((3,), (3,), (3,)), ((3,), (-1,)), ((3,), (2.0,)))
        ],
    ],
)
def test_a_shape_function_that_returns_something_else_is_reported(returned, dtype, expected):
    message = (
        f"the shape function must return one shape for each output.\n  Expected: {expected}\n  Got:      {returned!r}\n"
        "  Return sizes that are integers of 0 or more."
    )
    with pytest.raises(SignatureError, match=exactly(message)):
        output_spec(shape=lambda shapes: returned, dtype=dtype).infer_outputs(types("float32[2]"))


@pytest.mark.parametrize(
    ("op", "result", "values"),
    [
        (output_spec(), 1, [1]),
        (output_spec(), [1, 2], [[1, 2]]),
        (output_spec(), (1,), [1]),
        (output_spec("()->(),()"), (1, [2, 3]), [1, [2, 3]]),
        (output_spec("()->(),()"), [1, 2], [1, 2]),
        (output_spec("()->(),()"), Pair(1, 2), [1, 2]),
        (output_spec(dtype=("f4",)), 1, [1]),
        (output_spec(dtype=("f4",)), (1,), [1]),
        (output_spec(dtype={"b": None, "a": None}), OrderedDict(a=1, b=2), [2, 1]),
        (output_spec(dtype=("f4", {"a": None})), (1, {"a": 2}), [1, 2]),
        (output_spec(dtype=()), (), []),
        (output_spec("()->()", residuals={"r": ("()", "f4")}), (1, {"r": 2}), [1, 2]),
        (output_spec("()->()", residuals={"r": ("()", "f4")}), (1, MappingProxyType({"r": 2})), [1, 2]),
        (
            output_spec("()->(),()", residuals={"r": ("()", "f4"), "a": ("()", "f4")}),
            ([1, 2], {"a": 3, "r": 4}),
            [1, 2, 4, 3],
        ),
    ],
)
def test_a_result_is_taken_apart_into_outputs_and_residuals(op, result, values):
    assert list(op.unpack(result, types("float32[2]"))) == values


WRONG_NUMBER = (
    "the function returned the wrong number of outputs.\n  Expected: 1 output\n  Got:      {}\n"
    '  Name every output in the signature, for example signature="()->(),()", or pass dtype= as a tuple. For a single '
    "array, return np.stack(...)."
)
WRONG_FORM = (
    "the function returned its outputs in the wrong form.\n  Expected: {} outputs as declared\n  Got:      {}\n  {}"
)
AS_TUPLE = "Return a tuple: return a, b. To return a dict, pass dtype= as a dict."
OF_ONE_CALL = (
    "  Pass the inputs, outputs and residuals of one call of the op, in the order in which the rule gets them."
)
AS_DECLARED = "Return the outputs in the same form as dtype=."
IS_NONE = (
    "{} is None.\n  Expected: an array or number\n  Got:      None\n  Check that the function has a return statement."
)
NO_RESIDUALS = (
    "the function did not return its residuals.\n  Expected: (outputs, {{'r': ..., 'a': ...}})\n  Got:      {}\n"
    "  Return outputs, {{'r': ..., 'a': ...}}."
)
OTHER_RESIDUALS = (
    "the function returned residuals that differ from the declaration.\n  Expected: (outputs, {{'r': ..., 'a': ...}})\n"
    "  Got:      {}\n  {}"
)
with_residuals = output_spec("()->()", residuals={"r": ("()", "f4"), "a": ("()", "f4")})


@pytest.mark.parametrize(
    ("op", "result", "message"),
    [
        (output_spec(), (1, 2), WRONG_NUMBER.format("a tuple of 2")),
        (output_spec(), (), WRONG_NUMBER.format("a tuple of 0")),
        (output_spec("()->(),()"), (1,), WRONG_FORM.format(2, "expected 2 values, got 1", AS_TUPLE)),
        (output_spec("()->(),()"), np.zeros(2), WRONG_FORM.format(2, "expected 2 values, got an ndarray", AS_TUPLE)),
        (output_spec("()->(),()"), None, WRONG_FORM.format(2, "expected 2 values, got a NoneType", AS_TUPLE)),
        (output_spec(dtype={"a": None}), 1, WRONG_FORM.format(1, "expected a dict, got an int", AS_DECLARED)),
        (
            output_spec(dtype={"a": None}),
            {"b": 1},
            WRONG_FORM.format(1, "expected keys 'a', got keys 'b'", AS_DECLARED),
        ),
        (output_spec(), None, IS_NONE.format("output 0")),
        (output_spec(dtype=("f4",)), None, IS_NONE.format("output 0")),
        (output_spec("()->(),()"), (1, None), IS_NONE.format("output 1")),
        (with_residuals, (None, {"r": 1, "a": 2}), IS_NONE.format("output 0")),
        (with_residuals, (1, {"r": 1, "a": None}), IS_NONE.format("residual 'a'")),
        (with_residuals, 1, NO_RESIDUALS.format("an int")),
        (with_residuals, None, NO_RESIDUALS.format("a NoneType")),
        (with_residuals, (1, 2), NO_RESIDUALS.format("a tuple")),
        (with_residuals, [1, {"r": 1, "a": 2}], NO_RESIDUALS.format("a list")),
        (with_residuals, (1, 2, {"r": 1, "a": 2}), NO_RESIDUALS.format("a tuple")),
        (with_residuals, (1, {"r": 1}), OTHER_RESIDUALS.format("residuals 'r'", "Missing: 'a'.")),
        (
            with_residuals,
            (1, {"r": 1, "b": 2, "c": 3}),
            OTHER_RESIDUALS.format("residuals 'r', 'b', 'c'", "Undeclared: 'b', 'c'. Missing: 'a'."),
        ),
    ],
)
def test_a_result_in_another_form_is_reported(op, result, message):
    with pytest.raises(ContractError, match=exactly(message)):
        op.unpack(result, types("float32[2]"))


def fitted(op, values, *inputs):
    inputs = types(*inputs)
    return op.coerce(values, inputs, op.infer_outputs(inputs))


@pytest.mark.parametrize(
    ("op", "values", "outputs"),
    [
        (output_spec("()->()"), [[1.5, 2]], ["float32[2]"]),
        (output_spec("(n)->()", dtype="i8"), [np.int32(3)], ["int64[]"]),
        (output_spec("(n)->(),(k)"), [np.float64(1), np.zeros((0,))], ["float32[]", "float32[0]"]),
        (output_spec("(n)->()", dtype="O"), ["text"], ["string[]"]),
        (output_spec("(n)->()", residuals={"r": ("(k)", "u1")}), [1.5, [1, 2, 255]], ["float32[]", "uint8[3]"]),
        (output_spec("(n)->(k)", residuals={"r": ("(k,k)", "f8")}), [[1.5], [[2]]], ["float32[1]", "float64[1, 1]"]),
        (output_spec(), [np.zeros((3, 0, 2))], ["float32[3, 0, 2]"]),
    ],
)
def test_values_get_the_dtypes_that_were_promised(op, values, outputs):
    found = fitted(op, values, "float32[2]")
    assert shown(map(ArraySpec.of, found)) == outputs
    assert all(type(array) is np.ndarray for array in found)


def test_a_value_that_is_as_promised_is_not_copied():
    array = np.zeros(2, F4)
    (found,) = fitted(output_spec("()->()"), [array], "float32[2]")
    assert found is array


WRONG_SHAPE = (
    "{what} has the wrong shape.\n  Expected: {expected}\n  Got:      {got}\n"
    "  The {said_by} requires this shape for inputs float32[2]. Fix the {said_by}, or return an array of this shape."
)


@pytest.mark.parametrize(
    ("op", "values", "what", "expected", "got", "said_by"),
    [
        (output_spec("(n)->(n)"), [np.zeros(3)], "output 0", "float32[2]", "float64[3]", "signature"),
        (output_spec("(n)->(n)"), [1], "output 0", "float32[2]", "int64[]", "signature"),
        (output_spec("(n)->(n)"), [np.zeros((1, 2))], "output 0", "float32[2]", "float64[1, 2]", "signature"),
        (output_spec("(n)->(k)"), [[[1.0]]], "output 0", "float32[?]", "float64[1, 1]", "signature"),
        (output_spec("(n)->(),(3)"), [1, [0] * 2], "output 1", "float32[3]", "int64[2]", "signature"),
        (
            output_spec(shape=lambda _: (1,)),
            [np.zeros(2, F4)],
            "output 0",
            "float32[1]",
            "float32[2]",
            "shape function",
        ),
        (
            output_spec("(n)->()", residuals={"r": ("(n)", "i4")}),
            [1, np.int32([1])],
            "residual 'r'",
            "int32[2]",
            "int32[1]",
            "signature",
        ),
    ],
)
def test_a_value_of_another_shape_is_reported(op, values, what, expected, got, said_by):
    message = WRONG_SHAPE.format(what=what, expected=expected, got=got, said_by=said_by)
    with pytest.raises(ContractError, match=exactly(message)):
        fitted(op, values, "float32[2]")


def test_a_value_of_another_kind_is_reported():
    op = output_spec("()->()", residuals={"r": ("()", "i4")})
    with pytest.raises(CoercionError, match=r"^output 0 has the wrong dtype.\n  Expected: float32\[\]\n"):
        fitted(op, [1j, 2], "float32[]")
    with pytest.raises(CoercionError, match=r"^residual 'r' has the wrong dtype.\n  Expected: int32\[\]\n"):
        fitted(op, [1, 2.5], "float32[]")


@pytest.mark.parametrize(
    ("op", "values", "what"),
    [
        (output_spec("(n)->(k),(k)"), [[1], [1, 2]], "output 1"),
        (output_spec("(n)->(k)", residuals={"r": ("(k,2)", "f8")}), [[1], np.zeros((3, 2))], "residual 'r'"),
    ],
)
def test_a_run_time_size_that_differs_is_reported(op, values, what):
    with pytest.raises(ContractError, match=f"^the size 'k' of {what} differs from its size in an earlier output"):
        fitted(op, values, "float32[2]")


# -- what the ops of VJP rules promise

kept = output_spec("(n),()->(n),()", dtype=(None, "i4"), residuals={"r": ("(2)", "f8")})
variadic = output_spec()
PRIMALS = {
    "one of each": (output_spec("()->()"), 1, 1, 0),
    "several": (kept, 2, 2, 1),
    "variadic, none": (variadic, 0, 1, 0),
    "variadic, three": (variadic, 3, 1, 0),
    "variadic, two outputs": (output_spec(dtype=(None, None)), 4, 2, 0),
}


@pytest.mark.parametrize(("op", "n_inputs", "n_outputs", "n_residuals"), PRIMALS.values(), ids=PRIMALS)
def test_the_inputs_of_a_vjp_rule_are_split(op, n_inputs, n_outputs, n_residuals):
    values = [f"x{n}" for n in range(n_inputs)] + [f"y{n}" for n in range(n_outputs)]
    values += [f"r{n}" for n in range(n_residuals)] + [f"g{n}" for n in range(n_outputs)]
    parts = CotangentSpec(op, op.signature).split(values, [F4] * len(values))
    groups = [list(parts.inputs), list(parts.outputs), list(parts.residuals), list(parts.vectors)]
    assert [*itertools.chain(*groups)] == values
    assert ["".join(name[0] for name in group) for group in groups] == [
        "x" * n_inputs,
        "y" * n_outputs,
        "r" * n_residuals,
        "g" * n_outputs,
    ]


@pytest.mark.parametrize(("op", "n_inputs", "n_outputs", "n_residuals"), PRIMALS.values(), ids=PRIMALS)
def test_the_inputs_of_a_jvp_rule_are_split(op, n_inputs, n_outputs, n_residuals):
    values = [f"x{n}" for n in range(n_inputs)] + [f"y{n}" for n in range(n_outputs)]
    values += [f"r{n}" for n in range(n_residuals)] + [f"t{n}" for n in range(n_inputs)]
    parts = TangentSpec(op).split(values, [F4] * len(values))
    groups = [list(parts.inputs), list(parts.outputs), list(parts.residuals), list(parts.vectors)]
    assert [*itertools.chain(*groups)] == values
    assert list(map(len, groups)) == [n_inputs, n_outputs, n_residuals, n_inputs]


def test_flat_values_are_taken_apart():
    assert RuleInputs.flat("abcdefg", 2, 1, 3) == RuleInputs("ab", "c", "def", "g")


@pytest.mark.parametrize(
    ("rule", "count"),
    [
        (CotangentSpec(variadic, None), 1),
        (CotangentSpec(output_spec(dtype=(None, None)), None), 3),
        (CotangentSpec(kept, kept.signature), 4),
        (TangentSpec(variadic), 4),
        (TangentSpec(kept), 2),
        (CotangentSpec(CotangentSpec(variadic, None), None), 3),
    ],
)
def test_a_number_of_inputs_that_no_call_has_is_reported(rule, count):
    message = (
        "the op of a derivative rule was called with the wrong number of inputs.\n  Expected: the inputs, outputs "
        f"and residuals of its op, and the cotangents or tangents\n  Got:      {count}\n{OF_ONE_CALL}"
    )
    for ask in (rule.n_outputs, lambda dtypes: rule.infer_outputs([ArraySpec(dtype, ()) for dtype in dtypes])):
        with pytest.raises(ContractError, match=exactly(message)):
            ask([F4] * count)


def test_the_rule_of_a_rule_is_split_by_the_dtypes():
    first = CotangentSpec(variadic, None)
    second = CotangentSpec(first, None)
    inner = types("float32[2]", "int32[]", "complex64[3]", "float32[5]", "float32[5]")  # x0, x1, x2, y, its cotangent
    cotangents = types("float32[2]", "complex64[3]")  # of the floating inputs
    parts = second.split([*inner, *cotangents, *cotangents], dtypes_of([*inner, *cotangents, *cotangents]))
    assert (list(parts.inputs), list(parts.outputs), list(parts.vectors)) == (inner, cotangents, cotangents)
    assert shown(second.infer_outputs([*inner, *cotangents, *cotangents])) == [
        "float32[2]",
        "complex64[3]",
        "float32[5]",
        "float32[5]",
    ]


CALL = types("float32[5, 2]", "int32[]", "float32[5, 2]", "int32[5]", "float64[5, 2]", "float32[5, 2]", "int32[5]")
"""Inputs, outputs, residual and cotangents of `kept`."""


def test_a_vjp_rule_promises_cotangents_like_the_differentiable_primals():
    rule = CotangentSpec(kept, kept.signature)
    assert shown(rule.infer_outputs(CALL)) == ["float32[5, 2]"]
    assert rule.n_outputs(dtypes_of(CALL)) == 1
    assert rule.residual_names == ()
    rule = CotangentSpec(output_spec("(),(),()->()"), None)
    inputs = types("complex64[3]", "bool[]", "float64[1]", "complex128[3]", "complex128[3]")
    assert shown(rule.infer_outputs(inputs)) == ["complex64[3]", "float64[1]"]


@pytest.mark.parametrize("number", [2, 3, 4, 5, 6])
def test_what_does_not_belong_to_the_primals_of_a_vjp_rule_is_reported(number):
    inputs = list(CALL)
    inputs[number] = ArraySpec(inputs[number].dtype, (4, 2))
    message = (
        f"input {number} of the op of a derivative rule does not match the primals of this call.\n  Expected: "
        f"{CALL[number]}\n"
        f"  Got:      {inputs[number]}\n{OF_ONE_CALL}"
    )
    with pytest.raises(ContractError, match=exactly(message)):
        CotangentSpec(kept, kept.signature).infer_outputs(inputs)


def test_what_is_not_known_may_belong_to_the_primals():
    unknown = [ArraySpec(type_.dtype, None) for type_ in CALL[2:]]
    assert shown(CotangentSpec(kept, kept.signature).infer_outputs([*CALL[:2], *unknown])) == ["float32[5, 2]"]


@pytest.mark.parametrize(
    ("result", "values"),
    [((1, None), [1]), ([1, "what is of an integer is ignored"], [1]), ((None, None), [np.zeros((5, 2), F4)])],
)
def test_a_vjp_rule_returns_one_cotangent_for_each_input(result, values):
    (found,), (expected,) = CotangentSpec(kept, kept.signature).unpack(result, CALL), values
    assert np.array_equal(found, expected)


def test_zeros_are_like_the_primal():
    (zeros,) = CotangentSpec(kept, None).unpack((None, None), CALL)
    assert (zeros.dtype, zeros.shape) == (F4, (5, 2))
    (zeros,) = TangentSpec(kept).unpack((None, None), CALL[:5] + CALL[:2])
    assert (zeros.dtype, zeros.shape) == (F4, (5, 2))


def test_one_value_stands_for_a_tuple_of_one():
    inputs = types(*["float32[2]"] * 3)
    for rule in (CotangentSpec(output_spec("()->()"), None), TangentSpec(output_spec("()->()"))):
        for result in ([1, 2], np.ones(2)):
            values = rule.unpack((result,), inputs)
            assert values[0] is result
        assert rule.unpack(3, inputs) == [3]


@pytest.mark.parametrize(
    ("result", "kind", "like", "got"),
    [
        ((1, 2, 3), "cotangent", "inputs", "a tuple of 3"),
        ([1], "cotangent", "inputs", "a list of 1"),
        ((), "tangent", "outputs", "a tuple of 0"),
        (1.5, "tangent", "outputs", "one float"),
        (np.zeros(2), "cotangent", "inputs", "one ndarray"),
        ({"x": 1}, "cotangent", "inputs", "one dict"),
    ],
)
def test_a_wrong_number_of_cotangents_or_tangents_is_reported(result, kind, like, got):
    rule = {"cotangent": "gradient", "tangent": "JVP"}[kind]
    message = (
        f"the {rule} rule returned the wrong number of {kind}s.\n  Expected: 2, one for each of op.{like}\n"
        f"  Got:      {got}\n  Return a tuple in the order of op.{like}, with None where there is no dependence."
    )
    with pytest.raises(ContractError, match=exactly(message)):
        rule_values(result, 2, kind, like)


@pytest.mark.parametrize("n_values", [1, 2])
@pytest.mark.parametrize(("kind", "rule", "like"), [("cotangent", "gradient", "inputs"), ("tangent", "JVP", "outputs")])
def test_a_rule_that_returns_none_is_reported(kind, rule, like, n_values):
    message = (
        f"the {rule} rule returned None.\n  Expected: {n_values}, one {kind} for each of op.{like}\n  Got:      None\n"
        f"  Check that the rule has a return statement. If there is no dependence at all, return {(None,) * n_values}."
    )
    with pytest.raises(ContractError, match=exactly(message)):
        rule_values(None, n_values, kind, like)


broadcasting = output_spec("(n),(n)->()")
ROWS = types("float32[1, 2]", "float32[3, 5, 2]", "float32[3, 5]", "float32[3, 5]")


@pytest.mark.parametrize("shape", [(1, 2), (3, 5, 2)])
def test_a_cotangent_of_the_broadcast_shape_is_summed_over_the_loop_dimensions(shape):
    rule = CotangentSpec(broadcasting, broadcasting.signature)
    value = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    first, second = rule.coerce([value, np.ones((3, 5, 2))], ROWS, rule.infer_outputs(ROWS))
    assert (first.dtype, first.shape) == (F4, (1, 2))
    assert np.array_equal(first, value if shape == (1, 2) else value.sum((0, 1))[None])
    assert (second.dtype, second.shape) == (F4, (3, 5, 2))


@properties
@given(data=st.data())
def test_the_sum_over_the_summed_axes_is_the_transpose_of_broadcasting(data):
    shape = data.draw(npst.array_shapes(min_dims=0, max_dims=4, max_side=3))
    primal = [data.draw(st.sampled_from([1, size])) for size in shape[data.draw(st.integers(0, len(shape))) :]]
    axes = summed_axes(shape, tuple(primal))
    ones = np.ones(shape).sum(axes).reshape(primal)
    assert np.array_equal(ones, np.full(primal, np.prod(shape) // np.prod(primal, dtype=int)))
    assert np.broadcast_to(np.zeros(primal), shape).ndim - len(axes) <= len(primal)


@pytest.mark.parametrize(
    ("shape", "primal", "axes"), [((3, 2), (1, 2), (0,)), ((1, 2), (1, 2), ()), ((3, 1), (), (0, 1))]
)
def test_only_what_was_stretched_is_summed(shape, primal, axes):
    assert summed_axes(shape, primal) == axes


WRONG_COTANGENT = (
    "the cotangent of input {number} has the wrong shape.\n  Expected: {expected}\n  Got:      {got}\n  Return each "
    "cotangent in the shape of its input. Broadcast loop dimensions may stay; tfpyop sums over them."
)


@pytest.mark.parametrize(
    ("signature", "number", "shape", "expected"),
    [
        (broadcasting.signature, 0, (2,), "float32[1, 2] or the broadcast shape [3, 5, 2]"),
        (broadcasting.signature, 0, (5, 2), "float32[1, 2] or the broadcast shape [3, 5, 2]"),
        (broadcasting.signature, 1, (3, 5), "float32[3, 5, 2]"),
        (None, 0, (3, 5, 2), "float32[1, 2]"),
        (None, 0, (), "float32[1, 2]"),
    ],
)
def test_a_cotangent_of_another_shape_is_reported(signature, number, shape, expected):
    rule = CotangentSpec(broadcasting, signature)
    values = [np.zeros((1, 2), F4), np.zeros((3, 5, 2), F4)]
    values[number] = np.zeros(shape)
    message = WRONG_COTANGENT.format(number=number, expected=expected, got=ArraySpec(F8, shape))
    with pytest.raises(ContractError, match=exactly(message)):
        rule.coerce(values, ROWS, rule.infer_outputs(ROWS))


def test_a_cotangent_is_numbered_by_its_input():
    rule = CotangentSpec(output_spec("(),()->()"), None)
    inputs = types("int32[]", "float32[2]", "float32[2]", "float32[2]")
    message = WRONG_COTANGENT.format(number=1, expected="float32[2]", got="float64[3]")
    with pytest.raises(ContractError, match=exactly(message)):
        rule.coerce([np.zeros(3)], inputs, rule.infer_outputs(inputs))


one = output_spec("()->()")
BAD_VECTORS = {
    "complex": (
        np.array([1j, 2]),
        "has the wrong dtype.\n  Expected: float32[2]\n  Got:      complex128[2]\n  If the {what} is real, return the "
        "real part: np.real(c) if np.isrealobj({place}) else c.",
    ),
    "text": (["a", "b"], "has the wrong dtype.\n  Expected: float32[2]\n  Got:      string[2]\n  Return numbers."),
    "too large": (
        [1, 1e300],
        "has a finite value outside the range of float32.\n  Expected: float32[2]\n  Got:      float64[2] with 1e+300"
        "\n  Scale the values, or use float64 for tensors and dtype=.",
    ),
    "masked": (
        np.ma.array([1.0, 2.0], mask=[0, 1]),
        "is a masked array, but tensors have no mask.\n  Use .filled(...) first.",
    ),
    "ragged": (
        [[1], [1, 2]],
        "is a nested list with rows of different lengths, which cannot become an array.\n  Pad the rows, or pass "
        "each row as a separate array.",
    ),
}


@pytest.mark.parametrize(("value", "problem"), BAD_VECTORS.values(), ids=BAD_VECTORS)
@pytest.mark.parametrize(
    ("rule", "what"),
    [(CotangentSpec(one, one.signature), "the cotangent of input 0"), (TangentSpec(one), "tangent 0")],
)
def test_a_cotangent_or_tangent_of_another_kind_is_reported(rule, what, value, problem):
    inputs = types(*["float32[2]"] * 3)
    place = "op.inputs[0]" if rule.vector == "cotangent" else "op.outputs[0]"
    problem = problem.replace("{what}", place[3:-4]).replace("{place}", place)
    with pytest.raises(CoercionError, match=exactly(f"{what} {problem}")):
        rule.coerce([value], inputs, rule.infer_outputs(inputs))


@pytest.mark.parametrize(
    ("signature", "primals", "shapes"),
    [
        ("(n),(n)->()", [(1, 2), (3, 5, 2)], [(3, 5, 2), (3, 5, 2)]),
        ("(),(n)->()", [(), (5, 2)], [(5,), (5, 2)]),
        ("(),()->()", [None, (2,)], [None, None]),
        ("(),()->()", [(None,), (2,)], [(2,), (2,)]),
        (None, [(1, 2), None], [(1, 2), None]),
    ],
)
def test_loop_dimensions_are_broadcast(signature, primals, shapes):
    signature = signature and Signature.parse(signature)
    assert list(broadcast_shapes_of(signature, primals)) == shapes


@pytest.mark.parametrize(
    ("shape", "promised", "expected"),
    [
        ((2, 3), (2, 3), True),
        ((2, 3), (2, None), True),
        ((2, None), (2, 3), True),
        ((2, 3), None, True),
        ((), (), True),
        ((2, 3), (3, 2), False),
        ((2, 3), (2,), False),
        ((2,), (None, None), False),
        ((1,), (2,), False),
    ],
)
def test_shapes_are_compatible_as_far_as_they_are_known(shape, promised, expected):
    assert is_compatible(shape, promised) is expected


# -- what the ops of JVP rules promise

FORWARD = types("float32[5, 2]", "int32[]", "float32[5, 2]", "int32[5]", "float64[5, 2]", "float32[5, 2]", "int32[]")
"""Inputs, outputs, residual and tangents of `kept`."""


def test_a_jvp_rule_promises_tangents_like_the_differentiable_outputs():
    rule = TangentSpec(kept)
    assert shown(rule.infer_outputs(FORWARD)) == ["float32[5, 2]"]
    assert rule.n_outputs(dtypes_of(FORWARD)) == 1
    assert rule.residual_names == ()
    rule = TangentSpec(output_spec("()->(),(),()", dtype=(None, "i4", "c8")))
    inputs = types("float32[3]", "float32[3]", "int32[3]", "complex64[3]", "float32[3]")
    assert shown(rule.infer_outputs(inputs)) == ["float32[3]", "complex64[3]"]


def test_a_variadic_op_takes_a_tangent_for_each_input():
    rule = TangentSpec(variadic)
    inputs = types("float32[3]", "int32[]", "float32[]", "float32[7]", "float32[3]", "int32[]", "float32[]")
    parts = rule.split(inputs, dtypes_of(inputs))
    assert (shown(parts.inputs), shown(parts.outputs)) == (shown(inputs[:3]), ["float32[7]"])
    assert shown(rule.infer_outputs(inputs)) == ["float32[7]"]


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_what_does_not_belong_to_the_primals_of_a_jvp_rule_is_reported(number):
    inputs = list(FORWARD)
    inputs[number] = ArraySpec(inputs[number].dtype, (4, 2))
    with pytest.raises(ContractError, match=f"^input {number} of the op of a derivative rule does not match the prim"):
        TangentSpec(kept).infer_outputs(inputs)


@pytest.mark.parametrize("result", [(1, None), [1, "what is of an integer is ignored"]])
def test_a_jvp_rule_returns_one_tangent_for_each_output(result):
    assert TangentSpec(kept).unpack(result, FORWARD) == [1]


def test_a_jvp_rule_that_leaves_out_an_integer_output_is_reported():
    with pytest.raises(ContractError, match=r"the JVP rule returned the wrong number of tangents.\n  Expected: 2, one"):
        TangentSpec(kept).unpack(np.zeros((5, 2)), FORWARD)


@pytest.mark.parametrize(
    ("dtype", "number", "tangents"),
    [
        ((None, None), 0, [np.zeros(3), np.zeros(2)]),
        ((None, None), 1, [np.zeros(2), 0]),
        (("i4", None), 1, [np.zeros(())]),
    ],
)
def test_a_tangent_of_another_shape_is_reported_by_the_number_of_its_output(dtype, number, tangents):
    rule = TangentSpec(output_spec("()->(),()", dtype=dtype))
    first = "float32[2]" if dtype[0] is None else "int32[2]"
    inputs = types("float32[2]", first, "float32[2]", "float32[2]")
    with pytest.raises(ContractError, match=rf"^tangent {number} has the wrong shape.\n  Expected: float32\[2\]\n"):
        rule.coerce(tangents, inputs, rule.infer_outputs(inputs))


def test_tangents_get_the_dtypes_of_the_outputs():
    rule = TangentSpec(output_spec("()->(),()", dtype=("f8", "c8")))
    inputs = types("float32[2]", "float64[2]", "complex64[2]", "float32[2]")
    found = rule.coerce([[1, 2], np.float32([1, 2])], inputs, rule.infer_outputs(inputs))
    assert shown(map(ArraySpec.of, found)) == ["float64[2]", "complex64[2]"]


# -- outputs like the inputs


def test_outputs_may_be_like_the_first_inputs():
    same, inputs = SameAsInputsSpec(2), types("float32[2]", "int32[]", "float32[7]")
    assert same.n_outputs(dtypes_of(inputs)) == 2
    assert shown(same.infer_outputs(inputs)) == ["float32[2]", "int32[]"]
    assert list(same.unpack((1, 2), inputs)) == [1, 2]
    found = same.coerce([[1, 2], 3], inputs, same.infer_outputs(inputs))
    assert shown(map(ArraySpec.of, found)) == ["float32[2]", "int32[]"]
