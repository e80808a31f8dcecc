"""What the objects of a file have wrong together: boxes in another unit, nothing but crowds. Each is said once."""

from __future__ import annotations

from collections.abc import Sequence

from ..findings import Finding
from .object_rules import Objects

LEAST = 10  # boxes; of fewer, all may be odd by chance
NEARLY_ALL = 0.9  # share of boxes between 0 and 1
MANY = 0.3  # share of boxes that reach outside of their picture
SLACK = 1.0  # pixels that corners may lie outside
# What follows from boxes in another unit, box by box
FROM_SHARES = ('box below a pixel', 'area', 'box and mask')
FROM_CORNERS = ('box outside', 'box negative', 'area', 'box and mask')


def with_patterns(found: Sequence[Finding], objects: Objects, file: str) -> list[Finding]:
    """Put one finding in place of those box by box where they have one cause; add what all objects have wrong.

    Args:
        found: the findings about single objects.
        objects: of the file.
        file: its name.
    """
    found, count = list(found), len(objects.boxes)
    if count and objects.crowd.all():
        found = [Finding(
            'error', 'crowds only', f'all {count:,} objects are crowds (iscrowd 1): training leaves crowds out and '
            'scoring ignores them', 'write iscrowd 0 for single objects', file, None, 'iscrowd', 1),
            *(finding for finding in found if finding.kind != 'crowd polygons')]
    if count < LEAST:
        return found
    place = dict(file=file, field='bbox', value=objects.entries[0]['bbox'])
    shares = ((objects.boxes >= 0) & (objects.boxes <= 1)).all(1)
    outside = (objects.boxes[:, :2] + objects.boxes[:, 2:] > objects.sizes + SLACK).any(1)
    if shares.mean() >= NEARLY_ALL:
        return [Finding(
            'error', 'boxes in shares', f'{int(shares.sum()):,} of {count:,} boxes lie between 0 and 1: they look like '
            'shares of the width and height, and are read as pixels', 'write x, y, width, height in pixels', **place),
            *(finding for finding in found if finding.kind not in FROM_SHARES)]
    if outside.mean() >= MANY and _are_corners(objects):
        return [Finding(
            'error', 'boxes as corners', f'{int(outside.sum()):,} of {count:,} boxes reach outside of their picture, '
            'and none does if the four numbers are two corners (x1, y1, x2, y2)', 'write x, y, width, height',
            **place), *(finding for finding in found if finding.kind not in FROM_CORNERS)]
    return found


def _are_corners(objects: Objects) -> bool:
    first, second = objects.boxes[:, :2], objects.boxes[:, 2:]
    return bool((second > first).all() and (second <= objects.sizes + SLACK).all())
