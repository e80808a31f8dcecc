"""A web server on this machine that offers the toy archives, and an empty folder."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_prepare.toy_sets import CONTENTS
from web_server import Server, handler_of


@pytest.fixture
def server() -> Iterator[Server]:
    offer = Server()
    running = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler_of(offer))
    offer.address = f'http://127.0.0.1:{running.server_address[1]}'
    offer.files = {f'/{name}': content for name, content in CONTENTS.items()}
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    yield offer
    running.shutdown()
    running.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / 'mine'
    made.mkdir()
    return made
