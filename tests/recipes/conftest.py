"""Leaves, and copies of a leaf with one thing changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str, str, str], Path]:
    """Copy a leaf to a place with the same fragments, with one piece of its text replaced; give its path."""
    (tmp_path / '_base_').symlink_to(ROOT / 'configs/_base_')

    def change(leaf: str, old: str, new: str) -> Path:
        text = (ROOT / 'configs' / leaf).read_text()
        assert text.count(old) >= 1, f'{leaf} has no {old!r}'
        path = tmp_path / leaf
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace(old, new))
        return path

    return change
