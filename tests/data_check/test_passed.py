"""What has no error here passes the strict reading of training, and is remembered as passed."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from coco_toys import content, random_content, write
from conftest import SHARED, needs_shared

from backbones.data import coco_checks, coco_files
from backbones.data.coco_files import cache_folder, load_coco, parsed_once
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


@pytest.fixture
def parsings(monkeypatch):
    """The files that strict reading parses, in their order."""
    files, parse = [], coco_files.parse_json
    monkeypatch.setattr(coco_files, 'parse_json', lambda text, file, **more: files.append(file) or parse(
        text, file, **more))
    return files


@pytest.mark.parametrize('seed', range(4))
def test_what_was_checked_is_handed_over_once_and_as_it_is_in_the_file(tmp_path, parsings, seed):
    file = write(tmp_path / 'a.json', random_content(seed))
    with parsed_once():
        check_annotations(file)
        assert load_coco(str(file)) == json.loads(file.read_text()) and parsings == []
        load_coco(str(file))
        assert parsings == [str(file)]


def test_a_file_without_a_list_of_annotations_is_handed_over_with_an_empty_one(tmp_path, parsings):
    bare = content()
    del bare['annotations']
    file = write(tmp_path / 'a.json', bare)
    with parsed_once():
        check_annotations(file)
        assert load_coco(str(file)) == {**bare, 'annotations': []} and parsings == []


def test_a_file_is_known_by_another_path_to_it(tmp_path, parsings):
    file = write(tmp_path / 'a.json', content())
    (tmp_path / 'b.json').symlink_to(file)
    with parsed_once():
        check_annotations(tmp_path / 'b.json')
        load_coco(str(file))
    assert parsings == []


@pytest.mark.parametrize('how', ['written', 'replaced', 'touched'])
def test_a_file_that_changes_after_the_check_is_read_anew(tmp_path, parsings, how):
    file = write(tmp_path / 'a.json', content())
    other = file.read_text().replace('disc', 'ring')
    assert len(other) == file.stat().st_size
    with parsed_once():
        check_annotations(file)
        state = file.stat()
        if how == 'written':
            file.write_text(other)
            os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        elif how == 'replaced':
            (tmp_path / 'b.json').write_text(other)
            shutil.copystat(file, tmp_path / 'b.json')
            os.replace(tmp_path / 'b.json', file)
        else:
            os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        assert load_coco(str(file)) == json.loads(file.read_text())
    assert parsings == [str(file)]


def test_nothing_is_kept_outside_or_of_a_file_with_an_error(tmp_path, parsings):
    file = write(tmp_path / 'a.json', content())
    check_annotations(file)
    with parsed_once():
        wrong = content()
        wrong['annotations'][0]['bbox'][2] = -1
        check_annotations(write(tmp_path / 'b.json', wrong))
        assert coco_files._handed_over == {}
        check_annotations(file)
        assert len(coco_files._handed_over) == 1
    assert coco_files._handed_over is None
    load_coco(str(file))
    assert parsings == [str(file)]
