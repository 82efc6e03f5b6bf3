"""A real S3 server on loopback behind a gate that sees each request and may answer or break it off itself."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator

import fsspec

KEY, SECRET = "AKIATHEGATEKNOWSTHIS", "a-secret-that-must-not-show"
RESET = b""
"""An answer that is none: the connection is reset."""


def answer(status: str, message: str = "") -> bytes:
    """Returns an HTTP answer with S3's error body; its connection closes."""
    code = status.split(" ", 1)[1].replace(" ", "")
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


class Gate(socketserver.ThreadingTCPServer):
    """Relays connections to a server; `rule` takes a request's head and returns None to let it pass, or an answer."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target: tuple[str, int], rule: Callable[[str], bytes | None] = lambda head: None):
        super().__init__(("127.0.0.1", 0), _Relay)
        self.target, self.rule = target, rule

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Relay(socketserver.BaseRequestHandler):
    server: Gate

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as upstream:
            threading.Thread(target=self._copy, args=(upstream, self.request), daemon=True).start()
            while data := self._received():
                head_only = data.startswith(b"HEAD ")
                if data.split(b" ", 1)[0] in (b"GET", b"PUT", b"HEAD", b"POST", b"DELETE"):
                    own = self.server.rule(data.split(b"\r\n\r\n", 1)[0].decode(errors="replace"))
                    if own == RESET:
                        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                        return
                    if own is not None:
                        # A body after the answer to HEAD would be no HTTP, and clients try that again and again.
                        self.request.sendall(own.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head_only else own)
                        return
                upstream.sendall(data)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)

    def _received(self) -> bytes:
        with contextlib.suppress(OSError):
            return self.request.recv(1 << 16)
        return b""


def options(url: str, **more) -> dict:
    """Returns storage options for a server."""
    return {"key": KEY, "secret": SECRET, "client_kwargs": {"endpoint_url": url}} | more


@contextlib.contextmanager
def gated_s3(*buckets: str) -> Iterator[tuple[Gate, fsspec.AbstractFileSystem]]:
    """Yields a gate before a server with buckets, and a filesystem that goes around the gate."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    direct = fsspec.filesystem("s3", **options(f"http://{host}:{port}"))
    for bucket in buckets:  # moto keeps the buckets of other servers in this process
        direct.makedirs(bucket, exist_ok=True)
    gate = Gate((host, port))
    threading.Thread(target=gate.serve_forever, daemon=True).start()
    try:
        yield gate, direct
    finally:
        gate.shutdown()
        gate.server_close()
        server.stop()
