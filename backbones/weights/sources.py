"""Where checkpoints come from: paths, web addresses, Hugging Face, timm, and the short names of the index.

A download ends in the torch hub cache. `MMBACKBONES_OFFLINE=1` forbids it; what is in the cache is used all the same.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from mmengine.logging import print_log

from backbones.weights import hub
from backbones.weights.download import WAITS, DownloadError, download, promised_hash, shown
from backbones.weights.index import Entry, entries

Checkpoint = str | os.PathLike | Sequence[str | os.PathLike]  # what `resolve` knows
OFFLINE = 'MMBACKBONES_OFFLINE'
SCHEMES = ('https://', 'http://', 'hf://', 'timm://')
SUFFIXES = ('.pth', '.pt', '.bin', '.safetensors', '.npz', '.pkl', '.ckpt', '.json')
FORMS = "a path, https://..., 'hf://org/repo/file@revision', 'timm://name' or a short name such as 'convnext-b-in22k'"


@dataclass(frozen=True)
class Source:
    """What is known of a checkpoint before it is opened.

    Attributes:
        title: what it is, in words if the index knows it, and for messages.
        urls: http(s) addresses, tried in this order; empty for a local file.
        path: the local file, whether it exists or not; None for a download.
        target: where the file is or will be: `path`, or the place of `urls[0]` in the cache.
        sha256: of `urls[0]`, where the publisher states it.
        licence: SPDX identifier or name, where known.
        non_commercial: whether the licence forbids commercial use.
        gated: whether the publisher wants the licence accepted first.
        page: where that is done, besides the page of the model on Hugging Face.
        family: 'ConvNeXt' or 'VisionTransformer', where known.
        arch: arguments of that backbone's constructor that belong to the weights, where known.
    """

    title: str
    urls: tuple[str, ...]
    path: Path | None
    target: Path
    sha256: str | None = None
    licence: str | None = None
    non_commercial: bool = False
    gated: bool = False
    page: str | None = None
    family: str | None = None
    arch: dict[str, Any] | None = None


# --- names --------------------------------------------------------------------------------------------------


def is_url(checkpoint: str) -> bool:
    """Whether a checkpoint is named by an address that can be downloaded from."""
    return checkpoint.startswith(SCHEMES)


def cached_path(url: str) -> Path:
    """Give the place of a web address in the torch hub cache, where torch and timm keep theirs, too.

    A name with a hash says what the file is and stays. Files of Hugging Face are named by repository, revision and
    path. Any other name may be that of many files, so a digest of the address goes in front.
    """
    return Path(torch.hub.get_dir()) / 'checkpoints' / _cache_name(url)


def _cache_name(url: str) -> str:
    name = unquote(Path(urlsplit(url).path).name)
    if not name or not urlsplit(url).hostname:
        raise ValueError(f'checkpoint {shown(url)} names no file; give the full address of the weight file')
    if promised_hash(name) is not None:
        return name
    return hub.cache_name(url) or f'{hashlib.sha256(url.encode()).hexdigest()[:12]}_{name}'


@functools.cache
def _known_names() -> dict[str, Entry]:
    """Entries of the index by the name of their file: in the cache, and as published where no other file has it."""
    cached, published, twice = {}, {}, set()
    for entry in entries().values():
        for url in map(_web_address, entry.urls):
            cached[_cache_name(url)] = entry
            name = unquote(Path(urlsplit(url).path).name)
            twice |= {name} & set(published)
            published[name] = entry
    return {name: entry for name, entry in published.items() if name not in twice} | cached


def _web_address(checkpoint: str) -> str:
    return hub.address(checkpoint) if checkpoint.startswith(('hf://', 'timm://')) else checkpoint


def spelled(checkpoint: Checkpoint) -> str:
    """Write a checkpoint as the user named it, for messages."""
    names = checkpoint if isinstance(checkpoint, list | tuple) else [checkpoint]
    return ' or '.join(shown(os.fspath(name)) for name in names)


# --- resolve ------------------------------------------------------------------------------------------------


def resolve(checkpoint: Checkpoint) -> Source:
    """Tell what a checkpoint is and where it comes from, without the network and without opening a file.

    Args:
        checkpoint: a path (also `file://`, `~`), a web address, `hf://org/repo/file@revision` (the revision is 'main'
            if left out), `timm://name` (which is `hf://timm/name/model.safetensors`), or a short name of the index,
            unless there is a file of that name. Or a list of these for one model: the first file that exists, else
            the addresses one after the other.

    Raises:
        ValueError: if it is none of these, with the nearest short names.
    """
    if isinstance(checkpoint, list | tuple):
        return _resolve_list(checkpoint)
    name = os.fspath(checkpoint) if isinstance(checkpoint, str | os.PathLike) else None
    if not name or not isinstance(name, str):
        raise ValueError(f'checkpoint={checkpoint!r} names no checkpoint; give {FORMS}, or a list of these')
    if is_url(name):
        return _remote(name)
    if name.startswith('file://'):
        path = Path(name.removeprefix('file://')).expanduser()
        return _local(path if path.exists() else Path(unquote(str(path))))
    if '://' in name:
        raise ValueError(f'checkpoint {name!r} has an unknown scheme; give {FORMS}')
    path = Path(name).expanduser()
    if name in entries() and isinstance(checkpoint, str) and not path.is_file():
        return _of_index(entries()[name])
    looks_like_path = '/' in name or os.sep in name or name.startswith(('~', '.')) or path.suffix in SUFFIXES
    if looks_like_path or path.exists() or not isinstance(checkpoint, str):
        return _local(path)
    raise ValueError(_unknown(name))


def _resolve_list(checkpoints: Sequence[str | os.PathLike]) -> Source:
    """Make one source of several names for the same model; the first tells licence and architecture.

    Raises:
        ValueError: for an empty list, or if there are only files and none exists.
    """
    found = [resolve(checkpoint) for checkpoint in checkpoints]
    for source in found:
        if source.path is not None and source.path.exists():
            return source
    remote = [source for source in found if source.path is None]
    if not remote:
        names = [os.fspath(checkpoint) for checkpoint in checkpoints]
        raise ValueError(f'checkpoint={names} holds no file that exists; correct the paths, or add a web address')
    first = remote[0]
    return Source(**{**vars(first), 'urls': tuple(dict.fromkeys(url for source in remote for url in source.urls))})


def _local(path: Path) -> Source:
    """Describe a local file, by its name where the index knows it."""
    entry = _known_names().get(path.name)
    return Source(**_facts(entry, str(path)), urls=(), path=path, target=path)


def _remote(name: str) -> Source:
    """Describe a download, by its address where the index knows it."""
    url = _web_address(name)
    target = cached_path(url)
    entry = _known_names().get(target.name)
    sha256 = entry.sha256 if entry and url == _web_address(entry.urls[0]) else None
    return Source(**_facts(entry, shown(name)), sha256=sha256, urls=(url,), path=None, target=target)


def _of_index(entry: Entry) -> Source:
    urls = tuple(map(_web_address, entry.urls))
    return Source(**_facts(entry), sha256=entry.sha256, urls=urls, path=None, target=cached_path(urls[0]))


def _facts(entry: Entry | None, name: str = '') -> dict[str, Any]:
    """What the index says of a file, as arguments of `Source`."""
    if entry is None:
        return dict(title=name)
    facts = {key: getattr(entry, key) for key in ('licence', 'non_commercial', 'gated', 'page', 'family')}
    return dict(title=f'{entry.name} ({entry.title})', arch=dict(entry.arch), **facts)


def _unknown(name: str) -> str:
    """Say that a name is unknown, and what it may have meant."""
    near = [repr(word) for word in difflib.get_close_matches(name.lower().replace('_', '-'), entries(), n=3)]
    near += [f"'timm://{name}'"] if '.' in name else []
    did_you_mean = f' (did you mean {" or ".join(near)}?)' if near else ''
    return (
        f'checkpoint {name!r} is neither a file in {Path.cwd()} nor one of the {len(entries())} short names of the '
        f'index{did_you_mean}; give {FORMS}; the short names are the keys of backbones.weights.index.entries()'
    )


# --- fetch --------------------------------------------------------------------------------------------------


def fetch(
    checkpoint: Source | Checkpoint,
    *,
    progress: bool = True,
    waits: Sequence[float] = WAITS,
) -> Path:
    """Give the local file of a checkpoint, downloaded into the torch hub cache unless it is there already.

    Args:
        checkpoint: as for `resolve`, or what that returned.
        progress: show a bar.
        waits: seconds before each further try at an address whose failure may pass.

    Returns:
        The local file; one named by a path is returned as it is.

    Raises:
        ValueError: if every address fails, each with its reason, or `MMBACKBONES_OFFLINE` is set and nothing is in the
            cache; with the place where a file from elsewhere may be put.
    """
    source = checkpoint if isinstance(checkpoint, Source) else resolve(checkpoint)
    if source.path is not None:
        return source.path
    for url in source.urls:
        if cached_path(url).is_file():
            return cached_path(url)
    if os.environ.get(OFFLINE, '').strip().lower() not in ('', '0', 'false', 'no', 'off'):
        raise ValueError(
            f'checkpoint {source.title} is not in the cache, and {OFFLINE}={os.environ[OFFLINE]} forbids to download '
            f'it; {_by_hand(source)}'
        )
    failures = []
    for url in source.urls:
        target = cached_path(url)
        try:
            digest = source.sha256 if url == source.urls[0] else None
            download(url, target, sha256=digest, progress=progress, waits=waits)
            return target
        except DownloadError as failure:
            failures.append((url, failure))
    same = [shown(url) for url in source.urls] == [source.title]
    findings = '; '.join(str(failure) if same else f'{shown(url)}: {failure}' for url, failure in failures)
    raise ValueError(f'checkpoint {source.title} could not be downloaded: {findings}; {_remedy(source, failures)}')


def _by_hand(source: Source) -> str:
    """Say what to download elsewhere, and where to put it."""
    places = [f'{shown(url)} elsewhere and put the file at {cached_path(url)}' for url in source.urls]
    return 'download ' + ', or '.join(places)


def _remedy(source: Source, failures: Sequence[tuple[str, DownloadError]]) -> str:
    """Say what to do after the last failure."""
    refused = [url for url, failure in failures if failure.status in (401, 403)]
    pages = dict.fromkeys(filter(None, (*map(hub.page, refused), source.page if refused else None)))
    if pages:
        return (
            f'open {" or ".join(pages)}, accept the licence if it asks for that, and set HF_TOKEN to a token of your '
            f'account at Hugging Face ({hub.TOKENS_PAGE}); or {_by_hand(source)}'
        )
    return f'check address and network, or {_by_hand(source)}'


# --- licence ------------------------------------------------------------------------------------------------

_told: set[str] = set()


def licence_notice(source: Source) -> None:
    """Say once per process that the licence of some weights forbids commercial use; call it when they are loaded."""
    if source.non_commercial and source.title not in _told:
        _told.add(source.title)
        print_log(
            f'{source.title}: the licence of these weights ({source.licence}) does not allow commercial use',
            logger='current',
            level=logging.WARNING,
        )
