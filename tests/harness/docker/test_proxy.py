"""A build reaches its packages through a company's proxy, index and authority, and keeps none of them.

The index is known to the proxy alone: its name resolves nowhere else. It asks for a password, and its certificate is of
an authority that only this test knows. Both are on the loopback address.
"""

import base64
import hashlib
import io
import re
import secrets
import socket
import ssl
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import trustme

from harness.docker import images
from harness.errors import BuildFailedError
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.project.paths import ROOT
from tests.servers import Handler, copy, serving

pytestmark = pytest.mark.needs("postgres-image")

HOST = "index.example.test"
PASSWORD = secrets.token_hex(8)
WHEEL = "parcel-1.0-py3-none-any.whl"
SECRETS = "RUN --mount=type=secret,id=pip,mode=0444 --mount=type=secret,id=ca,mode=0444 \\\n    export PIP_CONFIG_FILE="
VARIABLES = (*images.PROXIES, *map(str.lower, images.PROXIES), *images.INDEXES, *images.CERTIFICATES)


def wheel() -> bytes:
    """Return the smallest package that pip installs."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("parcel.py", "")
        archive.writestr("parcel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: parcel\nVersion: 1.0\n")
        archive.writestr("parcel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("parcel-1.0.dist-info/RECORD", "")
    return content.getvalue()


PARCEL = wheel()


class Index(Handler):
    """A package index with one package, for a user with the password."""

    def respond(self) -> None:
        wanted = "Basic " + base64.b64encode(f"user:{PASSWORD}".encode()).decode()
        is_page = self.path == "/simple/parcel/"
        content = f'<a href="/{WHEEL}">{WHEEL}</a>'.encode() if is_page else PARCEL
        self.send_response(200 if self.headers["Authorization"] == wanted else 401)
        self.send_header("WWW-Authenticate", 'Basic realm="index"')
        self.send_header("Content-Type", "text/html" if is_page else "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def company(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """Give what the proxy was asked for, of a machine whose variables name proxy, index and authority."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    authority, asked = trustme.CA(), []
    authority.cert_pem.write_to_path(str(tmp_path / "company.pem"))
    encryption = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(encryption)

    class Proxy(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            asked.append(self.path)
            host, _, port = address.partition(":")
            with socket.create_connection((host, int(port))) as other:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=copy, args=(other, self.connection), daemon=True)
                back.start()
                copy(self.connection, other)
                back.join()

        def log_message(self, *_: object) -> None:
            pass

    with serving(Index, encryption) as address, serving(Proxy) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy}")
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"https://user:{PASSWORD}@{HOST}/simple")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "company.pem"))
        yield asked


@pytest.fixture
def image(tmp_path: Path) -> Iterator[images.Image]:
    """Give an image whose build installs the package as the project's Dockerfiles do theirs."""
    lock = f"parcel==1.0 --hash=sha256:{hashlib.sha256(PARCEL).hexdigest()}\n"
    (tmp_path / "lock.txt").write_text(f"# {secrets.token_hex(4)}: no build is cached\n{lock}")
    # A base may know an authority already, and pip prefers its variables to the settings.
    (tmp_path / "Dockerfile").write_text(
        "ARG BASE\nFROM ${BASE}\nENV PIP_CERT= REQUESTS_CA_BUNDLE= SSL_CERT_FILE= PIP_RETRIES=0\n"
        f"COPY lock.txt /tmp/\n{SECRETS}/run/secrets/pip && \\\n"
        "    pip install --no-cache-dir --break-system-packages --no-deps --require-hashes -r /tmp/lock.txt\n"
    )
    files = {name: tmp_path / name for name in ("Dockerfile", "lock.txt")}
    base = pins.image("python")
    image = images.Image("test-proxy", "Dockerfile", base, {"BASE": base}, files)
    yield image
    subprocess.run(["docker", "image", "rm", "--force", image.reference], check=True, capture_output=True)


def test_a_build_goes_through_proxy_index_and_authority(company: list[str], image: images.Image) -> None:
    with Supervisor.launch() as supervisor:
        assert images.build(supervisor, image)
        assert not [*supervisor.directory.glob("*.conf")]
        logs = "".join(path.read_text(errors="replace") for path in (supervisor.directory / "logs").iterdir())
    assert company
    assert set(company) == {f"{HOST}:443"}
    for kept in (inspected(image.reference), logs):
        assert PASSWORD not in kept
    assert "HTTPS_PROXY" not in inspected(image.reference)
    run = ("docker", "run", "--rm", "--entrypoint", "sh", image.reference, "-c")
    found = subprocess.run(
        [*run, "ls -A /run/secrets; python3 -c 'import parcel'"], capture_output=True, text=True, check=True
    )
    assert found.stdout == ""


def inspected(reference: str) -> str:
    """Return what an image says of itself, its history too."""
    argvs = (["docker", "image", "inspect", reference], ["docker", "history", "--no-trunc", reference])
    return "".join(subprocess.run(argv, capture_output=True, text=True, check=True).stdout for argv in argvs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "UV_DEFAULT_INDEX", "SSL_CERT_FILE"])
def test_each_of_them_is_needed(
    company: list[str], image: images.Image, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert not company
    monkeypatch.delenv(name)
    with Supervisor.launch() as supervisor, pytest.raises(BuildFailedError) as caught:
        images.build(supervisor, image)
    assert caught.value.why == "Its last step says: ERROR: No matching distribution found for parcel==1.0"


@pytest.mark.parametrize("name", ["airflow/Dockerfile", "dbt/Dockerfile"])
def test_the_dockerfiles_mount_the_secrets_where_they_install(name: str) -> None:
    [run] = re.findall(r"^RUN (?:.*\\\n)*.*pip (?:.*\\\n)*.*install\b", (ROOT / name).read_text(), re.MULTILINE)
    assert run.startswith(SECRETS)


def test_the_options_of_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    settings = tmp_path / "pip.conf"
    secret = ["--secret", f"id=pip,src={settings}"]
    assert images.way_to_index(settings) == secret
    assert settings.read_text().split() == ["[global]"]
    monkeypatch.setenv("https_proxy", "proxy.example.test:3128")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"company=https://user:{PASSWORD}@index.example.test/simple%20index")
    monkeypatch.setenv("PIP_INDEX_URL", "https://other.example.test")
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    assert images.way_to_index(settings) == ["--build-arg", "https_proxy", "--build-arg", "NO_PROXY", *secret]
    assert (
        settings.read_text().split("\n")[1] == f"index-url = https://user:{PASSWORD}@index.example.test/simple%20index"
    )
    assert settings.stat().st_mode & 0o77 == 0
    monkeypatch.setenv("https_proxy", "127.0.0.1:3128")
    assert images.way_to_index(settings)[-2:] == ["--network", "host"]
