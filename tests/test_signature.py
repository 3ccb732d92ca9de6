import re
from contextlib import nullcontext

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.texts import exactly
from tfpyop._spec.signature import InputDimension, Signature, broadcast_shapes
from tfpyop.errors import ContractError, SignatureError

EXAMPLE = 'Write the signature as in NumPy, for example "(m,k),(k,n)->(m,n)" or "(),()->()".'
UNSOLVED = (
    "cannot solve signature {!r} for {!r} in the input size {!r}.\n"
    "  Use a name, a number, or arithmetic with one name, such as n+1 or 2*n. For arithmetic with several names, other "
    "inputs must have these names as sizes."
)
TOO_FEW = "has too few dimensions for {}.\n  Expected:"
MISFIT = "does not fit {}.\n  Expected:"
FREE_NAME = "Use names from the inputs. For a size that is known only at run time, use a single new name."

GUFUNCS = [np.matmul, np.add, np.linalg._umath_linalg.solve, np.linalg._umath_linalg.det]
TEXTS = ["(),()->()", "(n)->()", "(n),(n)->()", "(m,k),(k,n)->(m,n)", "(3),(3)->(3)", "(n?,k),(k,m?)->(n?,m?)"]
properties = settings(deadline=None)


def output_shapes(signature, *shapes):
    signature = Signature.parse(signature) if isinstance(signature, str) else signature
    return list(signature.output_shapes(signature.bind(shapes)))


def dimensions(side):
    return [[dimension.text + "?" * dimension.optional for dimension in core] for core in side]


@pytest.mark.parametrize(
    ("text", "inputs", "outputs"),
    [
        ("()->()", [[]], [[]]),
        ("->()", [], [[]]),
        ("(3),(n,4)->(n)", [["3"], ["n", "4"]], [["n"]]),
        ("(n?,k),(k,m?)->(n?,m?)", [["n?", "k"], ["k", "m?"]], [["n?", "m?"]]),
        ("(n)->(((n+1)//2)*2,k)", [["n"]], [["((n+1)//2)*2", "k"]]),
        ("\t( row_1 ,2 ) , ( ) -> ( row_1 // 2 + 1 ) ", [["row_1", "2"], []], [["row_1//2+1"]]),
    ],
)
def test_a_signature_is_read_into_core_dimensions(text, inputs, outputs):
    signature = Signature.parse(text)
    assert signature.text == text
    assert dimensions(signature.inputs) == inputs
    assert dimensions(signature.outputs) == outputs


def test_a_text_is_read_once():
    assert Signature.parse("(n)->(n)") is Signature.parse("(n)->(n)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(n)->", f"signature '(n)->' has no output.\n  {EXAMPLE}"),
        ("(n+m)->(n)", UNSOLVED.format("(n+m)->(n)", "m", "n+m")),
        ("(n),(n+m)->(n)", UNSOLVED.format("(n),(n+m)->(n)", "m", "n+m")),
        ("(n//2)->(n)", UNSOLVED.format("(n//2)->(n)", "n", "n//2")),
        ("(n*n)->(n)", UNSOLVED.format("(n*n)->(n)", "n", "n*n")),
        ("(3-n)->(n)", UNSOLVED.format("(3-n)->(n)", "n", "3-n")),
        ("(n-n)->(n)", UNSOLVED.format("(n-n)->(n)", "n", "n-n")),
        (
            "(n)->(n+z)",
            f"signature '(n)->(n+z)' uses 'z' in the output size 'n+z', but no input has 'z'.\n  {FREE_NAME}",
        ),
        (
            "(n)->(k),(2*k)",
            f"signature '(n)->(k),(2*k)' uses 'k' in the output size '2*k', but no input has 'k'.\n  {FREE_NAME}",
        ),
    ],
)
def test_sizes_that_inputs_do_not_determine_are_reported(text, message):
    with pytest.raises(SignatureError, match=exactly(message)):
        Signature.parse(text)


SOLVED = [
    ("(n+1),(n)->(n)", [(4,), (3,)], [(3,)]),
    ("(n),(n+1)->(n)", [(3,), (4,)], [(3,)]),
    ("(n+1)->(n)", [(4,)], [(3,)]),
    ("(n+1)->(n)", [(1,)], [(0,)]),
    ("(2*n)->(n)", [(6,)], [(3,)]),
    ("(2*(n-1)+3)->(n)", [(7,)], [(3,)]),
    ("(n+n)->(n)", [(6,)], [(3,)]),
    ("(n-1)->(n)", [(0,)], [(1,)]),
    ("(nx+1,ny),(nx,ny+1)->(nx,ny)", [(4, 5), (3, 6)], [(3, 5)]),
    ("(n),(n//2)->(n)", [(7,), (3,)], [(7,)]),
    ("(n),(m),(n*m)->(n+m)", [(2,), (3,), (6,)], [(5,)]),
    ("(n+1),(n)->(n)", [(5, None), (3,)], [(5, 3)]),
    ("(n+1),(n)->(n)", [(5, 4), (None,)], [(5, 3)]),
    ("(n+1),(n)->(n)", [(5, None), None], [None]),
    ("(n+1),(n)->(n)", [(None,), (None,)], [(None,)]),
]


@pytest.mark.parametrize(("text", "shapes", "outputs"), SOLVED)
def test_arithmetic_of_inputs_is_solved(text, shapes, outputs):
    assert output_shapes(text, *shapes) == outputs


@properties
@given(factor=st.integers(1, 5), offset=st.integers(-5, 5), n=st.integers(0, 20))
def test_a_size_is_solved_for_its_name(factor, offset, n):
    text, size = f"({factor}*m-({-offset}+m)+m)->(m)".replace("--", "- -").replace("(-", "(0-"), factor * n + offset
    signature = Signature.parse(text)
    if size >= 0:
        assert output_shapes(signature, (size,)) == [(n,)]
        assert signature.symbolic_shapes([(size,)]) == [(n,)]


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        ("(n+1),(n)->(n)", [(4,), (4,)], "input 0 {} size 5 for dimension 'n+1', because n = 4\n  Got:      [4]"),
        ("(2*n)->(n)", [(5,)], "input 0 {} a size '2*n' with n of 0 or more\n  Got:      [5]"),
        ("(n+1)->(n)", [(0,)], "input 0 {} a size 'n+1' with n of 0 or more\n  Got:      [0]"),
        ("(n),(n//2)->()", [(7,), (4,)], "input 1 {} size 3 for dimension 'n//2', because n = 7\n  Got:      [4]"),
    ],
)
def test_sizes_that_arithmetic_does_not_allow_are_reported(text, shapes, message):
    with pytest.raises(SignatureError, match=exactly(message.format(MISFIT.format(f"signature {text!r}")))):
        output_shapes(text, *shapes)


@pytest.mark.parametrize(
    ("text", "shapes", "sizes"),
    [
        ("(n+1)->(n)", [(5, None)], (5, ("-", InputDimension(0, 1), 1))),
        ("(2*n-1)->(n)", [(None,)], (("//", ("+", InputDimension(0, 0), 1), 2),)),
        ("(n+1),(n)->(n)", [(None,), (3,)], (3,)),
        ("(n+1),(n)->(n)", [(4,), (None,)], (3,)),
    ],
)
def test_solved_sizes_are_expressed_in_sizes_of_inputs(text, shapes, sizes):
    assert Signature.parse(text).symbolic_shapes(shapes) == [sizes]


@pytest.mark.parametrize("function", GUFUNCS, ids=lambda function: function.__name__)
@properties
@given(data=st.data())
def test_output_shapes_are_those_numpy_computes(function, data):
    signature = Signature.from_ufunc(function)
    text = function.signature or signature.text
    shapes = data.draw(npst.mutually_broadcastable_shapes(signature=text, min_side=0, max_side=4)).input_shapes
    result = function(*(np.broadcast_to(np.eye(*shape[-2:]) if len(shape) > 1 else 1.0, shape) for shape in shapes))
    assert output_shapes(signature, *shapes) == [result.shape]


@pytest.mark.parametrize("text", TEXTS)
@properties
@given(data=st.data())
def test_output_shapes_of_partly_unknown_inputs_are_parts_of_the_truth(text, data):
    shapes, truth = data.draw(npst.mutually_broadcastable_shapes(signature=text, min_side=0))
    assert output_shapes(text, *shapes) == [truth]
    hidden = [tuple(data.draw(st.sampled_from([size, None])) for size in shape) for shape in shapes]
    (known,) = output_shapes(text, *hidden)
    assert [true if size is None else size for size, true in zip(known, truth, strict=True)] == list(truth)


@properties
@given(st.lists(npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), max_size=3))
def test_loop_dimensions_broadcast_as_numpy_says_or_fail_as_it_does(shapes):
    try:
        expected = np.broadcast_shapes(*shapes)
    except ValueError:
        with pytest.raises(ValueError, match=re.escape(str(shapes))):
            broadcast_shapes(shapes)
    else:
        assert broadcast_shapes(shapes) == expected


@pytest.mark.parametrize(
    ("text", "shapes", "outputs"),
    [
        ("(),()->()", [None, (3,)], [None]),
        ("(),()->()", [(None, 3), (2, 1)], [(2, 3)]),
        ("(),()->()", [(None,), (1,)], [(None,)]),
        ("(),()->()", [(None, 1), (0,)], [(None, 0)]),
        ("(n),(n),(n)->(n)", [(None,), (3,), (None,)], [(3,)]),
        ("(n)->(n+1),(2)", [(5, None)], [(5, None), (5, 2)]),
        ("(3)->(3)", [(7, None)], [(7, 3)]),
        ("(n)->(k),(n)", [(5, 2)], [(5, None), (5, 2)]),
        ("(n?,k),(k,m?)->(n?,m?)", [(None,), (None, None)], [(None,)]),
        ("->(3),()", [], [(3,), ()]),
    ],
)
def test_shapes_are_inferred_as_far_as_they_are_known(text, shapes, outputs):
    assert output_shapes(text, *shapes) == outputs


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("(n),(m)->(n+m-1)", np.convolve),
        ("(n),(m)->(n//2+1)", lambda x, y: np.fft.rfft(x)),
        ("(n),(m)->(2*(n-1))", lambda x, y: np.repeat(x[1:], 2)),
        ("(n),(m)->(n-1,(m+1)//2)", lambda x, y: np.outer(np.diff(x), y[::2])),
    ],
)
@properties
@given(n=st.integers(1, 9), m=st.integers(1, 9))
def test_output_arithmetic_gives_the_sizes_of_real_functions(text, function, n, m):
    assert output_shapes(text, (n,), (m,)) == [function(np.ones(n), np.ones(m)).shape]


@properties
@given(st.lists(st.tuples(st.sampled_from("+-*"), st.sampled_from(["n", "m", "3", "(n-m)", "m//2"])), max_size=4))
def test_output_arithmetic_has_the_order_python_has(operations):
    expression = "9999" + "".join(map("".join, operations))
    assert output_shapes(f"(n),(m)->({expression})", (7,), (4,)) == [(eval(expression, {"n": 7, "m": 4}),)]


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        (
            "(n),(m)->()",
            [(3,)],
            "the call has the wrong number of inputs.\n  Expected: 2, from {}\n  Got:      1",
        ),
        ("(m,k)->()", [(3,)], f"input 0 {TOO_FEW} at least 2: (m, k)\n  Got:      [3]"),
        ("(n?,k)->()", [()], f"input 0 {TOO_FEW} at least 1: (k)\n  Got:      []"),
        (
            "(n),(n)->()",
            [(3,), (2, 1)],
            f"input 1 {MISFIT} size 3 for dimension 'n', as in input 0 of shape [3]\n  Got:      [2, 1]",
        ),
        ("(n,n)->()", [(2, 3)], f"input 0 {MISFIT} size 2 for dimension 'n'\n  Got:      [2, 3]"),
        ("(3)->()", [(2,)], f"input 0 {MISFIT} core dimensions (3)\n  Got:      [2]"),
        (
            "(n),(n)->()",
            [(2, 5, 3), (4, None, 3)],
            "the loop dimensions of the inputs do not broadcast under {}.\n  Got:      [2, 5, 3], [4, ?, 3]\n"
            "  Pass inputs whose loop dimensions (the dimensions before the core dimensions) are equal or 1, as in "
            "NumPy broadcasting.",
        ),
        (
            "(n),(m)->(n-m)",
            [(3,), (4,)],
            "output dimension 'n-m' of {} is -1 for m = 4, n = 3.\n"
            "  Pass inputs for which it is 0 or more, or correct the signature.",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_reported(text, shapes, message):
    with pytest.raises(SignatureError, match=exactly(message.format(f"signature {text!r}"))):
        output_shapes(text, *shapes)


def test_a_size_that_is_too_large_is_reported():
    message = (
        "output dimension 'n*n*n' of signature '(n)->(n*n*n)' is 1000000000000000000000 for n = 10000000.\n"
        "  Pass inputs for which it is below 2**63, or correct the signature."
    )
    with pytest.raises(SignatureError, match=exactly(message)):
        output_shapes("(n)->(n*n*n)", (10**7,))


def test_run_time_names_are_the_output_names_no_input_has():
    assert Signature.parse("(n)->(k),(n,j),(n+1)").run_time_names == {"k", "j"}


@properties
@given(first=st.integers(0, 3), second=st.integers(0, 3))
def test_outputs_that_share_a_run_time_name_are_held_to_one_size(first, second):
    signature = Signature.parse("(n)->(k),(n,k),(j)")
    message = (
        f"the size 'k' of output 1 differs from its size in an earlier output.\n  Expected: k = {first}\n  Got:      "
        f"k = {second}\n"
        "  Signature '(n)->(k),(n,k),(j)' declares these sizes as equal. If they differ, use two names."
    )
    with nullcontext() if first == second else pytest.raises(ContractError, match=exactly(message)):
        signature.check_run_time_sizes([(5, first), (5, 3, second), (5, 9)], signature.bind([(5, 3)]))


OPTIONAL = [
    ("(n?,k),(k,m?)->(n?,m?)", [(2, 3), (3, 4)], [(2, 4)]),
    ("(n?,k),(k,m?)->(n?,m?)", [(3,), (3, 4)], [(4,)]),
    ("(n?,k),(k,m?)->(n?,m?)", [(2, 3), (3,)], [(2,)]),
    ("(n?,k),(k,m?)->(n?,m?)", [(3,), (3,)], [()]),
    ("(n?,k),(k,m?)->(n?,m?)", [(5, 2, 3), (3,)], [(5, 2)]),
    ("(n?,k),(k,m?)->(n?,m?)", [(3,), (6, 5, 3, 4)], [(6, 5, 4)]),
    ("(n?,k),(k,n?)->(n?)", [(3,), (5, 3)], [(5,)]),  # missing in one input, and so a loop dimension of the other
    ("(n?),(n?,k)->(n?,k)", [(), (5, 3)], [(5, 3)]),
    ("(k,n?),(k,n?)->(k)", [(3, 2), (2,)], [(3, 2)]),
    ("(n?)->(n?,2)", [(None,)], [(None, 2)]),
]


@pytest.mark.parametrize(("text", "shapes", "outputs"), OPTIONAL)
def test_an_optional_dimension_that_one_input_lacks_is_missing_everywhere(text, shapes, outputs):
    assert output_shapes(text, *shapes) == outputs


@pytest.mark.parametrize(
    ("text", "shapes", "outputs"),
    [("(a?,b?)->(a?,b?)", [(3,)], [(3,)]), ("(a?,b?),(b?)->(a?),(b?)", [(3,), (3,)], [(), (3,)])],
)
def test_optional_dimensions_are_missing_one_by_one_from_the_left(text, shapes, outputs):
    signature = Signature.parse(text)
    assert signature.bind(shapes).missing == {"a"}
    assert output_shapes(signature, *shapes) == outputs


@pytest.mark.parametrize(
    ("text", "shapes", "ranks"),
    [
        ("(),()->()", [(2, 3), ()], [0, 0]),
        ("(m,k),(k)->(m)", [(5, 2, 3), (3,)], [2, 1]),
        ("(m,k),(k)->(m)", [None, (None,)], [2, 1]),
        ("(n?,k),(k,m?)->(n?,m?)", [(3,), (4, 3, 2)], [1, 2]),
        ("(n?,k),(k,m?)->(n?,m?)", [(2, 3), (3,)], [2, 1]),
    ],
)
def test_core_ranks_count_the_core_dimensions_that_are_there(text, shapes, ranks):
    assert Signature.parse(text).core_ranks(shapes) == ranks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("()->()", "(),(),()->"),
        ("(m,k),(k)->(m)", "(m,k),(k),(m),(m,k),(k)->"),
        ("(n)->(n+1),(k)", "(n),(n+1),(k),(n)->"),
        ("(n?,3)->(n?)", "(n?,3),(n?),(n?,3)->"),
    ],
)
def test_further_inputs_come_behind_and_outputs_go(text, expected):
    signature = Signature.parse(text)
    longer = signature.extended(signature.outputs, signature.inputs)
    assert longer.text == expected
    assert longer.inputs == signature.inputs + signature.outputs + signature.inputs
    assert (longer.outputs, longer.run_time_names) == ((), frozenset())


@pytest.mark.parametrize(
    ("text", "shapes", "loop"),
    [
        ("(n),(m)->(n+m-1)", [(3,), (5, 2), (5, 4), (4,)], (5,)),
        ("(n),()->(k)", [(3,), (), (7,), (2, 7)], (2,)),
        ("(n)->(n//2),()", [(None,), (4,), (), (None,), ()], ()),
        ("(m,k),(k,n)->(m,n)", [(2, None), (None, 3), (2, 3), None], None),
    ],
)
def test_further_inputs_may_have_computed_and_run_time_sizes(text, shapes, loop):
    signature = Signature.parse(text)
    assert signature.extended(signature.outputs, signature.outputs).bind(shapes).loop == loop


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        (
            "(n)->(n+1)",
            [(3,), (4,), (3,)],
            "input 2 {} size 4 for dimension 'n+1', as in input 1 of shape [4]\n  Got:      [3]",
        ),
        (
            "(n)->(k)",
            [(3,), (2,), (5,)],
            "input 2 {} size 2 for dimension 'k', as in input 1 of shape [2]\n  Got:      [5]",
        ),
    ],
)
def test_further_inputs_are_held_to_computed_and_run_time_sizes(text, shapes, message):
    signature = Signature.parse(text)
    longer = signature.extended(signature.outputs, signature.outputs)
    message = message.format(MISFIT.format(f"signature {longer.text!r}"))
    with pytest.raises(SignatureError, match=exactly(message)):
        longer.bind(shapes)


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (["(n,n)"], "(n,n),(n)->(n),(n,n)"),
        (["()", "(n+1,2)", "(j)"], "(n,n),(n)->(n),(),(n+1,2),(j)"),
    ],
)
def test_further_outputs_come_behind(cores, expected):
    signature = Signature.parse("(n,n),(n)->(n)")
    whole, parsed = signature.with_outputs(cores), Signature.parse(expected)
    assert (whole.inputs, whole.outputs, whole.run_time_names) == (parsed.inputs, parsed.outputs, parsed.run_time_names)
    assert whole.text == "(n,n),(n)->(n)"  # as the user wrote it
    assert signature.with_outputs([]) is signature


def test_a_further_output_that_cannot_be_read_is_reported():
    with pytest.raises(SignatureError, match=r"^cannot parse signature '\(n\)->\(n\),n' at position 10\."):
        Signature.parse("(n)->(n)").with_outputs(["n"])


@pytest.mark.parametrize(
    ("function", "text"),
    [(np.sin, "()->()"), (np.divmod, "(),()->(),()"), (np.matmul, "(n?,k),(k,m?)->(n?,m?)")],
)
def test_a_ufunc_brings_its_signature(function, text):
    assert Signature.from_ufunc(function) is Signature.parse(text)


@pytest.mark.parametrize(("text", "expected"), [("(),()->()", True), ("(n)->()", False), ("()->(3)", False)])
def test_a_signature_without_core_dimensions_is_elementwise(text, expected):
    assert Signature.parse(text).is_elementwise is expected
