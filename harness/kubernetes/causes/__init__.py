"""Why Airflow does not come up on a cluster: a module for each kind of cause, and `search`, which tries them all.

A missed deadline or a failed `helm upgrade` is a symptom. Its cause is in the states of containers, in events and in
logs, in words that differ between versions of Kubernetes: those of 1.20 to 1.36 are recognised.

Next steps say `kubectl` alone; `search.find_causes` adds the options that name the cluster.
"""
