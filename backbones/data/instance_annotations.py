"""Boxes, labels and masks of a picture's objects, the masks as large as the objects."""

from __future__ import annotations

from mmdet.datasets.transforms import LoadAnnotations

from ..registry import TRANSFORMS
from .bad_samples import BadSampleError
from .box_masks import BoxMasks
from .files import shown
from .mask_runs import read_windows


@TRANSFORMS.register_module()
class LoadInstanceAnnotations(LoadAnnotations):
    """mmdet's `LoadAnnotations`, same arguments and results, but for masks that are never as large as the picture.

    With `with_mask=True`, `gt_masks` is a `BoxMasks`, whose pixels equal those of mmdet's `BitmapMasks` bit by bit.
    An object without a usable mask is ignored, as with mmdet. `poly2mask=False` gives mmdet's polygons.

    Raises:
        BadSampleError: run lengths do not fill their picture.
    """

    def _load_masks(self, results: dict) -> None:
        if not self.poly2mask:
            super()._load_masks(results)
            return
        height, width = results['ori_shape']
        try:
            windows = read_windows(self._process_masks(results), height, width)
        except ValueError as error:
            path = results.get('img_path', '')
            raise BadSampleError(f'of the picture {shown(path)}, {error}; write the mask again', path) from error
        results['gt_masks'] = BoxMasks.from_windows(windows, height, width)
