"""A headless browser for tests of pages, and what is asked of every page in it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

from harness.ci import needs
from harness.project.paths import BUILD

SCREENSHOTS = BUILD / "reports" / "screenshots"
PHONE, DESK = 360, 1280  # pixels wide
Scheme = Literal["light", "dark"]

# The texts whose contrast with what is behind them is less than WCAG asks for at level AA.
UNREADABLE = """() => {
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const color = channels(getComputedStyle(at).backgroundColor);
            if (color.length < 4 || color[3] > 0) return color;
        }
        return [255, 255, 255];
    };
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        const texts = [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim());
        if (!texts.length || !element.checkVisibility()) continue;
        const style = getComputedStyle(element);
        const color = element.closest("svg") ? style.fill : style.color;
        const [low, high] = [luminance(channels(color)), luminance(behind(element))].sort((a, b) => a - b);
        if ((high + 0.05) / (low + 0.05) < 4.5) found.push(`${element.tagName}: ${texts[0].data.trim()}`);
    }
    return found;
}"""

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


def keep_screenshot(page: Page, name: str) -> None:
    """Keep a picture of all of PAGE for people; CI has it as an artifact."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
