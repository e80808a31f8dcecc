"""What the datasets ask the file system (fast for 100,000 files), and how they word what is missing."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from mmengine.fileio import LocalBackend, get_file_backend

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')


def is_local(path: str, backend_args: Mapping[str, Any] | None) -> bool:
    """Tell whether `path` lies in the file system, not in an object store or behind a URL."""
    return isinstance(get_file_backend(path, backend_args=backend_args), LocalBackend)


def missing_files(paths: Iterable[str]) -> list[str]:
    """Return those of `paths` that are no files. One listing per folder, not one question per file."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_folder[os.path.dirname(path)].append(path)
    missing = []
    for folder, wanted in by_folder.items():
        try:
            with os.scandir(folder or '.') as entries:
                there = {entry.name for entry in entries if entry.is_file()}
        except OSError:
            there = set()
        missing += [path for path in wanted if os.path.basename(path) not in there]
    return missing


def require_folder(path: str, named_by: str) -> None:
    """Raise where the folder `path` is not there; `named_by` is the part of the config that names it.

    Raises:
        ValueError: With the nearest parent folder that exists, which tells a wrong `data_root` from a wrong
            prefix.
    """
    if os.path.isdir(path):
        return
    parent = os.path.abspath(path)
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    here = ', '.join(sorted(os.listdir(parent))[:8]) or 'nothing'
    raise ValueError(
        f'the folder {path} does not exist ({named_by}); {parent} exists and holds {here}. Put the data '
        'there or change the config; data/README.md shows the layouts'
    )


def shown(path: Any) -> str:
    """Return a path as a message shows it: with quotes and escapes where it holds line ends or other control signs."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def some(items: Iterable, count: int = 3) -> str:
    """Return the first `count` of `items` as words, with dots where there are more."""
    items = list(items)
    return ', '.join(map(shown, items[:count])) + (', ...' if len(items) > count else '')


def read_image(path: str | os.PathLike, backend_args: Mapping[str, Any] | None = None) -> np.ndarray:
    """Read a picture as RGB (H, W, 3) uint8, turned as its EXIF note says, checked as in training."""
    from .images import decode_image, read_content  # they need this module's neighbours; it needs nobody

    image = decode_image(read_content(path, backend_args), str(path))
    return np.ascontiguousarray(image[..., ::-1])  # BGR to RGB
