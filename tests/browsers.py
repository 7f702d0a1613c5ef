"""A headless browser for tests of pages, and what is asked of every page in it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from harness.ci import needs
from harness.project.paths import BUILD

SCREENSHOTS = BUILD / "reports" / "screenshots"
PHONE, DESK = 360, 1280  # pixels wide
Scheme = Literal["light", "dark"]

# What sticks out of the window to the right and is not in a part that can be scrolled.
TOO_WIDE = """() => [...document.querySelectorAll("body *")]
    .filter((each) => each.checkVisibility() && !each.closest(".scroll, svg"))
    .filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
    .map((each) => `${each.tagName}: ${each.textContent.trim().slice(0, 40)}`)"""


@contextlib.contextmanager
def started() -> Iterator[Browser]:
    """Start a browser; a test of it needs "chromium"."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=needs.browser())
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser: Browser, path: Path, *, width: int = DESK, scheme: Scheme = "light") -> Iterator[Page]:
    """Open the page at PATH as somebody does who clicks on it; it must ask for nothing else, and have no errors."""
    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:
        page = context.new_page()
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path.as_uri())
        yield page
        assert (asked, errors) == ([path.as_uri()], [])


def unusable(page: Page) -> list[str]:
    """Return what of PAGE some people cannot use or read, as axe finds it: contrast, labels, landmarks, order."""
    violations = Axe().run(page).response["violations"]
    return [f"{each['help']}: {node['html'][:200]}" for each in violations for node in each["nodes"]]


def keep_screenshot(page: Page, name: str) -> None:
    """Keep a picture of all of PAGE for people; CI has it as an artifact."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
