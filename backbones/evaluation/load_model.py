"""A trained model in one line: `backbones.load_model('work_dirs/run').predict('photo.jpg')`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement
from PIL import Image, ImageOps

from backbones.config import load_config
from backbones.data.files import shown
from backbones.data.images import MAX_PIXELS
from backbones.evaluation.batches import Batches
from backbones.evaluation.checkpoint_config import IN_PYTHON, find_checkpoint
from backbones.evaluation.predict import Ready, build_model, in_tiles, make_ready, trained_config
from backbones.evaluation.tiles import read_tiles

Picture = str | Path | np.ndarray | Image.Image
LOADERS = ('LoadImageFromFile', 'LoadImageFromNDArray')
DEEP = ('I', 'F', 'I;16', 'I;16L', 'I;16B', 'I;16N')  # Pillow's modes of more than 8 bits; `convert` clips them
KINDS = "a path, an array (H, W, 3) of uint8, RGB, or a PIL image"


@dataclass(frozen=True)
class Detections:
    """Objects of one picture, the surest first.

    Attributes:
        boxes: (N, 4) float32: x1 y1 x2 y2 in pixels of the picture as it was given.
        scores: (N,) float32, 0 to 1.
        labels: (N,) int64, indices of the model's `classes`.
        names: their class names.
        masks: COCO run lengths, `dict(size=[H, W], counts=text)`; None for a model without masks.
        size: (H, W) of the picture.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: list[str]
    masks: list[dict[str, Any]] | None
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.scores)

    def bitmaps(self) -> np.ndarray:
        """The masks as (N, H, W) bool, one byte a pixel and object.

        Raises:
            ValueError: the model predicts no masks.
        """
        if self.masks is None:
            raise ValueError('this model predicts boxes only, so there are no masks; use .boxes')
        from pycocotools import mask as coco_mask

        found = np.zeros((len(self), *self.size), dtype=bool)
        for bitmap, mask in zip(found, self.masks, strict=True):
            bitmap[:] = coco_mask.decode(dict(mask, counts=mask['counts'].encode()))
        return found


@dataclass(frozen=True)
class LabelMap:
    """The class of each pixel of one picture.

    Attributes:
        labels: (H, W) uint8, or uint16 beyond 256 classes: indices of the model's `classes`.
        names: names of the classes that are there, by label.
        size: (H, W) of the picture.
    """

    labels: np.ndarray
    names: dict[int, str]
    size: tuple[int, int]


class LoadedModel:
    """A detector or segmenter, ready to predict. Its calls may come from several threads; one runs at a time.

    Attributes:
        classes: class names, in the order of the labels.
        config: the config that the model was trained with, to be looked at.
        checkpoint: where its weights are from.
        device: where it computes.
    """

    def __init__(self, ready: Ready, config: Config, checkpoint: str | Path, device: torch.device) -> None:
        self.classes, self.config, self.checkpoint, self.device = ready.classes, config, checkpoint, device
        self._whole, self._lock = ready, threading.Lock()
        self._loader = ready.steps[0] if str(ready.steps[0].get('type')).rpartition('.')[2] in LOADERS else {}
        self._use(ready)

    def _use(self, ready: Ready) -> None:
        self._ready = ready
        self._after_loading = Compose(ready.steps[1:] if self._loader else ready.steps)

    def __repr__(self) -> str:
        kind = type(self._whole.model).__name__
        return f'<{kind} of {len(self.classes)} classes from {self.checkpoint} on {self.device}>'

    def predict(
        self, images: Picture | Sequence[Picture], score_threshold: float = 0.3, batch_size: int = 1, *,
        tile: int | tuple[int, int] | str | None = None, tile_overlap: float | None = None, tile_whole: bool = True,
    ) -> Any:
        """Predict one picture or several.

        Args:
            images: paths; arrays (H, W, 3) of uint8 in RGB order, also (H, W) grey and (H, W, 4) whose alpha is
                ignored; PIL images, turned as their EXIF note says; or a list of them.
            score_threshold: objects with a lower score, 0 to 1, are left out.
            batch_size: so many pictures of one size, or tiles, go through the model together, at most.
            tile: larger pictures are looked at in tiles of so many pixels, or of (width, height); a segmenter slides
                a window of that size.
            tile_overlap: of neighbours: below 1 a fraction of the tile, else pixels; None: a quarter.
            tile_whole: a detector looks at the whole picture, too, for objects larger than the overlap.

        Returns:
            `Detections` or `LabelMap`; a list of them, in the same order, for a list.

        Raises:
            ValueError: a picture cannot be read or processed (then nothing is given for the others), an argument is
                out of range.
        """
        if not isinstance(score_threshold, int | float) or not 0 <= score_threshold <= 1:
            raise ValueError(f'score_threshold={score_threshold!r}: scores lie from 0 to 1; give one, such as 0.3')
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f'batch_size={batch_size!r}: give a number from 1')
        tiles = read_tiles(tile, tile_overlap, tile_whole)
        many = images if isinstance(images, list | tuple) else [images]
        with self._lock, DefaultScope.overwrite_default_scope(self._whole.cfg.default_scope):
            self._use(in_tiles(self._whole, tiles, batch_size) if tiles else self._whole)
            results = self._predict(many, score_threshold, batch_size)
        return results if many is images else results[0]

    def _predict(self, images: Sequence[Picture], threshold: float, size: int) -> list[Any]:
        results: list[Any] = [None] * len(images)
        batches: Batches[tuple[int, dict]] = Batches(size)
        for number, image in enumerate(images):
            data = self._data(image, number)
            if data.get('picture') is not None:  # its tiles are the batches
                self._run([(number, data)], threshold, results)
                continue
            kind = tuple(data['inputs'].shape), tuple(data['data_samples'].ori_shape)
            for group in batches.add(kind, (number, data)):
                self._run(group, threshold, results)
        for group in batches.rest():
            self._run(group, threshold, results)
        return results

    def _run(self, group: list[tuple[int, dict]], threshold: float, results: list[Any]) -> None:
        for (number, _), sample in zip(group, self._ready.run([data for _, data in group]), strict=True):
            results[number] = self._result(sample, threshold)

    def _data(self, image: Picture, number: int) -> dict:
        if isinstance(image, str | Path):
            path = Path(image)
            if not path.is_file():
                what = 'is no file; list what is in it' if path.exists() else 'does not exist'
                raise ValueError(f'image {shown(image)} {what}')
            return self._ready.data(dict(img_path=str(path), img_id=number), path)
        pixels = as_rgb(image, number)[..., ::-1]  # BGR, as the loaders give it
        if self._loader.get('color_type', 'color') != 'color':
            raise ValueError(
                f"this model loads pictures with color_type={self._loader['color_type']!r}; give paths, not arrays")
        pixels = np.ascontiguousarray(pixels, np.float32 if self._loader.get('to_float32') else np.uint8)
        shape = pixels.shape[:2]
        given = dict(img=pixels, img_shape=shape, ori_shape=shape, img_id=number)
        return self._ready.data(given, Path(f'number {number} of the list'), self._after_loading)

    def _result(self, sample: BaseDataElement, threshold: float) -> Detections | LabelMap:
        size = tuple(int(side) for side in sample.ori_shape[:2])
        if 'pred_sem_seg' in sample:
            kind = np.uint8 if len(self.classes) <= 256 else np.uint16
            labels = sample.pred_sem_seg.data.squeeze(0).cpu().numpy().astype(kind)
            return LabelMap(labels, {int(label): self.classes[label] for label in np.unique(labels)}, size)
        found = sample.pred_instances.cpu()
        keep = (found.scores >= threshold).nonzero()[:, 0]
        keep = keep[found.scores[keep].argsort(descending=True, stable=True)]
        masks = None
        if 'masks' in found:
            from backbones.detection.mask_paste import as_rles

            kept = [found.masks[place] for place in keep.tolist()]
            kept = torch.stack(kept) if kept and isinstance(kept[0], torch.Tensor) else kept
            masks = [dict(size=list(mask['size']), counts=mask['counts'].decode()) for mask in as_rles(kept)]
        labels = found.labels[keep].numpy()
        return Detections(
            found.bboxes[keep].float().numpy(), found.scores[keep].float().numpy(), labels,
            [self.classes[label] for label in labels], masks, size)


def as_rgb(image: Any, number: int = 0) -> np.ndarray:
    """A picture as (H, W, 3) uint8 RGB.

    Args:
        image: array or PIL image.
        number: its place in the list, for messages.

    Raises:
        ValueError: it is something else.
    """
    title = f'image number {number}'
    if isinstance(image, Image.Image):
        if image.mode in DEEP:
            raise ValueError(f'{title} is a PIL image of mode {image.mode!r}; scale it to 8 bits and give that')
        image = np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
    if not isinstance(image, np.ndarray):
        raise ValueError(f'{title} is {type(image).__module__}.{type(image).__name__}; give {KINDS}')
    if image.dtype != np.uint8:
        remedy = "np.rint(255 * image).astype('uint8') where it lies in 0 to 1" if image.dtype.kind == 'f' else 'uint8'
        raise ValueError(f'{title} is an array of {image.dtype}, and pictures are uint8, 0 to 255; give {remedy}')
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        hint = '; turn its axes by image.transpose(1, 2, 0)' if image.ndim == 3 and image.shape[0] in (1, 3, 4) else ''
        hint = '; give list(image) for several pictures' if image.ndim == 4 else hint
        raise ValueError(f'{title} has the shape {image.shape}; allowed are (H, W, 3), (H, W), (H, W, 4){hint}')
    if not image.size or image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise ValueError(f'{title} is {image.shape[1]}x{image.shape[0]} pixels; 1 to {MAX_PIXELS} in all are allowed')
    return image.repeat(3, axis=2) if image.shape[2] == 1 else image[..., :3]


def load_model(
    checkpoint_or_config: str | Path,
    checkpoint: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
    options: dict[str, Any] | None = None,
) -> LoadedModel:
    """Load a trained detector or segmenter.

    Args:
        checkpoint_or_config: a checkpoint (`epoch_000012`, `epoch_12.pth`), which knows its config, classes,
            normalisation and test size; the work folder of a run: its best checkpoint where it chose one, else the
            newest; or a config (`.py`, which is code and runs as such).
        checkpoint: of the model of that config; default: that of the config's work folder.
        device: 'cpu', 'cuda', 'cuda:1'; default: the GPU if there is one.
        precision: 'fp32', 'bf16' or 'fp16': final weights, folded and packed, in this precision; default: what the
            config says, else as it was trained.
        options: dotted config keys to override, such as {'model.test_cfg.rcnn.score_thr': 0.5}.

    Raises:
        ValueError: nothing is there, it is no checkpoint of such a model, it holds no config that can be read without
            running code, the device or the precision is not there.
    """
    chosen = _device(device)
    config = checkpoint_or_config if Path(checkpoint_or_config).suffix == '.py' else None
    if config is None and checkpoint is not None:
        raise ValueError(
            f'load_model({str(checkpoint_or_config)!r}, {str(checkpoint)!r}): the first of two is a config, a .py file')
    if config is not None and checkpoint is None:
        checkpoint = load_config(config, options).work_dir
        if not Path(checkpoint).is_dir():
            raise ValueError(f'{config} has no run in {checkpoint}; name its checkpoint: {IN_PYTHON}')
    checkpoint = find_checkpoint(checkpoint_or_config if config is None else checkpoint)
    cfg, whole = trained_config(config, checkpoint, options)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
        ready = make_ready(cfg, lambda cfg: build_model(cfg, checkpoint, chosen), precision)
        return LoadedModel(ready, whole, checkpoint, chosen)


def _device(device: str | torch.device | None) -> torch.device:
    try:
        chosen = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        first = str(error).splitlines()[0][:120]
        raise ValueError(f'device={device!r} cannot be used here ({first}); give "cpu", "cuda" or "cuda:0"') from error
    return chosen
