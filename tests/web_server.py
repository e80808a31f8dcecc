"""A web server on this machine for the tests of downloads."""

from __future__ import annotations

import hashlib
import http.server
import threading
from typing import Any


class Server:
    """A web server on this machine: what it offers, how it behaves, and what it was asked for."""

    def __init__(self) -> None:
        self.address = ''
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.errors: dict[str, list[int]] = {}  # statuses, one after the other
        self.extra: dict[str, dict[str, str]] = {}  # headers by path
        self.cuts: list[int] = []  # bytes after which the next answers break off
        self.validators = self.ranges = self.if_range = True
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.gate: threading.Event | None = None

    def ranges_asked(self) -> list[str | None]:
        return [headers.get('Range') for headers in self.headers]


def handler_of(offer: Server) -> type[http.server.BaseHTTPRequestHandler]:
    """Make what answers the requests to a server."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            offer.asked.append(self.path)
            offer.headers.append(dict(self.headers))
            if offer.gate is not None:
                offer.gate.wait(20)
            data = offer.files.get(self.path)
            if self.path in offer.redirects:
                self.answer(302, {'Location': offer.redirects[self.path]})
            elif offer.errors.get(self.path):
                self.answer(offer.errors[self.path].pop(0), {})
            elif data is None:
                self.answer(404, {})
            else:
                self.send_file(data)

        def send_file(self, data: bytes) -> None:
            etag = f'"{hashlib.sha1(data).hexdigest()}"'
            headers = {'ETag': etag} if offer.validators else {}
            unchanged = not offer.if_range or self.headers.get('If-Range', etag) == etag
            if not (offer.ranges and unchanged and 'Range' in self.headers):
                return self.answer(200, headers, data)
            start = int(self.headers['Range'].removeprefix('bytes=').removesuffix('-'))
            if start >= len(data):
                return self.answer(416, headers)
            headers['Content-Range'] = f'bytes {start}-{len(data) - 1}/{len(data)}'
            return self.answer(206, headers, data[start:])

        def answer(self, status: int, headers: dict[str, str], body: bytes = b'') -> None:
            self.send_response(status)
            for key, value in ({'Content-Length': str(len(body))} | headers | offer.extra.get(self.path, {})).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body[: offer.cuts.pop(0)] if offer.cuts and body else body)

        def log_message(self, *args: Any) -> None:
            """Keep quiet."""

    return Handler
