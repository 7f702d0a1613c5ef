"""Checks and releases of the project itself: linters, types, needs of tests, the plan of a workflow, locks."""
