"""Airflow verifies the certificate of its metadata database's server, with each of its two drivers."""

import os
import subprocess
from pathlib import Path

import pytest

from harness.project.environments import install
from harness.warehouse.roles import create_metadata_database
from harness.warehouse.server import Server
from tests import poolers

# Airflow's own engines, as the API server uses both.
QUERY = """
import asyncio
from airflow import settings

async def ask():
    async with settings.async_engine.connect() as connection:
        await connection.exec_driver_sql("select 1")
    await settings.async_engine.dispose()

assert settings.engine.driver == "psycopg2" and settings.async_engine.driver == "asyncpg"
with settings.engine.connect() as connection:
    assert connection.connection.dbapi_connection.info.ssl_in_use
asyncio.run(ask())
print("both connected")
"""


@pytest.mark.needs("pgbouncer")
def test_airflow_verifies_the_certificate_of_its_databases_server(server: Server, tmp_path: Path) -> None:
    python = str(install("airflow"))
    with poolers.encrypted(server) as (encrypted, root):
        url = create_metadata_database(server, "secret", encrypted.host, encrypted.port)

        def ask(host: str = encrypted.host, **tls: str) -> subprocess.CompletedProcess[str]:
            env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "AIRFLOW_HOME": str(tmp_path), **tls}
            env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = url.replace(encrypted.host, host)
            return subprocess.run([python, "-c", QUERY], env=env, capture_output=True, text=True, check=False)

        right = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(root)}
        asked = ask(**right)
        assert asked.stdout.endswith("both connected\n"), asked.stderr
        assert "does not match host name" in ask("localhost", **right).stderr
