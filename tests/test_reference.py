"""The reference page is what the docstrings say, and holds every public name."""

import importlib.util
from pathlib import Path

import pytest

import tfpyop.testing

SCRIPT = Path(__file__).parent.parent / "docs" / "build_reference.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("build_reference", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_docstrings_say(script):
    assert script.PAGE.read_text() == script.reference(), "run python docs/build_reference.py"


def test_every_public_name_has_its_entry(script):
    assert sorted(name for names in script.GROUPS.values() for name in names) == sorted(tfpyop.testing.__all__)


def test_sections_become_lists_and_examples_code(script):
    text = "What it is.\n\nArgs:\n  x: One\n    thing.\n\nReturns:\n  Note: all.\n\n>>> x\n1"
    assert list(script.docstring(text)) == [
        *("What it is.", "", "**Args**\n", "- `x`: One", "thing.", ""),
        *("**Returns**\n", "Note: all.", "", "```pycon", ">>> x", "1", "\n```\n", ""),
    ]
