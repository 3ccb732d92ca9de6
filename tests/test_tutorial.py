"""The tutorial's files, saved as the page says and run as programs, print what the page shows."""

import os
import re
from pathlib import Path

import pytest

from tests.processes import run_python

PAGE = Path(__file__).parent.parent / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(python|diff|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"# (\w+\.py)(, continued)?\n")
DIFF = re.compile(r"-(.*)\n\+(.*)\n")
PROGRAM = "train.py"


def edited(files, kind, block):
    """The texts of all files after the reader has done what a block says."""
    if kind == "diff":
        old, new = DIFF.fullmatch(block).groups()
        (name,) = [name for name, text in files.items() if text.count(old) == 1]
        return files | {name: files[name].replace(old, new)}
    name, is_continued = PLACE.match(block).groups()
    return files | {name: f"{files[name]}\n\n{block}" if is_continued else block}


def stages(page):
    """Files and what the program prints with them: one pair whenever a file other than the program changes."""
    files, printed = {}, []
    for kind, block in BLOCK.findall(page):
        if kind == "text":
            printed.append(block)
            continue
        after = edited(files, kind, block)
        if printed and after.get(PROGRAM) == files.get(PROGRAM):
            yield files, printed
            printed = []
        files = after
    yield files, printed


def pattern(printed):
    """Matches the shown texts in this order, with anything between them; `...` stands for any text of one line."""
    texts = [re.escape(text.rstrip("\n")).replace(re.escape("..."), ".*") for text in printed]
    return re.compile("^" + "$(?s:.*)^".join(texts) + "$", re.MULTILINE)


def run_program(directory, files):
    """Save the files and run the program; returns its status and what it printed."""
    directory.mkdir()
    for name, text in files.items():
        (directory / name).write_text(text)
    process = run_python(PROGRAM, cwd=directory, env={**os.environ, "PYTHONPATH": str(PAGE.parent.parent)}, timeout=200)
    return process.returncode, process.stdout + process.stderr


@pytest.mark.slow
def test_a_reader_sees_what_the_tutorial_shows(tmp_path):
    statuses = []
    for number, (files, printed) in enumerate(stages(PAGE.read_text())):
        status, output = run_program(tmp_path / str(number), files)
        assert pattern(printed).search(output), output
        statuses.append(status)
    assert statuses == [0, 1, 0]  # no rule, a wrong rule, the right rule


@pytest.mark.parametrize(
    ("shown", "output", "is_match"),
    [
        (["a\n"], "b\na\n", True),
        (["a\n"], "ab\n", False),
        (["a\n", "b\n"], "b\na\n", False),
        (["x ... y\n"], "x 1 2 y\n", True),
        (["x ... y\n"], "x\ny\n", False),
    ],
)
def test_shown_texts_are_compared_line_by_line_and_in_order(shown, output, is_match):
    assert bool(pattern(shown).search(output)) == is_match
