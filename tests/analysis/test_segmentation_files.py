"""Predicted label maps in files: paired strictly, refused in one sentence that names the file."""

from __future__ import annotations

import io
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmseg', reason='mmseg is not installed')

from backbones.analysis.segmentation_analysis import analyse_segmentation
from backbones.analysis.segmentation_files import LabelPredictions, read_label_predictions
from backbones.data.label_maps import LabelMapDataset

CLASSES = ('sky', 'road', 'tree')
NAMES = ('a', 'b', 'city/c', 'd')
SIZE = (12, 16)
PLAIN = dict(pipeline=[], test_mode=True, serialize_data=False)  # to serialise collects garbage, which takes a while


def png(labels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(labels)).save(buffer, format='PNG', **options)
    return buffer.getvalue()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def truth_of(name: str, first: int) -> np.ndarray:
    """Stored values: classes from `first`; a row of what is ignored."""
    labels = np.random.default_rng(len(name) + ord(name[-1])).integers(0, 3, SIZE) + first
    labels[0] = 0 if first else 255
    return labels.astype(np.uint8)


def data_set(folder: Path, reduce_zero_label: bool = True, classes: tuple[str, ...] = CLASSES) -> LabelMapDataset:
    for name in NAMES:
        write(folder / f'images/{name}.jpg', b'not read')
        write(folder / f'labels/{name}.png', png(truth_of(name, int(reduce_zero_label))))
    return LabelMapDataset(
        str(folder), data_prefix=dict(img_path='images', seg_map_path='labels'), metainfo=dict(classes=classes),
        reduce_zero_label=reduce_zero_label, **PLAIN)


def predictions(folder: Path, first: int = 1) -> Path:
    """As tools/test.py writes them, half of the pixels right."""
    for name in NAMES:
        labels = truth_of(name, first)
        labels[0] = first
        labels[:, ::2] = first
        write(folder / f'{name}.png', png(labels))
    return folder


def zipped(folder: Path, **options) -> Path:
    path = folder.with_suffix('.zip')
    with zipfile.ZipFile(path, 'w', **options) as archive:
        for file in sorted(folder.rglob('*.png')):
            archive.write(file, file.relative_to(folder))
    return path


@pytest.fixture
def dataset(tmp_path):
    return data_set(tmp_path / 'data')


@pytest.fixture
def folder(tmp_path):
    return predictions(tmp_path / 'predicted')


def expected_table(first: int = 1) -> np.ndarray:
    table = np.zeros((3, 3), int)
    for name in NAMES:
        predicted = truth_of(name, first)[1:].astype(int) - first
        true = predicted.copy()
        predicted[:, ::2] = 0
        np.add.at(table, (true, predicted), 1)
    return table


@pytest.mark.parametrize('packed', ['folder', 'zip', 'compressed zip'])
@pytest.mark.parametrize('first', [0, 1])
def test_folders_and_zips_give_the_counts_of_their_pixels(tmp_path, packed, first):
    dataset = data_set(tmp_path / 'data', bool(first))
    source = predictions(tmp_path / 'predicted', first)
    if packed != 'folder':
        source = zipped(source, compression=zipfile.ZIP_STORED if packed == 'zip' else zipfile.ZIP_DEFLATED)
    pairs = read_label_predictions(source, dataset)
    assert pairs.names == NAMES and pairs.image_files[2].endswith('images/city/c.jpg')
    for threads in (1, 2):
        found = analyse_segmentation(pairs, threads=threads)
        assert found.counts.confusion().tolist() == expected_table(first).tolist()


def test_a_subset_of_the_classes_is_mapped_as_by_the_data_set(tmp_path):
    three = type('Three', (LabelMapDataset,), dict(METAINFO=dict(classes=CLASSES, palette=[(0, 0, 0)] * 3)))
    data_set(tmp_path / 'data')
    dataset = three(
        str(tmp_path / 'data'), data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=('tree', 'sky')), **PLAIN)
    for name in NAMES:
        labels = truth_of(name, 1)
        table = np.array([1, 2, 1, 1])  # what is no class is called tree
        write(tmp_path / f'predicted/{name}.png', png(table[labels].astype(np.uint8)))
    found = analyse_segmentation(read_label_predictions(tmp_path / 'predicted', dataset))
    assert found.scores().summary['mIoU'] == 100 and found.counts.classes == ('tree', 'sky')


def test_the_folder_that_predict_writes_is_counted_from_one(tmp_path):
    dataset = data_set(tmp_path / 'data', reduce_zero_label=False)
    predictions(tmp_path / 'out/labels', first=1)
    write(tmp_path / 'out/overlays/a.png', b'not read')
    write(tmp_path / 'out/classes.txt', '\n'.join(CLASSES).encode())
    for source in (tmp_path / 'out', tmp_path / 'out/labels'):
        pairs = read_label_predictions(source, dataset)
        assert pairs.zero_is_ignored
        assert analyse_segmentation(pairs).counts.confusion().tolist() == expected_table(0).tolist()


def test_predictions_of_other_classes_are_refused(tmp_path, dataset):
    predictions(tmp_path / 'out/labels')
    write(tmp_path / 'out/overlays/a.png', b'not read')
    write(tmp_path / 'out/classes.txt', b'sky\ncar\ntree\n')
    with pytest.raises(ValueError, match="first that differs is class 2: 'car' predicted, 'road' in the data set"):
        read_label_predictions(tmp_path / 'out', dataset)


def test_a_picture_without_prediction_is_named(dataset, folder):
    (folder / 'city/c.png').unlink()
    with pytest.raises(ValueError, match=r'1 of 4 pictures have no prediction in .*predicted: city/c'):
        read_label_predictions(folder, dataset)


def test_a_prediction_without_picture_is_named(dataset, folder):
    write(folder / 'e.png', png(truth_of('a', 1)))
    with pytest.raises(ValueError, match=r'1 of 5 predictions in .* are of no picture of the data set: e'):
        read_label_predictions(folder, dataset)


def test_predictions_of_another_data_set_are_refused(dataset, folder):
    folder = folder.rename(folder.parent / 'x')
    outer = folder.parent / 'outer'
    outer.mkdir()
    folder.rename(outer / 'x')
    words = r'none of the 4 predictions in .*outer\.zip .x/a, x/b, x/city/c, .* of another data set or split'
    with pytest.raises(ValueError, match=words):
        read_label_predictions(zipped(outer), dataset)


@pytest.mark.parametrize('make, words', [
    (lambda path: path.mkdir(), 'the prediction set is empty'),
    (lambda path: zipfile.ZipFile(path, 'w').close(), 'the prediction set is empty'),
    (lambda path: None, 'does not exist'),
    (lambda path: path.write_bytes(b''), 'is no zip'),
    (lambda path: path.write_bytes(b'[]'), 'is no zip'),
    (lambda path: write(path / 'a.json', b'[]'), 'the prediction set is empty'),
], ids=['empty folder', 'empty zip', 'nothing', 'empty file', 'json', 'folder of others'])
def test_what_holds_no_predictions_is_refused(tmp_path, dataset, make, words):
    make(tmp_path / 'given')
    with pytest.raises(ValueError, match=f'given.*{words}|{words}'):
        read_label_predictions(tmp_path / 'given', dataset)


def test_a_zip_with_one_name_twice_is_refused(tmp_path, dataset):
    with zipfile.ZipFile(tmp_path / 'p.zip', 'w') as archive, pytest.warns(UserWarning):
        archive.writestr('a.png', b'1')
        archive.writestr('a.png', b'2')
    with pytest.raises(ValueError, match=r'holds a\.png twice'):
        read_label_predictions(tmp_path / 'p.zip', dataset)


def test_a_zip_that_was_cut_off_is_refused(dataset, folder):
    path = zipped(folder)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r'predicted\.zip is no zip, or a damaged one'):
        read_label_predictions(path, dataset)


def flipped(content: bytes) -> bytes:
    place = content.index(b'IDAT') + 12
    return content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]


def bomb() -> bytes:
    """A PNG that says that it is huge."""
    head = b'IHDR' + struct.pack('>IIBBBBB', 60000, 60000, 8, 0, 0, 0, 0)
    rest = struct.pack('>I', zlib.crc32(head)) + b'\0\0\0\x01IDAT0' + struct.pack('>I', zlib.crc32(b'IDAT0'))
    return b'\x89PNG\r\n\x1a\n\0\0\0\x0d' + head + rest + b'\0\0\0\0IEND\xaeB`\x82'


COLOUR = np.zeros((*SIZE, 3), np.uint8)
FAULTS = [
    ('cut off', png(truth_of('a', 1))[:60], r'b\.png in .* cannot be read: it is cut off or damaged'),
    ('bit flipped', flipped(png(truth_of('a', 1))), r'b\.png in .* cannot be read: it is cut off or damaged'),
    ('empty', b'', r'b\.png in .* cannot be read: is empty'),
    ('web page', b'<html>', r'b\.png in .* a web page'),
    ('colour', png(COLOUR), r'b\.png in .* is a colour picture of 3 channels'),
    ('huge', bomb(), 'says that it is 60000x60000 pixels'),
    ('other size', png(truth_of('a', 1)[:, :8]), r'b\.png in .* is 8x12 .width x height. while its label map is 16x12'),
    ('other value', png(np.full(SIZE, 9, np.uint8)), r'b\.png in .* holds the value 9 in 176 pixels that count, but 1'),
    ('16 bits', png(np.full(SIZE, 258, np.uint16)), 'holds the value 258'),
    ('zero', png(np.zeros(SIZE, np.uint8)), 'holds the value 0 .* counted from 0'),
]


@pytest.mark.parametrize('packed', [False, True], ids=['folder', 'zip'])
@pytest.mark.parametrize('content, words', [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_a_bad_file_is_named_or_skipped_and_listed(dataset, folder, packed, content, words):
    write(folder / 'b.png', content)
    pairs = read_label_predictions(zipped(folder) if packed else folder, dataset)
    with pytest.raises(ValueError, match=words):
        analyse_segmentation(pairs)
    found = analyse_segmentation(pairs, on_bad='skip')
    assert [name for name, _ in found.skipped] == ['b'] and found.counts.names == ('a', 'city/c', 'd')


def test_damage_within_a_zip_is_named(dataset, folder):
    path = zipped(folder)
    content = bytearray(path.read_bytes())
    content[content.index(b'IDAT') + 12] ^= 16
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'a\.png in .*predicted\.zip cannot be read: it is damaged within the zip'):
        read_label_predictions(path, dataset).read(0)


def test_a_label_map_that_cannot_be_read_is_named(tmp_path, dataset, folder):
    pairs = read_label_predictions(folder, dataset)
    write(tmp_path / 'data/labels/b.png', b'')
    with pytest.raises(ValueError, match=r'label map .*labels/b\.png cannot be read: is empty'):
        analyse_segmentation(pairs)
    (tmp_path / 'data/labels/b.png').unlink()
    assert analyse_segmentation(pairs, on_bad='skip').skipped[0][0] == 'b'


def test_a_folder_in_place_of_a_file_is_named(dataset, folder):
    pairs = read_label_predictions(folder, dataset)
    (folder / 'b.png').unlink()
    with pytest.raises(ValueError, match=r'b\.png in .* cannot be read'):
        pairs.read(1)
    (folder / 'b.png').mkdir()
    with pytest.raises(ValueError, match='it is no regular file'):
        pairs.read(1)


def test_palettes_and_two_colours_are_read_as_numbers(tmp_path, dataset, folder):
    labels = truth_of('b', 1)
    picture = Image.fromarray(labels)
    picture.putpalette([200, 10, 10, 3, 3, 3] * 128)
    picture.save(folder / 'b.png')
    assert (LabelPredictions(folder).read('b') == labels).all()
    Image.fromarray(labels > 1).save(folder / 'b.png')
    assert (LabelPredictions(folder).read('b') == (labels > 1)).all()


def test_a_data_set_without_label_maps_is_refused(tmp_path, folder):
    data_set(tmp_path / 'data')
    dataset = LabelMapDataset(
        str(tmp_path / 'data'), data_prefix=dict(img_path='images'), metainfo=dict(classes=CLASSES), **PLAIN)
    with pytest.raises(ValueError, match=r"no label map for .*a\.jpg.*data_prefix\['seg_map_path'\]"):
        read_label_predictions(folder, dataset)


def test_strange_names_are_paired(tmp_path):
    data, predicted = tmp_path / 'data', tmp_path / 'predicted'
    for name in ('Straße 1.5.x', '猫', "it's"):
        write(data / f'images/{name}.jpg', b'')
        write(data / f'labels/{name}.png', png(truth_of('a', 1)))
        write(predicted / f'{name}.png', png(np.maximum(truth_of('a', 1), 1)))
    write(predicted / '.hidden.png', b'')
    dataset = LabelMapDataset(
        str(data), data_prefix=dict(img_path='images', seg_map_path='labels'), metainfo=dict(classes=CLASSES),
        **PLAIN)
    for source in (predicted, zipped(predicted)):
        if source.is_dir():
            (source / '.hidden.png').unlink()
        assert analyse_segmentation(read_label_predictions(source, dataset)).scores().summary['mIoU'] == 100
    shutil.rmtree(predicted)
