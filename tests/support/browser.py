"""A page of a report in headless Chromium: what it draws, asks for and complains of."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in _NAMES if (path := shutil.which(name))), None)
"""The shell without windows comes first: a page costs it three quarters of the processor time."""
FRONT = 'article:not([hidden]) [data-figure="front"] .chart'

CHARTS = "[...document.querySelectorAll('.chart')].filter(one => one.offsetWidth)"


class Sheet:
    """One open page."""

    def __init__(self, page: Any, place: Path | str) -> None:
        self.page, self.file = page, Path(place)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda one: self.complaints.append(one.text) if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda one: self.requests.append(one.url))
        page.goto(place if isinstance(place, str) else place.as_uri())
        self.wait(
            "[...document.querySelectorAll('.chart')].every(c => !c.offsetWidth || c.querySelector('canvas, svg'))"
        )

    def ask(self, expression: str, argument: Any = None) -> Any:
        """The value of an expression of JavaScript."""
        return self.page.evaluate(expression, argument)

    def wait(self, expression: str, seconds: float = 20) -> None:
        """Wait until an expression is true. (The page's policy forbids Playwright's own way to wait.)"""
        end = time.monotonic() + seconds
        while not self.ask(expression):
            assert time.monotonic() < end, f"{expression} stays false; {self.complaints}"
            self.page.wait_for_timeout(40)

    def text(self, selector: str) -> str:
        """The text that a reader sees in an element."""
        return str(self.page.locator(selector).first.inner_text())

    def rows(self) -> list[int]:
        """The operating points in the table, in their order."""
        rows = (
            "[...document.querySelectorAll('article:not([hidden]) .points tbody tr')].map(r => Number(r.dataset.index))"
        )
        return list(self.ask(rows))

    def points(self) -> dict[str, Any]:
        """The columns of the operating points of the first study."""
        points = "JSON.parse(document.getElementById('report-data').textContent).studies[0].points"
        return dict(self.ask(points))

    def dearest(self) -> int:
        """The dearest point of the front."""
        return max(index for index, on_front in enumerate(self.points()["on_front"]) if on_front)

    def fixed(self) -> str:
        """The heading of the fixed point."""
        return self.text("article:not([hidden]) .fixed h3")

    def place_of(self, index: int, selector: str = FRONT) -> tuple[float, float]:
        """Where a point lies on the screen, in pixels; the chart is scrolled into sight."""
        self.page.locator(selector).first.scroll_into_view_if_needed()
        found = self.ask(
            """([selector, index]) => {
                const place = document.querySelector(selector), view = views.get(place);
                const row = view.data('points').find((one) => one.i === index);
                const box = place.querySelector('canvas').getBoundingClientRect(), around = view.padding();
                const [x, y] = [view.origin()[0] + around.left, view.origin()[1] + around.top];
                const [fx, fy] = 'x' in row ? ['x', 'accuracy'] : ['lost', 'test_lost'];
                return [box.left + x + view.scale('x')(row[fx]), box.top + y + view.scale('y')(row[fy])];
            }""",
            [selector, index],
        )
        return float(found[0]), float(found[1])

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw a brush."""
        mouse = self.page.mouse
        mouse.move(*start)
        mouse.down()
        mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=3)
        mouse.move(*end, steps=3)
        mouse.up()

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return int(self.ask("document.documentElement.scrollWidth - window.innerWidth"))


@contextmanager
def launched() -> Iterator[Any]:
    """The browser while it runs."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, place: Path | str, **settings: Any) -> Iterator[Sheet]:
    """The page of a file, or of an address, in a context of its own."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
    try:
        yield Sheet(context.new_page(), place)
    finally:
        context.close()
