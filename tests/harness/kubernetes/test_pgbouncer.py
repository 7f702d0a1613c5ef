"""The configuration that a deployment's PgBouncer gets, with a real one: all but its addresses and paths."""

import psycopg
import pytest

from harness.kubernetes import pgbouncer
from harness.warehouse.ports import free_port
from harness.warehouse.roles import create_metadata_database, drop_all, made_databases
from harness.warehouse.server import Server
from tests import poolers


@pytest.mark.needs("pgbouncer")
def test_airflow_and_the_statistics_connect_through_it(server: Server) -> None:
    given = Server("a test", server.host, server.port, server.user, server.password, suffix="_pooled")
    try:
        url = create_metadata_database(given, 'p:w@/"%', given.host, given.port)
        secrets = pgbouncer.secrets(url, given)
        port = free_port()
        config = secrets["airflow-pgbouncer"]["pgbouncer.ini"]
        config = config.replace("listen_addr = *", "listen_addr = 127.0.0.1\nunix_socket_dir =")
        config = config.replace(f"listen_port = {pgbouncer.PORT}", f"listen_port = {port}")
        config = config.replace("/etc/pgbouncer/users.txt", "users.txt")
        config = config.replace("max_prepared_statements = 200\n", "")  # 1.21 and newer; distributions have older ones
        files = {"pgbouncer.ini": config.encode(), "users.txt": secrets["airflow-pgbouncer"]["users.txt"].encode()}
        with poolers.configured(files):
            here = f"127.0.0.1:{port}"
            pooled = secrets[pgbouncer.POOLED]["connection"].replace("postgresql+psycopg2:", "postgresql:")
            with psycopg.connect(pooled.replace(f"{pgbouncer.SERVICE}:{pgbouncer.PORT}", here)) as connection:
                row = connection.execute("select current_database(), current_user").fetchone()
                assert row == ("airflow_pooled", "airflow_pooled")
            stats = secrets["airflow-pgbouncer"]["stats"].replace(f"127.0.0.1:{pgbouncer.PORT}", here)
            with psycopg.connect(stats, autocommit=True) as connection:
                pools = {row[0] for row in psycopg.ClientCursor(connection).execute("show pools")}
                assert "airflow_pooled" in pools
    finally:
        drop_all(given)
    assert made_databases(given) == {}
