"""Read `cluster/versions.toml`: pinned versions and deadlines. An environment variable overrides each.

They are read when they are used, never at import.
"""

import contextlib
import functools
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import UsageError
from harness.project.paths import ROOT

FOR_METRICS = ("statsd", "prometheus")  # images that only `up --metrics` needs
VERSIONS = ROOT / "cluster" / "versions.toml"


@dataclass(frozen=True)
class Tool:
    """A pinned program.

    Attributes:
        version: the one that is downloaded.
        minimum: an installed one of at least this version is used instead.
        url: a pattern with `{version}`, `{system}` and `{machine}`.
        sha256: of the downloaded file, by platform.
        below: an installed one must be older than this.
    """

    name: str
    version: str
    minimum: str
    url: str
    sha256: Mapping[str, str]
    below: str = "999"


@functools.cache
def versions() -> dict[str, Any]:
    """Return what `cluster/versions.toml` pins."""
    return tomllib.loads(VERSIONS.read_text(encoding="utf-8"))


def image(name: str) -> str:
    """Return the reference of the image NAME (node, postgres, airflow …): `PLATFORM_<NAME>_IMAGE` or its pin."""
    return os.environ.get(variable(name)) or str(versions()["images"][name])


def images() -> list[str]:
    """Return the names of the images."""
    return list(versions()["images"])


def without_digest() -> list[str]:
    """Return the pinned images that a variable replaces by the same tag without its digest."""
    return [image(name) for name, pin in versions()["images"].items() if pin.partition("@")[0] == image(name) != pin]


def alone_count() -> bool:
    """Return whether only what is pinned may be used: on GitHub's machines, but not where act runs a job."""
    return os.environ.get("GITHUB_ACTIONS") == "true" and "ACT" not in os.environ


def variable(name: str) -> str:
    """Return the variable that overrides the image NAME."""
    return f"PLATFORM_{name.upper()}_IMAGE"


def chart() -> dict[str, str]:
    """Return the chart's version, Airflow's, and the archive's url and sha256."""
    return dict(versions()["chart"])


def tool(name: str) -> Tool:
    """Return the pin of the program NAME."""
    return Tool(name, **versions()["tools"][name])


def deadline_s(name: str) -> float:
    """Return how many seconds to wait for NAME: `PLATFORM_DEADLINE_<NAME>`, or the default.

    Raises UsageError if the variable is no number of seconds.
    """
    text = (os.environ.get(f"PLATFORM_DEADLINE_{name.upper()}") or "").strip() or versions()["deadlines"][name]
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(text)) < math.inf:
            return seconds
    raise UsageError(
        f"PLATFORM_DEADLINE_{name.upper()} is {text!r}, not a number of seconds.",
        "It limits how long the harness waits, and nothing may wait forever.",
        f"Set seconds, e.g. {versions()['deadlines'][name]}, or unset it for the default.",
    )
