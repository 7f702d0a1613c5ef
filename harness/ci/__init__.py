"""What checks and ships the project itself: linters, type checks, the plan of a workflow, locks, releases."""
