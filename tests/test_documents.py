"""The Python blocks of the README and of every page in docs run as they stand, one after the other in one module."""

import linecache
import re
import sys
import textwrap
import traceback
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^( *)```python[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
TUTORIAL = ROOT / "docs" / "tutorial.md"
"""Its blocks are files of their own, which test_tutorial.py runs."""
PAGES = [ROOT / "README.md", *sorted({*(ROOT / "docs").rglob("*.md")} - {TUTORIAL})]
PAGES_WITH_BLOCKS = [page for page in PAGES if BLOCK.search(page.read_text())]


def run(page, monkeypatch):
    """Run the blocks of a page; what they raise becomes an error that begins with the page's name and line."""
    module = ModuleType(f"tests_documents_{page.stem.replace('-', '_').lower()}")
    module.__file__ = str(page)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    text = page.read_text()
    for block in BLOCK.finditer(text):
        lines_above = text.count("\n", 0, block.start(2))
        code = "\n" * lines_above + textwrap.dedent(block[2])  # so that line numbers, and inspect, are right
        lines = code.splitlines(keepends=True)
        monkeypatch.setitem(linecache.cache, str(page), (len(code), None, lines, str(page)))  # the source of functions
        try:
            exec(compile(code, page, "exec"), vars(module))
        except SyntaxError as error:
            raise AssertionError(f"{page}:{error.lineno}: {error}") from error
        except Exception as error:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(page)]
            raise AssertionError(f"{page}:{lines[-1]}: {type(error).__name__}: {error}") from error


SLOW = {"testing"}
"""Pages whose blocks check ops, which takes long."""


# Keras copies weights in a way that numpy 2 is going to forbid
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page.stem in SLOW else ()) for page in PAGES_WITH_BLOCKS],
    ids=[str(page.relative_to(ROOT)) for page in PAGES_WITH_BLOCKS],
)
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(page, monkeypatch)


def test_the_readme_has_a_block_to_run():
    assert ROOT / "README.md" in PAGES_WITH_BLOCKS


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ("x = 1\nassert x == 2", "AssertionError"),
        ("def f():\n    return 1 / 0\n\nf()", "ZeroDivisionError: division by zero"),
        ("import json\njson.loads('{')", "JSONDecodeError"),
        ("x = 1\nx = = 1", "invalid syntax"),
        ("y = earlier\ny = later", "NameError: name 'later' is not defined"),
    ],
)
@pytest.mark.parametrize("indent", ["", "    "])
def test_a_block_that_fails_is_reported_with_page_and_line(block, problem, indent, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(textwrap.indent(f"```python\nearlier = 1\n```\n```python\n{block}\n```\n", indent))
    with pytest.raises(AssertionError, match=rf"page\.md:6: .*{problem}"):
        run(page, monkeypatch)
