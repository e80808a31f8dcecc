"""Picture files: each damage is one finding at its place, each oddity a note, copies are found by their pixels."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from data_check_helpers import H, W, encoded, findings_of, kinds, looker, picture, save
from PIL import Image

pytest.importorskip('mmcv', reason='mmcv is not installed')

from backbones.data.bad_samples import BadSampleError
from backbones.data.images import decode_image
from backbones.data_check import looking, remembered
from backbones.data_check.pictures import (
    PictureSet,
    check_duplicates,
    check_pictures,
    evenly,
    look_at_picture,
    picture_findings,
)


def check(tmp_path: Path, content: bytes | None, *, stated: tuple[int, int] | None = (W, H), name: str = 'a.jpg'):
    """Findings about one file."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    sizes = None if stated is None else [stated]
    return findings_of(check_pictures(PictureSet('train', [str(path)], [7], sizes, str(tmp_path)), looker()))


def turned(orientation: int, kind: str = 'JPEG', height: int = H, width: int = W) -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    return encoded(kind, picture(1, height, width), exif=exif)


def bomb() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    header = struct.pack('>IIBBBBB', 65000, 65000, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', b'x') + chunk(b'IEND', b'')


JPEG = encoded('JPEG', picture(1))
PNG = encoded('PNG', picture(1))


@pytest.mark.parametrize(('content', 'kind', 'word'), [
    (b'', 'no picture', 'is empty'),
    (b'<html>not found</html>', 'no picture', 'web page'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'no picture', 'no picture'),
    (JPEG[:100], 'no picture', 'ends before its first pixel'),
    (JPEG[:-len(JPEG) // 4], 'picture damaged', 'cut off'),
    (PNG[:len(PNG) // 2], 'picture damaged', 'cut off'),
    (encoded('BMP', picture(1))[:500], 'picture damaged', 'cut off'),
    (encoded('GIF', picture(1)), 'no picture', 'GIF'),
    (encoded('TIFF', picture(1)), 'picture format', 'TIFF'),
    (bomb(), 'picture too large', '65000x65000'),
    (encoded('JPEG', picture(1, H, W - 1)), 'picture size', f'{W - 1}x{H}'),
    (None, 'picture missing', 'not there'),
])
def test_a_file_that_training_cannot_use_is_one_error_with_its_name_and_id(tmp_path, content, kind, word):
    (finding,) = check(tmp_path, content) if kind != 'picture missing' else check_with_other(tmp_path)
    assert (finding.severity, finding.kind, finding.id) == ('error', kind, 7)
    assert finding.file == str(tmp_path / 'a.jpg')
    assert word in finding.message
    assert finding.remedy


def check_with_other(tmp_path: Path):
    save(tmp_path / 'other.jpg', picture(2))
    return check(tmp_path, None)


@pytest.mark.parametrize(('content', 'kind'), [
    (encoded('JPEG', picture(1)[..., 0]), 'grey picture'),
    (encoded('PNG', np.dstack([picture(1), picture(2)[..., :1]])), 'alpha picture'),
    (encoded('PNG', np.dstack([picture(1)[..., :1], picture(2)[..., :1]])), 'alpha picture'),
    (JPEG[:-2], 'picture without its end'),
    (PNG[:-12], 'picture without its end'),
    (turned(3), 'turned picture'),
])
def test_an_oddity_that_training_reads_is_one_note(tmp_path, content, kind):
    assert kinds(check(tmp_path, content)) == [f'note: {kind}']


def test_cmyk_palette_and_16_bits_are_notes(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(picture(1)).convert('CMYK').save(buffer, 'JPEG')
    assert kinds(check(tmp_path, buffer.getvalue(), name='cmyk')) == ['note: CMYK picture']
    buffer = io.BytesIO()
    Image.fromarray(picture(1)).quantize(16).save(buffer, 'PNG')
    assert kinds(check(tmp_path, buffer.getvalue(), name='palette')) == ['note: palette picture']
    deep = encoded('PNG', picture(1)[..., 0].astype(np.uint16) * 256)
    assert kinds(check(tmp_path, deep, name='deep')) == ['note: grey picture', 'note: 16-bit picture']


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('stated', [(W, H), (H, W), (W + 1, H), (W * 2, H * 2)])
def test_a_stated_size_is_an_error_where_training_refuses_it(kind, orientation, stated):
    content = turned(orientation, kind)
    try:
        decode_image(content, 'x', size=stated[::-1])
        refused = False
    except BadSampleError:
        refused = True
    found = list(picture_findings(look_at_picture(content, 'x'), 'x', stated, 1))
    assert ('error: picture size' in kinds(found)) == refused
    assert ('note: turned picture' in kinds(found)) == (orientation != 1)


def test_damage_in_the_middle_of_a_jpeg_is_a_warning_in_the_decoders_words(tmp_path):
    content = bytearray(encoded('JPEG', picture(1, 200, 200), quality=95))
    middle = len(content) // 2
    content[middle:middle + 40] = bytes(40)
    found = check(tmp_path, bytes(content), stated=(200, 200))
    assert kinds(found) == ['warning: picture partly damaged']
    assert 'Corrupt JPEG data' in found[0].message


def test_a_pipe_and_a_folder_are_missing_and_nobody_waits(tmp_path):
    os.mkfifo(tmp_path / 'a.jpg')
    assert kinds(check(tmp_path, None)) == ['error: picture missing']
    (tmp_path / 'b.jpg').mkdir()
    (finding,) = check(tmp_path, None, name='b.jpg')
    assert 'a folder, a pipe or a link' in finding.message


def test_a_missing_picture_is_told_from_one_of_other_capitals(tmp_path):
    save(tmp_path / 'A.JPG', picture(1))
    (finding,) = check(tmp_path, None)
    assert "'A.JPG'" in finding.message


def test_a_missing_folder_is_one_finding(tmp_path):
    folder = tmp_path / 'nowhere'
    pictures = PictureSet('train', [str(folder / f'{n}.jpg') for n in range(50)], None, None, str(folder))
    (finding,) = findings_of(check_pictures(pictures, looker()))
    assert (finding.kind, finding.value) == ('picture folder missing', 50)


def test_copies_are_found_by_their_pixels_across_splits_and_within_one(tmp_path):
    paths = [str(save(tmp_path / name, picture(seed))) for name, seed in
             (('a.png', 1), ('b.png', 2), ('c.png', 2), ('d.png', 3))]
    copy = str(save(tmp_path / 'val' / 'again.bmp', picture(1)))  # another file of the same pixels
    look = looker()
    sets = [PictureSet('train', paths), PictureSet('val', [copy])]
    for pictures in sets:
        check_pictures(pictures, look)
    found = findings_of(check_duplicates(sets, look))
    assert sorted(kinds(found)) == ['note: picture twice', 'warning: picture in two splits']
    assert {finding.file for finding in found} == {copy, paths[2]}


def test_a_sample_is_even_and_ends_with_all():
    assert evenly(10, 5) == [0, 2, 4, 6, 8]
    assert evenly(3, 5) == evenly(3, None) == [0, 1, 2]


def test_several_processes_find_the_same_as_one(tmp_path):
    (tmp_path / 'bad.jpg').write_bytes(JPEG[:300])
    paths = [str(save(tmp_path / f'{n}.png', picture(n))) for n in range(20)] + [str(tmp_path / 'bad.jpg')]
    alone = looker().look(look_at_picture, paths, '')
    several = looker(workers=2, alone_seconds=0.0).look(look_at_picture, paths, '')
    assert alone == several


def test_what_is_remembered_is_not_decoded_again(tmp_path, monkeypatch):
    paths = [str(save(tmp_path / f'{n}.png', picture(n))) for n in range(3)]
    memory = tmp_path / 'cache' / 'x.sqlite'
    first = looker(memory=memory).look(look_at_picture, paths, '')
    monkeypatch.setattr('backbones.data_check.pictures.decode_image', lambda *args: pytest.fail('decoded again'))
    assert looker(memory=memory).look(look_at_picture, paths, '') == first


def test_other_bytes_or_other_checks_are_looked_at_anew(tmp_path, monkeypatch):
    path, memory = tmp_path / 'a.png', tmp_path / 'x.sqlite'
    save(path, picture(1))
    looker(memory=memory).look(look_at_picture, [str(path)], '')
    save(path, picture(1, H + 1, W))
    assert looker(memory=memory).look(look_at_picture, [str(path)], '')[0].height == H + 1
    monkeypatch.setattr(remembered, 'looks_version', lambda: b'another!')
    seen = []
    monkeypatch.setattr('backbones.data_check.pictures.decode_image',
                        lambda *args: seen.append(args) or decode_image(*args))
    looker(memory=memory).look(look_at_picture, [str(path)], '')
    assert len(seen) == 1


@pytest.mark.parametrize('content', [b'', b'no database', b'SQLite format 3\0' + bytes(500)])
def test_a_damaged_memory_costs_nothing_but_time(tmp_path, content):
    path, memory = str(save(tmp_path / 'a.png', picture(1))), tmp_path / 'x.sqlite'
    memory.write_bytes(content)
    assert looker(memory=memory).look(look_at_picture, [path], '')[0].pixels
    assert remembered.Memory(memory).get(b'unknown') is None
    assert looker(memory=memory).look(look_at_picture, [path], '')[0].pixels


def test_a_record_with_strange_fields_is_ignored(tmp_path):
    path, memory = str(save(tmp_path / 'a.png', picture(1))), tmp_path / 'x.sqlite'
    looker(memory=memory).look(look_at_picture, [path], '')
    store = remembered.Memory(memory)
    (key,) = store._open.execute('SELECT key FROM facts').fetchone()
    store.add({key: dict(strange=1)})
    assert looker(memory=memory).look(look_at_picture, [path], '')[0].pixels


def test_the_memory_keeps_the_newest_of_what_it_may(tmp_path):
    store = remembered.Memory(tmp_path / 'x.sqlite', most=10)
    for number in range(30):
        store.add({bytes([number]): dict(number=number)})
    left = remembered.Memory(tmp_path / 'x.sqlite')
    assert left.get(bytes([29])) == dict(number=29)
    assert left.get(bytes([5])) is None
    assert left._open.execute('SELECT count(*) FROM facts').fetchone() == (10,)


def test_a_decoder_that_dies_is_named_and_the_others_are_read(tmp_path):
    paths = [str(save(tmp_path / f'{n}.png', picture(n))) for n in range(3)]
    (tmp_path / 'dies').write_bytes(b'x')
    paths.insert(1, str(tmp_path / 'dies'))
    found = looker(workers=2, alone_seconds=0.0).look(look_and_die, paths, '')
    assert [facts.fault and facts.fault[0] for facts in found] == [None, 'decoder crash', None, None]


def look_and_die(content: bytes, path: str) -> looking.Facts:
    if content == b'x':
        os._exit(9)
    return looking.Facts()


look_and_die.facts, look_and_die.what = looking.Facts, 'file'


@pytest.mark.parametrize('workers', [0, -1, 1.5, True])
def test_a_number_of_workers_that_is_none_is_refused(workers):
    with pytest.raises(ValueError, match='whole number of 1 or more'):
        looking.Looker(workers)
