"""Where the pipelines run: local processes, kind, minikube or an existing cluster, a module each."""
