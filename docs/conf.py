"""How Sphinx makes a site of these pages: `sphinx-build -W -n --keep-going -b html docs docs/_build`."""

import re
import sys
from pathlib import Path
from typing import Any

import tfpyop

sys.path.insert(0, str(Path(__file__).parent))
import error_index

project = "tfpyop"
version = release = tfpyop.__version__
html_title = f"tfpyop {version}"
exclude_patterns = ["_build"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_heading_anchors = 3
smartquotes = False  # messages of errors are quoted as they are

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options: dict[str, Any] = {"top_of_page_buttons": []}
pygments_style = "friendly"
pygments_dark_style = "monokai"
copybutton_prompt_text = ">>> |... "
copybutton_prompt_is_regexp = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings tell dtypes and shapes in words, which types cannot
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = ["Source"]
nitpick_ignore = [
    *(("py:exc", name) for name in ("AttributeError", "ImportError", "TypeError", "ValueError")),  # Python's own
    ("py:class", "collections.abc.Mapping"),
    ("py:class", "tfpyop._spec.rule_context.NamedValues"),  # read by name alone, as RuleContext says
]


def fill_errors(app: Any, page: str, source: list[str]) -> None:
    """Put the index of errors into its page."""
    source[0] = error_index.filled(source[0])


def double_backticks(app: Any, kind: str, name: str, documented: Any, options: Any, lines: list[str]) -> None:
    """Docstrings write code in single backticks, as Markdown does; reStructuredText wants two."""
    lines[:] = [re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line) for line in lines]


def name_classes(
    app: Any, kind: str, name: str, documented: Any, options: Any, call: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Defaults that are classes are shown by their name: `float32`, not `<class 'numpy.float32'>`."""
    return call and re.sub(r"<class '(\w+\.)*(\w+)'>", r"\2", call), returned


def setup(app: Any) -> None:
    """Connect these to Sphinx."""
    app.connect("autodoc-process-signature", name_classes)
    app.connect("source-read", fill_errors)
    app.connect("autodoc-process-docstring", double_backticks, priority=400)  # before napoleon takes colons in code
