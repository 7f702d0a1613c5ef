"""Check a release, or make it."""

import argparse

from feeds.uri import shown
from harness.ci import release
from harness.reporting.console import say
from harness.reporting.summary import Section, table


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s release`."""
    parser.add_argument("--tag", help="the release's tag; by default v and the version in pyproject.toml")
    parser.add_argument("--check", action="store_true", help="only check the tag and CHANGELOG.md")
    parser.add_argument("--push", metavar="REGISTRY", help="build both images and push them to this registry")
    parser.add_argument("--source", default="", metavar="URL", help="the repository's URL, for the images' labels")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace, section: Section) -> None:
    """Run `nox -s release`."""
    tag = parsed.tag or f"v{release.version()}"
    if parsed.check:
        release.check(tag)
        say(f"✓ {tag} is the version's tag, and CHANGELOG.md has its entry")
    else:
        section.add(table(("made", "size"), release.run(tag, parsed.push, shown(parsed.source))))
