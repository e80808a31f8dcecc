"""Bring a checkpoint to this machine: web addresses into the torch hub cache, verified."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import torch

from backbones.weights.read import file_kind


def is_url(checkpoint: str) -> bool:
    """Whether a checkpoint is named by a web address."""
    return checkpoint.startswith(('http://', 'https://'))


def cached_path(url: str) -> Path:
    """Give the place of a URL in the torch hub cache, where torch and timm keep theirs, too.

    A name with a hash says what the file is. Any other may be that of many files (`model.safetensors` of every Hugging
    Face repository), so a digest of the address goes in front.
    """
    name = unquote(Path(urlparse(url).path).name)
    if not name:
        raise ValueError(f'checkpoint {url} names no file; give the full address of the weight file')
    if _promised_hash(name) is None:
        name = f'{hashlib.sha256(url.encode()).hexdigest()[:12]}_{name}'
    return Path(torch.hub.get_dir()) / 'checkpoints' / name


def _promised_hash(name: str) -> str | None:
    """Start of the SHA-256 in a file name: `name-<8 or more hex digits>.pth`, as torch and OpenMMLab write it."""
    found = re.search(r'-([0-9a-f]{8,64})\.\w+$', name)
    is_date = found and re.fullmatch(r'20\d{6}', found[1])
    return found[1] if found and not is_date else None


def fetch(url: str, *, progress: bool = True) -> Path:
    """Download a checkpoint into the torch hub cache, unless it is there already.

    The data goes to a temporary file that gets its name only when complete. A hash in the file name
    (`name-<8 or more hex digits>.pth`, torch's and OpenMMLab's convention for SHA-256) is verified.

    Args:
        url: http or https address.
        progress: show a bar.

    Returns:
        The local file.

    Raises:
        ValueError: if the download fails, is incomplete, or is no checkpoint; nothing is left in the cache then.
    """
    target = cached_path(url)
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f'{target.name}.', suffix='.partial')
    try:
        with os.fdopen(handle, 'wb') as file:
            digest = _download(url, file, progress)
        expected = _promised_hash(target.name)
        if expected and not digest.startswith(expected):
            raise ValueError(
                f'{url} arrived with SHA-256 {digest}, but its name promises {expected}...; download it '
                'again, and do not use the file if that repeats'
            )
        os.chmod(partial, 0o644)
        file_kind(Path(partial))
        os.replace(partial, target)
    except ValueError as error:
        raise ValueError(str(error).replace(partial, f'downloaded from {url}')) from error
    except (OSError, urllib.error.URLError) as error:
        raise ValueError(
            f'checkpoint {url} could not be downloaded ({error}); check address and network, or put the file '
            f'at {target}'
        ) from error
    finally:
        Path(partial).unlink(missing_ok=True)
    return target


def _download(url: str, file: Any, progress: bool) -> str:
    """Write the content of `url` to `file` and return its SHA-256.

    Raises:
        ValueError: if less arrives than was announced.
    """
    request = urllib.request.Request(url, headers={'User-Agent': 'mmbackbones'})
    digest, received = hashlib.sha256(), 0
    with urllib.request.urlopen(request, timeout=60) as response:
        total = int(response.headers.get('Content-Length') or 0)
        bar = importlib.import_module('torch.hub').tqdm(
            total=total or None,
            disable=not progress,
            unit='B',
            unit_scale=True,
            desc=Path(urlparse(url).path).name,
        )
        with bar:
            while chunk := response.read(1 << 20):
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                bar.update(len(chunk))
    if total and received != total:
        raise ValueError(f'{url} broke off after {received} of {total} bytes; start again')
    return digest.hexdigest()
