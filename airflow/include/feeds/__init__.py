"""The code of the pipeline's tasks: it loads an events file into the warehouse. Imports no Airflow."""
