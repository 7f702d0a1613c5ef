"""A deployment's passwords are kept, and made where they are missing."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.kubernetes.cluster_secrets import USER, passwords, read_secret
from harness.kubernetes.deployment import METADATA_ROLE
from harness.kubernetes.kubectl import Kubectl
from harness.warehouse.roles import ROLES
from tests import programs


@pytest.fixture
def kubectl(tmp_path: Path) -> Callable[[str], Kubectl]:
    """Give a way to make a kubectl that knows one secret, `passwords`, or none."""

    def make(secret: str) -> Kubectl:
        wanted = ["--namespace", "there", "get", "secret", "passwords", "--ignore-not-found", "--output", "json"]
        source = f"import sys\nsys.exit(64) if sys.argv[1:] != {wanted} else print({secret!r})\n"
        return Kubectl(programs.write(tmp_path / "kubectl", source), "there")

    return make


def test_existing_passwords_are_kept_and_missing_ones_are_made(kubectl: Callable[[str], Kubectl]) -> None:
    existing = {"loader": "lädt", "admin": "chosen", "somebody": "else's"}
    data = {name: base64.b64encode(value.encode()).decode() for name, value in existing.items()}
    found = passwords(kubectl(json.dumps({"kind": "Secret", "data": data})))
    assert set(found) == {*ROLES, METADATA_ROLE, USER}
    assert (found["loader"], found["admin"]) == ("lädt", "chosen")
    made = [value for name, value in found.items() if name not in existing]
    assert len(set(made)) == len(made) == 3
    assert all(len(value) >= 32 for value in made)


def test_without_a_secret_every_password_is_new(kubectl: Callable[[str], Kubectl]) -> None:
    first, second = passwords(kubectl("")), passwords(kubectl(""))
    assert set(first) == {*ROLES, METADATA_ROLE, USER}
    assert len({*first.values(), *second.values()}) == 10


def test_a_secret_without_data_is_empty(kubectl: Callable[[str], Kubectl]) -> None:
    assert read_secret(kubectl('{"kind": "Secret"}'), "passwords") == {}
