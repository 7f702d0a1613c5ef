"""Read `cluster/versions.toml`: what is pinned, and how long is waited. An environment variable replaces each pin.

Pins are read when they are used, never at import.
"""

import functools
import os
import tomllib
from typing import Any

from harness.project.paths import ROOT

VERSIONS = ROOT / "cluster" / "versions.toml"


@functools.cache
def _versions() -> dict[str, Any]:
    return tomllib.loads(VERSIONS.read_text(encoding="utf-8"))


def image(name: str) -> str:
    """Return the image NAME (node, postgres, airflow, python): `PLATFORM_<NAME>_IMAGE` or the pinned one."""
    return os.environ.get(f"PLATFORM_{name.upper()}_IMAGE") or str(_versions()["images"][name])


def chart() -> dict[str, str]:
    """Return the chart's version, Airflow's, the archive's url and sha256."""
    return dict(_versions()["chart"])


def tool(name: str) -> dict[str, Any]:
    """Return a tool's version, minimum, url and sha256 by platform."""
    return dict(_versions()["tools"][name])


def deadline_s(what: str) -> float:
    """Return how long to wait for WHAT, in seconds: `PLATFORM_DEADLINE_<WHAT>` or what is written there."""
    return float(os.environ.get(f"PLATFORM_DEADLINE_{what.upper()}") or _versions()["deadlines"][what])
