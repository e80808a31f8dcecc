"""Format and size of a picture from its first bytes, before anything is decoded, and whether its end is missing.

A decoder allocates what the header asks for: a file of 100 bytes may ask for 65,000 x 65,000 pixels.
JPEG: https://www.w3.org/Graphics/JPEG/itu-t81.pdf (B.1). PNG: https://www.w3.org/TR/png-3/#5DataRep.
WebP: https://developers.google.com/speed/webp/docs/riff_container.
"""

from __future__ import annotations

import io
import struct
from typing import NamedTuple

PNG_SIGNATURE, PNG_END = b'\x89PNG\r\n\x1a\n', b'\0\0\0\0IEND\xaeB`\x82'
JPEG_END = b'\xff\xd9'
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG by its colour type
_SLACK = 1 << 16  # bytes that the data of any PNG may take beyond twice its pixels
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # SOF0.. without DHT, JPG and DAC
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_OTHERS = (  # what pictures of other kinds, and files that are no pictures, begin with
    (b'GIF8', 'GIF'), (b'%!PS', 'PostScript'), (b'\xc5\xd0\xd3\xc6', 'PostScript'),
    (b'%PDF', 'PDF'), (b'PK\x03\x04', 'zip archive'), (b'\x1f\x8b', 'gzip archive'), (b'\0\0\0\x0cjP', 'JPEG 2000'),
    (b'8BPS', 'Photoshop'), (b'v/1\x01', 'OpenEXR'),
)


class Header(NamedTuple):
    """`format` is JPEG, PNG, BMP, WEBP or TIFF; width and height in stored pixels, before any EXIF turn.

    `data_at` is where a JPEG's first scan begins; `progressive` is said of a JPEG, `raw_bytes` (the size of its pixels)
    of a PNG.
    """

    format: str
    width: int
    height: int
    data_at: int = 0
    progressive: bool = False
    raw_bytes: int = 0


def read_header(content: bytes) -> Header:
    """Read the header of a JPEG, PNG, BMP, WebP or TIFF picture.

    Raises:
        ValueError: what the bytes are instead, as the rest of a sentence that begins with the file's name.
    """
    try:
        if content[:2] == b'\xff\xd8':
            return _jpeg(content)
        if content[:8] == PNG_SIGNATURE:
            if content[12:16] != b'IHDR':
                raise ValueError('is a PNG without a header')
            return _png(content)
        if content[:2] == b'BM':
            width, height = struct.unpack('<ii', content[18:26])
            return Header('BMP', width, abs(height))  # negative: stored from the top
        if content[:4] == b'RIFF' and content[8:12] == b'WEBP':
            return _webp(content)
        if content[:4] in (b'II*\0', b'MM\0*'):
            return _tiff(content)
    except (struct.error, IndexError):
        raise ValueError('is cut off within its header') from None
    raise ValueError(_what(content))


def _what(content: bytes) -> str:
    if not content:
        return 'is empty (0 bytes)'
    start = content[:512].lstrip().lower()
    if start.startswith((b'<!doctype', b'<html', b'<?xml', b'<head', b'<body', b'<!--')):
        return 'is a web page or XML, not a picture: a download that went wrong'
    for magic, name in _OTHERS:
        if content.startswith(magic):
            return f'is a {name} file'
    if content[4:8] == b'ftyp':
        return 'is an AVIF, HEIF or video file'
    return f'is no picture: it begins with {content[:8]!r}'


def _jpeg(content: bytes) -> Header:
    """Walk the markers up to the first scan."""
    place, size, end = 2, None, len(content)
    while place + 4 <= end:
        if content[place] != 0xFF:
            place = content.find(b'\xff', place)  # libjpeg skips stray bytes between segments, too
            if place < 0:
                break
            continue
        marker = content[place + 1]
        if marker == 0xFF or marker in _BARE:
            place += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            break
        length = content[place + 2] << 8 | content[place + 3]
        if marker in _FRAMES:
            height, width = struct.unpack('>HH', content[place + 5 : place + 9])
            size = (width, height, marker in (0xC2, 0xC6, 0xCA, 0xCE))
        elif marker == 0xDA:
            if size is None:
                break
            return Header('JPEG', size[0], size[1], place + 2 + length, size[2])
        place += 2 + length
    raise ValueError('is a JPEG that ends before its first pixel')


def _png(content: bytes) -> Header:
    width, height, depth, colour = struct.unpack('>IIBB', content[16:26])
    return Header('PNG', width, height, raw_bytes=height * (width * _CHANNELS.get(colour, 4) * depth // 8 + 1))


def _webp(content: bytes) -> Header:
    kind = content[12:16]
    if kind == b'VP8X':
        width, height = (int.from_bytes(content[i : i + 3], 'little') + 1 for i in (24, 27))
        if len(content) < 30:
            raise IndexError
        return Header('WEBP', width, height)
    if kind == b'VP8L':
        bits = struct.unpack('<I', content[21:25])[0]
        return Header('WEBP', (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b'VP8 ':
        width, height = struct.unpack('<HH', content[26:30])
        return Header('WEBP', width & 0x3FFF, height & 0x3FFF)
    raise ValueError('is a WebP of an unknown kind')


def _tiff(content: bytes) -> Header:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=('TIFF',)) as picture:
            return Header('TIFF', *picture.size)
    except Image.DecompressionBombError:
        return Header('TIFF', 1 << 31, 1 << 31)
    except Exception as error:  # Pillow's parsers raise whatever comes on damaged files
        raise ValueError(f'is a TIFF whose header cannot be read ({error})') from None


def jpeg_lacks_end(content: bytes, header: Header) -> bool:
    """Tell whether no end marker follows the first scan."""
    return not content.endswith(JPEG_END) and content.rfind(JPEG_END, header.data_at) < 0


def with_png_end(content: bytes, header: Header) -> bytes | None:
    """Complete a PNG that was cut within its last chunk, which holds no pixels; None if anything else is wrong.

    What is looked at, besides the lengths of the chunks: a compressor adds a few bytes at most to what it cannot make
    smaller, so that data much longer than the pixels hold something else, such as a gigabyte of zeros.
    """
    place, data = 8, 0
    while place + 12 <= len(content):
        length, kind = struct.unpack('>I4s', content[place : place + 8])
        if place + 12 + length > len(content):
            return None
        if kind == b'IEND':
            return content
        data += length if kind == b'IDAT' else 0
        if data > 2 * header.raw_bytes + _SLACK:
            return None
        place += 12 + length
    rest = content[place:]
    return content[:place] + PNG_END if data and PNG_END.startswith(rest) else None
