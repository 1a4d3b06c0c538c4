"""A real browser for the tests of the report: Chromium without a window, driven by playwright."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
SIZES = {"desktop": (1400, 900), "phone": (390, 844)}


def launch():
    """A playwright browser, and what ends it. Skips the test where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    installed = next(filter(None, map(shutil.which, NAMES)), None)
    playwright = sync_api.sync_playwright().start()
    try:
        # as root, as in a container, Chromium refuses to start with its sandbox; without a path
        # playwright starts the one that it downloaded
        browser = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
    except sync_api.Error as error:
        playwright.stop()
        if installed:
            raise
        pytest.skip(f"no Chromium here, launch/test_browser.sh brings one ({str(error)[:80]})")
    return browser, playwright


class Opened:
    """A page with what it complained of."""

    def __init__(self, page) -> None:
        self.page = page
        self.problems: list[str] = []
        page.on("console", lambda message: self._say(message.type, message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: self._dialog(dialog))
        page.on("request", lambda request: self._request(request.url))

    def _say(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.problems.append(text)

    def _dialog(self, dialog) -> None:
        self.problems.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "http://127.0.0.1:")):
            self.problems.append(f"a request to {url}")

    def until(self, expression: str, *, timeout_s: float = 20) -> None:
        """Wait until a JavaScript expression is true. (playwright's own waiting evaluates texts, which the page forbids.)"""
        deadline = time.monotonic() + timeout_s
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {expression}"
            time.sleep(0.02)

    def count(self) -> str:
        return self.page.inner_text("#count")

    def screenshot(self, name: str) -> None:
        """Kept where RLCORE_SCREENSHOTS says, for people."""
        folder = os.environ.get("RLCORE_SCREENSHOTS")
        if folder:
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@contextmanager
def opened(browser, address: str | Path, *, size: str = "desktop", scheme: str = "light"):
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme
    )
    page = Opened(context.new_page())
    try:
        page.page.goto(address if isinstance(address, str) else address.resolve().as_uri())
        page.until("drawn.length > 0 && drawn.length === charts")
        yield page
    finally:
        context.close()


@contextmanager
def browser_session() -> Iterator[object]:
    browser, playwright = launch()
    try:
        yield browser
    finally:
        browser.close()
        playwright.stop()
