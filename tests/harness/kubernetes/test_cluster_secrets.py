"""A deployment's secrets are kept, made where they are missing, rotated, or somebody else's."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.kubernetes.cluster_secrets import (
    DBT_SECRET,
    USER,
    Contents,
    airflow_keys,
    annotation,
    create_secrets,
    databases,
    passwords,
    read_secret,
)
from harness.kubernetes.deployment import METADATA_ROLE, NAMESPACE, Database
from harness.kubernetes.kubectl import Kubectl
from harness.warehouse.roles import ROLES, Warehouse
from harness.warehouse.server import Server
from tests import programs
from tests.harness.kubernetes.object_rules import Recorder


@pytest.fixture
def kubectl(tmp_path: Path) -> Callable[[str], Kubectl]:
    """Give a way to make a kubectl that knows one secret, `passwords`, or none."""

    def make(secret: str) -> Kubectl:
        wanted = ["--namespace", "there", "get", "secret", "passwords", "--ignore-not-found", "--show-managed-fields"]
        wanted += ["--output", "json"]
        source = f"import sys\nsys.exit(64) if sys.argv[1:] != {wanted} else print({secret!r})\n"
        return Kubectl(programs.write(tmp_path / "kubectl", source), "there")

    return make


def test_existing_passwords_are_kept_and_missing_ones_are_made(kubectl: Callable[[str], Kubectl]) -> None:
    existing = {"loader": "lädt", "admin": "chosen", "somebody": "else's"}
    data = {name: base64.b64encode(value.encode()).decode() for name, value in existing.items()}
    own = {"managedFields": [{"manager": "events-platform"}]}
    found = passwords(kubectl(json.dumps({"kind": "Secret", "metadata": own, "data": data})))
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


# --- secrets that somebody else makes -------------------------------------------------------------------------------


def secret(content: dict[str, str], manager: str) -> dict[str, Any]:
    """Return a secret as kubectl shows it, made by MANAGER."""
    data = {key: base64.b64encode(value.encode()).decode() for key, value in content.items()}
    return {"kind": "Secret", "metadata": {"managedFields": [{"manager": manager}]}, "data": data}


def create(existing: dict[str, dict[str, Any]], *, rotate: bool = False) -> tuple[Contents, Recorder]:
    """Create the secrets where there are EXISTING ones, by `NAMESPACE/NAME`."""
    kubectl = Recorder(Path("kubectl"), NAMESPACE, existing={f"secret {name}": item for name, item in existing.items()})
    server = Server("a test", "db.example", 5432, "postgres", "secret")
    made = passwords(kubectl, rotate=rotate)
    warehouse, database = Warehouse(server, "warehouse", made), Database(server, "172.18.0.3", 5432)
    url = "postgresql+psycopg2://airflow:x@172.18.0.3:5432/airflow"
    return create_secrets(
        kubectl, made, warehouse, database, metadata_url=url, uris={"events": "/events.csv"}, rotate=rotate
    ), kubectl


def test_a_secret_that_somebody_else_made_is_used_as_it_is() -> None:
    loader = {"connection": "postgresql://their%20loader:p@db.elsewhere:6000/events"}
    dbt = {"WAREHOUSE_HOST": "pooler", "WAREHOUSE_PORT": "6432", "WAREHOUSE_DATABASE": "w", "WAREHOUSE_USER": "t"}
    dbt |= {"WAREHOUSE_READER": "r", "DBT_ENV_SECRET_WAREHOUSE_PASSWORD": "p", "DBT_TARGET": "prod"}
    theirs = {
        f"{NAMESPACE}/warehouse-loader": secret(loader, "external-secrets"),
        f"{NAMESPACE}-dbt/{DBT_SECRET}": secret(dbt, "kubectl-create"),
        f"{NAMESPACE}/passwords": secret(dict.fromkeys((*ROLES, METADATA_ROLE, USER), "theirs"), "controller"),
    }
    contents, kubectl = create(theirs)
    assert (contents["warehouse-loader"], contents[DBT_SECRET]) == (loader, dbt)
    assert set(contents["passwords"].values()) == {"theirs"}
    written = {name.removeprefix("Secret/") for name in kubectl.applied}
    assert written == contents.keys() - {"warehouse-loader", DBT_SECRET, "passwords"}
    assert databases(contents) == {("172.18.0.3", 5432), ("db.elsewhere", 6000), ("pooler", 6432)}

    theirs[f"{NAMESPACE}/warehouse-loader"] = secret({"connection": "postgresql://other@db/events"}, "external-secrets")
    assert annotation(create(theirs)[0]) != annotation(contents)  # the next `up` rolls it out


def test_a_connection_as_json_names_its_database() -> None:
    contents, _ = create({})
    contents["warehouse-loader"]["connection"] = '{"conn_type": "postgres", "host": "db.elsewhere", "port": 6000}'
    assert databases(contents) == {("172.18.0.3", 5432), ("db.elsewhere", 6000)}
    contents["airflow-metadata"]["connection"] = "postgresql+psycopg2://a:b%40@db.internal/airflow"
    assert ("db.internal", 5432) in databases(contents)
    contents["warehouse-loader"]["connection"] = "postgres://u@one:5433,[2001:db8::1]/w?target_session_attrs=read-write"
    assert databases(contents) >= {("one", 5433), ("2001:db8::1", 5432)}


def test_a_secret_of_somebody_else_without_a_key_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        create({f"{NAMESPACE}/airflow-keys": secret({"fernet-key": "x", "jwt-secret": ""}, "kubectl-create")})
    expected = f"The secret airflow-keys of the namespace {NAMESPACE} has no api-secret-key, jwt-secret."
    assert caught.value.what == expected
    with pytest.raises(UsageError, match=f"has no {', '.join((*ROLES[1:], METADATA_ROLE, USER))}"):
        create({f"{NAMESPACE}/passwords": secret({"loader": "x"}, "kubectl-create")})


# --- rotation -------------------------------------------------------------------------------------------------------


def test_a_rotation_makes_every_password_and_key_new() -> None:
    before, kubectl = create({})
    own = {f"{NAMESPACE}/{name}": secret(before[name], "events-platform") for name in ("passwords", "airflow-keys")}
    assert create(own)[0] == before
    after, kubectl = create(own, rotate=True)
    assert all(after["passwords"][name] != password for name, password in before["passwords"].items())
    for key in ("api-secret-key", "jwt-secret"):
        assert after["airflow-keys"][key] != before["airflow-keys"][key]
    assert annotation(after) != annotation(before)
    assert kubectl.applied["Secret/passwords"]["data"] == secret(after["passwords"], "")["data"]


def test_what_was_encrypted_before_a_rotation_can_be_read_until_the_next() -> None:
    first = airflow_keys({})
    second = airflow_keys(first, rotate=True)
    third = airflow_keys(second, rotate=True)
    [new, old] = second["fernet-key"].split(",")
    assert old == first["fernet-key"]
    assert third["fernet-key"].split(",")[1:] == [new]
    assert airflow_keys(third) == third


def test_secrets_of_somebody_else_are_not_rotated() -> None:
    given = dict.fromkeys((*ROLES, METADATA_ROLE, USER), "theirs")
    contents, _ = create({f"{NAMESPACE}/passwords": secret(given, "kubectl-create")}, rotate=True)
    assert contents["passwords"] == given
