"""Pictures that are what they should be: mmcv's pixels, with a defined outcome for every file that is odd.

Decoding is mmcv's (OpenCV, 8 bits, BGR), bit for bit. docs/data_faults.md lists what becomes of damaged, unusual and
hostile files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmengine.logging import print_log

from ..registry import TRANSFORMS
from .bad_samples import BadSampleError
from .files import shown
from .image_headers import JPEG_END, Header, jpeg_lacks_end, read_header, with_png_end

FORMATS = ('JPEG', 'PNG', 'BMP', 'WEBP')
MAX_PIXELS = 1024**3 // 4 // 3  # 89 million, as Pillow: a quarter of a GiB of RGB
# https://github.com/python-pillow/Pillow/blob/11.0.0/src/PIL/Image.py (MAX_IMAGE_PIXELS)
FLAGS = dict(color=cv2.IMREAD_COLOR, grayscale=cv2.IMREAD_GRAYSCALE, unchanged=cv2.IMREAD_UNCHANGED)
# What EXIF orientation n asks for, as (transpose, flip rows, flip columns). CIPA DC-008, 4.6.4.
_TURNS = {
    2: (False, False, True), 3: (False, True, True), 4: (False, True, False), 5: (True, False, False),
    6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}
_noticed: set[str] = set()  # files told of, once per process


@TRANSFORMS.register_module()
class LoadImageFromFile(BaseTransform):
    """Load `img_path` as mmcv's transform of this name does, (H, W, 3) uint8 BGR, and refuse what it should not be.

    Adds `img`, `img_shape`, `ori_shape`. Where the sample states `width` and `height` (COCO's annotations do), the
    picture must have that size: as displayed (turned as its EXIF note says, mmcv's default) or else as stored.

    Args:
        to_float32: give float32 instead of uint8.
        color_type: 'color', 'grayscale' or 'unchanged', as for mmcv.
        formats: formats to accept, told by content, not by name; 'TIFF' can be added.
        max_pixels: largest width x height, looked up in the header before anything is decoded.
        checksums: file as `sha256sum` writes it (lines of hash and path), to find damage that no decoder sees; names
            must be unique without their folders. Each picture must be in it.
        backend_args: where the files are, as for mmcv.

    Raises:
        BadSampleError: naming the file, what is wrong, and what to do.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = 'color',
        *,
        formats: Sequence[str] = FORMATS,
        max_pixels: int = MAX_PIXELS,
        checksums: str | None = None,
        backend_args: Mapping[str, Any] | None = None,
    ) -> None:
        if color_type not in FLAGS:
            raise ValueError(f'color_type={color_type!r} is unknown; choose one of {list(FLAGS)}')
        unknown = set(formats) - {*FORMATS, 'TIFF'}
        if isinstance(formats, str) or unknown or not formats:
            raise ValueError(f"formats={formats!r} must be a list of some of {[*FORMATS, 'TIFF']}")
        self.to_float32, self.color_type = to_float32, color_type
        self.formats, self.max_pixels = tuple(formats), max_pixels
        self.checksums, self._digests = checksums, _read_checksums(checksums) if checksums else None
        self.backend_args = dict(backend_args) if backend_args else None

    def transform(self, results: dict) -> dict:
        """Read, check and decode the picture of one sample."""
        path = results['img_path']
        content = read_content(path, self.backend_args)
        if self._digests is not None:
            self._compare(content, path)
        size = (results['height'], results['width']) if 'height' in results and 'width' in results else None
        image = decode_image(content, path, self.color_type, size, self.formats, self.max_pixels)
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _compare(self, content: bytes, path: str) -> None:
        expected = self._digests.get(os.path.basename(path))
        if expected is None:
            raise BadSampleError(f'the picture {shown(path)} is not listed in {self.checksums}; list it', path)
        if hashlib.sha256(content).digest() != expected:
            raise BadSampleError(
                f'the picture {shown(path)} is not the file of which {self.checksums} has the hash: it was damaged or '
                'changed; get it again',
                path,
            )

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(to_float32={self.to_float32}, color_type={self.color_type!r}, '
            f'formats={self.formats}, max_pixels={self.max_pixels}, checksums={self.checksums!r}, '
            f'backend_args={self.backend_args})'
        )


def read_content(
    path: str | os.PathLike, backend_args: Mapping[str, Any] | None = None, kind: str = 'picture'
) -> bytes:
    """Return the bytes of a file of one sample; `kind` names it in the message of a `BadSampleError`."""
    try:
        usable = stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):  # no local file: its backend finds it, or says why not
        usable = True
    if not usable:  # to open a pipe waits for ever, and some devices never end
        raise BadSampleError(
            f'the {kind} {shown(path)} is no regular file but a folder, pipe, socket or device; put a file there',
            str(path),
        )
    try:
        return fileio.get(path, backend_args=backend_args)
    except FileNotFoundError:
        raise BadSampleError(
            f'the {kind} {shown(path)} is missing; put it there or take it off the list', str(path)
        ) from None
    except Exception as error:  # each backend has errors of its own
        raise BadSampleError(
            f'the {kind} {shown(path)} cannot be read: {type(error).__name__}: {error}; look after the file and its '
            'storage',
            str(path),
        ) from error


def decode_image(
    content: bytes,
    path: str,
    color_type: str = 'color',
    size: tuple[int, int] | None = None,
    formats: Sequence[str] = FORMATS,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decode a picture; see `LoadImageFromFile`.

    Args:
        content: the file.
        path: its name, for the messages.
        color_type: as for `LoadImageFromFile`, like `formats` and `max_pixels`.
        size: (H, W) that the annotations belong to, or None.

    Returns:
        (H, W, 3) BGR, or (H, W) for 'grayscale'.
    """
    header = _checked_header(content, path, formats, max_pixels)
    if size is not None and sorted((header.width, header.height)) != sorted(size):  # whichever way it is turned
        raise _other_size((header.height, header.width), size, path)
    image = _decode(content, header, path, FLAGS[color_type])
    if size is None or image.shape[:2] == tuple(size):
        return image
    stored = FLAGS[color_type]
    if color_type != 'unchanged':
        stored |= cv2.IMREAD_IGNORE_ORIENTATION
    stored = _decode(content, header, path, stored)
    for candidate in (stored, _turned(stored, content)):
        if candidate.shape[:2] == tuple(size):
            return np.ascontiguousarray(candidate)
    raise _other_size(image.shape, size, path)


def _other_size(found: Sequence[int], wanted: Sequence[int], path: str) -> BadSampleError:
    return BadSampleError(
        f'the picture {shown(path)} is {found[1]}x{found[0]} (width x height) while its annotations are for '
        f'{wanted[1]}x{wanted[0]}; put the right file there, or correct width and height in the annotation file',
        path,
    )


def _checked_header(content: bytes, path: str, formats: Sequence[str], max_pixels: int) -> Header:
    try:
        header = read_header(content)
    except ValueError as error:
        raise BadSampleError(
            f'the file {shown(path)} {error}; allowed are pictures of the formats {", ".join(formats)}: replace it',
            path,
        ) from None
    if header.format not in formats:
        raise BadSampleError(
            f'the picture {shown(path)} is a {header.format}; allowed are {", ".join(formats)}: convert it, or give '
            'LoadImageFromFile formats=(...)',
            path,
        )
    if header.width < 1 or header.height < 1 or header.width * header.height > max_pixels:
        raise BadSampleError(
            f'the picture {shown(path)} says that it is {header.width}x{header.height} pixels; 1 to {max_pixels} '
            'in all are allowed: replace or reduce it, or raise max_pixels of LoadImageFromFile',
            path,
        )
    return header


def _decode(content: bytes, header: Header, path: str, flag: int) -> np.ndarray:
    if header.format == 'PNG':
        # OpenCV allocates what the length of a chunk says, up to 4 GiB, whether the file is that long or not
        whole = with_png_end(content, header)
        image = None if whole is None else _imdecode(whole, flag)
        if image is not None and whole is not content:
            notice_end(path)
    elif header.format == 'JPEG' and jpeg_lacks_end(content, header):
        image = _jpeg_without_end(content, header, path, flag)
    else:
        image = _imdecode(content, flag)
    if image is None:
        raise BadSampleError(
            f'the picture {shown(path)} cannot be decoded: it is cut off or damaged ({header.format}, {len(content)} '
            'bytes); get it again',
            path,
        )
    return image


def _imdecode(content: bytes, flag: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except cv2.error:
        return None


def _jpeg_without_end(content: bytes, header: Header, path: str, flag: int) -> np.ndarray | None:
    """Decode a file that lacks its end marker but no pixels; None if any pixel is missing.

    Whatever follows the last pixel is not looked at, so that all pixels are there if no filling changes any. A
    progressive file may lack whole passes, which this cannot show.
    """
    if header.progressive:
        return None
    data = content.rstrip(b'\0').removesuffix(b'\xff')
    image = _imdecode(data + JPEG_END, flag)
    if image is None:
        return None
    for fill in (b'\x55', b'\xaa', b'\x01'):  # one at a time: each may take a quarter of a GiB
        other = _imdecode(data + fill * 4096 + JPEG_END, flag)
        if other is None or not np.array_equal(image, other):
            return None
    notice_end(path)
    return image


def notice_end(path: str) -> None:
    """Say once per file that it lacks its end marker only."""
    if path not in _noticed:
        _noticed.add(path)
        text = f'the picture {shown(path)} lacks its end marker; all its pixels are there'
        print_log(text, 'current', logging.WARNING)


def _turned(image: np.ndarray, content: bytes) -> np.ndarray:
    """Turn as the EXIF note says, in the formats where OpenCV does not look for one (WebP)."""
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as picture:
            turn = _TURNS.get(picture.getexif().get(0x112))
    except Exception:  # Pillow's parsers raise whatever comes on damaged files
        turn = None
    if turn is None:
        return image
    transpose, rows, columns = turn
    image = image.swapaxes(0, 1) if transpose else image
    return image[:: -1 if rows else 1, :: -1 if columns else 1]


def _read_checksums(path: str) -> dict[str, bytes]:
    digests: dict[str, bytes] = {}
    try:
        with open(path, encoding='utf-8') as file:
            for line in file:
                digest, name = line.rstrip('\n').split(maxsplit=1)
                name = os.path.basename(name.removeprefix('*'))
                if len(digest) != 64 or digests.setdefault(name, bytes.fromhex(digest)) != bytes.fromhex(digest):
                    raise ValueError(f'{name} has two hashes, or none of 64 digits')
    except (OSError, ValueError) as error:
        raise ValueError(
            f'the checksums {path} cannot be read: {error}. Write them with: sha256sum FOLDER/* > FILE'
        ) from error
    return digests
