"""Read a page as a browser does, with a parser of HTML that says what is wrong with it."""

import re
from pathlib import Path
from xml.etree.ElementTree import Element

from tinyhtml5.parser import HTMLParser

ADDRESS = re.compile(r"^\s*(?!#|data:)\S", re.IGNORECASE)
LOADING = {"src", "srcset", "data", "action", "formaction", "background", "poster", "manifest", "ping"}


def read(path: Path) -> Element:
    """Return the tree of the page at PATH, which has to be valid HTML."""
    parser = HTMLParser(namespace_html_elements=False)
    tree: Element = parser.parse(path.read_text(encoding="utf-8"))
    assert parser.errors == []
    return tree


def text(element: Element) -> str:
    """Return the text of ELEMENT, with one blank where there are some."""
    return " ".join("".join(element.itertext()).split())


def cells(table: Element) -> list[list[str]]:
    """Return the texts of TABLE's cells, by rows."""
    return [[text(cell) for cell in row if cell.tag in ("th", "td")] for row in table.iter("tr")]


def with_class(element: Element, name: str) -> list[Element]:
    """Return the elements in ELEMENT that have the class NAME."""
    return [each for each in element.iter() if isinstance(each.tag, str) and name in each.get("class", "").split()]


def loaded(page: Element) -> list[str]:
    """Return all by which PAGE would load or run something, or send the reader away from itself."""
    found = []
    for element in page.iter():
        if not isinstance(element.tag, str):
            continue
        tag = element.tag.rpartition("}")[2]
        if tag in ("script", "link", "iframe", "object", "embed", "base", "form"):
            found.append(tag)
        for name, value in element.attrib.items():
            attribute = str(name).rpartition("}")[2]
            is_address = attribute in LOADING or (attribute == "href" and ADDRESS.match(value))
            if is_address or attribute.startswith("on") or "url(" in value or "@import" in value:
                found.append(f"{tag} {attribute}={value[:80]}")
        if tag == "style" and re.search(r"url\(|@import", "".join(element.itertext())):
            found.append("style")
    return found
