"""Make the secrets of a deployment: once, at the first `up`; the cluster alone keeps them for every later one.

A secret of one of these names that somebody else has made, an operator for external secrets for example, is used as it
is, and never written to.

| secret | for |
| --- | --- |
| `passwords` | the harness: of the roles, of Airflow's database, of the UI's user |
| `airflow-metadata` | Airflow's components: the metadata database's URL |
| `airflow-metadata-pgbouncer`, `airflow-pgbouncer` | the same through PgBouncer; PgBouncer: its configuration |
| `airflow-keys`, `airflow-login` | Airflow's components: its keys; the API server: who may log in |
| `warehouse-loader` | workers: the Airflow connection |
| `warehouse-reader` | with metrics: the ledger's exporter |
| `feeds` | workers: by feed the URI of its files, each feed's; it may be signed |
| `warehouse-transformer` | dbt's pod, in the namespace of these: its environment |
"""

import base64
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from feeds.contract import feed_names
from harness.errors import UsageError
from harness.kubernetes import pgbouncer
from harness.kubernetes.deployment import METADATA_ROLE, Database
from harness.kubernetes.kubectl import MANAGER, Kubectl
from harness.warehouse.roles import ROLES, Warehouse

USER = "admin"  # of Airflow's UI
POSTGRES_PORT = 5432
FEEDS_SECRET = "feeds"  # noqa: S105 - its name
DBT_SECRET = "warehouse-transformer"  # noqa: S105 - its name
READER_SECRET = "warehouse-reader"  # noqa: S105 - its name


Contents = dict[str, dict[str, str]]  # of the secrets, by their names


def read_secret(kubectl: Kubectl, name: str) -> dict[str, str]:
    """Return the keys and values of a secret; none if it does not exist."""
    return _content(kubectl.get("secret", name) or {})


def _content(secret: dict[str, Any]) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in secret.get("data", {}).items()}


def from_outside(kubectl: Kubectl, name: str, keys: Iterable[str]) -> dict[str, str] | None:
    """Return the content of a secret that somebody else has made; None if there is none, or the harness made it.

    Raises UsageError if it lacks one of KEYS.
    """
    secret = kubectl.get("secret", name)
    if not secret or MANAGER in {entry.get("manager") for entry in secret["metadata"].get("managedFields", [])}:
        return None
    content = _content(secret)
    if missing := [key for key in keys if not content.get(key)]:
        raise UsageError(
            f"The secret {name} of the namespace {kubectl.namespace} has no {', '.join(missing)}.",
            "This project did not make it, so it is used as it is.",
            "Add the keys where it is made, or delete it: then the next `up` makes one.",
        )
    return content


def passwords(kubectl: Kubectl, *, rotate: bool = False) -> dict[str, str]:
    """Return the passwords of the roles, Airflow's database and the UI's user, new where there is none or to ROTATE."""
    names = (*ROLES, METADATA_ROLE, USER)
    if (given := from_outside(kubectl, "passwords", names)) is not None:
        return {name: given[name] for name in names}
    existing = {} if rotate else read_secret(kubectl, "passwords")
    return {name: existing.get(name) or secrets.token_urlsafe(24) for name in names}


def airflow_keys(existing: dict[str, str], *, rotate: bool = False) -> dict[str, str]:
    """Return Airflow's keys: EXISTING ones, new ones where there are none, or if ROTATE.

    Airflow encrypts with the first of its Fernet keys and decrypts with each: so the one before stays behind the new.
    """
    new = {
        "fernet-key": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        "api-secret-key": secrets.token_hex(32),
        "jwt-secret": secrets.token_hex(64),
    }
    if not rotate:
        return new | existing
    if before := existing.get("fernet-key", "").partition(",")[0]:
        new["fernet-key"] += f",{before}"
    return new


def create_secrets(
    kubectl: Kubectl,
    passwords: dict[str, str],
    warehouse: Warehouse,
    database: Database,
    *,
    metadata_url: str,
    uris: Mapping[str, str],
    rotate: bool = False,
    has_metrics: bool = False,
) -> Contents:
    """Create or update the secrets that nobody else makes; return what each has now. URIS are the feeds', for pods."""
    for_pods = replace(warehouse, server=database.for_pods)
    contents = {
        "passwords": passwords,
        "airflow-metadata": {"connection": metadata_url},
        **pgbouncer.secrets(metadata_url, for_pods.server),
        "airflow-keys": airflow_keys(read_secret(kubectl, "airflow-keys"), rotate=rotate),
        "airflow-login": {"passwords.json": json.dumps({USER: passwords[USER]})},
        "warehouse-loader": {"connection": for_pods.loader_dsn},
        FEEDS_SECRET: dict(uris),
        DBT_SECRET: for_pods.dbt_env() | {"DBT_TARGET": "prod"},
        **({READER_SECRET: {"connection": for_pods.reader_dsn}} if has_metrics else {}),
    }
    for name, content in contents.items():
        where = kubectl.for_dbt if name == DBT_SECRET else kubectl
        if (given := from_outside(where, name, content)) is not None:
            contents[name] = given
        else:
            # Without a label, `managedFields` would not name us for a secret without keys.
            metadata = {"name": name, "labels": {"app.kubernetes.io/managed-by": MANAGER}}
            # Not `stringData`: the server would keep a key that is not there any more.
            data = {key: base64.b64encode(value.encode()).decode() for key, value in content.items()}
            where.apply([{"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}])
    return contents


def feeds_env() -> list[dict[str, Any]]:
    """Return the variables of workers that have the feeds' URIs; the chart knows no optional key of a secret."""
    return [
        {
            "name": f"{feed.upper()}_URI",
            "valueFrom": {"secretKeyRef": {"name": FEEDS_SECRET, "key": feed}},
        }
        for feed in feed_names()
    ]


def annotation(contents: Contents) -> dict[str, str]:
    """Return the annotation that restarts the pods when one of the secrets changes."""
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    return {"events-platform/secrets": digest[:16]}


def databases(contents: Contents) -> set[tuple[str, int]]:
    """Return host and port of each PostgreSQL that the secrets name: pods must reach it."""
    connections = [contents["airflow-metadata"]["connection"], contents["warehouse-loader"]["connection"]]
    found = {(contents[DBT_SECRET]["WAREHOUSE_HOST"], int(contents[DBT_SECRET]["WAREHOUSE_PORT"]))}
    for connection in connections:
        if connection.lstrip().startswith("{"):  # Airflow reads JSON, too
            fields = json.loads(connection)
            found.add((str(fields.get("host")), int(fields.get("port") or POSTGRES_PORT)))
        else:
            for address in urlsplit(connection).netloc.rpartition("@")[2].split(","):  # libpq takes several
                server = urlsplit(f"//{address}")
                found.add((str(server.hostname), server.port or POSTGRES_PORT))
    return found
