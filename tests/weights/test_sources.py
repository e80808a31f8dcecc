"""Downloads end in the torch hub cache, whole, verified and under a name of their own."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from backbones.weights.read import read_state
from backbones.weights.sources import fetch

WEIGHT = torch.arange(6.0).reshape(2, 3)


class Server:
    """A web server on this machine: what it offers, and what was asked for."""

    def __init__(self, address: str, files: dict[str, bytes]) -> None:
        self.address, self.files = address, files
        self.asked: list[str] = []
        self.cut = 0  # bytes left out at the end


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve weights on localhost, with an empty torch hub cache in `tmp_path`."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    torch.save({'a': WEIGHT}, tmp_path / 'source.pth')
    offer = Server('', {'/w.pth': (tmp_path / 'source.pth').read_bytes()})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            offer.asked.append(self.path)
            data = offer.files.get(self.path)
            self.send_response(404 if data is None else 200)
            self.send_header('Content-Length', str(len(data or b'')))
            self.end_headers()
            self.wfile.write((data or b'')[: len(data or b'') - offer.cut])

        def log_message(self, *args: Any) -> None:
            """Keep quiet."""

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as running:
        offer.address = f'http://127.0.0.1:{running.server_address[1]}'
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield offer
        running.shutdown()


def cache_of(tmp_path: Path) -> list[str]:
    """List the cache."""
    folder = tmp_path / 'cache' / 'hub' / 'checkpoints'
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_download_is_kept_in_the_torch_hub_cache(server: Server, tmp_path: Path) -> None:
    path = fetch(f'{server.address}/w.pth', progress=False)
    assert torch.equal(read_state(path)['a'], WEIGHT)
    assert fetch(f'{server.address}/w.pth', progress=False) == path
    assert server.asked == ['/w.pth']
    assert len(cache_of(tmp_path)) == 1 and cache_of(tmp_path)[0].endswith('_w.pth')


@pytest.mark.parametrize('digits', [8, 64])
def test_a_hash_in_the_name_is_verified(digits: int, server: Server, tmp_path: Path) -> None:
    data = server.files['/w.pth']
    right, wrong = f'/w-{hashlib.sha256(data).hexdigest()[:digits]}.pth', f'/w-{"0" * digits}.pth'
    server.files |= {right: data, wrong: data}
    assert fetch(server.address + right, progress=False).is_file()
    with pytest.raises(ValueError, match=r'arrived with SHA-256 .* but its name promises 0000'):
        fetch(server.address + wrong, progress=False)
    assert cache_of(tmp_path) == [right[1:]]


def test_files_of_equal_name_at_two_addresses_are_two_files(server: Server, tmp_path: Path) -> None:
    for folder, value in (('a', 1.0), ('b', 2.0)):
        server.files[f'/{folder}/model.safetensors'] = save({'w': torch.tensor([value])})
    read = [read_state(fetch(f'{server.address}/{folder}/model.safetensors', progress=False)) for folder in 'ab']
    assert [state['w'].item() for state in read] == [1.0, 2.0]


@pytest.mark.parametrize('name', ['/w_20220301.pth', '/w-20220301.pth', '/w_0123abcd.pth'])
def test_a_date_in_a_name_is_no_hash(server: Server, name: str) -> None:
    server.files[name] = server.files['/w.pth']
    assert fetch(server.address + name, progress=False).is_file()


def test_a_download_that_breaks_off_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.cut = 100
    with pytest.raises(ValueError, match=r'broke off after|could not be downloaded'):
        fetch(f'{server.address}/w.pth', progress=False)
    assert cache_of(tmp_path) == []


def test_a_web_page_in_place_of_weights_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.files['/login.pth'] = b'<html>please sign in</html>'
    with pytest.raises(ValueError, match=r'downloaded from http.*login\.pth is a web page'):
        fetch(f'{server.address}/login.pth', progress=False)
    assert cache_of(tmp_path) == []


def test_an_address_that_does_not_exist_says_where_to_put_the_file(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'could not be downloaded.*404.*put the file at .*none\.pth'):
        fetch(f'{server.address}/none.pth', progress=False)
    assert cache_of(tmp_path) == []
