"""The environment variables that a user or a deployment may set, and what each means.

Only the documentation is made from this list (`harness.ci.docs`); the code reads each variable where it uses it, and
`nox -s docs` compares the two.
"""

from typing import NamedTuple

from harness.project.pins import versions

TOOLS = ("kind", "kubectl", "helm")


class Variable(NamedTuple):
    """A variable's name, its meaning and its default, each in one line of Markdown."""

    name: str
    meaning: str
    default: str = ""


def pins() -> list[Variable]:
    """Return the variables that replace a pin of `cluster/versions.toml`."""
    uses = {
        "node": "kind's node",
        "postgres": "PostgreSQL in tests, in `nox -s dbt` and beside a cluster",
        "airflow": "the base of Airflow's image",
        "python": "the base of dbt's image",
        "statsd": "with `--metrics`: the exporter of Airflow's metrics",
        "prometheus": "with `--metrics`, on kind and minikube: Prometheus",
    }
    return [
        *(
            Variable(f"PLATFORM_{name.upper()}_IMAGE", f"image: {uses[name]}", f"`{image.partition('@')[0]}`")
            for name, image in versions()["images"].items()
        ),
        Variable(
            "PLATFORM_CHART",
            "the official chart: a path (archive or folder), an archive's URL, or a repository (`https://…`, `oci://…`)",
            "the pinned archive's URL",
        ),
        Variable(
            "PLATFORM_AIRFLOW_CONSTRAINTS", "Airflow's constraints for `nox -s lock`: a path or a URL", "Airflow's"
        ),
        *(
            Variable(
                f"PLATFORM_{name.upper()}",
                f"the program {name}, of any version",
                "the installed one if it is supported, else, and on GitHub always, the pinned one, downloaded",
            )
            for name in TOOLS
        ),
        Variable("PLATFORM_MINIKUBE", "the program minikube, of any version", "the installed one"),
        *(
            Variable(
                f"PLATFORM_{name.upper()}_URL",
                f"URL to download {name} from; may contain `{{version}}`, `{{system}}` and `{{machine}}`",
                "the vendor's",
            )
            for name in TOOLS
        ),
        Variable("PLATFORM_CACHE", "folder for downloads", "`~/.cache/events-platform`"),
        Variable("PLATFORM_DEADLINE_…", "how many seconds to wait; the table below lists the names", "as below"),
    ]


TASKS = [
    Variable(
        "<FEED>_URI",
        "`EVENTS_URI` for the feed `events`: its files, a path, a pattern or any fsspec URI; `nox -s e2e` and"
        " `nox -s cluster` read it, too",
        "as its contract says",
    ),
    Variable(
        "<FEED>_MAX_REJECTED",
        "the share of the feed's rows that may be rejected, unless the run's param sets it",
        "as its contract says",
    ),
    Variable("<FEED>_NOT_BEFORE", "the feed's rows before this time (UTC) are rejected, e.g. `2015-01-01`", "no bound"),
    Variable("<FEED>_BEFORE", "rows of the feed from this time on (UTC) are rejected, e.g. `2031-01-01`", "no bound"),
    Variable("NETRC", "the file with passwords of web servers, for files over HTTP", "`~/.netrc`"),
    Variable(
        "EVENTS_DSN", "only for `python -m feeds`: the warehouse as the role `loader`, for its metrics as `reader`"
    ),
    Variable("AIRFLOW_CONN_WAREHOUSE_LOADER", "Airflow's connection to the warehouse as the role `loader`"),
    Variable(
        "AIRFLOW_CONN_NOTIFICATIONS",
        "Airflow's connection with the addresses for messages about failed and late runs; for these three variables,"
        " the target embedded reads those of its session",
    ),
    Variable("NOTIFIER", "the import path of the notifier of Airflow that sends these", "that of Apprise"),
    Variable("NOTIFIER_OPTIONS", "its arguments, as JSON", "those for Apprise"),
    Variable(
        "DBT_IMAGE",
        "dbt's image; if set, dbt runs in a pod, with the secret `warehouse-transformer` as its environment",
    ),
    Variable("DBT_NAMESPACE", "the namespace of dbt's pods", "the worker's own"),
    Variable("DBT_PYTHON", "without `DBT_IMAGE`: the Python of dbt's environment"),
    Variable("DBT_PROJECT_DIR", "without `DBT_IMAGE`: the folder of the dbt project"),
]
DBT = [
    Variable("DBT_TARGET", "`dev`, `test` or `prod`", "`dev`"),
    Variable("WAREHOUSE_HOST", "the warehouse's host"),
    Variable("WAREHOUSE_PORT", "its port"),
    Variable("WAREHOUSE_DATABASE", "its database"),
    Variable("WAREHOUSE_USER", "the role `transformer`"),
    Variable("DBT_ENV_SECRET_WAREHOUSE_PASSWORD", "the password of `WAREHOUSE_USER`; dbt keeps it out of its logs"),
    Variable("WAREHOUSE_READER", "the role that may select from the marts", "`reader`"),
    Variable("WAREHOUSE_SCHEMA", "prefix of the schemas for the target `dev`", "`dev`"),
    Variable("DBT_TARGET_PATH", "folder for dbt's artifacts", "`target` in the project"),
    Variable("DBT_FAILURES_PATH", "folder that a failed run's results are copied to; tasks set it", "not copied"),
    Variable("WAREHOUSE_LOCK_TIMEOUT", "how many seconds a build waits for loads and other builds", "1800"),
]
