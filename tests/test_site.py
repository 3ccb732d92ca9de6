"""The pages are a site without warnings, and their links work in the repository too."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tfpyop
import tfpyop.export
import tfpyop.parallel
import tfpyop.testing

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
NAMES = [str(page.relative_to(DOCS).with_suffix("")) for page in PAGES]
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
PUBLIC = [
    *(f"tfpyop.{name}" for name in tfpyop.__all__ if not name.endswith(("Error", "errors", "__version__"))),
    *(f"tfpyop.errors.{name}" for name in vars(tfpyop.errors) if name.endswith(("Error", "Warning"))),
    *(f"tfpyop.testing.{name}" for name in tfpyop.testing.__all__),
    *(f"tfpyop.export.{name}" for name in tfpyop.export.__all__ if name != "ExportWarning"),
    *(f"tfpyop.parallel.{name}" for name in tfpyop.parallel.__all__),
    *(f"tfpyop.Op.{name}" for name in vars(tfpyop.Op) if not name.startswith("_") and name != "autograph_info__"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("furo")
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", "-b", "html", DOCS, directory]
    process = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    assert process.returncode == 0, process.stdout + process.stderr
    return directory


def anchors(page):
    """The anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_work_in_the_repository(page):
    text = FENCE.sub("", page.read_text())
    for path, anchor in LINK.findall(text):
        if not path.startswith(("http:", "https:")):
            target = page.parent / path if path else page
            assert target.exists(), path
            assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize("name", ["how-it-works", "contributing"])
def test_the_files_that_a_page_names_exist(name):
    named = re.findall(r"`([\w/]+\.py)`", (DOCS / f"{name}.md").read_text())
    assert len(named) > 3
    assert [path for path in named if not ((ROOT / path).exists() or (ROOT / "tfpyop" / path).exists())] == []


def test_the_landing_page_links_to_every_page():
    text = (DOCS / "index.md").read_text()
    linked = {path.removesuffix(".md") for path, _ in LINK.findall(FENCE.sub("", text))}
    assert set(NAMES) - {"index"} <= linked


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_page_is_on_the_site_and_in_its_side_bar(site, name):
    assert (site / f"{name}.html").read_text().count("<h1>") == 1
    assert name == "index" or f'<a class="reference internal" href="{name}.html">' in (site / "index.html").read_text()


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site):
    text = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    assert [name for name in PUBLIC if f'id="{name}"' not in text] == []


@pytest.mark.slow
def test_the_errors_are_on_the_site(site):
    text = re.sub(r"<(?!!)[^>]*>", "", (site / "errors.html").read_text())
    assert "signature … has no output." in text
    assert "Pass a longer timeout= to the pool." in text
    assert "<!-- index of" not in text


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["index", "tutorial", "how-it-works", "speed", "errors", "reference/tfpyop"])
def test_a_page_opens_without_errors_and_does_not_scroll_sideways(open_page, site, name, width):
    tab = open_page(site / f"{name}.html", width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    texts = "document.querySelectorAll('article > section > p, article li, article img')"
    assert tab.evaluate(f"Math.max(...Array.from({texts}, text => text.getBoundingClientRect().right))") <= width
