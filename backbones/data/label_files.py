"""Files of label maps: which there are, and the values of one, as training reads them. mmseg is not needed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import mmcv
import numpy as np
from mmengine import fileio

from .bad_samples import BadSampleError
from .files import shown
from .image_headers import Header, read_header, with_png_end
from .images import MAX_PIXELS, notice_end, read_content

LOSSLESS = ('PNG', 'BMP', 'TIFF')  # JPEG and WebP may change numbers without a trace
IGNORED = 255  # mmseg's value for pixels without a class, after loading


def read_label_map(
    path: str,
    size: Sequence[int] | None = None,
    picture: str | None = None,
    backend_args: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Read the values of a label map, (H, W).

    Args:
        path: of the file.
        size: (H, W, ...) of its picture; None compares with nothing.
        picture: path of that picture, for the message.
        backend_args: where the files are, as for mmseg's `LoadAnnotations`.

    Raises:
        BadSampleError: it cannot be read as one channel of numbers, or is of another size.
    """
    content = read_content(path, backend_args, kind='label map')
    try:
        header = _checked_header(content)
        _check_size((header.height, header.width), size, picture, path)  # before anything is allocated
        whole = with_png_end(content, header) if header.format == 'PNG' else content
        if whole is None:
            raise ValueError(f'it is cut off or damaged ({header.format}, {len(content)} bytes)')
        labels = mmcv.imfrombytes(whole, flag='unchanged', backend='pillow')
    except BadSampleError:
        raise
    except Exception as error:  # Pillow's parsers raise whatever comes on damaged files
        name = f'the label map {shown(path)}'
        raise BadSampleError(f'{name} cannot be read: {error}. Replace the file', path) from error
    if whole is not content:
        notice_end(path)
    _check_size(labels.shape, size, picture, path)
    if labels.ndim != 2:
        raise BadSampleError(
            f'the label map {shown(path)} is a colour picture of {labels.shape[2]} channels; it must have one '
            'channel of class numbers. Turn each colour into its number (0 for what is to be ignored) '
            'and save as grey PNG',
            path,
        )
    return labels


def _checked_header(content: bytes) -> Header:
    """Raise a ValueError with the rest of a sentence that begins with the file's name and 'cannot be read: '."""
    header = read_header(content)
    if header.format not in LOSSLESS:
        raise ValueError(f'it is a {header.format}, which changes the numbers of classes; save it as PNG')
    if header.width * header.height > MAX_PIXELS:
        raise ValueError(f'says that it is {header.width}x{header.height} pixels, more than {MAX_PIXELS}')
    return header


def _check_size(found: Sequence[int], size: Sequence[int] | None, picture: str | None, path: str) -> None:
    if size is not None and tuple(size[:2]) != tuple(found[:2]):
        raise BadSampleError(
            f'the label map {shown(path)} is {found[1]}x{found[0]} (width x height) while its '
            f'picture {shown(picture)} is {size[1]}x{size[0]}; make it again at the size of the '
            'picture',
            path,
        )


def read_names(path: str, backend_args: Mapping[str, Any] | None) -> list[str]:
    """Return the lines of a text file that are not empty."""
    try:
        text = fileio.get(path, backend_args=backend_args).decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{shown(path)} is no text in UTF-8: {error}; write one name a line and save it as UTF-8'
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def list_by_stem(folder: str, suffixes: Sequence[str]) -> dict[str, str]:
    """Return the files under `folder`, subfolders included, by their path in it without the suffix."""
    found: dict[str, str] = {}
    above: dict[str, tuple[str, ...]] = {}  # the real folders from `folder` down to each one met
    for parent, folders, files in os.walk(folder, followlinks=True):
        place, real = os.path.abspath(parent), os.path.realpath(parent)
        chain = above.get(os.path.dirname(place), ())
        if real in chain:  # a link back to a folder we are in, whose files have been listed
            folders.clear()
            continue
        above[place] = (*chain, real)
        folders.sort()
        for file in sorted(files):
            suffix = next((suffix for suffix in suffixes if file.lower().endswith(suffix.lower())), None)
            if suffix is None or file.startswith('.'):
                continue
            path = os.path.join(parent, file)
            name = os.path.relpath(path, folder)[: -len(suffix)]
            if name in found:
                raise ValueError(
                    f'{found[name]} and {path} differ by their suffix only; keep one, or give img_suffix'
                )
            found[name] = path
    return found
