"""Listening: the port, the address that is printed, slow clients, and the end by Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import webbrowser
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

import backbones
from backbones.evaluation.checkpoint_config import IN_PREDICT, IN_PYTHON
from backbones.serve.app import Service, make_app
from backbones.serve.guard import Guard, is_every_address, is_loopback
from backbones.serve.limits import MEGABYTE, Limits

IN_SERVE = '--config CONFIG CHECKPOINT'
HEADER_S = 10.0  # that a request line and its headers may take
PORTS_TRIED = 100


class PatientProtocol(H11Protocol):
    """uvicorn's, which closes a connection whose headers do not come; uvicorn itself waits for them for ever."""

    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        self._headers_due = self.loop.call_later(HEADER_S, transport.close)

    def data_received(self, data: bytes) -> None:
        """Wait for the next headers, or no longer."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._headers_due is None:
            self._headers_due = self.loop.call_later(HEADER_S, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None


class Server(uvicorn.Server):
    """uvicorn's, which says where it listens when it does, and ends without waiting for requests.

    Args:
        app: to serve.
        address: to be printed; '' prints nothing.
        opened: whether to open a browser.
    """

    def __init__(self, app: Guard, address: str = '', opened: bool = False) -> None:
        super().__init__(uvicorn.Config(
            app, http=PatientProtocol, ws='none', lifespan='off', log_level='critical', access_log=False,
            log_config=None,  # uvicorn's own would close every log file of the process
            server_header=False, limit_concurrency=200, timeout_keep_alive=30, timeout_graceful_shutdown=0))
        self.address, self.opened = address, opened

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if self.address:
            print(f'{self.address}  (Ctrl-C ends)', flush=True)
        if self.opened:
            await asyncio.get_running_loop().run_in_executor(None, webbrowser.open, self.address)


def serve(
    checkpoint: str | Path,
    config: str | Path | None = None,
    *,
    host: str = '127.0.0.1',
    port: int = 8000,
    device: str | None = None,
    precision: str | None = None,
    max_mb: float = 20.0,
    opened: bool = False,
) -> int:
    """Serve a model until Ctrl-C.

    Args:
        checkpoint: or the work folder of a run, as for `load_model`.
        config: of a checkpoint that does not hold it.
        host: address to listen on.
        port: likewise; 0 takes a free one.
        device: as for `load_model`, like `precision`.
        precision: likewise.
        max_mb: largest picture as a file, in millions of bytes.
        opened: open a browser.

    Returns:
        The exit code.

    Raises:
        ValueError: an argument cannot be used, or there is no such model.
    """
    if not 0 < max_mb <= 1000:
        raise ValueError(f'--max-mb {max_mb:g}: give a number above 0, up to 1000')
    if config is not None and Path(config).suffix != '.py':
        raise ValueError(f'--config {config}: a config is a .py file; give {IN_SERVE}')
    taken = take_port(host, port)  # before the model is loaded, which takes longer
    print(f'loading {config or checkpoint} ...', flush=True)
    given = (checkpoint,) if config is None else (config, checkpoint)
    try:
        model = backbones.load_model(*given, device=device, precision=precision)
    except ValueError as error:  # which names the ways in Python, too
        text = str(error).replace(f'{IN_PREDICT}, {IN_PYTHON}', IN_SERVE).replace(IN_PYTHON, IN_SERVE)
        raise ValueError(text) from error
    service = Service(model, Limits(max_bytes=round(max_mb * MEGABYTE)))
    print(f'{service.task}, {len(model.classes)} classes, {Path(model.checkpoint).name} on {model.device}')
    if not is_loopback(host):
        print(f'warning: --host {host}: anyone who reaches this machine there may use the model; there is no password '
              'and no encryption', file=sys.stderr)
    server = Server(make_app(service, host), address_of(host, taken.getsockname()[1]), opened)
    try:
        server.run([taken])
    except KeyboardInterrupt:
        pass
    except OSError as error:  # another server began to listen meanwhile
        raise _port_error(error, host, taken.getsockname()[1]) from error
    print('stopped', flush=True)
    if service.worker.busy:  # its thread would be cut off inside of torch while that is taken down
        sys.stderr.flush()
        os._exit(0)
    return 0


def address_of(host: str, port: int) -> str:
    """Where a browser on this machine finds the page."""
    if is_every_address(host):
        host = 'localhost'
    return f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'


def take_port(host: str, port: int) -> socket.socket:
    """A socket that is bound, and does not listen yet.

    Raises:
        ValueError: the port is taken or not allowed, or the address is none of this machine.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f'--port {port}: ports go from 1 to 65535 (0: any that is free); the usual one is 8000')
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise ValueError(f'--host {host!r} is no address of this machine ({error}); the usual one is 127.0.0.1'
                         ) from error
    try:
        return _bound(family, kind, place)
    except OSError as error:
        raise _port_error(error, host, port) from error


def _bound(family: int, kind: int, place: tuple) -> socket.socket:
    """A bound socket; where another process listens, or is about to, an OSError."""
    probe = socket.socket(family, kind)
    taken = socket.socket(family, kind)
    try:
        for each in (probe, taken):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the last run's connections may linger
        if place[1]:
            with probe:
                probe.bind(place)
                probe.listen(1)
        taken.bind(place)
    except BaseException:
        probe.close()
        taken.close()
        raise
    probe.close()
    return taken


def _port_error(error: OSError, host: str, port: int) -> ValueError:
    if error.errno == errno.EADDRINUSE:
        free = _free_port(host, port + 1)
        return ValueError(f'port {port} of {host} is taken by another program; ' + (
            f'{free} is free: --port {free}' if free else 'end that one, or take --port 0, any that is free'))
    if error.errno in (errno.EACCES, errno.EPERM):
        return ValueError(f'port {port} of {host} is not allowed to you ({error.strerror}); take one from 1024: '
                          f'--port {_free_port(host, 8000) or 8000}')
    return ValueError(f'--host {host} --port {port} cannot be listened on ({error.strerror}); the usual ones are '
                      '127.0.0.1 and 8000')


def _free_port(host: str, first: int) -> int | None:
    """The next port that can be had."""
    for port in range(max(1024, first), min(first + PORTS_TRIED, 65536)):
        try:
            family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            _bound(family, kind, place).close()
        except OSError:
            continue
        return port
    return None
