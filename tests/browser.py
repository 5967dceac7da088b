"""Headless Chromium over file://, with a record of the browser's errors and of the network requests of a page."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 300  # seconds that anything may take on a loaded machine
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",  # WebGL without a graphics card
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a new profile; the test is skipped if Chromium is not installed."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=1000 * PATIENCE)
        yield browser
        browser.close()


class Witness:
    """Opens a file; `complaints` lists errors of its console and scripts, `requests` what it requests besides the file."""

    def __init__(self, browser: Browser, file: Path, width: int = 1280, height: int = 900, **emulated):
        self.context = browser.new_context(viewport={"width": width, "height": height}, **emulated)
        self.context.set_default_timeout(1000 * PATIENCE)
        self.page: Page = self.context.new_page()
        self.complaints, self.requests, self.address = [], [], file.resolve().as_uri()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.goto(self.address)

    def _heard(self, message) -> None:
        # reading pixels for a screenshot stalls the software renderer, which says so
        if message.type in ("error", "warning") and "GPU stall due to ReadPixels" not in message.text:
            self.complaints.append(message.text)

    def _asked(self, url: str) -> None:
        if not url.startswith(("data:", "blob:")) and url.split("#")[0] != self.address:
            self.requests.append(url)

    def __enter__(self) -> "Witness":
        return self

    def __exit__(self, *problem) -> None:
        self.context.close()
