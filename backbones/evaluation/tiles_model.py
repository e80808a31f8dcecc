"""A detector that looks at large pictures tile by tile.

`backbones.TileViews` hands the picture on beside what the test pipeline makes of it; `backbones.TiledDetector` cuts it,
brings each tile through the same steps as if it were a picture, and merges what is found: one picture in bytes and a
few tiles are held, whatever their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.structures import InstanceData
from torch import nn

from backbones.detection.mask_changes import odd_ones
from backbones.detection.mask_paste import as_rles
from backbones.registry import MODELS, TRANSFORMS

from .tiles import Frame, Tiles
from .tiles_merge import Found, merge

if TYPE_CHECKING:
    from mmdet.structures import DetDataSample

PICTURE = 'picture'  # key of the pixels (H, W, C) in what the pipeline gives; None: no larger than a tile


@TRANSFORMS.register_module()
class TileViews:
    """Run `steps`, and keep the picture as it was before where it is larger than a tile.

    Args:
        tiles: arguments of `backbones.evaluation.tiles.Tiles`.
        steps: the rest of the test pipeline.
    """

    def __init__(self, tiles: dict, steps: Sequence[dict]) -> None:
        self.tiles, self.steps = Tiles(**tiles), Compose(list(steps))

    def __call__(self, results: dict) -> dict | None:
        """Give what the steps give, and the picture."""
        pixels = results['img']
        large = len(self.tiles.frames(pixels.shape[:2])) > 1
        picture = torch.from_numpy(np.ascontiguousarray(pixels)) if large else None
        packed = self.steps(results)
        if packed is not None:
            packed[PICTURE] = picture
        return packed


@MODELS.register_module()
class TiledDetector(nn.Module):
    """A detector around which pictures are cut and merged; one no larger than a tile it sees as it is.

    Args:
        module: the detector, or its config.
        tiles: arguments of `backbones.evaluation.tiles.Tiles`.
        steps: of the test pipeline, after loading and without annotations.
        batch: so many tiles go through the detector together, at most.
        data_preprocessor: of a Runner; the detector has its own.
    """

    def __init__(
        self, module: nn.Module | dict, tiles: dict, steps: Sequence[dict], batch: int = 1,
        data_preprocessor: Any = None,
    ) -> None:
        super().__init__()
        self.module = module if isinstance(module, nn.Module) else MMENGINE_MODELS.build(module)
        self.tiles, self.batch = Tiles(**tiles), batch
        self.steps = Compose(list(steps))

    def init_weights(self) -> None:
        """The detector's."""
        self.module.init_weights()

    @torch.no_grad()
    def test_step(self, data: dict[str, list]) -> list[DetDataSample]:
        """Predict pictures, each as a sample with `pred_instances` in pixels of the picture."""
        data = dict(data)
        pictures = data.pop(PICTURE, None) or [None] * len(data['inputs'])
        small = [place for place, picture in enumerate(pictures) if picture is None]
        samples: dict[int, DetDataSample] = {}
        if small:
            batch = {key: [values[place] for place in small] for key, values in data.items()}
            samples = dict(zip(small, self.module.test_step(batch), strict=True))
        for place, picture in enumerate(pictures):
            if picture is not None:
                one = {key: [values[place]] for key, values in data.items()}
                samples[place] = self._tiled(picture.numpy(), one)
        return [samples[place] for place in range(len(pictures))]

    val_step = test_step

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Pass on to the detector."""
        return self.module(*args, **kwargs)

    def _tiled(self, picture: np.ndarray, whole: dict[str, list]) -> DetDataSample:
        """Predict one picture (H, W, C); `whole` is what the pipeline makes of it, a batch of one."""
        size = picture.shape[:2]
        views: list[tuple[Frame, InstanceData]] = []
        (sample,) = whole['data_samples']
        if self.tiles.whole:
            (sample,) = self.module.test_step(whole)
            views.append(((0, 0, size[1], size[0]), _kept(sample)))
        frames = self.tiles.frames(size)
        for start in range(0, len(frames), self.batch):
            group = frames[start:start + self.batch]
            batch = [self._data(picture, frame, sample.metainfo) for frame in group]
            views += zip(group, map(_kept, self.module.test_step(pseudo_collate(batch))), strict=True)
        sample.pred_instances = merge_views(views, size)
        return sample

    def _data(self, picture: np.ndarray, frame: Frame, meta: dict) -> dict:
        """Bring one tile through the pipeline."""
        x0, y0, x1, y1 = frame
        pixels = np.ascontiguousarray(picture[y0:y1, x0:x1])
        given = dict(img=pixels, img_shape=pixels.shape[:2], ori_shape=pixels.shape[:2])
        given |= {key: meta[key] for key in ('img_id', 'img_path') if key in meta}
        data = self.steps(given)
        if data is None:
            raise ValueError(f'the tile at {x0}, {y0} of {meta.get("img_path")} cannot be processed by the pipeline')
        return data


def _kept(sample: DetDataSample) -> InstanceData:
    """What was found in a view, on the CPU, its masks as run lengths."""
    found = sample.pred_instances
    kept = InstanceData(
        bboxes=found.bboxes.float().cpu(), scores=found.scores.float().cpu(), labels=found.labels.cpu())
    if 'masks' in found:
        kept.masks = as_rles(found.masks)
    return kept


def merge_views(views: Sequence[tuple[Frame, InstanceData]], size: tuple[int, int]) -> InstanceData:
    """Merge what was found in frames of a picture of `size` (H, W), in pixels of each frame, to one set of objects."""
    offsets = [np.tile(frame[:2], 2) for frame, _ in views]
    counts = [len(found) for _, found in views]
    all_boxes = [found.bboxes.double().numpy() + offset for (_, found), offset in zip(views, offsets, strict=True)]
    found = Found(
        boxes=np.concatenate(all_boxes), scores=np.concatenate([found.scores.double().numpy() for _, found in views]),
        labels=np.concatenate([found.labels.numpy() for _, found in views]),
        frames=np.repeat(np.array([frame for frame, _ in views], dtype=np.float64), counts, axis=0))
    objects = merge(found, size)
    surest = torch.tensor([one.members[0] for one in objects], dtype=torch.long)
    merged = InstanceData(
        bboxes=torch.tensor(np.array([one.box for one in objects]).reshape(-1, 4), dtype=torch.float32),
        scores=torch.cat([found.scores for _, found in views])[surest],
        labels=torch.cat([found.labels for _, found in views])[surest])
    if all('masks' in found for _, found in views):
        masks = [(mask, frame) for frame, found in views for mask in found.masks]
        merged.masks = [
            _joined([place_mask(*masks[member], size) for member in one.members]) for one in objects]
    return merged


def place_mask(mask: dict, frame: Frame, size: tuple[int, int]) -> dict:
    """Run lengths of a frame's mask as those of the whole picture of `size` (H, W)."""
    from pycocotools import mask as coder

    x0, y0, x1, y1 = frame
    if (y1 - y0, x1 - x0) == tuple(size):
        return mask
    height = y1 - y0
    first, _, count, _ = coder.toBbox(mask).astype(int)  # the columns that hold anything
    flat = np.zeros(1 + count * (height + 1), dtype=np.uint8)  # a zero, then column after column, each with an end
    flat[1:].reshape(count, height + 1)[:, :-1] = coder.decode(mask).T[first:first + count]
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    column, row = np.divmod(changes, height + 1)
    column += first
    # a column that ends at the lower edge of the picture goes on in the next one that begins at the upper edge
    places = odd_ones((column + x0) * size[0] + row + y0)
    runs = np.diff(places, prepend=0, append=size[0] * size[1])
    if len(places) and runs[-1] == 0:
        runs = runs[:-1]
    return coder.frPyObjects([dict(size=list(size), counts=runs)], *size)[0]


def _joined(masks: list[dict]) -> dict:
    """The union of run lengths."""
    from pycocotools import mask as coder

    return masks[0] if len(masks) == 1 else coder.merge(masks)
