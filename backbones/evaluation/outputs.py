"""Predictions as files: COCO results (detection), label PNGs (segmentation), overlays to look at."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, PixelData
from mmengine.visualization import Visualizer
from PIL import Image
from torch import Tensor

from backbones.data.randomness import kept_randomness
from backbones.files import write_bytes, write_json
from backbones.registry import HOOKS

SMALLEST_DRAWN = 384  # pixels; an image with a shorter side is enlarged before it is drawn
LARGEST_DRAWN = 2048  # pixels; but not so far that its longer side passes this
MOST_DRAWN = 2**29  # pixels of all masks that are drawn over a picture; beyond, every 2nd, 3rd, ... row and column is


def coco_results(sample: BaseDataElement, category_ids: Sequence[int], image_id: int) -> list[dict]:
    """Turn one detection sample into entries of a COCO results file.

    Args:
        sample: prediction with `pred_instances` (`bboxes` (N, 4) x1 y1 x2 y2 in pixels of the original image,
            `scores`, `labels`, optionally `masks`: bitmaps (N, H, W), or N run lengths).
        category_ids: id in the annotation file of each label.
        image_id: id of the image in the annotation file.

    Returns:
        One dict per object: image_id, category_id, bbox (x, y, width, height), score, and segmentation (compressed
        RLE as text) where the model predicts masks.
    """
    found = sample.pred_instances.cpu()
    corners = found.bboxes.double().numpy()
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)  # (N, 4) x y width height
    entries = [
        dict(image_id=image_id, category_id=category_ids[label], bbox=[round(v, 3) for v in box], score=round(score, 5))
        for box, label, score in zip(boxes.tolist(), found.labels.tolist(), found.scores.double().tolist(), strict=True)
    ]
    if 'masks' in found:
        from backbones.detection.mask_paste import as_rles

        for entry, rle in zip(entries, as_rles(found.masks), strict=True):
            entry['segmentation'] = dict(size=list(rle['size']), counts=rle['counts'].decode())
    return entries


def label_png(sample: BaseDataElement, zero_is_ignored: bool) -> bytes:
    """Encode a predicted label map (H, W) as a PNG; classes are 1.. where 0 means ignored, else 0..."""
    return label_bytes(sample.pred_sem_seg.data.squeeze(0), zero_is_ignored)


def label_bytes(labels: Tensor, zero_is_ignored: bool) -> bytes:
    """The same of the labels (H, W) themselves."""
    labels = labels.cpu().numpy().astype(np.int64) + int(zero_is_ignored)
    kind = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    buffer = io.BytesIO()
    Image.fromarray(labels.astype(kind)).save(buffer, format='PNG')
    return buffer.getvalue()


def save_overlay(
    visualizer: Visualizer, sample: BaseDataElement, path: Path, score_threshold: float = 0.3, draw_gt: bool = False
) -> None:
    """Draw the prediction over its image and write it to `path`.

    Args:
        visualizer: mmdet's or mmseg's local visualizer with its `dataset_meta`.
        sample: prediction with `img_path`.
        path: PNG to write.
        score_threshold: objects below it are not drawn.
        draw_gt: draw the ground truth beside the prediction. Without it, small images are enlarged first, because the
            lines and words of the visualizers have a fixed size, and very large ones with many masks are drawn
            smaller.
    """
    from backbones.data.files import read_image  # needs mmcv, which the other hooks of a project can do without

    path.parent.mkdir(parents=True, exist_ok=True)
    image, sample = read_image(sample.img_path), sample.cpu()
    options = dict(with_labels=False)
    if 'pred_instances' in sample:
        options = dict(pred_score_thr=score_threshold)
        sample = sample.clone()
        sample.pred_instances = sample.pred_instances[sample.pred_instances.scores > score_threshold]
    if not draw_gt:
        step, zoom = _shrink(image, sample), _zoom(*image.shape[:2])
        image, sample = _scaled(image[::step, ::step], zoom), _drawn_at(sample, step, zoom)
    elif 'pred_instances' in sample:
        sample = _drawn_at(sample, 1, 1)
    with kept_randomness():  # mmdet draws the shade of each object from NumPy's generator
        np.random.seed(0)
        visualizer.add_datasample(path.stem, image, sample, draw_gt=draw_gt, show=False, out_file=str(path), **options)


def _zoom(height: int, width: int) -> int:
    wanted = math.ceil(SMALLEST_DRAWN / min(height, width))
    return max(1, min(wanted, LARGEST_DRAWN // max(height, width)))  # a strip of 2 rows stays a strip


def _shrink(image: np.ndarray, sample: BaseDataElement) -> int:
    """Every how many-th row and column is drawn, so that the bitmaps of the masks take `MOST_DRAWN` at most."""
    if 'masks' not in sample.get('pred_instances', ()):
        return 1
    pixels = len(sample.pred_instances) * image.shape[0] * image.shape[1]
    return max(1, math.ceil(math.sqrt(pixels / MOST_DRAWN)))


def _scaled(image: np.ndarray, zoom: int) -> np.ndarray:
    return np.repeat(np.repeat(image, zoom, axis=0), zoom, axis=1) if zoom > 1 else np.ascontiguousarray(image)


def _drawn_at(sample: BaseDataElement, step: int, zoom: int) -> BaseDataElement:
    """The same prediction, masks as bitmaps, for every `step`-th pixel of its picture, enlarged `zoom` times."""
    drawn = sample.clone()
    if 'pred_instances' not in sample:
        labels = sample.pred_sem_seg.data.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
        drawn.pred_sem_seg = PixelData(data=labels)  # (1, zoom * H, zoom * W)
        return drawn
    found = drawn.pred_instances = sample.pred_instances.clone()
    found.bboxes = found.bboxes * (zoom / step)
    if 'masks' in found:
        masks = _bitmaps(found.masks, tuple(sample.ori_shape[:2]), step)
        found.masks = masks.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2) if zoom > 1 else masks
    return drawn


def _bitmaps(masks: Tensor | Sequence[dict], size: tuple[int, int], step: int) -> Tensor:
    """Every `step`-th row and column of masks (N, H, W), or of run lengths, one whole bitmap at a time."""
    if isinstance(masks, Tensor):
        return masks[:, ::step, ::step]
    from pycocotools import mask as coco_mask

    bitmaps = torch.zeros(len(masks), *(math.ceil(side / step) for side in size), dtype=torch.bool)
    for bitmap, rle in zip(bitmaps.numpy(), masks, strict=True):
        bitmap[:] = coco_mask.decode(rle)[::step, ::step]
    return bitmaps


@HOOKS.register_module()
class PredictionFileHook(Hook):
    """Write what a test run predicts.

    Args:
        out_file: `.json` (COCO results of a detector) or `.zip` (label PNGs of a segmenter), or None.
        show_dir: folder for overlays of prediction and ground truth, or None.
        score_threshold: objects below it are left out of the overlays (never of `out_file`).
    """

    def __init__(self, out_file: str | None = None, show_dir: str | None = None, score_threshold: float = 0.3) -> None:
        self.out_file = Path(out_file) if out_file else None
        self.show_dir = Path(show_dir) if show_dir else None
        self.score_threshold = score_threshold
        self._written: dict[str, Any] = {}  # by image: a distributed sampler repeats some

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None,
                        outputs: Sequence[BaseDataElement] | None = None) -> None:
        """Collect and draw the samples of one batch."""
        dataset = runner.test_dataloader.dataset
        for sample in outputs or ():
            if self.show_dir:
                place = self.show_dir / _below_images(sample.img_path, dataset).with_suffix('.png')
                save_overlay(runner.visualizer, sample, place, self.score_threshold, draw_gt=True)
            if self.out_file and 'pred_instances' in sample:
                self._written[sample.img_path] = coco_results(sample, dataset.cat_ids, sample.img_id)
            elif self.out_file:
                self._written[sample.img_path] = label_png(sample, dataset.reduce_zero_label)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Gather the processes' results and write `out_file`."""
        if not self.out_file:
            return
        parts = all_gather_object(self._written)
        self._written = {}
        if not is_main_process():
            return
        by_image = {image: result for part in parts for image, result in part.items()}
        if self.out_file.suffix == '.json':
            write_json(self.out_file, [entry for image in sorted(by_image) for entry in by_image[image]])
        else:
            buffer = io.BytesIO()
            dataset = runner.test_dataloader.dataset
            with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_STORED) as archive:
                for image in sorted(by_image):
                    name = _below_images(image, dataset).with_suffix('.png')
                    archive.writestr(str(name), by_image[image])
            write_bytes(self.out_file, buffer.getvalue())
        runner.logger.info(f'predictions written to {self.out_file}')


def _below_images(image: str, dataset: BaseDataset) -> Path:
    """Path of an image below the image folder of its data set; images of sub-folders may share a name."""
    path, prefix = Path(image), dataset.data_prefix
    folder = prefix.get('img') or prefix.get('img_path') or ''
    return path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
