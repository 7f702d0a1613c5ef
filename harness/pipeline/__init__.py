"""Airflow's API, the runs of the DAGs, and what is checked after them."""
