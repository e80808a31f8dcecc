"""Ground truth beside prediction, drawn in some milliseconds: the visualizers of the toolboxes take half a second.

Shapes: H W rows and columns of a picture, h w as it is drawn, n objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement
from torch import Tensor

from backbones.data.palette import make_palette

LONGEST, SHORTEST = 640, 320  # pixels of the longer side of a panel, at most and as far as whole zooms go
MOST_OBJECTS = 50  # drawn, those of the highest scores
TITLE, GAP, LETTERS = 20, 4, 12  # pixels
OPACITY = 0.45


@dataclass
class Objects:
    """Objects of one picture, in its own pixels.

    Attributes:
        boxes: (n, 4) x1 y1 x2 y2.
        labels: (n,).
        scores: (n,), or None for true objects.
        masks: n bitmaps (H, W) or run lengths, or none.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    masks: Sequence[Any] = field(default_factory=list)


def predicted_objects(sample: BaseDataElement, threshold: float) -> Objects:
    """The objects of a prediction above a score, the best first."""
    found = sample.pred_instances
    scores = _array(found.scores)
    chosen = [place for place in np.argsort(-scores, kind='stable') if scores[place] > threshold][:MOST_OBJECTS]
    masks = found.masks if 'masks' in found else []
    return Objects(_array(found.bboxes).reshape(-1, 4)[chosen], _array(found.labels)[chosen], scores[chosen],
                   [masks[place] for place in chosen] if len(masks) else [])


def true_objects(dataset: Any, index: int, path: str) -> Objects | None:
    """The annotations of a picture as its data set has them; None where it has none that are understood."""
    from backbones.preflight.truth_pictures import true_picture

    info = dataset.get_data_info(index)
    if info.get('img_path') != path or 'instances' not in info:
        return None
    picture = true_picture(dataset, index, masks=any(one.get('mask') for one in info['instances']))
    return Objects(picture.boxes[:MOST_OBJECTS], picture.labels[:MOST_OBJECTS], None,
                   (picture.masks or [])[:MOST_OBJECTS])


def side_by_side(image: np.ndarray, truth: Any, found: Any, classes: Sequence[str], palette: Any = None) -> np.ndarray:
    """Draw two panels over a picture (H, W, 3): the truth (or none), and the prediction.

    Args:
        image: RGB.
        truth: `Objects`, a label map (H, W), or None.
        found: likewise.
        classes: names of the labels.
        palette: RGB colours of the labels; default: our own.
    """
    from PIL import Image, ImageDraw

    colours = list(palette) if isinstance(palette, list | tuple) and len(palette) >= len(classes) else make_palette(
        max(len(classes), 1))
    titles = dict(truth=truth, prediction=found)
    panels = {title: _panel(image, what, classes, colours) for title, what in titles.items() if what is not None}
    height, width = next(iter(panels.values())).shape[:2]
    sheet = Image.new('RGB', (len(panels) * (width + GAP) - GAP, height + TITLE), 'white')
    pen = ImageDraw.Draw(sheet)
    for place, (title, panel) in enumerate(panels.items()):
        sheet.paste(Image.fromarray(panel), (place * (width + GAP), TITLE))
        pen.text((place * (width + GAP) + 2, 2), title, fill='black', font=_font())
    return np.asarray(sheet)


def _panel(image: np.ndarray, what: Any, classes: Sequence[str], colours: list) -> np.ndarray:
    """One drawn panel (h, w, 3)."""
    height, width = image.shape[:2]
    longer = max(height, width)
    zoom = LONGEST / longer if longer > LONGEST else max(1, SHORTEST // longer)
    rows = np.minimum(((np.arange(max(1, round(height * zoom))) + 0.5) / zoom).astype(int), height - 1)  # (h,)
    columns = np.minimum(((np.arange(max(1, round(width * zoom))) + 0.5) / zoom).astype(int), width - 1)  # (w,)
    panel = image[rows[:, None], columns].astype(np.float32)  # (h, w, 3)
    if isinstance(what, Objects):
        return _with_objects(panel, what, rows, columns, zoom, classes, colours)
    labels = what[rows[:, None], columns]  # (h, w)
    table = np.array(colours, np.float32)
    known = (labels >= 0) & (labels < min(len(classes), len(table)))  # neither ignored nor unknown
    panel[known] = (1 - OPACITY) * panel[known] + OPACITY * table[labels[known]]
    return panel.astype(np.uint8)


def _with_objects(
    panel: np.ndarray, objects: Objects, rows: np.ndarray, columns: np.ndarray, zoom: float, classes: Sequence[str],
    colours: list,
) -> np.ndarray:
    from PIL import Image, ImageDraw

    for mask, label, box in list(zip(objects.masks, objects.labels, objects.boxes, strict=False))[::-1]:  # best on top
        left, top, right, bottom = np.clip(np.nan_to_num(box * zoom), -1e6, 1e6).astype(int)
        here = np.s_[max(top - 2, 0):max(bottom + 3, 0), max(left - 2, 0):max(right + 3, 0)]  # no mask leaves its box
        inside = _bitmap(mask)[rows[here[0], None], columns[here[1]]]
        part = panel[here]
        part[inside] = (1 - OPACITY) * part[inside] + OPACITY * np.array(_of(colours, label), np.float32)
    picture = Image.fromarray(panel.astype(np.uint8))
    pen, font = ImageDraw.Draw(picture), _font()
    for place in reversed(range(len(objects.boxes))):
        left, top, right, bottom = (float(v) * zoom for v in np.nan_to_num(objects.boxes[place]))
        colour = tuple(int(c) for c in _of(colours, objects.labels[place]))
        pen.rectangle((min(left, right), min(top, bottom), max(left, right), max(top, bottom)), outline=colour, width=2)
        label = int(objects.labels[place])
        text = _drawable(classes[label] if 0 <= label < len(classes) else str(label))
        if objects.scores is not None:
            text += f' {objects.scores[place]:.2f}'
        corner = (max(0.0, left), max(0.0, top - LETTERS - 3))
        pen.rectangle(pen.textbbox(corner, text, font=font), fill=colour)
        pen.text(corner, text, fill='black' if sum(colour) > 380 else 'white', font=font)
    return np.asarray(picture)


def _of(colours: list, label: Any) -> Any:
    return colours[int(label) % len(colours)]


def _font() -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(LETTERS)
    except (TypeError, OSError, ImportError):  # Pillow before 10.1, or without FreeType
        return ImageFont.load_default()


def _drawable(name: str) -> str:
    """What Pillow's own font has letters for."""
    return str(name)[:40].encode('latin-1', 'replace').decode('latin-1')


def _bitmap(mask: Any) -> np.ndarray:
    if isinstance(mask, dict):
        from pycocotools import mask as coco_mask

        return coco_mask.decode(mask).astype(bool)
    return _array(mask).astype(bool)


def _array(value: Any) -> np.ndarray:
    value = getattr(value, 'tensor', value)  # boxes of mmdet
    return value.detach().cpu().float().numpy() if isinstance(value, Tensor) and value.is_floating_point() else (
        value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value))
