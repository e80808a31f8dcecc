"""Published checkpoints by short name: `index.json`, typed and checked."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEX = Path(__file__).with_name('index.json')
SHARED = ('family', 'licence', 'non_commercial', 'gated', 'page', 'source')


@dataclass(frozen=True)
class Entry:
    """One published checkpoint.

    Attributes:
        name: short name, lower case: 'convnext-b-in22k'.
        title: model, training data and image size in words.
        urls: where it lies, the publisher first: `https://`, `hf://` or `timm://`.
        family: the backbone it is for, 'ConvNeXt' or 'VisionTransformer'.
        arch: arguments of that backbone's constructor that the weights belong to.
        licence: SPDX identifier, or the licence's name.
        non_commercial: whether the licence forbids commercial use.
        gated: whether the publisher wants the licence accepted before the download.
        page: where a gated licence is accepted.
        sha256: of `urls[0]`, where the publisher states it.
        source: permalinks of what is said here.
    """

    name: str
    title: str
    urls: tuple[str, ...]
    family: str
    arch: dict[str, Any]
    licence: str
    non_commercial: bool
    gated: bool
    page: str | None
    sha256: str | None
    source: tuple[str, ...]


@functools.cache
def entries() -> dict[str, Entry]:
    """Read the index, once per process: entries by short name, in the order of the file."""
    found = {}
    for group in json.loads(INDEX.read_text(encoding='utf-8'))['groups']:
        shared = {key: group[key] for key in SHARED} | {'source': tuple(group['source'])}
        for item in group['entries']:
            if item['name'] in found:
                raise ValueError(f'{INDEX} names {item["name"]!r} twice; rename one of the two')
            found[item['name']] = Entry(
                name=item['name'],
                title=item['title'],
                urls=tuple(item['urls']),
                arch=group['arch'] | item['arch'],
                sha256=item.get('sha256'),
                **shared,
            )
    return found
