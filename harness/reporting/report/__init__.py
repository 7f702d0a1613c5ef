"""The report of a run, `build/report/index.html`: what it shows, and the page."""
