"""What one label map holds, found as training reads it (`backbones.data.label_files`), whatever its classes are."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from ..data.bad_samples import BadSampleError
from ..data.image_headers import PNG_END, Header, read_header
from ..data.images import MAX_PIXELS
from ..data.label_files import LOSSLESS, read_label_map
from .looking import Facts, fault_of

MOST_VALUES = 300  # distinct values of a map that are kept; more than there are numbers of classes
MOST_COLOURS = 16


@dataclass
class LabelFacts(Facts):
    """What a look at a label map found.

    Args:
        format: as `image_headers.Header`; empty where there is none.
        width, height: in pixels.
        mode: Pillow's: 'L' grey, 'P' palette, '1' one bit, 'I;16' 16 bits, 'RGB', ...
        values: [value, pixels] for each value, the `MOST_VALUES` with most pixels.
        distinct: number of values, or of colours.
        colours: [red, green, blue, pixels] of a coloured map, the `MOST_COLOURS` with most pixels.
        grey: of a coloured map: all its channels are equal.
        no_end: it lacks its end marker.
    """

    format: str = ''
    width: int = 0
    height: int = 0
    mode: str = ''
    values: list[list[float]] = field(default_factory=list)
    distinct: int = 0
    colours: list[list[int]] = field(default_factory=list)
    grey: bool = False
    no_end: bool = False


def look_at_label_map(content: bytes, path: str) -> LabelFacts:
    """Find out everything about a label map that depends neither on its picture nor on the classes."""
    facts = LabelFacts()
    try:
        header = read_header(content)
    except ValueError:
        header = Header('', 0, 0)
    facts.format, facts.width, facts.height = header[:3]
    if 0 < header.width * header.height <= MAX_PIXELS:
        facts.mode = _mode(content)
    try:
        labels = read_label_map(path)  # the one place that says how a label map is read
    except BadSampleError as error:
        kind = _kind_of_fault(facts)
        facts.fault = fault_of(error, kind, path)
        if kind == 'coloured label map':
            _add_colours(facts, content)
        return facts
    facts.no_end = header.format == 'PNG' and PNG_END not in content
    values, pixels = _count(labels)
    most = np.argsort(-pixels, kind='stable')[:MOST_VALUES]
    facts.distinct = len(values)
    facts.values = [[values[place].item(), int(pixels[place])] for place in sorted(most)]
    return facts


look_at_label_map.facts, look_at_label_map.what = LabelFacts, 'label map'


def _kind_of_fault(facts: LabelFacts) -> str:
    if not facts.format:
        return 'no label map'
    if facts.format not in LOSSLESS:
        return 'label map format'
    if not 0 < facts.width * facts.height <= MAX_PIXELS:
        return 'label map too large'
    many = facts.mode in ('RGB', 'RGBA', 'LA', 'PA', 'CMYK', 'YCbCr', 'LAB', 'HSV', 'RGBX')
    return 'coloured label map' if many else 'label map damaged'


def _mode(content: bytes) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(io.BytesIO(content)) as picture:
                return picture.mode
    except Exception:  # Pillow's parsers raise whatever comes on damaged files
        return ''


def _count(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if labels.dtype == bool:
        labels = labels.astype(np.uint8)
    if labels.dtype == np.uint8:  # a table of 256 is much faster than sorting
        pixels = np.bincount(labels.reshape(-1), minlength=256)
        values = np.flatnonzero(pixels)
        return values, pixels[values]
    return np.unique(labels, return_counts=True)


def colours_of(content: bytes) -> np.ndarray:
    """Decode a coloured label map as (H, W) numbers, red * 65536 + green * 256 + blue."""
    with Image.open(io.BytesIO(content)) as picture:
        rgb = np.asarray(picture.convert('RGB')).astype(np.uint32)
    return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]  # (H, W)


def _add_colours(facts: LabelFacts, content: bytes) -> None:
    try:
        numbers, pixels = np.unique(colours_of(content), return_counts=True)
    except Exception:  # cut off, so that its head only could be read
        facts.fault[0] = 'label map damaged'
        return
    facts.distinct = len(numbers)
    rgb = np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=1)
    facts.grey = bool((rgb == rgb[:, :1]).all())
    most = np.argsort(-pixels, kind='stable')[:MOST_COLOURS]
    facts.colours = [[*rgb[place].tolist(), int(pixels[place])] for place in most]
