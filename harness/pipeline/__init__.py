"""Airflow's API, the runs of the DAGs, and the checks of every number."""
