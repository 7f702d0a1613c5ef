"""The repository: paths, pinned versions, locks, environments and tools."""
