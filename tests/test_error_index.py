"""The page of errors holds what the code raises: every text is found where an error is made."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from tfpyop.errors import TfpyopError

DOCS = Path(__file__).parent.parent / "docs"
CODE = """
def check(value, what):
    if value is None:
        raise ContractError(f"{what} is None.", got="None")
    if value < 0:
        problem, remedy = "it is negative.", "Take abs(x)."
    else:
        problem, remedy = f"it is {value!r}.", None
    raise ContractError(problem, remedy="Shift it." if value > 5 else "Scale it.")


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
    return sorted((entry.problem, entry.remedies) for entry in index.entries_of([ast.parse(code)], kind))


def test_every_kind_of_error_has_its_place_on_the_page(index):
    assert set(index.MARK.findall((DOCS / "errors.md").read_text())) == set(index.KINDS)
    assert set(index.KINDS) == {kind.__name__ for kind in TfpyopError.__subclasses__()} - {"CheckError", "ChecksError"}


def test_texts_are_read_with_marks_for_what_depends_on_the_case(index):
    assert ("… is None.", ()) in entries_of(index, "ContractError")
    assert ("a worker ended.", ("Start … again.",)) in entries_of(index, "WorkerError")


def test_a_choice_of_texts_gives_all_of_them(index):
    problems = [problem for problem, _ in entries_of(index, "ContractError")]
    assert problems == ["it is negative.", "it is ….", "… is None."]


def test_remedies_are_given_one_for_each_text(index):
    assert ("it is negative.", ("Shift it.",)) in entries_of(index, "ContractError")


def test_an_error_whose_text_cannot_be_read_is_not_left_out(index):
    with pytest.raises(ValueError, match=r"line 1: the text of this GradientError cannot be read: GradientError\(say"):
        entries_of(index, "GradientError", "raise GradientError(say(1))")


@pytest.mark.parametrize(
    ("kind", "problem", "remedy"),
    [
        ("SignatureError", "signature … has no output.", None),
        ("ContractError", "the cotangent of input … has the wrong shape.", "A gradient rule returns cotangents"),
        ("GradientError", "its gradient was asked for, but it has no gradient rule.", "Attach one with @op.gradient"),
        ("UnsupportedError", "XLA has no arrays of ….", "Leave the op outside of functions with jit_compile=True"),
        ("UnsupportedError", "it is defined in a script, which no other process imports.", "Move it into a module."),
        ("WorkerError", "an example took too long.", "Give the pool a longer timeout="),
    ],
)
def test_errors_of_the_package_are_found(index, kind, problem, remedy):
    [entry] = [entry for entry in index.entries(kind) if entry.problem == problem]
    assert remedy is None or any(text.startswith(remedy) for text in entry.remedies)


def test_the_page_lists_each_error_once(index):
    page = index.filled((DOCS / "errors.md").read_text())
    for kind in index.KINDS:
        section = re.split(r"^## ", page.partition(f"## {kind}\n")[2], flags=re.MULTILINE)[0]
        assert re.findall(r"^- `(.*)`$", section, re.MULTILINE) == [entry.problem for entry in index.entries(kind)]
        assert len(index.entries(kind)) > 3


def test_remedies_keep_their_text_in_markdown(index):
    entry = index.Entry("it is wrong.", ("Write x_grad**2 <here> or [there].",))
    assert (
        index.as_markdown(entry)
        == r"""- `it is wrong.`

  Write x\_grad\*\*2 \<here\> or \[there\]."""
    )
