import importlib
import itertools
import os
import shutil
import sys
import textwrap

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported anywhere


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; where `TFPYOP_BROWSER` is `required` it has to be there."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None and os.environ.get("TFPYOP_BROWSER") != "required":
        pytest.skip("Chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a file at a width; it must say nothing on the console, and need no network."""
    tabs = []

    def opened(path, width):
        tab = browser.new_page(viewport={"width": width, "height": 844})
        tabs.append(tab)
        errors, requests = [], []
        tab.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(path.as_uri())
        assert errors == []
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
        return tab

    yield opened
    for tab in tabs:
        tab.close()


_serial = itertools.count(1)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a module where it can be imported, and returns its name."""
    monkeypatch.chdir(tmp_path)  # places in errors are relative to it
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a reload within the same second must read the file
    names = []

    def write(source, name=None):
        names.append(name or f"acme{next(_serial)}")
        (tmp_path / f"{names[-1]}.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)
