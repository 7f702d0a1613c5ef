"""Small objects that fail on a cluster in the ways that `harness.kubernetes.causes` distinguishes.

The image is the only one they need, and the cluster has to have it: nothing is downloaded. What is missing is asked of
a registry that one of them is, which the node's containerd reaches at its own 127.0.0.1. containerd 1 asks it over HTTP
at once; containerd 2 over HTTPS, and then over HTTP where the answer is an HTTP one. On a kind node a `hosts.toml` that
says so would not be read from 2.2 on: https://github.com/containerd/containerd/issues/12808
"""

import json
from typing import Any

IMAGE = "python:3.13-slim-trixie"
REGISTRY = "127.0.0.1:5990"
REGISTRY_OVER_HTTPS = "0.0.0.0:5990"  # the same, but not a loopback address by its look: it is not asked over HTTP

NOTHING_HAS_IT = "404, {'code': 'MANIFEST_UNKNOWN', 'message': 'manifest unknown'}"
WANTS_LOGIN = "401, {'code': 'UNAUTHORIZED', 'message': 'authentication required'}"

# A registry that gives every request the same answer, in the form of the distribution specification.
REGISTRY_PROGRAM = """
import http.server, json

class Registry(http.server.BaseHTTPRequestHandler):
    default_request_version = "HTTP/1.0"  # of what it cannot read, a TLS handshake: the answer has a status line

    def do_GET(self):
        status, error = %s
        body = json.dumps({"errors": [error]}).encode()
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="registry"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

http.server.HTTPServer(("127.0.0.1", 5990), Registry).serve_forever()
"""

# Airflow's last words when its database does not answer; recorded with 3.3.2.
NO_DATABASE = """
print('''Traceback (most recent call last):
  File "/usr/local/lib/python3.13/site-packages/psycopg2/__init__.py", line 122, in connect
    conn = _connect(dsn, connection_factory=connection_factory, **kwasync)
sqlalchemy.exc.OperationalError: (psycopg2.OperationalError) connection to server at "172.18.0.9", port 5432 failed: \
Connection refused
\\tIs the server running on that host and accepting TCP/IP connections?

(Background on this error at: https://sqlalche.me/e/21/e3q8)''')
raise SystemExit(1)
"""

USE_MEMORY = "import time; time.sleep(2); blocks = [b'x' * (1 << 20) for _ in range(512)]"
SLEEP = "import time; time.sleep(600)"


def container(program: str = SLEEP, **fields: Any) -> dict[str, Any]:
    """Return a container that runs a program of Python."""
    return {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-uc", program],
    } | (fields)


def pod(
    component: str, *containers: dict[str, Any], labels: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    """Return a pod with the labels that the chart gives."""
    labels = labels or {"component": component, "release": "faults", "tier": "airflow"}
    own = {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False, "containers": list(containers)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": component, "labels": labels}, "spec": own | spec}


def job(component: str, *containers: dict[str, Any], backoff_limit: int = 6, **spec: Any) -> dict[str, Any]:
    """Return a job like the chart's, which has Kubernetes' own backoff limit."""
    template = pod(component, *containers, restartPolicy="OnFailure", **spec)
    del template["apiVersion"], template["kind"], template["metadata"]["name"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"faults-{component}", "labels": template["metadata"]["labels"]},
        "spec": {"template": template, "backoffLimit": backoff_limit},
    }


def claim(name: str, storage_class: str, **spec: Any) -> dict[str, Any]:
    """Return a claim on a volume of STORAGE_CLASS."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": "1Gi"}},
            **spec,
        },
    }


def probed(component: str, kind: str, period_s: int = 1) -> dict[str, Any]:
    """Return a pod whose probe of KIND meets nothing at its port."""
    probe = {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": period_s, "failureThreshold": 3}
    return pod(component, container() | {f"{kind}Probe": probe})


def mounts(component: str, volume: dict[str, Any]) -> dict[str, Any]:
    """Return a pod that mounts VOLUME."""
    mounted = container(volumeMounts=[{"name": "data", "mountPath": "/data"}])
    return pod(component, mounted, volumes=[{"name": "data", **volume}])


def asks_registry(component: str, answer: str, address: str = REGISTRY) -> tuple[dict[str, Any], ...]:
    """Return a registry that answers ANSWER, and a pod whose image is pulled from it at ADDRESS."""
    # Its own labels: the pods of one component count as one thing.
    labels = {"component": "registry", "release": "faults"}
    registry = pod(f"registry-{component}", container(REGISTRY_PROGRAM % answer), labels=labels, hostNetwork=True)
    return registry, pod(component, container(image=f"{address}/team/airflow:1"))


def waits_for_migrations(component: str, program: str) -> dict[str, Any]:
    """Return a pod like a component's of the chart, whose init container runs PROGRAM."""
    waiting = container(program, name="wait-for-airflow-migrations")
    return pod(component, container(), initContainers=[waiting])


def of_a_task(name: str, *containers: dict[str, Any]) -> dict[str, Any]:
    """Return a pod like a worker's of the KubernetesExecutor."""
    labels = {
        "component": "worker",
        "dag_id": "events_pipeline_daily",
        "kubernetes_executor": "True",
        "release": "faults",
        "task_id": "load_events",
    }
    return pod(name, *containers, labels=labels, restartPolicy="Never")


def limits(**amounts: str) -> dict[str, Any]:
    """Return the resources of a container that is limited to AMOUNTS."""
    return {"limits": {name.replace("_", "-"): amount for name, amount in amounts.items()}}


def requests(**amounts: str) -> dict[str, Any]:
    """Return the resources of a container that asks for AMOUNTS."""
    return {"requests": dict(amounts)}


def from_secret(name: str, key: str) -> list[dict[str, Any]]:
    """Return an environment with a variable that a secret has."""
    return [{"name": "CONNECTION", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}]


OBJECTS: dict[str, tuple[dict[str, Any], ...]] = {
    "image-not-found": asks_registry("not-found", NOTHING_HAS_IT),
    "image-unauthorized": asks_registry("unauthorized", WANTS_LOGIN),
    "image-http": asks_registry("http", NOTHING_HAS_IT, REGISTRY_OVER_HTTPS),
    "image-unreachable": (pod("unreachable", container(image="registry.invalid/team/airflow:1")),),
    "image-refused": (pod("refused", container(image="127.0.0.1:5999/team/airflow:1")),),
    "image-name": (pod("name", container(image="Team/Airflow:1")),),
    "image-never-pulled": (pod("never-pulled", container(image="team/airflow:1", imagePullPolicy="Never")),),
    "image-of-a-task": (of_a_task("task-image", container(image="team/airflow:1", imagePullPolicy="Never")),),
    "probe-startup": (probed("startup", "startup"),),
    "probe-liveness": (probed("liveness", "liveness"),),
    "probe-readiness": (probed("readiness", "readiness"),),
    "memory": (pod("memory", container(USE_MEMORY, resources=limits(memory="64Mi"))),),
    "memory-of-a-child": (
        pod(
            "memory-child",
            container(
                f"import subprocess, sys; subprocess.run([sys.executable, '-c', {USE_MEMORY!r}], check=True)",
                resources=limits(memory="64Mi"),
            ),
        ),
    ),
    "memory-of-a-task": (of_a_task("task-memory", container(USE_MEMORY, resources=limits(memory="64Mi"))),),
    "config-secret": (pod("no-secret", container(env=from_secret("faults-missing", "connection"))),),
    "config-key": (
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "faults-secret"}, "stringData": {"other": "1"}},
        pod("no-key", container(env=from_secret("faults-secret", "connection"))),
    ),
    "config-mount": (mounts("no-config-map", {"configMap": {"name": "faults-missing"}}),),
    "unschedulable-cpu": (pod("much-cpu", container(resources=requests(cpu="1000"))),),
    "unschedulable-memory": (pod("much-memory", container(resources=requests(memory="10Ti"))),),
    "unschedulable-node": (pod("other-node", container(), nodeSelector={"faults/none": "true"}),),
    "claim-class": (
        claim("faults-class", "faults-missing"),
        mounts("claims-class", {"persistentVolumeClaim": {"claimName": "faults-class"}}),
    ),
    "claim-volume": (
        claim("faults-volume", ""),
        mounts("claims-volume", {"persistentVolumeClaim": {"claimName": "faults-volume"}}),
    ),
    "claim-named": (
        claim("faults-named", "", volumeName="faults-missing"),
        mounts("claims-named", {"persistentVolumeClaim": {"claimName": "faults-named"}}),
    ),
    "claim-missing": (mounts("claims-nothing", {"persistentVolumeClaim": {"claimName": "faults-missing"}}),),
    "claim-path": (mounts("no-path", {"hostPath": {"path": "/faults/missing", "type": "Directory"}}),),
    "crash": (pod("crash", container("raise ValueError('fernet key is not 32 bytes')")),),
    "crash-database": (pod("crash-database", container(NO_DATABASE)),),
    "crash-command": (pod("crash-command", container(command=["no-such-program"])),),
    "migrations-hang": (
        job(
            "run-airflow-migrations", container(f"print('Performing upgrade'); {SLEEP}", name="run-airflow-migrations")
        ),
        waits_for_migrations("waits", f"print('Waiting for migrations... 1 second(s)'); {SLEEP}"),
    ),
    "migrations-fail": (
        job("run-airflow-migrations", container(NO_DATABASE, name="run-airflow-migrations")),
        waits_for_migrations(
            "waits-too", "raise TimeoutError('There are still unapplied migrations after 1 seconds.')"
        ),
    ),
    "migrations-given-up": (
        job("run-airflow-migrations", container(NO_DATABASE, name="run-airflow-migrations"), backoff_limit=1),
        waits_for_migrations("waits-still", f"print('Waiting for migrations... 1 second(s)'); {SLEEP}"),
    ),
    "refused": (job("no-account", container(), serviceAccountName="faults-missing"),),
    "evicted": (
        pod(
            "evicted",
            container(
                f"open('/tmp/big', 'wb').write(bytes(8 << 20)); {SLEEP}", resources=limits(ephemeral_storage="1Mi")
            ),
        ),
    ),
}

MANIFESTS = {
    name: json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=1)
    for name, objects in OBJECTS.items()
}

# By kind and by this project's own words: those of Kubernetes and containerd differ between versions.
EXPECTED = {
    "image-not-found": (
        "image",
        "not-found cannot get its image 127.0.0.1:5990/team/airflow:1",
        "has no image or tag",
    ),
    "image-unauthorized": ("image", "unauthorized cannot get its image 127.0.0.1:5990/team/airflow:1", "a login"),
    "image-http": ("image", "http cannot get its image 0.0.0.0:5990/team/airflow:1", "0.0.0.0:5990 speaks HTTP"),
    "image-unreachable": (
        "image",
        "unreachable cannot get its image registry.invalid/team/airflow:1",
        "cannot reach registry.invalid",
    ),
    "image-refused": (
        "image",
        "refused cannot get its image 127.0.0.1:5999/team/airflow:1",
        "cannot reach 127.0.0.1:5999",
    ),
    "image-name": ("image", "name cannot get its image Team/Airflow:1", "No image can have that name"),
    "image-never-pulled": ("image", "never-pulled cannot get its image team/airflow:1", "not loaded into the node"),
    "image-of-a-task": ("image", "events_pipeline_daily.load_events", "not loaded into the node"),
    "probe-startup": ("probe", "its startup probe failed", "does not listen yet"),
    "probe-liveness": ("probe", "its liveness probe failed, and it was restarted", "does not listen yet"),
    "probe-readiness": ("probe", "its readiness probe failed", "does not listen yet"),
    "memory": ("memory", "than its limit, 64Mi", "needs more than that"),
    "memory-of-a-child": ("memory", "than its limit, 64Mi", "needs more than that"),
    "memory-of-a-task": ("memory", "events_pipeline_daily.load_events was killed", "needs more than that"),
    "config-secret": ("config", "no-secret cannot start", "The secret faults-missing does not exist"),
    "config-key": ("config", "no-key cannot start", "The secret faults-secret has other keys"),
    "config-mount": ("config", "no-config-map cannot start", "The configmap faults-missing does not exist"),
    "unschedulable-cpu": ("unschedulable", "much-cpu has no node", "more than the nodes have left"),
    "unschedulable-memory": ("unschedulable", "much-memory has no node", "more than the nodes have left"),
    "unschedulable-node": ("unschedulable", "other-node has no node", "No node has the labels"),
    "claim-class": ("claim", "claims-class waits for the claim faults-class", "has no storage class faults-missing"),
    "claim-volume": ("claim", "claims-volume waits for the claim faults-volume", "No volume fits it"),
    "claim-named": ("claim", "it names the volume faults-missing", "No volume fits it"),
    "claim-missing": ("claim", "claims-nothing has no node", "Its volume claim does not exist"),
    "claim-path": ("claim", "no-path cannot be set up on its node", "most likely missing"),
    "crash": ("crash", "ValueError: fernet key is not 32 bytes", "No known cause matches"),
    "crash-database": ("crash", "port 5432 failed: Connection refused", "Nothing listens at the database's address"),
    "crash-command": ("crash", "crash-command could not be started", "no such program"),
    "migrations-hang": ("job-running", "its last log line: Performing upgrade", "most likely slow"),
    "migrations-fail": ("job", "port 5432 failed: Connection refused", "Nothing listens at the database's"),
    "migrations-given-up": (
        "job",
        "The migration of Airflow's database was given up",
        "their logs with them, were deleted",
    ),
    "refused": ("refused", "creates no pods for the Job faults-no-account", "names an object that does not exist"),
    "evicted": ("evicted", "evicted was evicted", "wrote more to its local disk"),
}
