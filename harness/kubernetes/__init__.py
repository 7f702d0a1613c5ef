"""What runs on a cluster: the chart, its deployment and rollout, its secrets, and why it fails."""
