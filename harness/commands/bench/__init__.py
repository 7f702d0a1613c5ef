"""Measure what the project promises about speed, as ratios within one run."""
