"""Predictions in memory as flat arrays, checked before C code sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backbones.data.coco_masks import check_mask, check_total, run_totals

from .coco_scoring import Detections

AT_ONCE = 256  # masks whose run lengths are added up together: what fits into the cache takes a third of the time


def flat_detections(
    found: Sequence[dict], category_ids: Sequence[int], images: Mapping[Any, dict], masks: bool = False
) -> Detections:
    """Join the predictions of all pictures.

    Args:
        found: what `mmdet.CocoMetric.process` keeps of each picture: `img_id`, `bboxes` (n, 4) x1 y1 x2 y2 in pixels,
            `scores`, `labels`, and `masks` (run lengths) and `mask_scores` where the model has them.
        category_ids: category id of each label.
        images: the pictures of the annotation file by id.
        masks: take masks (and their scores) in place of boxes.

    Raises:
        ValueError: naming the picture, and what is wrong with its predictions.
    """
    for one in found:
        _check_lengths(one, images, len(category_ids), masks)
    counts = [len(one['labels']) for one in found]
    scores = [one.get('mask_scores', one['scores']) if masks else one['scores'] for one in found]
    labels = np.concatenate([np.zeros(0, np.int64), *(np.asarray(one['labels'], np.int64) for one in found)])
    common = dict(
        images=np.repeat(np.array([one['img_id'] for one in found], np.int64), counts),
        categories=np.asarray(category_ids, np.int64)[labels],
        scores=np.concatenate([np.zeros(0), *scores]),
    )
    if masks:
        _check_masks(found, images)
        return Detections(**common, masks=[mask for one in found for mask in one['masks']])
    boxes = np.concatenate([np.zeros((0, 4)), *(one['bboxes'] for one in found)])  # (N, 4) x1 y1 x2 y2 in 64 bits
    boxes[:, 2:] -= boxes[:, :2]  # (N, 4) x y width height
    return Detections(**common, boxes=boxes)


def _check_lengths(one: dict, images: Mapping[Any, dict], number: int, masks: bool) -> None:
    """Refuse what belongs to no picture or class, or is not finite, or not as many of each."""
    name = f'the prediction for picture {one["img_id"]!r:.40}'
    if one['img_id'] not in images:
        raise ValueError(f'{name} has no picture in the annotation file; score it against the file it was made for')
    if masks and 'masks' not in one:
        raise ValueError(f"{name} has no masks to be scored: use a model with a mask head, or metric='bbox'")
    labels, boxes, scores = np.asarray(one['labels']), np.asarray(one['bboxes']), np.asarray(one['scores'])
    lengths = {key: len(one[key]) for key in ('scores', 'bboxes', 'masks', 'mask_scores') if key in one}
    if boxes.shape != (len(labels), 4) or set(lengths.values()) != {len(labels)}:
        raise ValueError(
            f'{name} has {len(labels)} labels, boxes {boxes.shape} and {lengths}; there must be one of each for every '
            'object, and boxes (n, 4)')
    if len(labels) and (labels.dtype.kind not in 'iu' or labels.min() < 0 or labels.max() >= number):
        raise ValueError(
            f'{name} has labels from {labels.min()} to {labels.max()}, but 0 to {number - 1} are the classes; give '
            'model and data set the same ones')
    mask_scores = np.asarray(one.get('mask_scores', scores))
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all() and np.isfinite(mask_scores).all()):
        raise ValueError(
            f'the model predicts boxes or scores that are no finite numbers for picture {one["img_id"]}; its weights '
            'may hold NaN: score an earlier checkpoint')


def _check_masks(found: Sequence[dict], images: Mapping[Any, dict]) -> None:
    """Refuse run lengths that do not fill their picture: pycocotools would read foreign memory."""
    waiting: list[tuple[dict, dict, bytes]] = []
    for one in found:
        image = images[one['img_id']]
        size = [image['height'], image['width']]
        for mask in one['masks']:
            counts = mask.get('counts') if isinstance(mask, dict) else None
            if isinstance(counts, str):
                counts = counts.encode('utf-8', 'surrogatepass')  # none of its bytes over 127 is one of theirs
            if not isinstance(counts, bytes) or mask.get('size') != size:
                _refuse_mask(mask, counts, image)
            waiting.append((mask, image, counts))
        if len(waiting) >= AT_ONCE:
            _check_totals(waiting)
            waiting = []
    _check_totals(waiting)


def _refuse_mask(mask: Any, counts: Any, image: dict) -> None:
    """Raise, unless only the kind of the size's list or numbers is another one."""
    name = _mask_name(image)
    if not isinstance(counts, bytes):
        raise ValueError(
            f'{name} is {mask!r:.60}; it must be compressed run lengths, dict(size=[height, width], '
            "counts=b'...'): leave a tensor to CocoMetric, which encodes it")
    size = mask.get('size')
    if isinstance(size, list | tuple | np.ndarray):
        size = [int(side) if isinstance(side, np.integer) else side for side in size]
    check_mask(dict(size=size, counts=''), image['height'], image['width'], name)


def _mask_name(image: dict) -> str:
    return f'a mask predicted for picture {image["id"]}'


def _check_totals(waiting: list[tuple[dict, dict, bytes]]) -> None:
    """Look at many masks at once; what does not fit is named by a look at each."""
    pixels = np.array([image['height'] * image['width'] for _, image, _ in waiting], np.int64)
    strings = [counts for _, _, counts in waiting]
    if not strings or fill_their_pictures(strings, pixels):
        return
    totals = run_totals([counts.decode('ascii', 'replace') for counts in strings])
    for (_, image, _), total in zip(waiting, totals, strict=True):
        check_total(total, image['height'] * image['width'], _mask_name(image))


def fill_their_pictures(strings: Sequence[bytes], pixels: np.ndarray) -> bool:
    """Whether all strings are run lengths that add up to `pixels` (n,); what `run_totals` says, in half the time.

    The format is told there. From the fourth on, a value is the difference to the one before the last, so all values
    but the first, two in a row, are summed up by column to get the runs.
    """
    codes = np.frombuffer(b''.join(strings), np.uint8) - np.uint8(48)  # below 48 wraps round to above 63
    lengths = np.array([len(string) for string in strings])
    if not lengths.all() or codes.max() > 63:
        return False
    last = np.cumsum(lengths) - 1  # of each string
    final = np.flatnonzero(codes < 32)  # the character that ends each value
    first = np.concatenate([[0], final[:-1] + 1])
    size = final - first + 1
    ends = np.searchsorted(final, last)  # the last value of each string
    if codes[last].max() > 31 or size.max() > 6:
        return False
    values = codes[final].astype(np.int64)
    values -= (values & 16) << 1  # the sign
    for place in range(1, int(size.max())):
        longer = np.flatnonzero(size > place)
        values[longer] = (values[longer] << 5) | (codes[final[longer] - place] & 31)
    starts = np.concatenate([[0], ends[:-1] + 1])
    heights = (ends - starts + 1) // 2  # rows of two of each string
    tops = np.cumsum(heights) - heights
    rows = np.zeros((int(heights.sum()) + 1, 2), np.int64)
    others = np.ones(len(values), bool)
    others[starts] = False
    number = np.arange(len(values)) - np.repeat(starts, ends - starts + 1) - 1  # of each value but the first
    rows.reshape(-1)[(np.repeat(2 * tops, ends - starts + 1) + number)[others]] = values[others]
    sums = np.concatenate([np.zeros((1, 2), np.int64), np.cumsum(rows, axis=0)])
    runs = sums[1:-1] - np.repeat(sums[tops], heights, axis=0)
    odd = np.flatnonzero((ends - starts) % 2 == 1)  # their last row has one value only
    runs[tops[odd] + heights[odd] - 1, 1] = 0
    if values[starts].min() < 0 or (len(runs) and runs.min() < 0):
        return False
    filled = np.concatenate([[0], np.cumsum(runs.sum(axis=1))])
    return bool((values[starts] + filled[tops + heights] - filled[tops] == pixels).all())
