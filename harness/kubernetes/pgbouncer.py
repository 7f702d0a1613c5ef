"""The secrets of PgBouncer between Airflow and its database, for values with `pgbouncer.enabled`: production.yaml.

Each deployment has them, so that values can switch it on and off.
"""

from urllib.parse import unquote, urlsplit

from harness.warehouse.server import Server

SERVICE, PORT = "airflow-pgbouncer", 6543
POOLED = "airflow-metadata-pgbouncer"
CONFIG = """\
[databases]
{database} = host={host} port={port} dbname={database} pool_size=20
[pgbouncer]
listen_addr = *
listen_port = {own_port}
pool_mode = transaction
auth_type = scram-sha-256
auth_file = /etc/pgbouncer/users.txt
stats_users = {user}
ignore_startup_parameters = extra_float_digits,options
max_client_conn = 500
max_prepared_statements = 200
server_tls_sslmode = {sslmode}
"""
SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"  # of PgBouncer's image


def secrets(metadata_url: str, server: Server) -> dict[str, dict[str, str]]:
    """Return the contents of the secrets by name, for the database of METADATA_URL, SQLAlchemy's, on SERVER."""
    url = urlsplit(metadata_url)
    user, password, database = (unquote(part or "") for part in (url.username, url.password, url.path[1:]))
    sslmode, certificate = server.sslmode or "prefer", server.root_certificate
    config = CONFIG.format(
        database=database, host=server.host, port=server.port, own_port=PORT, user=user, sslmode=sslmode
    )
    if certificate:
        config += f"server_tls_ca_file = {SYSTEM_CERTIFICATES if certificate == 'system' else certificate}\n"
    login = f"{url.username}:{url.password}@"
    quoted = (part.replace('"', '""') for part in (user, password))
    return {
        POOLED: {"connection": f"{url.scheme}://{login}{SERVICE}:{PORT}{url.path}"},
        "airflow-pgbouncer": {
            "pgbouncer.ini": config,
            "users.txt": '"{}" "{}"\n'.format(*quoted),
            "stats": f"postgresql://{login}127.0.0.1:{PORT}/pgbouncer?sslmode=disable",
        },
    }
