"""Annotation files: checked once, remembered by their content; run lengths counted as pycocotools would."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip('mmcv', reason='mmcv is not installed')
pytest.importorskip('pycocotools', reason='pycocotools is not installed')

from pycocotools import mask as coco_mask

from backbones.data import coco_checks, coco_files, coco_masks


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(dict(
        images=[dict(id=1, file_name='a.jpg', height=4, width=5)], categories=[dict(id=1, name='x')],
        annotations=[dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 2, 2])])))
    return path


@pytest.fixture
def checks(monkeypatch) -> list[str]:
    """The files that were checked."""
    done: list[str] = []
    check = coco_checks.check_content
    monkeypatch.setattr(coco_checks, 'check_content', lambda content, file: (done.append(file), check(content, file)))
    return done


def test_a_file_that_passed_is_not_checked_again(file, checks):
    first = coco_files.load_coco(str(file))
    assert coco_files.load_coco(str(file)) == first and len(checks) == 1


def test_a_copy_of_a_file_that_passed_is_not_checked_again(file, checks, tmp_path):
    coco_files.load_coco(str(file))
    (tmp_path / 'b.json').write_bytes(file.read_bytes())
    coco_files.load_coco(str(tmp_path / 'b.json'))
    assert len(checks) == 1


def test_a_changed_file_is_checked_anew(file, checks):
    coco_files.load_coco(str(file))
    file.write_text(file.read_text().replace('[0, 0, 2, 2]', '[0, 0, NaN, 2]'))
    with pytest.raises(ValueError, match=r'annotation 1 .*a\.json has bbox \[0, 0, nan, 2\]'):
        coco_files.load_coco(str(file))
    assert len(checks) == 2


def test_changed_checks_check_anew(file, checks, monkeypatch):
    coco_files.load_coco(str(file))
    monkeypatch.setattr(coco_files, 'checks_version', lambda: 'another')
    coco_files.load_coco(str(file))
    assert len(checks) == 2


def test_a_file_that_failed_is_never_remembered(file, checks):
    file.write_text(file.read_text().replace('"height": 4', '"height": 0'))
    for _ in range(2):
        with pytest.raises(ValueError, match='whole numbers of 1 or more'):
            coco_files.load_coco(str(file))
    assert len(checks) == 2 and not coco_files.cache_folder().exists()


def test_a_cache_that_cannot_be_written_is_no_error(file, checks, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    for _ in range(2):
        coco_files.load_coco(str(file))
    assert len(checks) == 2


def test_a_file_without_annotations_gets_an_empty_list_both_times(file):
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key[0] != 'a'}))
    assert [coco_files.load_coco(str(file))['annotations'] for _ in range(2)] == [[], []]


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-32'])
def test_any_encoding_of_json_is_read(file, encoding):
    file.write_bytes(file.read_text().replace('"x"', '"Stra\u00dfe"').encode(encoding))
    assert coco_files.load_coco(str(file))['categories'][0]['name'] == 'Stra\u00dfe'


def test_totals_of_strings_are_those_of_their_pictures(monkeypatch):
    draw = np.random.default_rng(0)
    strings, pixels = [''], [0]
    for _ in range(200):
        height, width = draw.integers(1, 60, 2)
        mask = (draw.random((height, width)) < draw.random() ** 2).astype(np.uint8)
        strings.append(coco_mask.encode(np.asfortranarray(mask))['counts'].decode())
        pixels.append(height * width)
    large = np.zeros((3000, 4000), np.uint8)
    large[5, 7], large[2000, 3000:] = 1, 1
    strings.append(coco_mask.encode(np.asfortranarray(large))['counts'].decode())
    pixels.append(12_000_000)
    assert coco_masks.run_totals(strings) == pixels
    monkeypatch.setattr(coco_masks, 'CHUNK', 100)
    assert coco_masks.run_totals(strings) == pixels


def test_a_broken_string_spoils_none_of_its_neighbours():
    good = coco_mask.encode(np.asfortranarray(np.eye(6, dtype=np.uint8)))['counts'].decode()
    for broken in ('o', good + 'P', '\u00fc', 'o' * 99, ' ', good[:-1] + 'p', 'O'):
        assert coco_masks.run_totals([good, broken, good]) == [36, None, 36], broken


def test_random_strings_never_pass_for_what_pycocotools_refuses():
    draw = np.random.default_rng(0)
    good = coco_mask.encode(np.asfortranarray((draw.random((20, 20)) < 0.3).astype(np.uint8)))['counts'].decode()
    for _ in range(300):
        letters = list(good)
        letters[draw.integers(len(letters))] = chr(draw.integers(48, 112))
        changed = ''.join(letters)
        if coco_masks.run_totals([changed]) == [400]:
            assert set(np.unique(coco_mask.decode(dict(size=[20, 20], counts=changed)))) <= {0, 1}
