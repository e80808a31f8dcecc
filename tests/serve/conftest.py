"""Servers that run for the tests of one file, and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serve.toys import Running, ToyDetector, ToySegmenter, as_file, serving


@pytest.fixture(scope='module')
def detecting() -> Iterator[Running]:
    with serving(ToyDetector(), max_bytes=1_000_000, drain_s=1.0) as running:
        yield running


@pytest.fixture(scope='module')
def segmenting() -> Iterator[Running]:
    with serving(ToySegmenter()) as running:
        yield running


@pytest.fixture(scope='session')
def picture() -> np.ndarray:
    """(60, 90, 3) RGB, none of whose turns are equal."""
    y, x = np.mgrid[:60, :90]
    return np.stack([x * 2, y * 4, 255 - x], 2).astype(np.uint8)


@pytest.fixture(scope='session')
def png(picture: np.ndarray) -> bytes:
    return as_file(picture)


@pytest.fixture
def files(tmp_path: Path, png: bytes) -> list[Path]:
    """Three files for the page: two pictures, one with a hostile name, and a text."""
    made = [tmp_path / 'first.png', tmp_path / '"><img src=x onerror=alert(1)>.png', tmp_path / 'text.jpg']
    for path, content in zip(made, (png, png, b'hello'), strict=True):
        path.write_bytes(content)
    return made
