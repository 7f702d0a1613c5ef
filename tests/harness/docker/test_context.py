"""The engine of the docker command's context is the one of every client: kind's, PostgreSQL's and our own."""

import contextlib
import os
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from harness.docker import engine
from harness.processes.supervisor import Supervisor
from harness.warehouse import container
from tests.servers import copy

pytestmark = pytest.mark.needs("postgres-image")

VARIABLES = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")


class Relay(socketserver.BaseRequestHandler):
    """Passes a connection on to the engine, and back."""

    connections = 0

    def handle(self) -> None:
        Relay.connections += 1
        with socket.socket(socket.AF_UNIX) as other:
            other.connect("/var/run/docker.sock")
            back = threading.Thread(target=copy, args=(other, self.request), daemon=True)
            back.start()
            copy(self.request, other)
            back.join()


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class TcpServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True


@pytest.fixture
def docker_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give an empty configuration of the docker command, which finds its plugins by another way."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what the test sets is removed again
        monkeypatch.delenv(name)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # requests prefers them to what its caller chose
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr(Relay, "connections", 0)
    return tmp_path


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    with server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


def create_context(endpoint: str) -> None:
    subprocess.run(["docker", "context", "create", "other", "--docker", endpoint], check=True, capture_output=True)


@pytest.fixture
def address(docker_config: Path) -> Iterator[str]:
    """Give the address of the context `other`, which exists."""
    path = docker_config / "engine.sock"
    with serving(UnixServer(str(path), Relay)):
        create_context(f"host=unix://{path}")
        yield f"unix://{path}"


def test_postgresql_starts_in_the_contexts_engine(address: str, docker_config: Path) -> None:
    subprocess.run(["docker", "context", "use", "other"], check=True, capture_output=True)
    engine.use_current_context()
    assert os.environ["DOCKER_HOST"] == address
    shutil.rmtree(docker_config / "contexts")  # from here on the variable alone leads to the engine
    assert container.engine_answers()
    assert (before := Relay.connections)
    with Supervisor.launch() as supervisor:
        container.start_container(supervisor)
        assert Relay.connections > before


def test_the_variable_of_the_docker_command_names_a_context(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "other")
    engine.use_current_context()
    assert os.environ["DOCKER_HOST"] == address
    monkeypatch.delenv("DOCKER_CONTEXT")
    assert engine.info()["ServerVersion"]
    assert Relay.connections


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@pytest.mark.parametrize("skip_verify", [False, True])
def test_the_contexts_certificates_are_used(docker_config: Path, skip_verify: bool) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    files = {name: docker_config / f"{name}.pem" for name in ("ca", "cert", "key")}
    trusted = stranger if skip_verify else authority
    trusted.cert_pem.write_to_path(str(files["ca"]))
    own = authority.issue_cert("client@example.test")
    own.cert_chain_pems[0].write_to_path(str(files["cert"]))
    own.private_key_pem.write_to_path(str(files["key"]))
    encryption = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(encryption)
    authority.configure_trust(encryption)
    encryption.verify_mode = ssl.CERT_REQUIRED  # without its certificate no client gets in
    server = TcpServer(("127.0.0.1", 0), Relay)
    server.socket = encryption.wrap_socket(server.socket, server_side=True)
    with serving(server):
        host = f"tcp://127.0.0.1:{server.server_address[1]}"
        paths = ",".join(f"{name}={path}" for name, path in files.items())
        create_context(f"host={host},{paths},skip-tls-verify={str(skip_verify).lower()}")
        subprocess.run(["docker", "context", "use", "other"], check=True, capture_output=True)
        engine.use_current_context()
        assert os.environ["DOCKER_HOST"] == host
        assert container.engine_answers()
        assert engine.info()["ServerVersion"]


@pytest.mark.parametrize("change", ["DOCKER_HOST", "default", "missing"])
def test_a_variable_or_the_default_context_changes_nothing(
    address: str, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    assert address
    if change == "DOCKER_HOST":
        monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    if change == "missing":
        monkeypatch.setenv("DOCKER_CONTEXT", "no-such-context")
    engine.use_current_context()
    assert os.environ.get("DOCKER_HOST") == ("unix:///nowhere" if change == "DOCKER_HOST" else None)
    assert container.engine_answers() is (change != "DOCKER_HOST")
