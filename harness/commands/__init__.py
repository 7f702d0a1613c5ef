"""What each session does: a module per session, and the benchmarks."""
