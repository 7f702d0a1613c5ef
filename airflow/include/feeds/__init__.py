"""The code of the pipeline's tasks: it loads the files of feeds into the warehouse. Imports no Airflow."""
