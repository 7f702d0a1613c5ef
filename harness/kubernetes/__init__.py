"""What runs on a cluster: the chart, its roll-out, its secrets, and why it fails."""
