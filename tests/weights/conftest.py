"""Shared by the tests of weights: toy checkpoints, an empty cache, and servers on this machine."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from web_server import Server, handler_of
from weights.toy_files import CONVNEXT, VIT, official, saved

from backbones.convnext import ConvNeXt
from backbones.vit import VisionTransformer


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty torch hub cache, go to an empty folder, and take away what the environment may say."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    for name in ('HF_ENDPOINT', 'HF_TOKEN', 'MMBACKBONES_OFFLINE'):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    return tmp_path / 'cache' / 'hub' / 'checkpoints'


@pytest.fixture
def start_server() -> Iterator[Callable[[], Server]]:
    """Give a function that starts a server."""
    running = []

    def start() -> Server:
        offer = Server()
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler_of(offer))
        offer.address = f'http://127.0.0.1:{server.server_address[1]}'
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        return offer

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(start_server: Callable[[], Server], tmp_path: Path) -> Server:
    """Start a server that offers weights as /w.pth."""
    torch.save({'a': torch.arange(6.0).reshape(2, 3)}, tmp_path / 'source.pth')
    offer = start_server()
    offer.files['/w.pth'] = (tmp_path / 'source.pth').read_bytes()
    return offer


@pytest.fixture
def convnext_file(tmp_path: Path) -> Path:
    """A toy ConvNeXt V1 in the official layout."""
    return saved(tmp_path / 'convnext.pth', official(ConvNeXt(CONVNEXT)))


@pytest.fixture
def vit_file(tmp_path: Path) -> Path:
    """A toy ViT in timm's layout, trained at 64 x 64."""
    return saved(tmp_path / 'vit.pth', official(VisionTransformer(VIT, pretrain_img_size=64)))
