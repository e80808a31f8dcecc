"""From a mask to COCO's three ways of writing it: polygons, run lengths as a string, run lengths as a list.

COCO's format: https://github.com/cocodataset/cocoapi/blob/8c9bcc3/PythonAPI/pycocotools/coco.py#L23-L40
"""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask

# One step along the border, in the order east, south, west, north, as (row, column).
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def encode_mask(mask: np.ndarray, *, crowd: bool = False) -> list[list[float]] | dict:
    """Write `mask` (H, W) as COCO does.

    Returns:
        For a crowd, run lengths as a list. Otherwise one polygon per part where rasterising them gives back
        exactly this mask, and run lengths as a string where it does not (a mask with a hole).
    """
    height, width = mask.shape
    if crowd:
        return dict(size=[height, width], counts=run_lengths(mask))
    loops = trace_borders(mask)
    polygons = [(loop[:, ::-1]).ravel().tolist() for loop in loops]  # rows, columns -> x, y, x, y, ...
    if all(len(polygon) >= 6 for polygon in polygons):
        again = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
        if np.array_equal(again, mask):
            return polygons
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(size=[height, width], counts=encoded['counts'].decode('ascii'))


def run_lengths(mask: np.ndarray) -> list[int]:
    """Return the lengths of the runs of 0, 1, 0, ... of `mask` (H, W), column after column, zeros first."""
    flat = np.concatenate([[0], mask.ravel(order='F').astype(np.int8)])
    changes = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


def trace_borders(mask: np.ndarray) -> list[np.ndarray]:
    """Follow every border of `mask` (H, W), those of holes included.

    Returns:
        One array (points, 2) of rows and columns per border, through the middles of pixel edges, straight
        runs reduced to their ends. Pixels that touch by a corner only are parts of their own.
    """
    padded = np.pad(mask.astype(np.int8), 1)
    # Pixel edges between inside and outside, each as (row, column of its start corner, direction) so that the
    # inside lies to the right of the way.
    down = np.diff(padded, axis=0)[:, 1:-1]  # (H + 1, W)   1: outside above, inside below
    across = np.diff(padded, axis=1)[1:-1]  # (H, W + 1)   1: outside left, inside right
    leaving: dict[tuple[int, int], list[int]] = {}
    for direction, corners in enumerate(
        (
            np.argwhere(down == 1),
            np.argwhere(across == -1),
            np.argwhere(down == -1) + np.array((0, 1)),
            np.argwhere(across == 1) + np.array((1, 0)),
        )
    ):
        for row, column in corners.tolist():
            leaving.setdefault((row, column), []).append(direction)

    loops = []
    while leaving:
        corner, directions = next(iter(leaving.items()))
        direction = directions[0]
        middles = []
        while corner in leaving:
            directions = leaving[corner]
            if len(directions) == 2:  # two pixels touch here: turn right, which stays at the same pixel
                direction = (direction + 1) % 4 if (direction + 1) % 4 in directions else directions[0]
            else:
                direction = directions[0]
            directions.remove(direction)
            if not directions:
                del leaving[corner]
            step = _STEPS[direction]
            middles.append((corner[0] + step[0] / 2, corner[1] + step[1] / 2))
            corner = (corner[0] + step[0], corner[1] + step[1])
        loops.append(_without_straight_points(np.array(middles)))
    return loops


def _without_straight_points(points: np.ndarray) -> np.ndarray:
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    bends = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return points[bends]
