"""How large the images get that a config feeds to its model: read off the pipelines, nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmengine.config import Config


@dataclass(frozen=True)
class ImageSizes:
    """(H, W) in pixels, padding included.

    Attributes:
        train: of one training image at most; the wide way round where either is possible.
        batch: to which a training batch of two and more may be padded.
        test: of a test image at most; what the papers' FLOPs of segmenters are counted at.
    """

    train: tuple[int, int]
    batch: tuple[int, int]
    test: tuple[int, int]


@dataclass(frozen=True)
class _Bounds:
    """At most so many rows and columns; `turns`: or the other way round; `mixes`: also beside images of the same kind.

    `mixes` says that a crop has changed the shape since the batch was put together by that of the whole images.
    """

    h: int
    w: int
    turns: bool
    mixes: bool = False


def image_sizes(cfg: Config) -> ImageSizes:
    """Read the sizes off the pipelines and the data preprocessor.

    Raises:
        ValueError: a pipeline resizes and crops nowhere, so that images may have any size, or there is no pipeline.
    """
    model = cfg.model
    preprocessor = model.get('data_preprocessor') or {}
    train = _pipeline_bounds(cfg, 'train')
    test = _pipeline_bounds(cfg, 'test')
    batch_sampler = (cfg.get('train_dataloader') or {}).get('batch_sampler') or {}
    grouped = 'AspectRatio' in str(batch_sampler.get('type', ''))
    square = train.turns and (train.mixes or not grouped)
    side = max(train.h, train.w)
    one = _padded((train.h, train.w), preprocessor)
    return ImageSizes(
        train=one,
        batch=_padded((side, side), preprocessor) if square else one,
        test=_padded((test.h, test.w), {**preprocessor, 'size': None, **(preprocessor.get('test_cfg') or {})}))


def _pipeline_bounds(cfg: Config, split: str) -> _Bounds:
    """What the pipeline of a split makes at most."""
    loader = cfg.get(f'{split}_dataloader')
    if not loader:
        raise ValueError(
            f'config {cfg.filename} has no {split}_dataloader, so the size of its images is unknown; say it by --size '
            '800x1280, or give the config with the data')
    dataset = loader.get('dataset') or {}
    while 'dataset' in dataset:  # a wrapper such as RepeatDataset
        dataset = dataset['dataset']
    bounds = None
    for transform in dataset.get('pipeline') or []:
        bounds = _after(transform, bounds)
    if bounds is None:
        raise ValueError(
            f'{split}_dataloader.dataset.pipeline of {cfg.filename} neither resizes nor crops to a stated size, so '
            'images may be of any; say which by --size 800x1280, or add a Resize or a RandomCrop')
    return bounds


def _after(transform: dict[str, Any], bounds: _Bounds | None) -> _Bounds | None:
    """Bounds after one transform; what is unknown leaves them as they are."""
    kind = str(transform.get('type', '')).split('.')[-1]
    if kind in ('RandomChoice', 'RandomApply'):
        branches = transform['transforms']
        return _largest([_after_all(branch if isinstance(branch, Sequence) else [branch], bounds)
                         for branch in branches])
    if kind in ('Resize', 'RandomResize', 'RandomChoiceResize', 'FixScaleResize'):
        return _resized(transform, bounds)
    if kind == 'RandomCrop':
        return _cropped(transform, bounds)
    if kind == 'Pad' and transform.get('size'):
        w, h = transform['size']
        return _Bounds(h, w, turns=False)
    return bounds


def _after_all(transforms: Sequence[dict[str, Any]], bounds: _Bounds | None) -> _Bounds | None:
    for transform in transforms:
        bounds = _after(transform, bounds)
    return bounds


def _largest(branches: list[_Bounds | None]) -> _Bounds | None:
    known = [branch for branch in branches if branch is not None]
    if not known:
        return None
    return _Bounds(max(b.h for b in known), max(b.w for b in known), any(b.turns for b in known),
                   any(b.mixes for b in known))


def _resized(transform: dict[str, Any], bounds: _Bounds | None) -> _Bounds | None:
    """OpenMMLab writes a scale as (width, height); with `keep_ratio` it is (long, short) in either order."""
    scales = transform.get('scales', transform.get('scale'))
    if scales is None:
        return bounds
    scales = [scales] if isinstance(scales, int) or isinstance(scales[0], int | float) else list(scales)
    factor = max(transform.get('ratio_range') or (1.0,))
    pairs = [(scale, scale) if isinstance(scale, int) else tuple(scale) for scale in scales]
    w, h = max(pairs, key=lambda pair: pair[0] * pair[1])
    w, h = int(w * factor), int(h * factor)
    if not transform.get('keep_ratio', False):
        return _Bounds(h, w, turns=False)
    mixes = bounds is not None and bounds.mixes
    return _Bounds(min(h, w), max(h, w), turns=h != w, mixes=mixes)


def _cropped(transform: dict[str, Any], bounds: _Bounds | None) -> _Bounds | None:
    """mmdet's and mmseg's RandomCrop."""
    size, kind = transform['crop_size'], transform.get('crop_type', 'absolute')
    h, w = (size, size) if isinstance(size, int) else tuple(size)
    if kind.startswith('relative'):
        return None if bounds is None else replace(bounds, mixes=True)
    if kind == 'absolute_range':
        h = w = max(h, w)
    if bounds is not None and not bounds.turns:
        h, w = min(h, bounds.h), min(w, bounds.w)
    elif bounds is not None:
        longest = max(bounds.h, bounds.w)
        h, w = min(h, longest), min(w, longest)
    return _Bounds(h, w, turns=False, mixes=True)


def _padded(size: tuple[int, int], preprocessor: dict[str, Any]) -> tuple[int, int]:
    """What the data preprocessor makes of an image of `size`."""
    fixed = preprocessor.get('size')
    for augment in preprocessor.get('batch_augments') or []:
        if str(augment.get('type', '')).endswith('BatchFixedSizePad'):
            fixed = augment['size']
    if fixed:
        return max(size[0], fixed[0]), max(size[1], fixed[1])
    divisor = preprocessor.get('size_divisor') or preprocessor.get('pad_size_divisor') or 1
    h, w = (-(-side // divisor) * divisor for side in size)
    return h, w
