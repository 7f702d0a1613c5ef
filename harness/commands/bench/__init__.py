"""Measure the speed targets of the project, as ratios within one run."""
