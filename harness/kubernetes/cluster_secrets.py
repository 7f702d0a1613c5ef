"""Make the secrets of a deployment: once, at the first `up`; the cluster alone keeps them for every later one.

| secret | for |
| --- | --- |
| `passwords` | the harness: of the roles, of Airflow's database, of the UI's user |
| `airflow-metadata` | Airflow's components: the metadata database's URL |
| `airflow-metadata-pgbouncer`, `airflow-pgbouncer` | the same through PgBouncer; PgBouncer: its configuration |
| `airflow-keys`, `airflow-login` | Airflow's components: its keys; the API server: who may log in |
| `warehouse-loader` | workers: the Airflow connection |
| `events-file` | workers: its URI, which may be signed |
| `warehouse-transformer` | dbt's pod, in the namespace of these: its environment |
"""

import base64
import hashlib
import json
import os
import secrets
from dataclasses import replace

from harness.kubernetes import pgbouncer
from harness.kubernetes.deployment import METADATA_ROLE, Database
from harness.kubernetes.kubectl import Kubectl
from harness.warehouse.roles import ROLES, Warehouse

USER = "admin"  # of Airflow's UI
DBT_SECRET = "warehouse-transformer"  # noqa: S105 - its name


def read_secret(kubectl: Kubectl, name: str) -> dict[str, str]:
    """Return the keys and values of a secret; none if it does not exist."""
    secret = kubectl.get("secret", name) or {}
    return {key: base64.b64decode(value).decode() for key, value in secret.get("data", {}).items()}


def passwords(kubectl: Kubectl) -> dict[str, str]:
    """Return the deployment's passwords, new where it has none: of the roles, Airflow's database and the UI's user."""
    existing = read_secret(kubectl, "passwords")
    return {name: existing.get(name) or secrets.token_urlsafe(24) for name in (*ROLES, METADATA_ROLE, USER)}


def create_secrets(
    kubectl: Kubectl,
    passwords: dict[str, str],
    warehouse: Warehouse,
    database: Database,
    *,
    metadata_url: str,
    events_uri: str,
) -> dict[str, str]:
    """Create or update the secrets; return the annotation that restarts the pods that read them when one changes."""
    for_pods = replace(warehouse, server=database.for_pods)
    keys = read_secret(kubectl, "airflow-keys") or {
        "fernet-key": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        "api-secret-key": secrets.token_hex(32),
        "jwt-secret": secrets.token_hex(64),
    }
    contents = {
        "passwords": passwords,
        "airflow-metadata": {"connection": metadata_url},
        **pgbouncer.secrets(metadata_url),
        "airflow-keys": keys,
        "airflow-login": {"passwords.json": json.dumps({USER: passwords[USER]})},
        "warehouse-loader": {"connection": for_pods.loader_dsn},
        "events-file": {"uri": events_uri},
        DBT_SECRET: for_pods.dbt_env() | {"DBT_TARGET": "prod"},
    }
    for name, content in contents.items():
        where = kubectl.for_dbt if name == DBT_SECRET else kubectl
        where.apply([{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content}])
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    return {"events-platform/secrets": digest[:16]}
