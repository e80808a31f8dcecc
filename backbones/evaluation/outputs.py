"""Predictions as files: COCO results (detection), label PNGs (segmentation), overlays to look at."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from PIL import Image
from torch import Tensor

from backbones.drawing.masks import mask_size
from backbones.drawing.objects import objects_of
from backbones.drawing.sheets import as_png, draw_sheet
from backbones.files import write_bytes, write_json
from backbones.registry import HOOKS


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
    sample: BaseDataElement, path: Path, classes: Sequence[str], palette: object = None, score_threshold: float = 0.3,
    draw_gt: bool = False,
) -> None:
    """Draw the prediction over its image and write it to `path`; small images are enlarged first.

    Args:
        sample: prediction with `img_path`.
        path: PNG to write.
        classes: names of the labels.
        palette: their colours; None, or what is none: our own.
        score_threshold: objects below it are not drawn.
        draw_gt: draw the ground truth, as far as the sample holds it, beside the prediction.

    Raises:
        ValueError: there is no prediction, or the true masks are of another size than the picture.
    """
    from backbones.data.files import read_image  # needs mmcv, which the other hooks of a project can do without

    image = read_image(sample.img_path)
    truth, found = _drawn(sample, score_threshold)
    if found is None:
        raise ValueError(f'{sample.img_path}: the sample has neither pred_instances nor pred_sem_seg to draw')
    masks = getattr(truth, 'masks', ()) if draw_gt else ()
    if len(masks) and mask_size(masks[0]) != image.shape[:2]:
        raise ValueError(
            f'{sample.img_path}: the true masks have {mask_size(masks[0])} (height, width) and the picture has '
            f'{image.shape[:2]}; load the annotations after Resize in the test pipeline')
    drawn = {'Ground truth': truth, 'Prediction': found} if draw_gt else {'': found}
    drawn = {title: what for title, what in drawn.items() if what is not None}
    write_bytes(path, as_png(draw_sheet(image, drawn, classes, palette)))


def _drawn(sample: BaseDataElement, threshold: float) -> tuple[Any, Any]:
    """What there is (None where the sample does not hold it) and what was predicted, as `draw_sheet` takes them."""
    if 'pred_instances' in sample:
        given = sample.get('gt_instances')  # empty where the picture has no annotations
        truth = objects_of(given) if given is not None and 'bboxes' in given and 'labels' in given else None
        return truth, objects_of(sample.pred_instances, threshold)
    maps = [sample.get(name) for name in ('gt_sem_seg', 'pred_sem_seg')]
    truth, found = (None if one is None else one.data.squeeze(0).cpu().numpy() for one in maps)  # (H, W)
    return truth, found


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
                info = dataset.metainfo
                save_overlay(sample, place, info.get('classes') or (), info.get('palette'), self.score_threshold, True)
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
