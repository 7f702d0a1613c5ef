"""Contracts of feeds: a new one guessed from a file, and what a changed one breaks."""
