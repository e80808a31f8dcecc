"""What has no error here passes the strict reading of training, and is remembered as passed."""

from __future__ import annotations

import json

import pytest
from coco_toys import content, random_content, write
from conftest import SHARED, needs_shared

from backbones.data import coco_checks
from backbones.data.coco_files import cache_folder, load_coco
from backbones.data_check.annotations import check_annotations

BROKEN = SHARED / 'data' / 'broken'


@pytest.fixture(autouse=True)
def _fresh_memory(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def remembered() -> int:
    return len(list(cache_folder().glob('*.json'))) if cache_folder().is_dir() else 0


@pytest.mark.parametrize('seed', range(4))
def test_a_sound_file_is_not_checked_again_by_the_strict_reading(tmp_path, monkeypatch, seed):
    file = write(tmp_path / 'a.json', random_content(seed))
    assert check_annotations(file)[0] == [] and remembered() == 1
    monkeypatch.setattr(coco_checks, 'check_content', lambda *_: pytest.fail('it was checked again'))
    assert load_coco(str(file)) == json.loads(file.read_text())


def test_a_file_with_an_error_is_not_remembered(tmp_path):
    wrong = content()
    wrong['annotations'][0]['bbox'][2] = -1
    check_annotations(write(tmp_path / 'a.json', wrong))
    assert remembered() == 0


@needs_shared
def test_the_strict_reading_passes_every_sample_file_that_is_remembered(tmp_path, monkeypatch):
    looked = 0
    for file in sorted(BROKEN.glob('*/**/*.json')):
        before = remembered()
        check_annotations(file)
        if remembered() > before:
            monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'other'))
            load_coco(str(file))  # by its own checks
            monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
            looked += 1
    assert looked >= 5


def test_a_pipe_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / 'a.json')
    (finding,) = check_annotations(tmp_path / 'a.json')[0]
    assert finding.kind == 'file unreadable' and 'a folder or a pipe' in finding.message
