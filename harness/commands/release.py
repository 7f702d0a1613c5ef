"""Check a release, push its images, run what was pushed, or publish it."""

import argparse
import os
from collections.abc import Sequence

from feeds.uri import shown
from harness.ci import release
from harness.processes.command import run as output_of
from harness.processes.supervisor import Supervisor
from harness.project.paths import ROOT
from harness.reporting.console import say
from harness.reporting.summary import Section, table


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s release`."""
    parser.add_argument("--tag", help="the release's tag; by default v and the version in pyproject.toml")
    parser.add_argument("--check", action="store_true", help="only check the tag and CHANGELOG.md")
    parser.add_argument("--gate", metavar="OWNER/NAME", help="with --check: ask GitHub if CI passed on this commit")
    parser.add_argument("--push", metavar="REGISTRY", help="build both images and push them, by digest, to a registry")
    parser.add_argument("--source", default="", metavar="URL", help="the repository's URL, for the images' labels")
    parser.add_argument("--try", nargs="+", dest="tried", metavar="IMAGE", help="pull what was pushed and run it")
    parser.add_argument("--sbom", nargs="+", metavar="IMAGE", help="write its bills of materials to build/sboms")
    parser.add_argument("--publish", nargs="+", metavar="IMAGE", help="attachments for it, and the version as its tag")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace, section: Section) -> None:
    """Run `nox -s release`."""
    tag = parsed.tag or f"v{release.version()}"
    if parsed.check:
        check(tag, parsed.gate)
    elif parsed.push:
        push(parsed.push, shown(parsed.source), section)
    elif parsed.tried:
        for reference in parsed.tried:
            say(f"✓ {reference} runs; nox -s e2e uses it as {release.try_image(reference)}")
    elif parsed.sbom:
        for path in release.write_sboms(parsed.sbom):
            say(f"✓ {path.relative_to(ROOT)}")
    else:
        publish(tag, parsed.publish or [], section)


def check(tag: str, repository: str | None) -> None:
    """Check the tag and the changelog, and with a REPOSITORY that CI passed there on this commit."""
    release.check(tag)
    say(f"✓ {tag} is the version's tag, and CHANGELOG.md has its entry")
    if repository:
        commit = output_of("git", "-C", ROOT, "rev-parse", "HEAD").strip()
        say(f"✓ CI passed on {commit[:12]}: {release.check_gate(repository, commit)}")


def push(registry: str, source: str, section: Section) -> None:
    """Push both images; later jobs get their names and digests from the file that GITHUB_OUTPUT names."""
    with Supervisor.launch() as supervisor:
        pushed = release.push(supervisor, registry, source)
    for reference in pushed.values():
        say(f"✓ {reference} pushed for {' and '.join(release.PLATFORMS)}, with provenance and SBOMs")
    section.add(table(("pushed",), [(reference,) for reference in pushed.values()]))
    if path := os.environ.get("GITHUB_OUTPUT"):
        with open(path, "a", encoding="utf-8") as file:
            for image, reference in pushed.items():
                name, _, digest = reference.partition("@")
                file.write(f"{image}={reference}\n{image}-name={name}\n{image}-digest={digest}\n")


def publish(tag: str, references: Sequence[str], section: Section) -> None:
    """Make TAG's attachments, and give the pushed REFERENCES the version."""
    made = []
    for path in release.gather(tag, references):
        made.append((str(path.relative_to(ROOT)), f"{path.stat().st_size / 1e3:,.0f} kB"))
        say(f"✓ {made[-1][0]} ({made[-1][1]})")
    for name in release.publish(references):
        visibility = "public" if release.is_public(name) else "private"
        made.append((name, visibility))
        say(f"✓ {name} published, {visibility}")
        if visibility == "private":
            say("… as a package begins; docs/first-run.md says how to make it public")
    section.add(table(("made", "size or visibility"), made))
