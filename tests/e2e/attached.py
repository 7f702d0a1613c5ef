"""Run the harness's command line on an embedded Airflow that a test has up, so that only the harness starts and ends.

The environment has the Airflow's ATTACHED_ADDRESS and ATTACHED_PASSWORD. What the supervisor owns is empty.
"""

import os
import sys
from typing import Any

from harness.__main__ import main
from harness.pipeline.airflow_api import AirflowApi
from harness.targets import embedded


def attach(supervisor: Any, *_: Any, **__: Any) -> embedded.EmbeddedDeployment:
    """Return the deployment; until a DAG has succeeded nobody asks for its warehouse."""
    api = AirflowApi(os.environ["ATTACHED_ADDRESS"], "admin", os.environ["ATTACHED_PASSWORD"])
    warehouse: Any = None
    return embedded.EmbeddedDeployment(supervisor, api, warehouse)


if __name__ == "__main__":
    embedded.start = attach
    sys.exit(main(sys.argv[1:]))
