"""Write a page: one HTML file that loads nothing, for a browser, a phone and a printer.

`house.html` is the frame with the style (`house.css`); a page's own template extends it. Templates escape whatever they
are given, and the page's policy forbids the browser any script and any address.
"""

import os
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

HOUSE = Path(__file__).parent
LIMIT_BYTES = 3_000_000  # of a page: more is slow to open, and to scroll on a phone
RIGHT_TO_LEFT = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe\U00010800-\U00010fff\U0001e800-\U0001efff"
WORD = rf"[\w.-]*[{RIGHT_TO_LEFT}][\w.-]*"
ISOLATED = re.compile(rf"{WORD}(?:\s+{WORD})*")


def environment(folder: Path) -> Environment:
    """Return the environment of the templates in FOLDER and of the house's."""
    made = Environment(
        loader=FileSystemLoader([folder, HOUSE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(isolated=isolated, breakable=breakable)
    made.globals["style"] = Markup((HOUSE / "house.css").read_text(encoding="utf-8"))  # noqa: S704 - our own file
    return made


def isolated(text: str) -> Markup:
    """Return TEXT escaped; words that are written from right to left do not turn those around them."""
    parts, end = [], 0
    for found in ISOLATED.finditer(text):
        parts += [escape(text[end : found.start()]), Markup("<bdi>{}</bdi>").format(found[0])]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def breakable(text: str) -> Markup:
    """Return a name as `isolated` does; a line may break after each underscore."""
    return Markup(str(isolated(text)).replace("_", "_<wbr>"))  # noqa: S704 - it is escaped


def write(path: Path, text: str) -> None:
    """Write the rendered TEXT to PATH; raise OSError if that cannot be done.

    A page that is already there is replaced as a whole, also under the eyes of a browser.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")  # another run may write it, too
    try:
        unfinished.write_text(text, encoding="utf-8", errors="replace")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
