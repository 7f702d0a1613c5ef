"""Bring targets up, run the pipelines on them, explain what fails, take everything down: `python -m harness`."""
