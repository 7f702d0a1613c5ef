"""Bring targets up, run the pipelines on them, check every number, and take everything down."""
