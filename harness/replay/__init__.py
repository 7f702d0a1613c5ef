"""Weeks of deliveries and runs, played against the pipelines and checked after every run."""
