"""Checkpoints are found by path, address, Hugging Face, timm and short name; licences are said."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from web_server import Server

from backbones.weights import hub, load, sources
from backbones.weights.sources import Source, cached_path, fetch, licence_notice, resolve

pytestmark = pytest.mark.usefixtures('empty_cache')
ONCE = dict(progress=False, waits=())


# --- several addresses, no network --------------------------------------------------------------------------


def test_addresses_are_tried_in_order(server: Server) -> None:
    urls = [f'{server.address}/none.pth', f'{server.address}/w.pth']
    assert fetch(urls, **ONCE) == cached_path(urls[1])
    assert server.asked == ['/none.pth', '/w.pth']
    assert fetch(urls, **ONCE) == cached_path(urls[1])  # what is in the cache comes before any address
    assert len(server.asked) == 2


def test_if_every_address_fails_each_reason_is_told(server: Server) -> None:
    server.errors['/b.pth'] = [500]
    with pytest.raises(
        ValueError, match=r'/a\.pth: HTTP 404.*/b\.pth: HTTP 500.*put the file at .*a\.pth.* or .*b\.pth'
    ):
        fetch([f'{server.address}/a.pth', f'{server.address}/b.pth'], **ONCE)


def test_offline_nothing_is_asked_and_the_place_for_the_file_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f'{server.address}/w.pth'
    monkeypatch.setenv(sources.OFFLINE, '1')
    with pytest.raises(ValueError, match=r'MMBACKBONES_OFFLINE=1 forbids') as caught:
        fetch(url, **ONCE)
    assert f'download {url} elsewhere and put the file at {cached_path(url)}' in str(caught.value)
    cached_path(url).parent.mkdir(parents=True)
    cached_path(url).write_bytes(server.files['/w.pth'])
    assert fetch(url, **ONCE) == cached_path(url)
    assert server.asked == []


# --- Hugging Face and timm ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'path', 'cached'),
    [
        ('hf://lab/model/w.safetensors', '/lab/model/resolve/main/w.safetensors', 'lab--model--main--w.safetensors'),
        ('hf://lab/m.1/a/b c.pth@v2', '/lab/m.1/resolve/v2/a/b%20c.pth', 'lab--m.1--v2--a--b c.pth'),
        (
            'timm://convnext_base.fb_in22k',
            '/timm/convnext_base.fb_in22k/resolve/main/model.safetensors',
            'timm--convnext_base.fb_in22k--main--model.safetensors',
        ),
    ],
)
def test_files_of_hugging_face_and_timm_are_found(
    name: str, path: str, cached: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files[path] = save({'a': torch.zeros(1)})
    assert resolve(name).urls == (f'https://huggingface.co{path}',)
    monkeypatch.setenv('HF_ENDPOINT', f'{server.address}/')
    assert resolve(name).urls == (server.address + path,)
    assert fetch(name, **ONCE).name == cached
    assert server.asked == [path]


def test_revisions_and_folders_that_read_alike_are_two_files() -> None:
    names = ['hf://lab/m/c.pth@refs/pr/1', 'hf://lab/m/1--c.pth@refs--pr', 'hf://lab/m/c.pth@refs--pr--1']
    assert len({resolve(name).target.name for name in names}) == 3
    assert resolve(names[0]).urls == ('https://huggingface.co/lab/m/resolve/refs%2Fpr%2F1/c.pth',)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('hf://lab/model', 'names no file on Hugging Face; give hf://org/repo/file'),
        ('hf://lab/../file.pth', 'names no file on Hugging Face'),
        ('timm://convnext_base', "give both, as in 'timm://convnext_base.fb_in22k'"),
        ('timm://lab/model.x', 'is no name of a timm model'),
    ],
)
def test_a_wrong_name_on_hugging_face_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(name)


@pytest.mark.parametrize('status', [401, 403])
def test_a_gated_file_says_where_to_ask_and_how_to_go_on(
    status: int, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HF_ENDPOINT', server.address)
    source = resolve('dinov3-vitb16')
    source = Source(**{**vars(source), 'urls': source.urls[:1]})
    path = source.urls[0].removeprefix(server.address)
    server.errors[path] = [status]
    server.extra[path] = {'X-Error-Message': 'Access to this model is restricted.'}
    with pytest.raises(ValueError, match=rf'HTTP {status} .*Access to this model is restricted') as caught:
        fetch(source, **ONCE)
    message = str(caught.value)
    assert f'open {server.address}/facebook/dinov3-vitb16-pretrain-lvd1689m' in message
    assert 'accept the licence' in message and 'set HF_TOKEN' in message
    assert f'put the file at {source.target}' in message


# --- names --------------------------------------------------------------------------------------------------


def test_a_path_stays_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'a b.pth').touch()
    monkeypatch.chdir(tmp_path)
    for name in (
        'a b.pth',
        tmp_path / 'a b.pth',
        '~/a b.pth',
        f'file://{tmp_path}/a b.pth',
        f'file://{tmp_path}/a%20b.pth',
    ):
        source = resolve(name)
        assert source.path == source.target and source.path.is_file() and source.urls == ()
    for name in ('nowhere.pth', 'no/where', Path('nowhere')):  # what is missing is told when it is read
        assert resolve(name).path == Path(name)


def test_a_short_name_comes_from_the_index() -> None:
    source = resolve('convnext-b-in22k')
    assert source.path is None
    assert source.urls == (
        'https://dl.fbaipublicfiles.com/convnext/convnext_base_22k_224.pth',
        'https://huggingface.co/timm/convnext_base.fb_in22k/resolve/main/model.safetensors',
    )
    assert source.target == cached_path(source.urls[0])
    assert (source.licence, source.non_commercial, source.family) == ('MIT', False, 'ConvNeXt')
    assert source.arch == {'arch': 'base'}


def test_a_file_comes_before_a_short_name() -> None:
    Path('convnext-b-in22k').touch()
    Path('vit-b-mae').mkdir()
    assert resolve('convnext-b-in22k').path == Path('convnext-b-in22k')
    assert resolve('vit-b-mae').path is None  # a folder is no file
    assert resolve(Path('dinov3-vitb16')).path == Path('dinov3-vitb16')


def test_in_a_list_a_file_that_exists_comes_first() -> None:
    Path('w.pth').touch()
    assert resolve(['vit-b-mae', 'w.pth']).path == Path('w.pth')
    source = resolve(('nowhere.pth', 'https://example.org/mae.pth', 'vit-b-mae'))
    assert source.path is None and source.urls[0] == 'https://example.org/mae.pth' and len(source.urls) == 3
    with pytest.raises(ValueError, match='holds no file that exists'):
        resolve(['nowhere.pth'])


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('convnext-b-in22', r"neither a file in .* nor one of the \d+ short names .*did you mean 'convnext-b-in22k'"),
        ('ConvNeXt_B_in22k', "did you mean 'convnext-b-in22k'"),
        ('convnext_base.fb_in22k', "'timm://convnext_base.fb_in22k'"),
        ('zzzzzz', r'short names of the index; give a path, https://'),
        ('s3://bucket/w.pth', 'has an unknown scheme; give a path, https://'),
        ('https://example.org', 'names no file'),
        ('', 'names no checkpoint'),
        ([], 'holds no file that exists'),
        (3, 'checkpoint=3 names no checkpoint'),
    ],
)
def test_a_name_that_is_unknown_is_refused_with_what_it_may_have_meant(name: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(name)


@pytest.mark.parametrize(
    'name',
    [
        'https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth',
        'timm://vit_base_patch16_224.mae',
        'some/folder/mae_pretrain_vit_base.pth',
        'timm--vit_base_patch16_224.mae--main--model.safetensors',
    ],
)
def test_a_published_file_is_known_by_its_address_and_its_name(name: str) -> None:
    source = resolve(name)
    assert source.non_commercial and source.licence == 'CC-BY-NC-4.0' and source.arch['arch'] == 'base'


def test_a_name_that_many_files_have_tells_nothing() -> None:
    assert resolve('model.safetensors').licence is None
    assert resolve('pytorch_model.bin').licence is None


# --- licence ------------------------------------------------------------------------------------------------


def test_a_licence_that_forbids_commercial_use_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr(sources, '_told', set())
    monkeypatch.setattr(sources, 'print_log', lambda text, logger, level: said.append((text, level)))
    for name in ('vit-b-mae', 'convnext-b-in22k', 'vit-b-mae', 'timm://vit_base_patch16_224.mae'):
        licence_notice(resolve(name))
    [(text, level)] = said
    assert level == logging.WARNING
    assert 'vit-b-mae' in text and 'CC-BY-NC-4.0' in text and 'does not allow commercial use' in text


def test_the_cache_is_that_of_torch(empty_cache: Path) -> None:
    url = 'https://dl.fbaipublicfiles.com/deit/deit_tiny_patch16_224-a1311bcf.pth'
    assert cached_path(url) == empty_cache / 'deit_tiny_patch16_224-a1311bcf.pth'
    assert hub.cache_name(url) is None


# --- the loader ---------------------------------------------------------------------------------------------


def test_the_loader_takes_any_name_and_says_the_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr(load, 'licence_notice', lambda source: said.append(source.licence))
    target = resolve('vit-b-mae').target
    target.parent.mkdir(parents=True)
    target.touch()
    assert load.local_file('vit-b-mae') == target
    assert load.local_file(['nowhere.pth', 'vit-b-mae']) == target
    assert load.local_file('nowhere.pth') == Path('nowhere.pth')
    assert said == ['CC-BY-NC-4.0', 'CC-BY-NC-4.0', None]
