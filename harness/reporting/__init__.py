"""Output for people: the terminal, summaries, pages with charts, diagnostics, results of pytest, dbt and linters."""
