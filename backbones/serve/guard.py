"""Who may ask: requests for this server's own names, from its own page or from no page at all.

A browser lets any page of the web send requests to 127.0.0.1, and lets a page whose name is made to point there (DNS
rebinding) read the answers, too. The Host header tells the one, Origin and Sec-Fetch-Site the other.
https://fetch.spec.whatwg.org/#origin-header, https://www.w3.org/TR/fetch-metadata/
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ('localhost', '127.0.0.1', '::1')
HEADERS = {
    'Content-Security-Policy':
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'X-Content-Type-Options': 'nosniff',
    'X-Frame-Options': 'DENY',
    'Referrer-Policy': 'no-referrer',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cache-Control': 'no-store',
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip('.') == 'localhost'


def is_every_address(host: str) -> bool:
    """Whether a server that listens there listens on all addresses of the machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


class Guard:
    """Refuse requests under foreign names and from foreign pages; add the headers of security to every answer.

    Args:
        app: that is guarded.
        host: where the server listens. Its names are allowed and those of the loopback; where it listens on every
            address, all addresses (a page cannot pretend to be one) and the machine's name are.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.every_address = is_every_address(host)
        self.names = {*LOOPBACK, host.lower()}
        if self.every_address:
            self.names |= {name for name in (socket.gethostname().lower(),) if name}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message['type'] == 'http.response.start':
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        sentence = self.refusal(scope['method'], Headers(scope=scope))
        if sentence:
            answer = JSONResponse(dict(error=sentence), 403, headers={'Connection': 'close'})
            await answer(scope, receive, send_guarded)
        else:
            await self.app(scope, receive, send_guarded)

    def refusal(self, method: str, headers: Headers) -> str:
        """Why a request is refused; '' where it is not."""
        host = headers.get('host', '')
        if not self._is_ours(host):
            return (f'this server is not called {host[:100]!r}; open it as http://localhost or by the address that '
                    'tools/serve.py printed')
        if method in ('GET', 'HEAD'):
            return ''
        origin = headers.get('origin')
        if origin is not None and urlsplit_netloc(origin) != host.lower():
            return f'a page of {origin[:100]!r} may not send pictures to this server; open its own page'
        if headers.get('sec-fetch-site', 'none') not in ('same-origin', 'none'):
            return 'a page of another site may not send pictures to this server; open its own page'
        return ''

    def _is_ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f'//{host}').hostname or '').rstrip('.')
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            return self.every_address and bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def urlsplit_netloc(origin: str) -> str | None:
    """Host and port of an origin of http or https; None for others."""
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return None
    return parts.netloc if parts.scheme in ('http', 'https') else None
