"""How many objects of which classes and sizes a split has, and whether the anchors and the strides can find them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..findings import Finding, Outcome
from .annotations import Annotations

SMALL, MEDIUM = 32**2, 96**2  # COCO's bounds of areas in pixels: https://cocodataset.org/#detection-eval
ENOUGH = 500  # objects, below which a share says too little for a finding
# Of 200 pictures of COCO resized to 1333x800, 5 % of the objects have no anchor of ours of that IoU, 0.1 % are below
# the stride of 4: some are part of the task; beyond these shares, a smaller scale or a larger input is worth a try.
WITHOUT_ANCHOR, BELOW_STRIDE = 0.25, 0.1
PER_CLASS = 20  # objects per class on average, from which a class without any is worth a note
MIN_POS_IOU = 0.3  # the RPN's of our configs
ROWS = 100  # classes in the table
SIZE_EDGES = [2.0**k for k in range(12)]  # of the histogram of sizes (root of the box area), in pixels
CROWDED = [0, 1, 2, 3, 5, 10, 20, 50, 100]  # lower ends of the histogram of objects per picture
IOU_EDGES = [k / 10 for k in range(11)]


def check_objects(
    annotations: Annotations,
    *,
    input_size: int | Sequence[int] | None = None,
    anchors: Mapping[str, Any] | None = None,
) -> Outcome:
    """Count objects, and hold their sizes against the network.

    Args:
        annotations: one split. Crowds are counted, and left out of all else.
        input_size: to which the pipeline resizes: two sides within which the picture is made as large as possible, in
            any order, such as (1333, 800), or one number for its longer side. None takes the pictures as they are.
        anchors: the RPN's `strides`, `scales` (or `octave_base_scale` and `scales_per_octave`), `ratios`,
            `base_sizes` (or None) and, of its assigner, `min_pos_iou` (default 0.3). None compares with no anchor.
    """
    split = annotations
    own = np.flatnonzero(~split.crowd)
    classes = np.bincount(split.category[own], minlength=len(split.categories))
    per_picture = np.bincount(split.image[own], minlength=len(split.file_names))
    areas = split.areas[own]
    sizes = [int((areas < SMALL).sum()), int(((areas >= SMALL) & (areas < MEDIUM)).sum()), int((areas >= MEDIUM).sum())]
    outcome = Outcome('objects')
    outcome.figures = dict(
        pictures=len(split.file_names), objects=len(own), crowds=int(split.crowd.sum()),
        with_mask=int(split.has_mask[own].sum()), pictures_without_objects=int((per_picture == 0).sum()),
        most_objects=int(per_picture.max(initial=0)),
        class_histogram=dict(zip(split.categories, classes.tolist(), strict=False)),
        objects_per_picture=dict(edges=CROWDED, counts=_histogram(per_picture, [*CROWDED, np.inf])),
        sizes=dict(zip(('small', 'medium', 'large'), sizes, strict=True)),
    )
    average = len(own) / max(len(split.file_names), 1)
    outcome.summary = (
        f'{len(own):,} objects in {len(split.file_names):,} pictures ({average:.1f} each, '
        f'{outcome.figures["pictures_without_objects"]:,} pictures without)')
    if len(own):
        outcome.summary += ', small, medium, large: ' + ', '.join(f'{size / len(own):.0%}' for size in sizes)
    outcome.details = _table(split, own, classes)
    outcome.findings += _unused(split, classes)
    if len(own):
        _against_network(split, own, input_size, anchors, outcome)
    return outcome


def _histogram(values: np.ndarray, edges: Sequence[float]) -> list[int]:
    """Counts from each edge to the next; what lies beyond the ends counts at the ends."""
    places = np.digitize(values, edges[1:-1])
    return np.bincount(places, minlength=len(edges) - 1).tolist()


def _table(split: Annotations, own: np.ndarray, classes: np.ndarray) -> list[str]:
    """Lines of class, objects, share, pictures and sizes, the most frequent first."""
    if not len(own):
        return []
    pictures = np.unique(split.image[own] * len(split.categories) + split.category[own]) % len(split.categories)
    pictures = np.bincount(pictures, minlength=len(classes))
    kinds = np.digitize(split.areas[own], [SMALL, MEDIUM])
    kinds = np.bincount(split.category[own] * 3 + kinds, minlength=3 * len(classes)).reshape(-1, 3)
    order = np.argsort(-classes, kind='stable')
    rows = [('class', 'objects', 'share', 'pictures', 'small', 'medium', 'large')]
    rows += [
        (' '.join(split.categories[k].split())[:40] or repr(split.categories[k]), f'{classes[k]:,}',
         f'{classes[k] / len(own):.1%}', f'{pictures[k]:,}', *(f'{count:,}' for count in kinds[k]))
        for k in order[:ROWS]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        '  '.join(cell.ljust(width) if place == 0 else cell.rjust(width)
                  for place, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows]
    if len(order) > ROWS:
        lines.append(f'and {len(order) - ROWS} more classes with {int(classes[order[ROWS:]].sum()):,} objects')
    return lines


def _unused(split: Annotations, classes: np.ndarray) -> list[Finding]:
    if classes.sum() < PER_CLASS * len(classes):
        return []
    return [
        Finding('note', 'class without objects', f'class {split.categories[k]!r} has no object, while a class has '
                f'{classes.mean():.0f} on average', '', split.file, split.category_ids[k], 'category_id',
                split.category_ids[k])
        for k in np.flatnonzero(classes == 0).tolist()]


def _against_network(
    split: Annotations, own: np.ndarray, input_size: Any, anchors: Mapping[str, Any] | None, outcome: Outcome
) -> None:
    scale = _scales(split, input_size)
    boxes = split.boxes[own, 2:] * scale[split.image[own], None]  # (M, 2) width, height as the network sees them
    roots = np.sqrt(boxes.prod(1))
    at = 'as stored' if input_size is None else f'resized to {_size_words(input_size)}'
    outcome.figures['input_sizes'] = dict(edges=SIZE_EDGES, counts=_histogram(roots, SIZE_EDGES))
    low, middle, high = np.percentile(roots, [10, 50, 90])
    outcome.details.append(
        f'objects {at}: root of the box area {low:.0f}, {middle:.0f}, {high:.0f} pixels (10, 50 and 90 % are below)')
    if anchors is None:
        return
    strides = _strides(anchors)
    iou = best_iou(boxes, anchor_sizes(anchors))
    least = float(anchors.get('min_pos_iou', MIN_POS_IOU))
    without, below = float((iou < least).mean()), float((boxes.min(1) < min(strides)).mean())
    outcome.figures['anchor_iou'] = dict(edges=IOU_EDGES, counts=_histogram(iou, IOU_EDGES))
    outcome.figures |= dict(without_anchor=round(without, 4), below_stride=round(below, 4))
    outcome.details += [
        f'best IoU with a centred anchor: median {np.median(iou):.2f}, below {least:g} for {without:.1%} of them',
        f'narrower or lower than the finest stride of {min(strides):g} pixels: {below:.1%} of them']
    if len(own) < ENOUGH:
        return
    if without > WITHOUT_ANCHOR:
        worst = np.median(roots[iou < least])
        outcome.findings.append(Finding(
            'warning', 'anchors', f'{without:.0%} of the {len(own):,} objects have no anchor of an IoU of {least:g}, '
            f'even centred on them ({at}, half of these below {worst:.0f} pixels): the RPN does not learn them',
            _anchor_advice(boxes[iou < least], anchor_sizes(anchors)), split.file, None, 'anchor_generator.scales',
            round(without, 3)))
    if below > BELOW_STRIDE:
        outcome.findings.append(Finding(
            'warning', 'objects below a stride', f'{below:.0%} of the {len(own):,} objects are less wide or high than '
            f'the finest stride of {min(strides):g} pixels ({at})',
            'train and test on a larger scale, or on tiles of the pictures', split.file, None, 'bbox', round(below, 3)))


def _scales(split: Annotations, input_size: Any) -> np.ndarray:
    """Factor (I,) by which each picture is resized."""
    if input_size is None:
        return np.ones(len(split.file_names))
    sides = [input_size] if isinstance(input_size, int | float) else list(input_size)
    usable = all(isinstance(side, int | float) and 0 < side < float('inf') for side in sides)
    if not usable or len(sides) not in (1, 2):
        raise ValueError(f'input_size={input_size!r:.80}; give one positive number or two')
    longer, shorter = np.maximum(split.widths, split.heights), np.minimum(split.widths, split.heights)
    return np.minimum(max(sides) / longer, min(sides) / shorter) if len(sides) == 2 else sides[0] / longer


def _size_words(input_size: Any) -> str:
    return f'{input_size}' if isinstance(input_size, int | float) else 'x'.join(map(str, input_size))


def _strides(anchors: Mapping[str, Any]) -> list[float]:
    """Return one stride per level; mmdet takes pairs, too."""
    wanted = ('strides', 'ratios', 'scales') if 'octave_base_scale' not in anchors else ('strides', 'ratios')
    absent = [key for key in wanted if anchors.get(key) is None]
    if absent:
        raise ValueError(f'anchors have no {absent[0]!r}; give {", ".join(wanted)}')
    strides = [min(stride) if isinstance(stride, Sequence) else stride for stride in anchors['strides']]
    if not strides or not all(isinstance(stride, int | float) and stride > 0 for stride in strides):
        raise ValueError(f'anchors have the strides {anchors["strides"]!r:.80}; give positive numbers')
    return strides


def anchor_sizes(anchors: Mapping[str, Any]) -> np.ndarray:
    """Return width and height (A, 2) of every anchor of every level, as mmdet's `AnchorGenerator` makes them."""
    scales = anchors.get('scales')
    if scales is None:
        octave = anchors['scales_per_octave']
        scales = [anchors['octave_base_scale'] * 2 ** (k / octave) for k in range(octave)]
    ratios = np.sqrt(np.array(anchors['ratios'], np.float64))  # of height to width
    sides = np.outer(anchors.get('base_sizes') or _strides(anchors), scales).ravel()
    return np.stack([np.outer(sides, 1 / ratios).ravel(), np.outer(sides, ratios).ravel()], 1)


def best_iou(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the IoU (M,) of boxes (M, 2) with the anchor (A, 2) that fits each best, both on one centre."""
    best = np.zeros(len(boxes))
    areas = boxes.prod(1)
    for width, height in sizes:
        inner = np.minimum(boxes[:, 0], width) * np.minimum(boxes[:, 1], height)
        np.maximum(best, inner / (areas + width * height - inner), out=best)
    return best


def _anchor_advice(boxes: np.ndarray, sizes: np.ndarray) -> str:
    roots = np.sqrt(boxes.prod(1))
    smallest, largest = np.sqrt(sizes.prod(1)).min(), np.sqrt(sizes.prod(1)).max()
    if (roots < smallest).mean() > 0.5:
        return f'the smallest anchor has {smallest:.0f} pixels: use smaller scales, or a larger input'
    if (roots > largest).mean() > 0.5:
        return f'the largest anchor has {largest:.0f} pixels: use larger scales, or a smaller input'
    return 'use ratios nearer to those of the objects, or more of them'
