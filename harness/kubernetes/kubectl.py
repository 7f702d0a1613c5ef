"""Run kubectl in one namespace of one cluster."""

import json
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import CommandFailedError
from harness.processes.command import run
from harness.project import tools
from harness.project.paths import ROOT

REQUEST_TIMEOUT_S = 60.0
MANAGER = "events-platform"  # of what `apply` writes, in the objects' `managedFields`


@dataclass(frozen=True)
class Kubectl:
    """A namespace, which need not exist yet, of the cluster of KUBECONFIG and CONTEXT, by default kubectl's own."""

    program: Path
    namespace: str
    kubeconfig: Path | None = None
    context: str | None = None

    @property
    def for_dbt(self) -> "Kubectl":
        """The same for the namespace of dbt's pods, which belongs to Airflow's namespace."""
        return replace(self, namespace=f"{self.namespace}-dbt")

    @property
    def argv(self) -> list[str]:
        """The program with the options that name cluster and namespace."""
        argv = [str(self.program), "--namespace", self.namespace]
        if self.kubeconfig:
            argv += ["--kubeconfig", str(self.kubeconfig)]
        if self.context:
            argv += ["--context", self.context]
        return argv

    @property
    def command(self) -> str:
        """The same as a user types it in the project's folder."""
        _, *options = [os.path.relpath(part, ROOT) if part == str(self.kubeconfig) else part for part in self.argv]
        return shlex.join([tools.typed(self.program), *options])

    def run(self, *arguments: str, stdin: str | None = None, timeout_s: float = REQUEST_TIMEOUT_S) -> str:
        """Run kubectl with ARGUMENTS and return its standard output; raise CommandFailedError if it fails."""
        return run(*self.argv, *arguments, stdin=stdin, timeout_s=timeout_s)

    def apply(self, manifests: str | Iterable[dict[str, Any]]) -> None:
        """Apply manifests, YAML or objects, on the server's side: it keeps no copy of a secret in an annotation."""
        if not isinstance(manifests, str):
            manifests = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        manager = ("--server-side", "--force-conflicts", f"--field-manager={MANAGER}")
        self.run("apply", *manager, "--filename", "-", stdin=manifests)

    def items(self, *kinds: str, selector: str = "") -> list[dict[str, Any]]:
        """Return the objects of KINDS that match the label SELECTOR."""
        output = self.run("get", ",".join(kinds), "--selector", selector, "--output", "json")
        items: list[dict[str, Any]] = json.loads(output)["items"]
        return items

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return one object, with who manages its fields, or None if it does not exist."""
        output = self.run("get", kind, name, "--ignore-not-found", "--show-managed-fields", "--output", "json")
        return json.loads(output) if output.strip() else None

    def logs(self, pod: str, container: str, previous: bool = False, lines: int = 200) -> str:
        """Return the last LINES of a container's log, or of the log before its last restart; empty if there is none."""
        options = ["--previous"] if previous else []
        try:
            return self.run("logs", pod, "--container", container, "--tail", str(lines), *options)
        except CommandFailedError:
            return ""

    def server_version(self) -> str:
        """Return the version of the cluster's API server, `v1.35.0` for example; empty if it does not answer."""
        try:
            output = self.run("version", "--output", "json", "--request-timeout", "10s", timeout_s=15)
        except CommandFailedError:
            return ""
        return str(json.loads(output)["serverVersion"]["gitVersion"])

    def answers(self) -> bool:
        """Return whether the cluster's API answers."""
        return bool(self.server_version())
