"""`nox -s docs -- --write` writes the generated tables before it checks them."""

import pytest

from harness.ci import docs


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write", action="store_true", help="write the tables that the code knows into the documentation")


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.getoption("--write"):
        docs.write()
