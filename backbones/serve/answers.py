"""What a prediction is as JSON, and what the page needs besides to draw it. docs/serve.md lists the keys."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import cv2
import numpy as np

from backbones.drawing.styles import class_colours
from backbones.evaluation.load_model import Detections, LabelMap

LARGEST_VIEW = 2048  # pixels of the longer side of what the page is sent to draw
LOSSLESS_VIEW = 1_000_000  # pixels up to which that is a PNG


def task_of(found: Detections | LabelMap) -> str:
    """What the model that found this does."""
    if isinstance(found, LabelMap):
        return 'semantic segmentation'
    return 'object detection' if found.masks is None else 'instance segmentation'


def answer(found: Detections | LabelMap, classes: tuple[str, ...], score: float) -> dict[str, Any]:
    """One prediction, in the form of the endpoint.

    Raises:
        ValueError: the model gave what is no number.
    """
    height, width = found.size
    common = dict(task=task_of(found), size=dict(width=width, height=height), classes=list(classes))
    if isinstance(found, LabelMap):
        pixels = np.bincount(found.labels.ravel(), minlength=len(classes))
        return dict(common, labels_png=_png(found.labels), pixels=pixels.tolist(), colours=class_colours(len(classes)))
    if not np.isfinite(found.boxes).all():
        raise ValueError('the model gave boxes that are no finite numbers: its weights, or its precision, are at fault')
    return dict(
        common, score=score, boxes=np.round(found.boxes.astype(np.float64), 2).tolist(),
        scores=np.round(found.scores.astype(np.float64), 4).tolist(), labels=found.labels.tolist(),
        names=list(found.names), masks=found.masks)


def view(image: np.ndarray, found: Detections | LabelMap) -> dict[str, Any]:
    """The picture as the model saw it (turned, 8 bits), reduced to what a page can draw, and its labels.

    Args:
        image: (H, W, 3) uint8 RGB.
        found: in it.
    """
    height, width = image.shape[:2]
    scale = min(1.0, LARGEST_VIEW / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    pixels = np.ascontiguousarray(image[..., ::-1])
    if scale < 1:
        pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)
    lossless = size[0] * size[1] <= LOSSLESS_VIEW
    options = ('.png', [cv2.IMWRITE_PNG_COMPRESSION, 1]) if lossless else ('.jpg', [cv2.IMWRITE_JPEG_QUALITY, 92])
    drawn = dict(width=size[1], height=size[0], type='image/png' if lossless else 'image/jpeg',
                 picture=_text(cv2.imencode(options[0], pixels, options[1])[1].tobytes()))
    if isinstance(found, LabelMap):
        rows, columns = (_sampled(large, small) for large, small in zip(found.labels.shape, size, strict=True))
        labels = found.labels[rows[:, None], columns].astype('<u2')
        drawn['labels'] = _text(zlib.compress(labels.tobytes(), 1))
    return drawn


def dumped(content: dict[str, Any]) -> bytes:
    """As JSON, which has no NaN."""
    return json.dumps(content, allow_nan=False, separators=(',', ':')).encode()


def _sampled(large: int, small: int) -> np.ndarray:
    """Which of `large` places the middles of `small` lie in; page.js does the same for masks."""
    return ((np.arange(small) + 0.5) * large / small).astype(np.int64)


def _png(labels: np.ndarray) -> str:
    """Labels (H, W) as a grey PNG of 8 or 16 bits."""
    return _text(cv2.imencode('.png', labels, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes())


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
