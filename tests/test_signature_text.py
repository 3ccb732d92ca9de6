"""The text of signatures: what NumPy accepts is accepted, and a mistake is marked at its position."""

import re
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tfpyop import differentiable_op
from tfpyop._spec.signature import Signature
from tfpyop.errors import SignatureError

try:
    from numpy._core import _umath_tests
except ImportError:  # numpy 1
    from numpy.core import _umath_tests


def shown(side):
    return [[dimension.text + "?" * dimension.optional for dimension in core] for core in side]


@pytest.mark.parametrize(
    ("text", "inputs", "outputs"),
    [
        ("(in),(in,out)->(out)", [["in"], ["in", "out"]], [["out"]]),
        ("(if),(is)->(True)", [["if"], ["is"]], [["True"]]),
        ("(03),(n,007)->(n)", [["3"], ["n", "7"]], [["n"]]),
        ("(3?),(3?,n)->(n)", [["3?"], ["3?", "n"]], [["n"]]),
        ("\t( a ,2 ) ,( ) ->( ) ", [["a", "2"], []], [[]]),
        (
            "(\N{MICRO SIGN})->(\N{GREEK SMALL LETTER MU}+1)",
            [["\N{GREEK SMALL LETTER MU}"]],
            [["\N{GREEK SMALL LETTER MU}+1"]],
        ),
        ("(n)->(n * (2 + 03))", [["n"]], [["n*(2+3)"]]),
        ("(9223372036854775807)->()", [["9223372036854775807"]], [[]]),
    ],
)
def test_a_text_is_parsed_into_core_dimensions(text, inputs, outputs):
    signature = Signature.parse(text)
    assert (shown(signature.inputs), shown(signature.outputs)) == (inputs, outputs)


NAME, NEXT = "a name or a number", "',' or ')'"
MISTAKES = [  # the mark stands under the first character that is wrong
    ("", 1, "'(' or '->'"),
    ("n->(n)", 1, "'(' or '->'"),
    ("(n)(m)->()", 4, "',' or '->'"),
    ("(n),->()", 5, "'('"),
    ("(n)->( n", 9, NEXT),
    ("(n,)->()", 4, NAME),
    ("(,n)->()", 2, "a name, a number or ')'"),
    ("(n)->(n)->()", 9, "',' or the end of the signature"),
    ("(n)->()\n", 8, "a name, a number or one of -> ( ) , ? + - * //"),
    ("(n)\n->()", 4, "a name, a number or one of -> ( ) , ? + - * //"),
    ("((i))->()", 2, "a name or a number without parentheses"),
    ("(n#)->()", 3, "a name, a number or one of -> ( ) , ? + - * //"),
    ("(0x10)->()", 3, NEXT),
    ("(1_0)->()", 3, NEXT),
    ("(1.5)->()", 3, "a name, a number or one of -> ( ) , ? + - * //"),
    ("(n m)->()", 4, NEXT),
    ("(n ?)->()", 4, NEXT),
    ("(n?\u0301)->()", 4, "a name, a number or one of -> ( ) , ? + - * //"),
    ("(-1)->()", 2, "a name, a number or ')'"),
    ("(n?),(n)->()", 7, "the same mark for all dimensions 'n'; here it is without '?', before it was with it"),
    ("(n),(n?)->()", 6, "the same mark for all dimensions 'n'; here it is with '?', before it was without"),
    ("(n)->(n+1?)", 10, "',' or ')', because only a name or a number can be optional"),
    ("(n)->(n+)", 9, "a name, a number or '('"),
    ("(n)->(n//0)", 10, "a divisor other than zero"),
    ("(n),(m)->(n//m)", 14, "a divisor other than zero"),
    ("(n)->(n/2)", 8, "a name, a number or one of -> ( ) , ? + - * //"),
    ("(n)->(n**2)", 9, "a name, a number or '('"),
    ("(n)->((n+1)", 12, NEXT),
    ("(n)->((n+1", 11, "an operator or ')'"),
    ("(9223372036854775808)->()", 2, "a size of at most 9223372036854775807"),
    (f"({'9' * 5000})->()", 2, "a size of at most 9223372036854775807"),
    (f"(n)->({'+'.join('n' * 2000)})", 136, "at most 64 operators and parentheses in one dimension"),
    (f"(n)->({'(' * 2000}n", 71, "at most 64 operators and parentheses in one dimension"),
    ("(\u00b2)->()", 2, "a name of letters, digits and '_'"),
]


@pytest.mark.parametrize(("text", "position", "expected"), MISTAKES, ids=[text[:20] for text, *_ in MISTAKES])
def test_a_mistake_is_marked_at_its_position(text, position, expected):
    with pytest.raises(SignatureError) as caught:
        Signature.parse(text)
    message = str(caught.value)
    problem, rest = message.split("\n  Expected: ")
    assert problem == f"cannot parse signature {text!r} at position {position}."
    got = re.sub(r"\s", " ", text)
    assert rest == (
        f"{expected}\n  Got:      {got}\n{' ' * (11 + position)}^\n"
        '  Write the signature as in NumPy, for example "(m,k),(k,n)->(m,n)" or "(),()->()".'
    )


def test_the_error_names_the_op_when_a_function_is_decorated():
    with pytest.raises(SignatureError, match=r"^op '.*' \(.*\): cannot parse signature '\(n' at position 3\."):
        differentiable_op(lambda x: x, signature="(n")


def accepted_by_numpy(text):
    """The structure that NumPy reads from a signature, or None."""
    inputs, _, outputs = text.partition("->")
    try:
        _, ranks, names, _, sizes = _umath_tests.test_signature(inputs.count("("), outputs.count("("), text)
    except (ValueError, RuntimeError):
        return None
    return list(ranks), list(names), list(sizes)


TEXTS = st.text(st.sampled_from("(),->?nm_03 \t\n#+"), max_size=24)
CORES = st.lists(
    st.lists(st.sampled_from(["n", "m?", "in", " k", "03", "4 ", "_1", "n?", "m"]), max_size=3), max_size=3
)
WRITTEN = st.builds(
    lambda *sides: "->".join(",".join(f"({','.join(core)})" for core in side) for side in sides), CORES, CORES
)
MUTATED = st.builds(
    lambda text, at, new: text[: at % (len(text) + 1)] + new + text[at % (len(text) + 1) + 1 :],
    WRITTEN,
    st.integers(0, 99),
    st.sampled_from(["", "(", ")", ",", "?", " ", "->", "n", "\n", "#"]),
)


def parsed(text):
    """The signature, or None where the text is refused."""
    try:
        return Signature.parse(text)
    except SignatureError:
        return None


HAS_ZERO = re.compile(r"[(,][ \t]*0+[?]?[ \t]*[,)]")


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, derandomize=True)
@given(TEXTS | WRITTEN | MUTATED)
@example("(3?),(3?,3?),(n)->(9)")
@example("(n)->(n)\n")
def test_what_numpy_accepts_is_accepted_and_nothing_else(text):
    """Apart from sizes of zero and arithmetic, which are our own, and signatures without outputs."""
    read, signature = accepted_by_numpy(text), parsed(text)
    if "(" not in text.partition("->")[2] or HAS_ZERO.search(text):
        return
    if signature is None:
        assert read is None
        return
    dimensions = [dimension for core in (*signature.inputs, *signature.outputs) for dimension in core]
    if any(isinstance(dimension.term, tuple) for dimension in dimensions):
        return
    assert read is not None
    ranks, names, sizes = read
    assert ranks == [len(core) for core in (*signature.inputs, *signature.outputs)]
    texts = [dimension.text for dimension in dimensions]
    order = list(dict.fromkeys(texts))
    assert [order.index(text) for text in texts] == names
    fixed = [dimension.term if isinstance(dimension.term, int) else -1 for dimension in dimensions]
    assert fixed == [sizes[number] for number in names]


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.text(max_size=30) | st.text(st.sampled_from("()n->+*/-,?123 "), max_size=60))
def test_any_text_is_parsed_or_a_signature_error(text):
    signature = parsed(text)
    if signature is not None:
        assert unicodedata.is_normalized("NFKC", "".join(d.text for core in signature.inputs for d in core))
