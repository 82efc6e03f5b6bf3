"""An S3 server on loopback with one bucket of as many empty images as wanted, none of which is stored anywhere."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

BUCKET = "empty"
PAGE = 1000
"""Keys of a page of the listing, as in Amazon's."""

_EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e"


def key(n: int) -> str:
    """Returns the key of an image; keys sort by number."""
    return f"{n // 1000:06d}/{n:09d}.jpg"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    count: ClassVar[int]

    def do_GET(self) -> None:
        path, query = self._asked()
        if path.rstrip("/") == f"/{BUCKET}":
            self._send(200, self._page(query), "application/xml")
        else:
            self.do_HEAD()

    def do_HEAD(self) -> None:
        path, _ = self._asked()
        bucket, _, name = path.lstrip("/").partition("/")
        digits = name.rpartition("/")[2].removesuffix(".jpg")
        there = bucket == BUCKET and (not name or (digits.isdigit() and int(digits) < self.count))
        self._send(200 if there else 404, b"", "image/jpeg")

    def _asked(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return parts.path, parse_qs(parts.query, keep_blank_values=True)

    def _page(self, query: dict[str, list[str]]) -> bytes:
        start = int(query.get("continuation-token", ["0"])[0])
        end = min(self.count, start + min(PAGE, int(query.get("max-keys", [PAGE])[0])))
        truncated = end < self.count
        entry = "<Contents><Key>{}</Key><Size>0</Size><ETag>&quot;{}&quot;</ETag></Contents>"
        keys = "".join(entry.format(key(n), _EMPTY_MD5) for n in range(start, end))
        more = f"<NextContinuationToken>{end}</NextContinuationToken>" if truncated else ""
        return (
            f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>{BUCKET}</Name><KeyCount>{end - start}'
            f"</KeyCount><IsTruncated>{str(truncated).lower()}</IsTruncated>{more}{keys}</ListBucketResult>"
        ).encode()

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{_EMPTY_MD5}"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def server(count: int) -> ThreadingHTTPServer:
    """Returns the server, bound to a free port of loopback; `serve_forever` runs it.

    Args:
        count: number of images in its bucket.
    """
    handler = type("_Counted", (_Handler,), {"count": count})
    return ThreadingHTTPServer(("127.0.0.1", 0), handler)
