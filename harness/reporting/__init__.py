"""Output for people: the terminal, summaries, annotations, diagnostics, results of pytest, dbt and linters."""
