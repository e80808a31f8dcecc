"""Large pictures in overlapping tiles: what `--tile` says, and where the tiles of a picture lie."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config, ConfigDict

from backbones.config import dicts_in, is_segmenter
from backbones.registry import SCOPE

SMALLEST, LARGEST = 32, 2**16 - 36  # pixels of a side; a JPEG has at most 65,500 or so
MOST_TILES = 10_000  # of one picture
OVERLAP = 0.25  # of a tile's side; an object up to this size is entire in a tile, wherever it lies
MERGING = 'entire before cut, IoU 0.5 within what both views see'  # tiles_merge; to be changed with it
LABEL_LOADERS = ('LoadAnnotations', 'LoadInstanceAnnotations', 'LoadLabelMap')
Frame = tuple[int, int, int, int]  # x0 y0 x1 y1 in pixels of the picture


@dataclass(frozen=True)
class Tiles:
    """How pictures are cut.

    Args:
        width: of a tile, in pixels of the picture.
        height: of a tile.
        overlap: of neighbours, at least: below 1 a fraction of the side, else pixels.
        whole: the whole picture is looked at, too, so that objects larger than the overlap are seen entire.
    """

    width: int
    height: int
    overlap: float = OVERLAP
    whole: bool = True

    @property
    def overlaps(self) -> tuple[int, int]:
        """Pixels that neighbours share at least, (across, down)."""
        fraction = isinstance(self.overlap, float)
        across, down = (round(self.overlap * side) if fraction else self.overlap for side in (self.width, self.height))
        return int(across), int(down)

    @property
    def steps(self) -> tuple[int, int]:
        """Pixels from one tile to the next at most, (across, down)."""
        across, down = self.overlaps
        return self.width - across, self.height - down

    def frames(self, size: tuple[int, int]) -> list[Frame]:
        """The tiles of a picture of `size` (H, W), row by row; one if it is no larger than a tile.

        They are spread evenly, so that most neighbours share a little more than asked for.

        Raises:
            ValueError: there are too many.
        """
        height, width = size
        columns = _starts(width, self.width, self.steps[0])
        rows = _starts(height, self.height, self.steps[1])
        if len(rows) * len(columns) > MOST_TILES:
            raise ValueError(
                f'--tile {self.width}x{self.height} cuts a picture of {width}x{height} pixels into '
                f'{len(rows) * len(columns):,} tiles; at most {MOST_TILES:,} are allowed: give larger tiles or less '
                'overlap')
        return [(x, y, min(x + self.width, width), min(y + self.height, height)) for y in rows for x in columns]


def _starts(side: int, tile: int, step: int) -> list[int]:
    if side <= tile:
        return [0]
    last = math.ceil((side - tile) / step)
    return [round(number * (side - tile) / last) for number in range(last + 1)]


def read_tiles(tile: Any, overlap: Any = None, whole: bool = True) -> Tiles | None:
    """Read what was asked for.

    Args:
        tile: side in pixels, (width, height), or the words '1024' and '1024x768'; None: no tiles.
        overlap: a fraction such as 0.25, pixels such as 256, or the word for one; None: a quarter.
        whole: see `Tiles`.

    Raises:
        ValueError: naming the option.
    """
    if tile is None:
        if overlap is not None or not whole:
            option = '--tile-overlap' if overlap is not None else '--no-tile-whole'
            raise ValueError(f'{option} belongs to --tile; add that, or leave it out')
        return None
    width, height = _sides(tile)
    share = OVERLAP if overlap is None else _overlap(overlap)
    tiles = Tiles(width, height, share, bool(whole))
    if min(tiles.steps) < 1:
        raise ValueError(
            f'--tile-overlap {overlap}: tiles of {width}x{height} pixels overlap by less than their side; give a '
            f'fraction below 1, such as {OVERLAP:g}, or pixels below {min(width, height)}')
    return tiles


def _sides(tile: Any) -> tuple[int, int]:
    sides: tuple[Any, ...] = ()
    if isinstance(tile, str):
        found = re.fullmatch(r'\s*(\d{1,18})(?:\s*[xX]\s*(\d{1,18}))?\s*', tile, re.ASCII)
        sides = tuple(int(side) for side in found.groups() if side is not None) if found else ()
    elif isinstance(tile, int) and not isinstance(tile, bool):
        sides = (tile,)
    elif isinstance(tile, tuple | list) and len(tile) == 2:
        sides = tuple(tile)
    if not sides or any(isinstance(side, bool) or not isinstance(side, int) for side in sides):
        raise ValueError(
            f'--tile {tile}: give the side of a tile in pixels, such as 1024, or WIDTHxHEIGHT, such as 1333x800')
    if not all(SMALLEST <= side <= LARGEST for side in sides):
        raise ValueError(f'--tile {tile}: the sides of a tile are {SMALLEST} to {LARGEST:,} pixels')
    return sides[0], sides[-1]


def _overlap(overlap: Any) -> float | int:
    """A number with a point is a fraction, one without are pixels."""
    try:
        if isinstance(overlap, bool):
            raise TypeError
        pixels = isinstance(overlap, int) or (isinstance(overlap, str) and overlap.strip().isdecimal())
        value = int(overlap) if pixels else float(overlap)
        if not 0 <= value < (LARGEST if pixels else 1):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f'--tile-overlap {overlap}: give a fraction of the tile from 0 to below 1, such as {OVERLAP:g}, or a whole '
            'number of pixels') from None
    return value


def tile_protocol(arguments: dict[str, Any]) -> dict[str, Any]:
    """How a detector looked at large pictures, for `metrics.json`.

    Args:
        arguments: of `Tiles`.

    Returns:
        `size` and `overlap` as (width, height) in pixels of the picture, `whole_picture`, `merging`.
    """
    tiles = Tiles(**arguments)
    return dict(size=(tiles.width, tiles.height), overlap=tiles.overlaps, whole_picture=tiles.whole, merging=MERGING)


def tiles_in_words(protocol: dict[str, Any]) -> str:
    """Such as `tiles 1024x1024, overlap 0.25, and the whole`, of what `tile_protocol` gave."""
    size, overlap = protocol['size'], protocol['overlap']
    shares = {round(pixels / side, 3) for pixels, side in zip(overlap, size, strict=True)}
    even = len(shares) == 1 and all(
        round(share * side) == pixels for share in shares for pixels, side in zip(overlap, size, strict=True))
    share = f'{shares.pop():g}' if even else f'{"x".join(map(str, overlap))} pixels'
    return f'tiles {"x".join(map(str, size))}, overlap {share}' + (', and the whole' * protocol['whole_picture'])


def remark(tiles: Tiles, segments: bool) -> str | None:
    """What to know about such tiles, for the log."""
    if min(tiles.overlaps):
        return None
    if segments:
        return 'tiles that do not overlap: labels may jump at the borders of windows'
    seen = 'unless the view of the whole picture shows it' if tiles.whole else 'as nothing shows it entire'
    return f'tiles that do not overlap: an object on a border of tiles stays in pieces, {seen}'


def use_tiles(cfg: Config, tiles: Tiles, batch: int = 1) -> None:
    """Let the test split of a config be predicted in tiles, in place.

    A segmenter slides its window of that size over what its pipeline makes of the picture; a detector gets
    `backbones.TiledDetector` around its model.

    Args:
        cfg: a composed config, without test-time augmentation.
        tiles: where they lie.
        batch: so many tiles go through a detector together, at most.

    Raises:
        ValueError: the pipeline cannot be cut.
    """
    if is_segmenter(cfg):
        slide(cfg, tiles)
        return
    dataset = dataset_of(cfg)
    dataset.pipeline, steps = tiled_pipeline(dataset.pipeline, tiles)
    cfg.model = ConfigDict(
        type=f'{SCOPE}.TiledDetector', tiles=as_dict(tiles), steps=steps, batch=batch, module=cfg.model)


def as_dict(tiles: Tiles) -> dict[str, Any]:
    """For a config."""
    return dict(width=tiles.width, height=tiles.height, overlap=tiles.overlap, whole=tiles.whole)


def slide(cfg: Config, tiles: Tiles) -> None:
    """Let a segmenter predict by sliding windows, in place.

    Raises:
        ValueError: it was asked to look at the whole picture, too, or to leave that out.
    """
    if not tiles.whole:
        raise ValueError('--no-tile-whole is of detectors; a segmenter looks at windows only: leave it out')
    across, down = tiles.steps
    cfg.model.test_cfg = dict(
        cfg.model.get('test_cfg') or {}, mode='slide', crop_size=(tiles.height, tiles.width), stride=(down, across))


def dataset_of(cfg: Config) -> Any:
    """The test data set of a config, inside of wrappers that hold one.

    Raises:
        ValueError: it has no pipeline.
    """
    dataset = cfg.test_dataloader.dataset
    while 'pipeline' not in dataset and isinstance(dataset.get('dataset'), dict):
        dataset = dataset.dataset
    if 'pipeline' not in dataset:
        raise ValueError(f'--tile: the test data set {dataset.get("type")} has no pipeline; give one that has')
    return dataset


def scales_as_tuples(cfg: Config) -> None:
    """Let each Resize of the test pipeline have its scale as mmcv takes it, in place: `--cfg-options` gives lists.

    Raises:
        ValueError: a scale is none.
    """
    for step in dicts_in(cfg.test_dataloader.dataset):
        scale = step.get('scale')
        if str(step.get('type')).rpartition('.')[2] != 'Resize' or scale is None:
            continue
        sides = tuple(scale) if isinstance(scale, list | tuple) else (scale,)
        if len(sides) > 2 or not all(isinstance(side, int | float) and side > 0 for side in sides):
            raise ValueError(f'the test pipeline has a Resize with scale={scale!r}; give (width, height) in pixels, '
                             'such as (1333, 800)')
        step['scale'] = sides if isinstance(scale, list) else scale


def tiled_pipeline(pipeline: list[dict], tiles: Tiles) -> tuple[list[dict], list[dict]]:
    """A test pipeline that hands the picture on beside what it makes of it, and the steps for a tile.

    Raises:
        ValueError: it does not begin with an image loader, has views already, or would show a whole picture in full.
    """
    kinds = [str(step['type']).rsplit('.', 1)[-1] for step in pipeline]
    if not kinds or not kinds[0].startswith('LoadImage'):
        raise ValueError(f'--tile needs a test pipeline that begins with loading the picture, and it is {kinds}')
    if 'TestTimeAug' in kinds:
        raise ValueError('--tile and test-time augmentation do not go together; leave one of them out')
    fixed = [step for step, kind in zip(pipeline, kinds, strict=True) if kind == 'Resize' and step.get('scale')]
    if tiles.whole and not fixed:
        raise ValueError(
            f'--tile: the test pipeline, which is {kinds}, has no Resize to a fixed scale, so the view of the whole '
            'picture would be as large as the picture; add --no-tile-whole, or such a Resize')
    steps = [step for step, kind in zip(pipeline[1:], kinds[1:], strict=True) if kind not in LABEL_LOADERS]
    views = dict(type=f'{SCOPE}.TileViews', tiles=as_dict(tiles), steps=list(pipeline[1:]))
    return [pipeline[0], views], steps
