"""Set an AIRFLOW_HOME for these tests before Airflow is imported."""

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = tempfile.TemporaryDirectory(prefix="events-platform-dags-")
os.environ |= {
    "AIRFLOW_HOME": HOME.name,
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "airflow" / "dags"),
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
}
sys.path.insert(0, str(ROOT / "airflow" / "dags"))
