"""Picture files: there, whole, of a format that training reads, of the size that is stated; and none of them twice.

What training accepts is said in `backbones.data.images`, which decodes here, too.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from ..data.bad_samples import BadSampleError
from ..data.files import IMAGE_SUFFIXES, missing_files
from ..data.image_headers import PNG_END, Header, jpeg_lacks_end, read_header
from ..data.images import FORMATS, MAX_PIXELS, decode_image
from ..findings import Finding, Outcome
from .looking import PLACE, Facts, Looker, fault_of

ORIENTATION = 0x112  # EXIF tag
# Bytes before the end marker that no pixel needs: some writers leave a few. Damage in the middle of JPEGs of 200 to 600
# pixels left 88 to 935.
HARMLESS_BYTES = 64
_EXTRANEOUS = re.compile(r'Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9')
NOTES = dict(
    grey='has one grey channel, which is read as three equal ones',
    CMYK='is stored in four printing colours, which are turned into red, green and blue',
    alpha='has a channel of transparency, which is dropped; the colours below it are used',
    palette='is stored with a palette, whose colours are used',
)


@dataclass
class PictureFacts(Facts):
    """What a look at a picture found.

    Args:
        format: as `image_headers.Header`; empty where there is none.
        width, height: in stored pixels.
        shown_width, shown_height: as training sees it without a stated size: turned by EXIF where OpenCV does so.
        turn: EXIF orientation, 1 if there is none.
        channels: a key of `NOTES`, or empty for red, green and blue.
        bits: of a channel.
        no_end: it lacks its end marker.
        decoder: what the decoder printed.
        pixels: hash of size and pixels as displayed; empty where it was not decoded.
    """

    format: str = ''
    width: int = 0
    height: int = 0
    shown_width: int = 0
    shown_height: int = 0
    turn: int = 1
    channels: str = ''
    bits: int = 8
    no_end: bool = False
    decoder: str = ''
    pixels: str = ''

    def sizes(self) -> list[tuple[int, int]]:
        """(width, height) that annotations may be for: as displayed, as stored, and turned by EXIF."""
        turned = [(self.height, self.width)] if self.turn >= 5 else []
        return [(self.shown_width, self.shown_height), (self.width, self.height), *turned]


def look_at_picture(content: bytes, path: str) -> PictureFacts:
    """Find out everything about a picture that does not depend on its place."""
    facts = PictureFacts()
    try:
        header = read_header(content)
    except ValueError:
        header = Header('', 0, 0)
    facts.format, facts.width, facts.height = header[:3]
    try:
        image = decode_image(content, PLACE)
    except BadSampleError as error:
        facts.fault = fault_of(error, _kind_of_fault(header), PLACE)
        return facts
    facts.shown_height, facts.shown_width = image.shape[:2]
    facts.no_end = (header.format == 'JPEG' and jpeg_lacks_end(content, header)) or (
        header.format == 'PNG' and PNG_END not in content)
    facts.pixels = hashlib.blake2b(image.data if image.flags.c_contiguous else image.tobytes(), digest_size=16,
                                   person=f'{image.shape[0]}x{image.shape[1]}'.encode()[:16]).hexdigest()
    _add_mode(facts, content)
    return facts


look_at_picture.facts, look_at_picture.what = PictureFacts, 'picture'


def _kind_of_fault(header: Header) -> str:
    if not header.format:
        return 'no picture'
    if header.format not in FORMATS:
        return 'picture format'
    if header.width < 1 or header.height < 1 or header.width * header.height > MAX_PIXELS:
        return 'picture too large'
    return 'picture damaged'


def _add_mode(facts: PictureFacts, content: bytes) -> None:
    """Add channels, bits and EXIF turn."""
    if facts.format == 'PNG':
        facts.bits = content[24]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(io.BytesIO(content)) as picture:
                mode, has_alpha = picture.mode, 'transparency' in picture.info
                turn = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow's parsers raise whatever comes; OpenCV could read the file
        return
    facts.turn = turn if turn in range(1, 9) else 1
    if mode == 'CMYK':
        facts.channels = 'CMYK'
    elif mode in ('RGBA', 'LA', 'PA') or has_alpha:
        facts.channels = 'alpha'
    elif mode == 'P':
        facts.channels = 'palette'
    elif mode in ('L', '1', 'I', 'I;16', 'I;16B', 'F'):
        facts.channels = 'grey'


@dataclass
class PictureSet:
    """The pictures of one split.

    Args:
        name: of the split.
        paths: of the files.
        ids: of the annotation file, or None.
        sizes: (width, height) that are stated, or None.
        folder: where they should be.
        facts: of those looked at, by their path; filled by `check_pictures`.
    """

    name: str
    paths: Sequence[str]
    ids: Sequence[int | str] | None = None
    sizes: Sequence[tuple[int, int]] | None = None
    folder: str = ''
    facts: dict[str, PictureFacts] = field(default_factory=dict)


def evenly(count: int, sample: int | None) -> list[int]:
    """Return at most `sample` of the places 0 ... count - 1, evenly chosen; all without a sample."""
    if sample is None or sample >= count:
        return list(range(count))
    return [place * count // sample for place in range(sample)]


def counted(number: int, word: str) -> str:
    """Return '1 picture', '1,200 pictures'."""
    return f'{number:,} {word}' + ('' if number == 1 else 's' if not word.endswith('s') else 'es')


def check_pictures(pictures: PictureSet, looker: Looker, sample: int | None = None) -> Outcome:
    """Look at the pictures of a split, all or `sample` of them; their facts are left in `pictures.facts`."""
    outcome = Outcome(f'pictures {pictures.name}')
    paths = pictures.paths
    missing = set(missing_files(dict.fromkeys(paths)))
    outcome.findings += _missing_findings(pictures, missing)
    there = [place for place, path in enumerate(paths) if path not in missing]
    chosen = [there[place] for place in evenly(len(there), sample)]
    found = looker.look(look_at_picture, [paths[place] for place in chosen], f'pictures {pictures.name}')
    for place, facts in zip(chosen, found, strict=True):
        path = paths[place]
        pictures.facts[path] = facts
        stated = pictures.sizes[place] if pictures.sizes is not None else None
        name = pictures.ids[place] if pictures.ids is not None else None
        for finding in picture_findings(facts, path, stated, name):
            if looker.first_time(path, finding.kind):
                outcome.findings.append(finding)
    outcome.summary = _summary(found, len(there), len(missing))
    outcome.figures = dict(listed=len(paths), there=len(there), missing=len(missing), looked_at=len(chosen),
                           formats=dict(Counter(facts.format for facts in found if facts.format)))
    return outcome


def _summary(found: Sequence[PictureFacts], there: int, missing: int) -> str:
    whole = [facts for facts in found if facts.pixels]
    parts = [counted(there, 'picture') + (f', {missing:,} missing' if missing else '')]
    if whole:
        low = min((facts.shown_width * facts.shown_height, facts.shown_width, facts.shown_height) for facts in whole)
        high = max((facts.shown_width * facts.shown_height, facts.shown_width, facts.shown_height) for facts in whole)
        sizes = f'{low[1]}x{low[2]}' + (f' to {high[1]}x{high[2]}' if low != high else '')
        formats = Counter(facts.format for facts in whole)
        parts.append(f'{sizes}, {", ".join(formats)}')
    looked = 'all decoded' if len(found) == there else f'{len(found):,} of them, evenly chosen, decoded'
    return '; '.join([*parts, looked]) if there else parts[0]


def _missing_findings(pictures: PictureSet, missing: set[str]) -> list[Finding]:
    if not missing:
        return []
    if pictures.folder and not os.path.isdir(pictures.folder) and len(missing) == len(set(pictures.paths)):
        return [Finding('error', 'picture folder missing',
                        f'the folder of the {len(missing)} pictures of {pictures.name} does not exist',
                        'put the pictures there, or correct data_root and data_prefix', file=pictures.folder,
                        field='file_name', value=len(missing))]
    listings: dict[str, dict[str, str]] = {}
    findings = []
    for place, path in enumerate(pictures.paths):
        if path in missing:
            near = _nearest(path, listings)
            hint = f'; the folder holds {near!r}' if near else ''
            if near == os.path.basename(path):
                hint = '; there is no file of this name, but a folder, a pipe or a link that leads nowhere'
            findings.append(Finding(
                'error', 'picture missing', f'the picture is listed but not there{hint}',
                'add the file, or take it off the list', file=path,
                id=None if pictures.ids is None else pictures.ids[place], field='file_name',
                value=os.path.basename(path)))
    return findings


def _nearest(path: str, listings: dict[str, dict[str, str]]) -> str | None:
    """Return the file of the folder that differs in capitals or in the suffix only."""
    folder, name = os.path.split(path)
    if folder not in listings:
        try:
            names = os.listdir(folder or '.')
        except OSError:
            names = []
        listings[folder] = {os.path.splitext(other)[0].lower(): other for other in sorted(names)
                            if other.lower().endswith(IMAGE_SUFFIXES)}
    return listings[folder].get(os.path.splitext(name)[0].lower())


def picture_findings(facts: PictureFacts, path: str, stated: tuple[int, int] | None,
                     name: int | str | None) -> Iterable[Finding]:
    """Turn the facts of a picture into findings; `stated` is the (width, height) of the annotation file."""
    place = dict(file=path, id=name)
    if facts.fault is not None:
        kind, message, remedy = facts.fault
        yield Finding('error', kind, message, remedy, **place)
        return
    if stated is not None and tuple(stated) not in facts.sizes():
        yield Finding('error', 'picture size',
                      f'the picture is {facts.shown_width}x{facts.shown_height} (width x height), but the annotation '
                      f'file says {stated[0]}x{stated[1]}',
                      'put the right file there, or correct width and height', **place, field='width, height',
                      value=f'{stated[0]}x{stated[1]}')
    if facts.no_end:
        yield Finding('note', 'picture without its end', 'the picture lacks its end marker; all its pixels are there',
                      **place)
    elif facts.decoder:
        yield _decoder_finding(facts.decoder, place)
    if facts.turn != 1:
        yield _turn_finding(facts, stated, place)
    if facts.channels:
        yield Finding('note', f'{facts.channels} picture', f'the picture {NOTES[facts.channels]}', **place)
    if facts.bits > 8:
        yield Finding('note', f'{facts.bits}-bit picture', f'the picture has {facts.bits} bits a channel, of which '
                      'the upper 8 are used', **place, field='bits', value=facts.bits)


def _decoder_finding(words: str, place: Mapping) -> Finding:
    extra = _EXTRANEOUS.search(words)
    if 'Corrupt JPEG data' in words and not (extra and int(extra.group(1)) <= HARMLESS_BYTES):
        return Finding('warning', 'picture partly damaged', f'the picture is decoded, but its decoder says: {words}',
                       'look at it; get it again where it shows grey or shifted parts', **place)
    return Finding('note', 'decoder says', f'the decoder says: {words}', **place)


def _turn_finding(facts: PictureFacts, stated: tuple[int, int] | None, place: Mapping) -> Finding:
    way = 'as displayed, which is how training sees it'
    if stated is not None and facts.turn >= 5 and tuple(stated) == (facts.width, facts.height):
        way = 'as stored, which is how training then sees it' if facts.width != facts.height else 'as displayed'
    elif stated is None and (facts.shown_width, facts.shown_height) == (facts.width, facts.height) and facts.turn >= 5:
        way = 'as training sees it: not turned, as the format is not looked into for such a note'
    return Finding('note', 'turned picture', f'the picture has a note (EXIF orientation {facts.turn}) to turn it for '
                   f'display; its annotations must be for the picture {way}', **place, field='orientation',
                   value=facts.turn)


def check_duplicates(sets: Sequence[PictureSet], looker: Looker) -> Outcome:
    """Find pictures that are there twice, by their pixels: in two splits (a score on them is too good), or in one."""
    places: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    looked = 0
    for pictures in sets:
        for path, facts in pictures.facts.items():
            looked += 1
            if facts.pixels:
                places[facts.pixels][pictures.name].append(path)
    outcome = Outcome('duplicate pictures')
    across = within = 0
    for by_split in places.values():
        if len(by_split) == 1 and len(next(iter(by_split.values()))) == 1:
            continue
        for name, paths in by_split.items():
            within += len(paths) - 1
            for path in paths[1:]:
                if looker.first_time(path, f'picture twice {name}'):
                    outcome.findings.append(Finding(
                        'note', 'picture twice', f'the picture has the same pixels as {paths[0]}',
                        'take one of the two off the list where this is not meant', file=path))
        (first, paths), *others = by_split.items()
        across += len(others)
        for name, copies in others:
            if looker.first_time(copies[0], f'picture in two splits {first} {name}'):
                outcome.findings.append(Finding(
                    'warning', 'picture in two splits',
                    f'the picture of {name} has the same pixels as {paths[0]} of {first}: what is measured on it '
                    'was learnt by heart', 'take it out of one of the splits', file=copies[0], field='split',
                    value=f'{first}, {name}'))
    outcome.figures = dict(looked_at=looked, in_two_splits=across, twice_in_a_split=within)
    outcome.summary = f'{counted(looked, "picture")} compared; {across:,} in two splits, {within:,} twice in one'
    return outcome
