"""The page of errors holds what the code raises: every text is found where an error is made."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from tfpyop.errors import TfpyopError

DOCS = Path(__file__).parent.parent / "docs"
CODE = """
EXAMPLE = "For example 2."


def check(value, what, *, advise=to_shift):
    if value is None:
        raise ContractError(f"{what} is None.", expected="a " + "number")
    if value == 0:
        raise ContractError("it is zero.", remedy=EXAMPLE)
    if value == 1:
        raise ContractError("it is one.", remedy=advise(value))
    if value < 0:
        problem, remedy = "it is negative.", "Take abs(x)."
    else:
        problem, remedy = f"it is {value!r}.", None
    raise ContractError(problem, remedy="Shift it." if value > 5 else "Scale it.")


def to_shift(value):
    if value:
        return "Shift it."
    remedy: str = "Scale it."
    remedy += " Twice."
    return remedy


def by_far(value):
    return f"Shift it by {value}."


check(3, "x")
check(3, "x", advise=by_far)


def refuse(problem, *, remedy):
    return WorkerError(problem, remedy=remedy)


refuse("a worker ended.", remedy="Start " + str(1) + " again.")
"""


@pytest.fixture(scope="module")
def index():
    spec = importlib.util.spec_from_file_location("error_index", DOCS / "error_index.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entries_of(index, kind, code=CODE):
    return [(entry.problem, entry.remedies) for entry in index.Errors([ast.parse(code)]).entries(kind)]


def test_every_kind_of_error_has_its_place_on_the_page(index):
    assert set(index.MARK.findall((DOCS / "errors.md").read_text())) == set(index.KINDS)
    assert set(index.KINDS) == {kind.__name__ for kind in TfpyopError.__subclasses__()} - {"CheckError", "ChecksError"}


def test_texts_are_read_with_marks_for_what_depends_on_the_case(index):
    assert ("… is None.", ("Expected: a number",)) in entries_of(index, "ContractError")
    assert ("a worker ended.", ("Start … again.",)) in entries_of(index, "WorkerError")


def test_a_choice_of_texts_gives_all_of_them(index):
    problems = [problem for problem, _ in entries_of(index, "ContractError")]
    assert problems == ["it is negative.", "it is one.", "it is zero.", "it is ….", "… is None."]


def test_remedies_are_given_one_for_each_text(index):
    assert ("it is negative.", ("Shift it.",)) in entries_of(index, "ContractError")


def test_remedies_are_read_from_constants_and_from_what_functions_return(index):
    assert ("it is zero.", ("For example 2.",)) in entries_of(index, "ContractError")
    advice = ("Scale it.", "Scale it. Twice.", "Shift it by ….", "Shift it.")
    assert ("it is one.", advice) in entries_of(index, "ContractError")


def test_every_error_of_the_package_has_a_remedy_or_says_what_was_expected(index):
    entries = [entry for kind in index.KINDS for entry in index.package().entries(kind)]
    assert [entry.problem for entry in entries if not entry.remedies] == []


def test_an_error_whose_text_cannot_be_read_is_not_left_out(index):
    with pytest.raises(ValueError, match=r"line 1: the text of an error cannot be read: GradientError\(say"):
        entries_of(index, "GradientError", "raise GradientError(say(1))")


@pytest.mark.parametrize(
    ("kind", "problem", "remedy"),
    [
        ("SignatureError", "signature … has no output.", "Write the signature as in NumPy"),
        ("ContractError", "the cotangent of input … has the wrong shape.", "Return each cotangent"),
        (
            "GradientError",
            "cannot compute the gradient: the op has no gradient rule.",
            "Attach a rule with @op.gradient",
        ),
        ("UnsupportedError", "XLA has no arrays of strings.", "Call the op outside functions"),
        (
            "UnsupportedError",
            "the op is defined in a script, which other processes do not import.",
            "Move the op to a module.",
        ),
        ("WorkerError", "an example exceeded the timeout.", "Pass a longer timeout="),
    ],
)
def test_errors_of_the_package_are_found(index, kind, problem, remedy):
    [entry] = [entry for entry in index.package().entries(kind) if entry.problem == problem]
    assert any(text.startswith(remedy) for text in entry.remedies)


def test_the_page_lists_each_error_once(index):
    page = index.filled((DOCS / "errors.md").read_text())
    for kind in index.KINDS:
        section = re.split(r"^## ", page.partition(f"## {kind}\n")[2], flags=re.MULTILINE)[0]
        assert re.findall(r"^- `(.*)`$", section, re.MULTILINE) == [
            entry.problem for entry in index.package().entries(kind)
        ]
        assert len(index.package().entries(kind)) > 3


def test_remedies_keep_their_text_in_markdown(index):
    entry = index.ErrorEntry("it is wrong.", ("Write x_grad**2 <here> or [there].",))
    assert (
        index.as_markdown(entry)
        == r"""- `it is wrong.`

  Write x\_grad\*\*2 \<here\> or \[there\]."""
    )
