"""What the pipeline's tasks call: read an events file, load it into the warehouse. Imports no Airflow."""
