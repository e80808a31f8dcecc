"""The index of published checkpoints is complete, and what it says fits the backbones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

import backbones
from backbones.convnext import ConvNeXt
from backbones.vit import VisionTransformer
from backbones.weights import index, sources
from backbones.weights.index import Entry, entries

FAMILIES = {'ConvNeXt': ConvNeXt, 'VisionTransformer': VisionTransformer}
NAMES = list(entries())


@pytest.fixture(params=NAMES)
def entry(request: pytest.FixtureRequest) -> Entry:
    """Give one entry after the other."""
    return entries()[request.param]


def test_an_entry_is_complete(entry: Entry) -> None:
    assert re.fullmatch(r'[a-z0-9]+(-[a-z0-9]+)+', entry.name)
    assert entry.title and entry.licence and entry.urls and entry.source and entry.family in FAMILIES
    assert isinstance(entry.non_commercial, bool) and isinstance(entry.gated, bool)
    assert entry.non_commercial == ('-NC-' in entry.licence)
    assert entry.sha256 is None or re.fullmatch(r'[0-9a-f]{8,64}', entry.sha256)
    assert not entry.gated or entry.page.startswith('https://')
    assert all(link.startswith(('https://github.com/', 'https://huggingface.co/')) for link in entry.source)


def test_an_address_is_a_file_on_a_safe_server(entry: Entry) -> None:
    urls = sources.resolve(entry.name).urls
    assert len(urls) == len(set(urls)) == len(entry.urls)
    for url in urls:
        assert urlsplit(url).scheme == 'https'
        assert sources.cached_path(url).suffix in ('.pth', '.pt', '.npz', '.bin', '.safetensors', '.pkl')


def test_the_arguments_build_a_backbone(entry: Entry) -> None:
    with torch.device('meta'):
        model = FAMILIES[entry.family](**entry.arch)
    assert model.out_channels


def test_names_and_addresses_are_unique() -> None:
    text = json.loads(index.INDEX.read_text(encoding='utf-8'))
    names = [item['name'] for group in text['groups'] for item in group['entries']]
    urls = [url for group in text['groups'] for item in group['entries'] for url in item['urls']]
    assert len(names) == len(set(names)) == len(entries()) > 100
    assert len(urls) == len(set(urls))


def test_a_name_given_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.loads(index.INDEX.read_text(encoding='utf-8'))
    text['groups'][0]['entries'] *= 2
    (tmp_path / 'index.json').write_text(json.dumps(text))
    monkeypatch.setattr(index, 'INDEX', tmp_path / 'index.json')
    with pytest.raises(ValueError, match=r"names 'convnext-t-in1k' twice"):
        index.entries.__wrapped__()


# number of parameters in millions, as the papers and READMEs state it, of the backbone without head and norm
@pytest.mark.parametrize(
    ('name', 'millions'),
    [
        ('convnext-b-in22k', 87.6),
        ('convnext-iso-l-in1k', 305.0),
        ('convnextv2-h-fcmae', 657.5),
        ('dinov3-vitb16', 85.7),
        ('dinov3-vits16plus', 28.7),
        ('dinov3-vith16plus', 840.6),
        ('dinov3-vit7b16', 6716.0),
        ('dinov2-vitg14', 1136.5),
        ('sam-vith', 636.2),
    ],
)
def test_the_size_is_that_of_the_publication(name: str, millions: float) -> None:
    found = entries()[name]
    with torch.device('meta'):
        model = FAMILIES[found.family](**found.arch)
    assert sum(value.numel() for value in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


def test_the_index_is_shipped() -> None:
    root = Path(backbones.__file__).resolve().parent
    assert index.INDEX.parent == root / 'weights'
    setup = root.parent / 'setup.py'
    if not setup.is_file():
        pytest.skip('installed: there is no setup.py, and the index was found')
    assert "'backbones.weights': ['index.json']" in setup.read_text()
