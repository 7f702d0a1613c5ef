"""The house of pages."""

from pathlib import Path

import pytest
from jinja2 import UndefinedError

from harness.reporting import page
from tests import pages

TEMPLATE = """{% extends "house.html" %}
{% block title %}{{ title }}{% endblock %}
{% block content %}<p class="{{ title }}">{{ title }}</p>{% endblock %}
"""


def test_a_template_has_the_frame_and_escapes_all_that_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "own.html").write_text(TEMPLATE)
    title = "\"'><script>1</script>&amp;</title></style>"
    text = page.environment(tmp_path).get_template("own.html").render(title=title)
    page.write(tmp_path / "out" / "index.html", text)
    found = pages.read(tmp_path / "out" / "index.html")
    assert pages.loaded(found) == []
    assert pages.text(next(found.iter("title"))) == title
    [paragraph] = next(found.iter("main"))
    assert (paragraph.get("class"), pages.text(paragraph)) == (title, title)
    [policy] = [each for each in found.iter("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy.get("content") == "default-src 'none'; style-src 'unsafe-inline'"
    assert "--paper: #ffffff" in pages.text(next(found.iter("style")))


def test_a_name_that_a_template_does_not_know_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "own.html").write_text(TEMPLATE)
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        page.environment(tmp_path).get_template("own.html").render()


def test_text_that_no_encoding_has_does_not_stop_the_page(tmp_path: Path) -> None:
    page.write(tmp_path / "index.html", "a\ud800b")
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == "a?b"


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("a < b", "a &lt; b"),
        ("in שלום עולם (5)", "in <bdi>שלום עולם</bdi> (5)"),
        ("a_b", "a_b"),
        ("مرحبا", "<bdi>مرحبا</bdi>"),
        ("<שלום>", "&lt;<bdi>שלום</bdi>&gt;"),
        ("(a מרחבא_x) b", "(a <bdi>מרחבא_x</bdi>) b"),
        ("", ""),
    ],
)
def test_words_from_right_to_left_are_isolated(text: str, markup: str) -> None:
    assert page.isolated(text) == markup


def test_a_name_breaks_after_underscores() -> None:
    assert page.breakable("a_b<_") == "a_<wbr>b&lt;_<wbr>"
