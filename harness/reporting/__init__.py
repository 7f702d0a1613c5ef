"""What people read: the terminal, summaries, annotations, diagnostics, results of pytest, dbt and linters."""
