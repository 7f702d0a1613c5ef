"""Web servers on the loopback address."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """Answers GET, HEAD and POST by `respond`, which calls `answer` or `send_error`, and logs nothing."""

    def posted(self) -> bytes:
        """Read what a POST has sent."""
        return self.rfile.read(int(self.headers["Content-Length"]))

    def respond(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self.respond()

    def do_HEAD(self) -> None:
        self.respond()

    def do_POST(self) -> None:
        self.respond()

    def answer(self, status: int, content: bytes = b"", *, missing_bytes: int = 0, **headers: str) -> None:
        """Answer with STATUS and CONTENT, and break off before the last MISSING_BYTES that were promised."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content) + missing_bytes))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler], encryption: ssl.SSLContext | None = None) -> Iterator[str]:
    """Have a server whose requests HANDLER answers, and give its host and port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if encryption:
            server.socket = encryption.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def serving_folder(folder: Path, encryption: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve the files of FOLDER and give the address; like many servers it does not support ranges."""
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with serving(partial(handler, directory=str(folder)), encryption) as address:
        yield f"http{'s' * bool(encryption)}://{address}"


def copy(source: socket.socket, target: socket.socket) -> None:
    """Copy what SOURCE sends to TARGET until one of them ends, then end both."""
    with suppress(OSError):
        while block := source.recv(1 << 16):
            target.sendall(block)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
