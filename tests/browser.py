"""A real browser for the tests of pages: Debian's Chromium, headless, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),  # WebGL without a GPU
)

PATIENCE_MS = 180_000
"""How long a step may take before the test fails; nothing waits so long but on a machine that does other work."""


@contextmanager
def browser() -> Iterator:
    """Yields a browser; skips the test where Chromium is not installed."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("Debian's package chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=executable, headless=True, args=list(ARGUMENTS), timeout=PATIENCE_MS
        )
        try:
            yield running
        finally:
            running.close()


class Tab:
    """A page that notes what it should not do.

    Attributes:
        page: Playwright's page.
        complaints: errors and warnings of the console but for those of the software renderer's speed.
        requests: addresses that were asked for, without data in the address itself.
    """

    def __init__(self, running, path: Path, phone: bool = False, dark: bool = False, fragment: str = ""):
        size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 800}
        self.context = running.new_context(
            viewport=size, has_touch=phone, is_mobile=phone, color_scheme="dark" if dark else "light"
        )
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._ask(request.url))
        self.page.goto(path.resolve().as_uri() + fragment)

    def _hear(self, message) -> None:
        if message.type in ("error", "warning") and "GPU stall" not in message.text:
            self.complaints.append(message.text)

    def _ask(self, url: str) -> None:
        if not url.startswith(("data:", "blob:")):
            self.requests.append(url)

    def open_face(self, words: str) -> None:
        """Searches, opens the first tile and waits for the face with its shadow."""
        self.page.fill("input[type=search]", words)
        self.page.click(".tile:not([hidden])")
        self.page.wait_for_selector(".viewer[data-state=complete]")

    def tap_through(self) -> int:
        """Taps each tab of a phone's page; returns how many there are.

        Each lies in the window as a whole, and what it shows is not wider, but for rows of chips, which scroll.
        """
        tabs = self.page.locator(".top nav button")
        for n in range(tabs.count()):
            tabs.nth(n).tap()
            self.drawn()
            assert self.page.evaluate("document.documentElement.scrollWidth") == self.page.evaluate("innerWidth")
            for box in tabs.evaluate_all("all => all.map((b) => b.getBoundingClientRect().toJSON())"):
                assert box["left"] >= 0 and box["right"] <= 390 and box["height"] >= 32
            beyond = self.page.evaluate(
                """() => [...document.querySelectorAll("main *")]
                    .filter((e) => e.checkVisibility() && !e.closest(".chips"))
                    .filter((e) => e.getBoundingClientRect().right > innerWidth)
                    .map((e) => [e.tagName, e.textContent])"""
            )
            assert beyond == []
        return tabs.count()

    def drawn(self) -> None:
        """Waits until everything that was asked for is on the screen: what scrolls or draws does so at a frame."""
        self.page.evaluate(
            """async () => {
                for (let n = 0; n < 3; n++) await new Promise(requestAnimationFrame);
            }"""
        )

    def stage(self) -> bytes:
        """Returns what the viewer's stage shows."""
        self.drawn()
        return self.page.locator(".stage").screenshot()
