"""Pictures: mmcv's pixels for sound files, and a defined outcome for every odd one."""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, needs_shared
from PIL import Image

mmcv = pytest.importorskip('mmcv', reason='mmcv is not installed')

from mmcv.transforms import LoadImageFromFile as MMCVLoad  # noqa: E402
from mmengine.registry import TRANSFORMS  # noqa: E402

from backbones.data.bad_samples import BadSampleError  # noqa: E402
from backbones.data.images import LoadImageFromFile  # noqa: E402

H, W = 30, 40
DRAWN = np.random.default_rng(0).integers(0, 256, (H // 5, W // 5, 3), dtype=np.uint8).repeat(5, 0).repeat(5, 1)
PICTURE = Image.fromarray(DRAWN)


def encoded(picture: Image.Image = PICTURE, kind: str = 'JPEG', turn: int | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    if turn:
        options['exif'] = Image.Exif()
        options['exif'][0x112] = turn
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A small file that says it is a large picture."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b'\0' * 99)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data) + chunk(b'IEND', b'')


@pytest.fixture
def load(tmp_path):
    """Write the bytes to a file and load it; `size` is (H, W) of the annotations."""

    def run(content: bytes | None, size: tuple[int, int] | None = None, **options) -> np.ndarray:
        path = tmp_path / 'a.jpg'
        if content is not None:
            path.write_bytes(content)
        sample = dict(img_path=str(path))
        if size:
            sample.update(height=size[0], width=size[1])
        results = LoadImageFromFile(**options)(sample)
        assert results['img_shape'] == results['ori_shape'] == results['img'].shape[:2]
        return results['img']

    return run


def by_mmcv(path: Path) -> np.ndarray:
    return MMCVLoad()(dict(img_path=str(path)))['img']


def test_the_type_is_found_by_its_scoped_name():
    assert TRANSFORMS.get('backbones.LoadImageFromFile') is LoadImageFromFile


GREY, ALPHA = PICTURE.convert('L'), PICTURE.copy()
ALPHA.putalpha(Image.fromarray(DRAWN[..., 0]))
DEEP = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 256 + 99)
READABLE = {
    'jpeg': encoded(),
    'progressive jpeg': encoded(progressive=True),
    'grey jpeg': encoded(GREY),
    'cmyk jpeg': encoded(PICTURE.convert('CMYK')),
    'jpeg with bytes after its end': encoded() + b'more' * 9,
    'png': encoded(kind='PNG'),
    'png with alpha': encoded(ALPHA, 'PNG'),
    'grey png with alpha': encoded(ALPHA.convert('LA'), 'PNG'),
    'png with a palette': encoded(PICTURE.convert('P'), 'PNG', transparency=1),
    'png of 1 bit': encoded(GREY.convert('1'), 'PNG'),
    'png of 16 bits': encoded(DEEP, 'PNG'),
    'png with bytes after its end': encoded(kind='PNG') + b'more' * 9,
    'bmp': encoded(kind='BMP'),
    'webp': encoded(kind='WEBP'),
    'webp without loss': encoded(kind='WEBP', lossless=True),
    'webp with alpha': encoded(ALPHA, 'WEBP', lossless=True),
    'one row': encoded(PICTURE.resize((W, 1))),
    'one column': encoded(PICTURE.resize((1, H)), 'PNG'),
    'turned jpeg': encoded(turn=6),
    'mirrored png': encoded(kind='PNG', turn=2),
}


@pytest.mark.parametrize('name', READABLE)
def test_a_readable_file_has_the_pixels_that_mmcv_gives_it(load, tmp_path, name):
    image = load(READABLE[name])
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    np.testing.assert_array_equal(image, by_mmcv(tmp_path / 'a.jpg'))


COLOURS = DRAWN[..., ::-1]  # BGR
EXACT = {
    'png': COLOURS,
    'png with alpha': COLOURS,  # the colours below the transparency
    'grey png with alpha': np.asarray(GREY)[..., None].repeat(3, 2),
    'png of 16 bits': np.asarray(GREY)[..., None].repeat(3, 2),  # the upper 8 bits
    'webp without loss': COLOURS,
    'bmp': COLOURS,
}


@pytest.mark.parametrize('name', EXACT)
def test_alpha_is_dropped_and_16_bits_become_the_upper_8(load, name):
    np.testing.assert_array_equal(load(READABLE[name]), EXACT[name])


def test_four_printing_colours_become_about_those_that_pillow_sees(load):
    seen = np.asarray(Image.open(io.BytesIO(READABLE['cmyk jpeg'])).convert('RGB'))[..., ::-1]
    assert np.abs(load(READABLE['cmyk jpeg']).astype(int) - seen).max() <= 2


# the length of the first chunk after the header
CHUNK = encoded(kind='PNG')[:33] + b'\xff\xff\xff\xf0' + encoded(kind='PNG')[37:]
DAMAGED = {
    'missing': (None, 'is missing'),
    'empty': (b'', r'is empty \(0 bytes\)'),
    'html': (b'\n<!DOCTYPE html><html>404</html>', 'is a web page'),
    'junk': (b'\x07' * 300, 'is no picture'),
    'jpeg less 200 bytes': (encoded()[:-200], 'cut off or damaged'),
    'jpeg less 10 bytes': (encoded()[:-10], 'cut off or damaged'),
    'jpeg cut, filled up with zeros': (encoded()[:-200].ljust(len(encoded()), b'\0'), 'cut off'),
    'jpeg header': (encoded()[:100], 'ends before its first pixel'),
    'progressive jpeg less 2 bytes': (encoded(progressive=True)[:-2], 'cut off or damaged'),
    'png half': (encoded(kind='PNG')[: len(encoded(kind='PNG')) // 2], 'cut off or damaged'),
    'png less 20 bytes': (encoded(kind='PNG')[:-20], 'cut off or damaged'),
    'png header': (encoded(kind='PNG')[:20], 'cut off within its header'),
    'png with a chunk of 4 GiB': (CHUNK, 'cut off or damaged'),
    'webp less 2 bytes': (encoded(kind='WEBP')[:-2], 'cut off or damaged'),
    'bmp less 2 bytes': (encoded(kind='BMP')[:-2], 'cut off or damaged'),
    'gif': (encoded(kind='GIF'), 'is a GIF file'),
    'tiff': (encoded(kind='TIFF'), r'is a TIFF; allowed are JPEG, PNG, BMP, WEBP'),
    'postscript': (b'%!PS-Adobe-3.0 EPSF', 'is a PostScript file'),
    'avif': (b'\0\0\0\x1cftypavif' + b'\0' * 40, 'AVIF'),
    'no rows': (png_of(40, 0), 'says that it is 40x0 pixels'),
}


@pytest.mark.parametrize('name', DAMAGED)
def test_a_damaged_or_foreign_file_is_refused_by_name(load, tmp_path, name):
    content, message = DAMAGED[name]
    with pytest.raises(BadSampleError, match=message) as error:
        load(content)
    assert str(tmp_path / 'a.jpg') in str(error.value) and error.value.path == str(tmp_path / 'a.jpg')


@pytest.mark.parametrize('cut', [1, 2])
def test_a_jpeg_that_lacks_its_end_marker_only_has_all_its_pixels(load, cut):
    np.testing.assert_array_equal(load(encoded()[:-cut]), load(encoded()))


@pytest.mark.parametrize('cut', [1, 2, 4, 11, 12])
def test_a_png_that_lacks_its_last_chunk_only_has_all_its_pixels(load, cut):
    np.testing.assert_array_equal(load(encoded(kind='PNG')[:-cut]), load(encoded(kind='PNG')))


def test_no_cut_of_a_jpeg_gives_other_pixels(load):
    whole, content = load(encoded(quality=60)), encoded(quality=60)
    outcomes = []
    for cut in range(1, len(content), 7):
        try:
            np.testing.assert_array_equal(load(content[:-cut]), whole)
            outcomes.append(cut)
        except BadSampleError:
            pass
    assert outcomes == [1]


@pytest.mark.parametrize('turn', range(1, 9))
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
def test_the_orientation_is_the_one_that_the_annotations_have(load, kind, turn):
    options = dict(lossless=True) if kind == 'WEBP' else {}
    content = encoded(kind=kind, turn=turn, **options)
    with Image.open(io.BytesIO(content)) as opened:
        stored = np.asarray(opened.convert('RGB'))[..., ::-1]
        shown = np.asarray(Image.Image.transpose(opened.convert('RGB'), TURNS[turn]) if turn > 1 else opened)[..., ::-1]
    if turn > 4:
        np.testing.assert_array_equal(load(content, (H, W)), stored)
        np.testing.assert_array_equal(load(content, (W, H)), shown)
    elif kind != 'WEBP':  # both fit: as mmcv, which turns JPEG and PNG
        np.testing.assert_array_equal(load(content, (H, W)), shown)


TURNS = {n: getattr(Image.Transpose, name) for n, name in {
    2: 'FLIP_LEFT_RIGHT', 3: 'ROTATE_180', 4: 'FLIP_TOP_BOTTOM', 5: 'TRANSPOSE', 6: 'ROTATE_270', 7: 'TRANSVERSE',
    8: 'ROTATE_90'}.items()}


@pytest.mark.parametrize('content', [encoded(), encoded(turn=6)], ids=['plain', 'turned'])
def test_a_picture_of_another_size_than_its_annotations_is_refused(load, content):
    with pytest.raises(BadSampleError, match=r'(40x30|30x40) \(width x height\) while its annotations are for 80x60'):
        load(content, (60, 80))


def test_an_unturned_picture_is_not_turned_to_fit(load):
    with pytest.raises(BadSampleError, match='annotations are for 30x40'):
        load(encoded(), (W, H))


@pytest.mark.parametrize('content', [
    png_of(65_000, 65_000), encoded().replace(struct.pack('>HH', H, W), b'\xff\xf0\xff\xf0', 1),
    b'BM' + b'\0' * 16 + struct.pack('<ii', 60_000, -60_000) + b'\0' * 99,
    b'RIFF\0\0\0\0WEBPVP8X' + b'\0' * 8 + b'\xff\xff\0\xff\xff\0' + b'\0' * 99,
], ids=['png', 'jpeg', 'bmp', 'webp'])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(load, content):
    started = time.process_time()
    with pytest.raises(BadSampleError, match=r'says that it is 6.*pixels; 1 to 89478485 in all are allowed'):
        load(content)
    assert time.process_time() - started < 1


def test_the_pixel_cap_can_be_set(load):
    assert load(encoded(), max_pixels=H * W).shape == (H, W, 3)
    with pytest.raises(BadSampleError, match='1 to 1199 in all'):
        load(encoded(), max_pixels=H * W - 1)


def test_tiff_is_read_where_it_is_asked_for(load):
    np.testing.assert_array_equal(load(encoded(kind='TIFF'), formats=['TIFF']), COLOURS)
    with pytest.raises(BadSampleError, match='is a JPEG; allowed are TIFF'):
        load(encoded(), formats=['TIFF'])


@pytest.mark.parametrize('options', [dict(color_type='rgb'), dict(formats=['GIF']), dict(formats='PNG')])
def test_options_that_do_not_exist_are_refused(options):
    with pytest.raises(ValueError, match=r'rgb|GIF|PNG'):
        LoadImageFromFile(**options)


def test_other_types_are_those_of_mmcv(load, tmp_path):
    for options in (dict(color_type='grayscale'), dict(color_type='unchanged'), dict(to_float32=True)):
        theirs = MMCVLoad(**options)
        for name in ('png with alpha', 'png of 16 bits', 'jpeg'):
            image = load(READABLE[name], **options)
            expected = theirs(dict(img_path=str(tmp_path / 'a.jpg')))['img']
            assert image.dtype == expected.dtype
            np.testing.assert_array_equal(image, expected)


def test_checksums_find_every_flipped_bit(load, tmp_path):
    content, sums = encoded(), tmp_path / 'sums'
    sums.write_text(f'{hashlib.sha256(content).hexdigest()}  train/a.jpg\n')
    load(content, checksums=str(sums))
    draw = np.random.default_rng(0)
    for place, bit in zip(draw.integers(0, len(content), 100), draw.integers(0, 8, 100), strict=True):
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        with pytest.raises(BadSampleError, match='damaged or changed'):
            load(bytes(flipped), checksums=str(sums))


def test_a_picture_without_checksum_and_unreadable_checksums_are_errors(load, tmp_path):
    sums = tmp_path / 'sums'
    sums.write_text(f'{"0" * 64}  b.jpg\n')
    with pytest.raises(BadSampleError, match='is not listed in'):
        load(encoded(), checksums=str(sums))
    sums.write_text('nothing')
    for path in (sums, tmp_path / 'absent'):
        with pytest.raises(ValueError, match=r'cannot be read.*sha256sum'):
            LoadImageFromFile(checksums=str(path))


@needs_shared
@pytest.mark.parametrize('pattern', ['coco_mini/train2017/*.jpg', 'camvid/images/validation/*.jpg', 'ade_one/**/*.jpg'])
def test_real_pictures_have_the_pixels_that_mmcv_gives_them(pattern):
    files = sorted((SHARED / 'data').glob(pattern))[:8]
    assert files
    for file in files:
        np.testing.assert_array_equal(LoadImageFromFile()(dict(img_path=str(file)))['img'], by_mmcv(file))


@needs_shared
def test_unusual_real_pictures_are_read(tmp_path):
    folder = SHARED / 'data' / 'broken'
    for case, name, size in (
        ('cmyk', '000000000208.jpg', (120, 160)), ('exif_rotated', '000000000308.jpg', (106, 160)),
        ('grayscale', '000000000165.jpg', (134, 160)), ('rgba', '000000000165.png', (134, 160)),
        ('jpeg_last_bytes_cut', '000000000165.jpg', (134, 160)),
    ):
        path = shutil.copy(folder / f'image_{case}' / 'train2017' / name, tmp_path)
        image = LoadImageFromFile()(dict(img_path=str(path), height=size[0], width=size[1]))['img']
        assert image.shape == (*size, 3), case
