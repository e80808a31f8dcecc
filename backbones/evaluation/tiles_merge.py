"""Merge what overlapping views of one picture have found, so that each object stands there once, and entire.

Two detections of different views are compared by what both views can see: each box is clipped to the other's frame.
Shapes: N detections, M kept ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MARGIN = 0.02  # of the side of a tile: a box that comes so near to an inner border is cut by it
SAME = 0.5  # IoU from which two detections of a class are one object, as in the NMS of the models
PART = 0.6  # of a cut box that lies in an entire one: it is a piece of that


@dataclass
class Found:
    """Detections of all views of a picture.

    Attributes:
        boxes: (N, 4) x0 y0 x1 y1 in pixels of the picture.
        scores: (N,).
        labels: (N,).
        frames: (N, 4) what the view of each could see, in the same pixels.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    frames: np.ndarray


@dataclass
class Merged:
    """An object of the picture.

    Attributes:
        box: x0 y0 x1 y1.
        members: places in `Found` of what it is made of, the surest first; more than one: pieces of one object.
    """

    box: np.ndarray
    members: list[int]


def is_cut(found: Found, size: tuple[int, int]) -> np.ndarray:
    """Whether a box (N,) touches a border of its view that is no border of the picture of `size` (H, W)."""
    frames, boxes = found.frames, found.boxes
    sides = (frames[:, 2:] - frames[:, :2]) * MARGIN
    margins = np.maximum(sides, 1.0)
    near_first = (boxes[:, :2] - frames[:, :2] < margins) & (frames[:, :2] > 0)
    near_last = (frames[:, 2:] - boxes[:, 2:] < margins) & (frames[:, 2:] < (size[1], size[0]))
    return (near_first | near_last).any(axis=1)


def merge(found: Found, size: tuple[int, int]) -> list[Merged]:
    """Merge, class by class; the order of views and detections does not matter.

    Entire objects come first, the surest before others: one that overlaps a kept one of another view by `SAME` or more
    is the same object. Then those that a border has cut: a piece of an entire one goes; pieces that agree where their
    tiles overlap become one object with the score of the surest; what is left stays as it is.

    Args:
        found: detections.
        size: (H, W) of the picture.

    Returns:
        The objects, the surest first.
    """
    cut = is_cut(found, size)
    keys = (*found.frames.T, *found.boxes.T, found.labels, -found.scores, cut)  # the last one counts first
    order = np.lexsort(keys)
    objects: list[Merged] = []
    for label in np.unique(found.labels):
        objects += _merge_class(found, cut, order[found.labels[order] == label])
    rank = sorted(range(len(objects)), key=lambda place: (
        -float(found.scores[objects[place].members[0]]), found.labels[objects[place].members[0]],
        objects[place].box.tolist()))
    return [objects[place] for place in rank]


def _merge_class(found: Found, cut: np.ndarray, order: np.ndarray) -> list[Merged]:
    """The objects of one class, whose detections come in `order`."""
    boxes = np.zeros((len(order), 4))  # of the M objects so far, grown
    frames = np.zeros((len(order), 4))
    whole = np.zeros(len(order), dtype=bool)
    objects: list[Merged] = []
    for place in order.tolist():
        box, frame, count = found.boxes[place], found.frames[place], len(objects)
        same = _same(box, frame, cut[place], boxes[:count], frames[:count], whole[:count])
        if not len(same):
            boxes[count], frames[count], whole[count] = box, frame, not cut[place]
            objects.append(Merged(box, [place]))
            continue
        first, *others = same.tolist()
        if cut[place] and not whole[first]:  # nor are the others: entire ones have come before
            _grow(boxes[first], box, *boxes[others])
            _grow(frames[first], frame, *frames[others])
            boxes[others] = 0  # they are the same object, and nothing is like an empty box
            members = [member for other in others for member in objects[other].members]
            objects[first] = Merged(boxes[first].copy(), [*objects[first].members, *members, place])
            for other in others:
                objects[other].members = []
    return [one for one in objects if one.members]


def _grow(own: np.ndarray, *boxes: np.ndarray) -> None:
    """Let a box (4,) take others in, in place."""
    everything = np.stack([own, *boxes])
    own[:] = [*everything[:, :2].min(axis=0), *everything[:, 2:].max(axis=0)]


def _same(
    box: np.ndarray, frame: np.ndarray, cut: bool, boxes: np.ndarray, frames: np.ndarray, whole: np.ndarray
) -> np.ndarray:
    """Which of M objects a detection is seen to be, (n,)."""
    other = (frames != frame).any(axis=1)  # within a view the model's own NMS has spoken
    if not cut:
        return np.flatnonzero(other & (overlap(box[None], boxes) >= SAME))
    in_both = overlap(clip(box[None], frames), clip(boxes, frame[None]))
    piece = whole & (_inside(box, boxes) >= PART)
    return np.flatnonzero(other & ((in_both >= SAME) | piece))


def clip(boxes: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Boxes within frames; of those that lie outside nothing is left."""
    low, high = frames[:, [0, 1, 0, 1]], frames[:, [2, 3, 2, 3]]
    return np.clip(boxes, low, high)


def _areas(boxes: np.ndarray) -> np.ndarray:
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def _shared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return _areas(np.concatenate([
        np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])], axis=-1))


def _inside(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Part of `box` that lies in each of M boxes."""
    return _shared(box[None], boxes) / max(float(_areas(box)), 1e-9)


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU pair by pair, (M,); first may be one box."""
    shared = _shared(first, second)
    union = _areas(first) + _areas(second) - shared
    return shared / np.maximum(union, 1e-9)


def smaller_overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over the smaller of two boxes, pair by pair, (M,); first may be one box."""
    return _shared(first, second) / np.maximum(np.minimum(_areas(first), _areas(second)), 1e-9)
