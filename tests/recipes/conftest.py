"""Leaves, and copies of a leaf with one thing changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from mmengine.config import Config


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


@pytest.fixture
def leaf(tmp_path: Path) -> Callable[[str], Config]:
    """Return leaf(text): the composed config of a file of that text over the demo detector's fragments."""

    def write(text: str, name: str = 'leaf.py') -> Config:
        bases = [
            str(ROOT / 'configs/_base_' / part)
            for part in ('models/mask_rcnn.py', 'datasets/demo_coco.py', 'schedules/coco_3x.py', 'runtime_det.py')
        ]
        path = tmp_path / name
        path.write_text(f'_base_ = {bases!r}\n{text}')
        return Config.fromfile(path)

    return write


@pytest.fixture
def matches() -> Callable[[list[str], str], None]:
    """Return matches(findings, pattern): there is exactly one finding, and it fits."""

    def check(findings: list[str], pattern: str) -> None:
        assert len(findings) == 1, findings
        with pytest.raises(ValueError, match=pattern):
            raise ValueError(findings[0])

    return check
