"""Files made to do harm: nothing they hold is run, waited for, or decoded into gigabytes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from weights.by_hand import Call, listening

pytest.importorskip('mmdet', reason='mmdet is not installed')
pytest.importorskip('mmseg', reason='mmseg is not installed')

from backbones.data import images, label_files
from backbones.data.bad_samples import BadSampleError
from backbones.data.coco import CocoDataset
from backbones.data.coco_files import load_coco
from backbones.data.files import read_image
from backbones.data.images import LoadImageFromFile
from backbones.data.label_maps import LoadLabelMap
from backbones.evaluation.coco_api import CheckedCoco

H, W = 30, 40
NOISE = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
COCO = dict(
    images=[dict(id=1, file_name='a.png', height=H, width=W)], categories=[dict(id=1, name='x')],
    annotations=[dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 9, 9], segmentation=[[1, 1, 9, 1, 9, 9]])])


def encoded(kind: str, picture: np.ndarray = NOISE, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format=kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, data: bytes, depth: int = 8, colour: int = 2) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    header = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data) + chunk(b'IEND', b'')


def jpeg_that_says(width: int, height: int) -> bytes:
    return encoded('JPEG').replace(struct.pack('>HH', H, W), struct.pack('>HH', height, width), 1)


@pytest.fixture
def no_decoding(monkeypatch) -> None:
    """To decode is a failure of the test."""
    monkeypatch.setattr(images, '_imdecode', lambda *args: pytest.fail('it was decoded'))
    monkeypatch.setattr(label_files.mmcv, 'imfrombytes', lambda *args, **options: pytest.fail('it was decoded'))


def load(path: Path, content: bytes | None = None, size: tuple[int, int] | None = (H, W), **options) -> np.ndarray:
    if content is not None:
        path.write_bytes(content)
    given = dict(height=size[0], width=size[1]) if size else {}
    return LoadImageFromFile(**options)(dict(img_path=str(path), **given))['img']


def load_labels(path: Path, content: bytes | None = None, size: tuple[int, int] | None = (H, W)) -> np.ndarray:
    if content is not None:
        path.write_bytes(content)
    given = dict(ori_shape=size) if size else {}
    return LoadLabelMap(reduce_zero_label=False, num_classes=9)(dict(seg_map_path=str(path), **given))['gt_seg_map']


BELOW_THE_CAP = {
    'jpeg': jpeg_that_says(9400, 9400),
    'jpeg without end': jpeg_that_says(9400, 9400)[:-20],
    'png': png(9400, 9400, zlib.compress(b'\0' * 99)),
    'png of 16 bits and alpha': png(9400, 9400, zlib.compress(b'\0' * 99), 16, 6),
    'bmp': b'BM' + b'\0' * 16 + struct.pack('<ii', 9400, -9400) + b'\0' * 99,
    'webp': encoded('WEBP', np.zeros((3, 16000, 3), np.uint8)),
}


@pytest.mark.parametrize('name', BELOW_THE_CAP)
def test_a_picture_whose_header_has_another_size_than_its_annotations_is_not_decoded(tmp_path, no_decoding, name):
    with pytest.raises(BadSampleError, match=r'is (9400x9400|16000x3) \(width x height\) while its annotations'):
        load(tmp_path / 'a', BELOW_THE_CAP[name])


@pytest.mark.parametrize('kind', ['PNG', 'BMP', 'TIFF'])
def test_a_label_map_whose_header_has_another_size_than_its_picture_is_not_decoded(tmp_path, no_decoding, kind):
    content = encoded(kind, np.zeros((H, W + 1), np.uint8))
    with pytest.raises(BadSampleError, match=r'label map .* is 41x30 \(width x height\) while its picture'):
        load_labels(tmp_path / 'a', content)


BLOAT = png(W, H, np.random.default_rng(0).bytes(2 * 3 * H * (W + 1) + 70_000))


@pytest.mark.parametrize('read', [load, load_labels])
def test_a_png_with_far_more_data_than_pixels_is_not_decoded(tmp_path, no_decoding, read):
    with pytest.raises(BadSampleError, match='cut off or damaged'):
        read(tmp_path / 'a.png', BLOAT)


@pytest.mark.parametrize('options', [dict(compress_level=0), dict(compress_level=9)], ids=['stored', 'compressed'])
@pytest.mark.parametrize('picture', [NOISE, NOISE[..., 0], NOISE[:1, :1], NOISE[..., 0].astype(np.uint16) * 257])
def test_a_png_of_pure_noise_is_read(tmp_path, picture, options):
    assert load(tmp_path / 'a.png', encoded('PNG', picture, **options), None).shape[:2] == picture.shape[:2]


def test_the_fillings_of_a_jpeg_without_end_stop_at_the_first_difference(tmp_path, monkeypatch):
    calls, decode = [], images._imdecode
    monkeypatch.setattr(images, '_imdecode', lambda *args: (calls.append(1), decode(*args))[1])
    with pytest.raises(BadSampleError, match='cut off or damaged'):
        load(tmp_path / 'a.jpg', encoded('JPEG')[:-200])
    assert len(calls) == 2


@pytest.fixture
def no_opening(monkeypatch) -> None:
    """To open is a failure of the test: a pipe without a writer waits for ever."""
    monkeypatch.setattr(images.fileio, 'get', lambda *args, **options: pytest.fail('it was opened'))


@pytest.mark.parametrize('read', [lambda path: load(path), lambda path: load_labels(path), read_image],
                         ids=['picture', 'label map', 'prediction'])
@pytest.mark.parametrize('kind', ['pipe', 'link to a pipe', 'device', 'folder'])
def test_what_is_no_regular_file_is_refused_unopened(tmp_path, no_opening, read, kind):
    path = tmp_path / 'a.png'
    if kind == 'folder':
        path.mkdir()
    elif kind == 'device':
        path.symlink_to('/dev/zero')
    else:
        os.mkfifo(tmp_path / 'b.png' if kind == 'link to a pipe' else path)
        if kind == 'link to a pipe':
            path.symlink_to('b.png')
    with pytest.raises(BadSampleError, match=r'a\.png is no regular file'):
        read(path)


def test_a_line_end_in_a_file_name_does_not_end_the_line_of_a_message(tmp_path):
    path = tmp_path / 'a\nERROR: all is well.png'
    for read, content in ((load, None), (load, b'<html>'), (load, encoded('PNG')[:99]), (load_labels, b'<html>')):
        with pytest.raises(BadSampleError) as error:
            read(path, content)
        assert '\n' not in str(error.value) and r'a\nERROR' in str(error.value) and error.value.path == str(path)


@pytest.mark.parametrize('kind', ['JPEG', 'WEBP'])
def test_a_label_map_of_a_format_that_changes_numbers_is_refused(tmp_path, kind):
    labels = np.zeros((H, W), np.uint8)  # so that no value is out of range
    with pytest.raises(BadSampleError, match=rf'a\.png cannot be read: it is a {kind}, .* save it as PNG'):
        load_labels(tmp_path / 'a.png', encoded(kind, labels))


def touch(path: Path) -> Call:
    """Pickles as a call that leaves a file."""
    return Call(Path.touch, path)


@pytest.mark.parametrize('kind', ['pkl', 'yaml', 'json'])
def test_a_file_of_proposals_is_refused_unread(tmp_path, kind):
    Image.fromarray(NOISE).save(tmp_path / 'a.png')
    (tmp_path / 'a.json').write_text(json.dumps(COCO))
    file, mark = tmp_path / f'proposals.{kind}', tmp_path / 'mark'
    if kind == 'yaml':
        file.write_text(f'a: !!python/object/apply:os.mkdir ["{mark}"]\n')
    else:
        file.write_bytes(pickle.dumps(touch(mark)) if kind == 'pkl' else b'[[]]')
    with pytest.raises(ValueError, match=r'proposal_file=.* is not supported: .*train a model with an RPN'):
        CocoDataset(
            data_root=str(tmp_path), ann_file='a.json', data_prefix=dict(img=''), pipeline=[], proposal_file=file.name)
    assert not mark.exists()


READERS: dict[str, Callable[[Path], object]] = dict(
    load_coco=lambda path: load_coco(str(path)),
    CheckedCoco=lambda path: CheckedCoco(str(path), masks=True),
    load_image=lambda path: load(path, size=None, formats=(*images.FORMATS, 'TIFF')),
    load_labels=lambda path: load_labels(path, size=None),
    read_image=read_image,
)


def hostile(folder: Path) -> dict[str, bytes]:
    """What a file can be, by name."""
    payload = touch(folder / 'mark')
    entry = dict(COCO['annotations'][0], segmentation={'__reduce__': ['os.system', 'true']})
    return {
        'pickle': pickle.dumps(payload),
        'old pickle': pickle.dumps(payload, 0),
        'picture with a pickle behind': encoded('PNG') + pickle.dumps(payload),
        'cut jpeg with a pickle in it': encoded('JPEG')[:-600] + pickle.dumps(payload),
        'web page': b'<html><script>alert(1)</script>',
        'entities': b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>',
        'postscript': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(mark) (w) file',
        'yaml': b'!!python/object/apply:os.mkdir ["mark"]',
        'program': b'__import__("os").mkdir("mark")',
        'json of calls': json.dumps({'__reduce__': ['os.mkdir', 'mark'], 'py/object': 'os.mkdir'}).encode(),
        'coco of calls': json.dumps(dict(COCO, annotations=[entry])).encode(),
        'bloated png': BLOAT,
        'tiff': encoded('TIFF')[:-60],
        'empty': b'',
    }


def warm_up(folder: Path) -> None:
    """Read a good and a broken file of each kind, so that what is imported later is imported for a hostile one."""
    for name, content in dict(a=json.dumps(COCO).encode(), b=b'{', c=encoded('PNG'), d=encoded('PNG')[:-40],
                              e=encoded('TIFF'), f=encoded('TIFF')[:-40], g=encoded('JPEG')[:-2]).items():
        (folder / name).write_bytes(content)
        for read in READERS.values():
            with contextlib.suppress(ValueError):
                read(folder / name)


def test_nothing_is_run_imported_or_written_for_a_hostile_file(tmp_path):
    warm_up(tmp_path)
    files = {name: tmp_path / f'hostile {name}' for name in hostile(tmp_path)}
    for name, content in hostile(tmp_path).items():
        files[name].write_bytes(content)
    refused = []
    with listening() as events:
        for name, path in files.items():
            for reader, read in READERS.items():
                try:
                    read(path)
                except ValueError:
                    refused.append((name, reader))
    assert [event for event in events if event[0] not in ('os.listdir', 'os.scandir')] == []
    assert not (tmp_path / 'mark').exists()
    pictures = {('picture with a pickle behind', reader) for reader in ('load_image', 'read_image')}
    assert {(name, reader) for name in files for reader in READERS} - set(refused) <= pictures


def test_nothing_is_run_imported_or_written_for_hostile_results(tmp_path, capsys):
    (tmp_path / 'truth.json').write_text(json.dumps(COCO))
    truth, count = CheckedCoco(str(tmp_path / 'truth.json')), 0
    found = dict(image_id=1, category_id=1, score=0.5, bbox=[1, 1, 5, 5])
    truth.loadRes([found])
    with pytest.raises(ValueError, match='must be a list'):
        truth.loadRes(str(tmp_path / 'truth.json'))
    files = {**hostile(tmp_path), 'a call for a number': json.dumps([dict(found, score='__import__("os")')]).encode()}
    for name, content in files.items():
        (tmp_path / f'hostile {name}').write_bytes(content)
    with listening() as events:
        for name in files:
            try:
                truth.loadRes(str(tmp_path / f'hostile {name}'))
            except ValueError:
                count += 1
    assert events == [] and count == len(files) and not (tmp_path / 'mark').exists()


def test_the_ears_hear_a_pickle_that_is_run(tmp_path):
    with listening() as events:
        pickle.loads(pickle.dumps(touch(tmp_path / 'mark')))
    assert (tmp_path / 'mark').exists() and {'pickle.find_class', 'open'} <= {event for event, _ in events}
