"""Where things are in the repository."""

import hashlib
import platform
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # one name for the clone, whatever links lead to it
CLONE = hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]  # tells this clone's clusters from another's
# On a cluster or server that several machines share, whose clones may have the same path, as on CI's runners.
CLONE_ON_MACHINE = hashlib.sha256(f"{platform.node()} {ROOT}".encode()).hexdigest()[:6]
BUILD = ROOT / "build"  # what sessions leave for people: diagnostics, documentation
SAMPLE = ROOT / "airflow" / "data" / "events.csv"
PACKAGE_FOLDERS = (ROOT, ROOT / "airflow" / "include")  # the folders of `harness` and of `events`
