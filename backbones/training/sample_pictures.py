"""Ground truth beside prediction of a few pictures while a model trains, in some milliseconds each.

Shapes: H W rows and columns of a picture, h w as it is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement

from backbones.drawing.objects import LETTERS, Objects, objects_of
from backbones.drawing.sheets import ABOVE, draw_sheet

LONGEST, SHORTEST = 640, 320  # pixels of the longer side of a drawing, at most and as far as whole zooms go
MOST_OBJECTS = 50  # drawn, those of the highest scores
TITLE = LETTERS + ABOVE  # pixels above a drawing


def predicted_objects(sample: BaseDataElement, threshold: float) -> Objects:
    """The objects of a prediction above a score, the best first."""
    return objects_of(sample.pred_instances, threshold, MOST_OBJECTS)


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
    """Draw two sheets over a picture (H, W, 3): the truth (or none), and the prediction.

    Args:
        image: RGB.
        truth: `Objects`, a label map (H, W), or None.
        found: likewise.
        classes: names of the labels.
        palette: RGB colours of the labels; default: our own.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    zoom = LONGEST / longer if longer > LONGEST else max(1, SHORTEST // longer)
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    drawn = {title: what for title, what in (('Ground truth', truth), ('Prediction', found)) if what is not None}
    return np.asarray(draw_sheet(image, drawn, classes, palette, size, names=False))
