"""The repository itself: paths, pinned versions, locks, environments, tools."""
