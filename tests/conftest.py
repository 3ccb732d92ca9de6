import os
import shutil

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
