"""Instance masks that are never as large as their picture: each keeps the pixels of its own window.

mmdet's `BitmapMasks` holds a bitmap of the whole picture per object, and every transform works on all of it. Here
every operation costs what the objects cover; the pixels are the same, bit by bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import mmcv
import numpy as np
import torch
from mmdet.structures.bbox import BaseBoxes, HorizontalBoxes, get_box_type
from mmdet.structures.mask import BitmapMasks

from .mask_crops import Window, crop_and_resize

EMPTY = np.zeros((0, 0), np.uint8)


class BoxMasks(BitmapMasks):
    """Masks of one picture, to be used wherever mmdet takes `BitmapMasks`, of which it is one.

    Nearest resizing, flips, crops, zero padding, shifts by whole pixels, areas, boxes and mask targets work on the
    windows. What is rare (rotation, shear, other interpolations) goes through bitmaps of the picture's size, and so
    does code that reads `masks`, mmdet's name for them.

    Args:
        masks: (N, H, W) bitmaps or a list of (H, W), as for `BitmapMasks`; `from_windows` needs no bitmap.
        height: H.
        width: W.
    """

    def __init__(self, masks: Sequence[np.ndarray] | np.ndarray, height: int, width: int) -> None:
        self.height, self.width = height, width
        wrong = [np.shape(mask) for mask in masks if np.shape(mask) != (height, width)]
        if wrong:
            raise ValueError(f'masks have the shape {wrong[0]}; all must be {(height, width)}, height and width')
        trimmed = [_trim((0, 0, np.asarray(mask))) for mask in masks]
        self.windows = [(x, y, pixels.copy()) for x, y, pixels in trimmed]  # a view would keep the bitmap alive

    @classmethod
    def from_windows(cls, windows: Sequence[Window], height: int, width: int) -> BoxMasks:
        """Make masks of (x, y, pixels) each, all pixels inside the picture; around them is 0. Nothing is copied."""
        masks = cls([], height, width)
        masks.windows = list(windows)
        return masks

    @property
    def dtype(self) -> np.dtype:
        """Type of the pixels; uint8 where there is no mask, as in mmdet."""
        kinds = {pixels.dtype for _, _, pixels in self.windows}
        return np.result_type(*kinds) if kinds else np.dtype(np.uint8)

    @property
    def masks(self) -> np.ndarray:
        """Bitmaps (N, H, W) made for the occasion, read-only: what is written into them would be lost."""
        bitmaps = self.to_ndarray()
        bitmaps.flags.writeable = False
        return bitmaps

    @masks.setter
    def masks(self, bitmaps: np.ndarray) -> None:
        self.__init__(bitmaps, self.height, self.width)

    def to_ndarray(self) -> np.ndarray:
        """Make bitmaps (N, H, W)."""
        bitmaps = np.zeros((len(self), self.height, self.width), self.dtype)
        for bitmap, window in zip(bitmaps, self.windows, strict=True):
            _paint(bitmap, window)
        return bitmaps

    def to_bitmap(self) -> BitmapMasks:
        """Make mmdet's `BitmapMasks`."""
        return BitmapMasks(self.to_ndarray(), self.height, self.width)

    def to_tensor(self, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
        """Make bitmaps (N, H, W) on a device."""
        return torch.from_numpy(self.to_ndarray()).to(dtype=dtype, device=device)

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Make one bitmap (H, W) after the other."""
        for window in self.windows:
            bitmap = np.zeros((self.height, self.width), self.dtype)
            _paint(bitmap, window)
            yield bitmap

    def __getitem__(self, index: Any) -> BoxMasks:
        """Choose masks by a number, a slice, numbers, or one truth value per mask."""
        chosen = np.arange(len(self))[index].reshape(-1)
        return self._like([self.windows[i] for i in chosen.tolist()])

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_masks={len(self)}, height={self.height}, width={self.width})'

    def __getstate__(self) -> dict:
        """One buffer for all windows, one bit per pixel where that is enough: what a data-loader worker sends."""
        shapes = np.array([(x, y, *pixels.shape) for x, y, pixels in self.windows], np.int32).reshape(-1, 4)
        pixels = np.concatenate([pixels.ravel() for _, _, pixels in self.windows] or [EMPTY.ravel()])
        bits = pixels.dtype == np.uint8 and (not pixels.size or pixels.max() <= 1)
        return dict(size=(self.height, self.width), shapes=shapes, bits=bits,
                    pixels=np.packbits(pixels) if bits else pixels)

    def __setstate__(self, state: dict) -> None:
        self.height, self.width = state['size']
        areas = np.prod(state['shapes'][:, 2:], 1, dtype=np.int64)
        pixels = np.unpackbits(state['pixels'], count=areas.sum()) if state['bits'] else state['pixels']
        ends = np.cumsum(areas)
        self.windows = [
            (x, y, pixels[end - h * w:end].reshape(h, w))
            for (x, y, h, w), end in zip(state['shapes'].tolist(), ends.tolist(), strict=True)
        ]

    def rescale(self, scale: float | tuple[int, int], interpolation: str = 'nearest') -> BoxMasks:
        """Resize as `mmcv.imrescale`: by a factor, or as large as fits into (long side, short side)."""
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width), interpolation)

    def resize(self, out_shape: tuple[int, int], interpolation: str = 'nearest') -> BoxMasks:
        """Resize to (H, W) as `mmcv.imresize`."""
        height, width = out_shape
        if interpolation != 'nearest':
            return self._through_bitmaps('resize', out_shape, interpolation)
        rows, columns = _nearest(self.height, height), _nearest(self.width, width)
        corners = np.array([window[:2] for window in self.windows], int).reshape(-1, 2)
        shapes = np.array([pixels.shape for _, _, pixels in self.windows], int).reshape(-1, 2)
        tops, bottoms = np.searchsorted(rows, [corners[:, 1], corners[:, 1] + shapes[:, 0]])
        lefts, rights = np.searchsorted(columns, [corners[:, 0], corners[:, 0] + shapes[:, 1]])
        windows = []
        for (x, y, pixels), left, top, right, bottom in zip(
                self.windows, lefts.tolist(), tops.tolist(), rights.tolist(), bottoms.tolist(), strict=True):
            down, across = rows[top:bottom] - y, columns[left:right] - x
            if len(down) <= len(pixels):  # first what leaves less to do
                pixels = pixels.take(down, 0).take(across, 1)
            else:
                pixels = pixels.take(across, 1).take(down, 0)
            windows.append((left, top, pixels))
        return self._like(windows, height, width)

    def flip(self, flip_direction: str = 'horizontal') -> BoxMasks:
        """Mirror 'horizontal', 'vertical', or both ways ('diagonal')."""
        steps = dict(horizontal=(1, -1), vertical=(-1, 1), diagonal=(-1, -1))
        if flip_direction not in steps:
            raise ValueError(f'flip_direction={flip_direction!r} is unknown; choose one of {list(steps)}')
        down, across = steps[flip_direction]
        return self._like([
            (
                x if across > 0 else self.width - x - pixels.shape[1],
                y if down > 0 else self.height - y - pixels.shape[0],
                pixels[::down, ::across],
            )
            for x, y, pixels in self.windows
        ])

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> BoxMasks:
        """Enlarge the picture to (H, W) at the bottom and on the right."""
        if len(self) and (out_shape[0] < self.height or out_shape[1] < self.width):
            raise ValueError(
                f'masks of {(self.height, self.width)} cannot be padded to {tuple(out_shape)}; crop them instead'
            )
        return self._through_bitmaps('pad', out_shape, pad_val) if pad_val else self._like(self.windows, *out_shape)

    def crop(self, bbox: np.ndarray) -> BoxMasks:
        """Cut out x0, y0, x1, y1 (whole numbers), clipped to the picture, one pixel wide and high at least."""
        x0, x1 = np.clip(bbox[0::2], 0, self.width).tolist()
        y0, y1 = np.clip(bbox[1::2], 0, self.height).tolist()
        x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
        if len(self) and (x1 > self.width or y1 > self.height):
            raise ValueError(
                f'the box {np.asarray(bbox).tolist()} lies outside the masks of {(self.height, self.width)}'
            )
        return self._like([_moved(window, -x0, -y0, y1 - y0, x1 - x0) for window in self.windows], y1 - y0, x1 - x0)

    def crop_and_resize(
        self,
        bboxes: np.ndarray | torch.Tensor,
        out_shape: tuple[int, int],
        inds: np.ndarray | torch.Tensor,
        device: torch.device | str = 'cpu',
        interpolation: str = 'bilinear',
        binarize: bool = True,
    ) -> BitmapMasks:
        """Pool each box of its mask to `out_shape`: the targets of a mask head, as mmdet computes them on a CPU.

        `device` and `interpolation` are mmdet's and change nothing: the result is on the CPU in mmdet as well.
        """
        if not len(self):
            return BitmapMasks([], *out_shape)
        boxes, indices = (torch.as_tensor(values).detach().cpu() for values in (bboxes, inds))
        boxes, indices = (boxes if boxes.dtype == torch.float64 else boxes.float()).numpy(), indices.numpy()
        size = self.height, self.width
        return BitmapMasks(crop_and_resize(self.windows, size, boxes, indices, out_shape, binarize), *out_shape)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> BoxMasks:
        """Put the picture on a larger one, at `top` and `left`."""
        if len(self) and not (0 <= top <= expanded_h - self.height and 0 <= left <= expanded_w - self.width):
            raise ValueError(
                f'masks of {(self.height, self.width)} at top={top}, left={left} do not fit into '
                f'{(expanded_h, expanded_w)}'
            )
        return self._like([
            (x + left, y + top, pixels.astype(np.uint8, copy=False)) for x, y, pixels in self.windows
        ], expanded_h, expanded_w)

    def translate(
        self,
        out_shape: tuple[int, int],
        offset: float | tuple[float, float],
        direction: str = 'horizontal',
        border_value: int = 0,
        interpolation: str = 'bilinear',
    ) -> BoxMasks:
        """Cut or pad to `out_shape`, then shift 'horizontal', 'vertical' or by (x, y) ('both')."""
        shifts = dict(horizontal=(offset, 0), vertical=(0, offset))
        across, down = shifts[direction] if direction in shifts else np.broadcast_to(offset, 2).tolist()
        shifts_whole_pixels = float(across).is_integer() and float(down).is_integer() and direction in (*shifts, 'both')
        if not shifts_whole_pixels or border_value or interpolation not in ('bilinear', 'nearest'):
            return self._through_bitmaps('translate', out_shape, offset, direction, border_value, interpolation)
        windows = (_moved(window, 0, 0, *out_shape) for window in self.windows)
        return self._like([_moved(window, int(across), int(down), *out_shape) for window in windows], *out_shape)

    def shear(self, out_shape: tuple[int, int], *args, **kwargs) -> BoxMasks:
        """Shear as `BitmapMasks.shear`, through bitmaps."""
        return self._through_bitmaps('shear', out_shape, *args, **kwargs)

    def rotate(self, out_shape: tuple[int, int], *args, **kwargs) -> BoxMasks:
        """Rotate as `BitmapMasks.rotate`, through bitmaps."""
        return self._through_bitmaps('rotate', out_shape, *args, **kwargs)

    @property
    def areas(self) -> np.ndarray:
        """(N,) sums of the pixels."""
        kind = np.zeros(0, self.dtype).sum().dtype
        return np.array([pixels.sum(dtype=kind) for _, _, pixels in self.windows], kind)

    def get_bboxes(self, dst_type: str | type = 'hbb') -> BaseBoxes:
        """The tightest boxes around the masks, 0 0 0 0 where there is no pixel."""
        _, box_type = get_box_type(dst_type)
        if box_type is not HorizontalBoxes:
            return box_type.from_instance_masks(self.to_bitmap())
        boxes = np.zeros((len(self), 4), np.float32)
        for box, window in zip(boxes, self.windows, strict=True):
            x, y, pixels = _trim(window)
            if pixels.size:
                box[:] = x, y, x + pixels.shape[1], y + pixels.shape[0]
        return HorizontalBoxes(boxes)

    @classmethod
    def cat(cls, masks: Sequence[BitmapMasks]) -> BoxMasks:
        """Put masks of equally large pictures into one."""
        if not isinstance(masks, Sequence) or not masks:
            raise ValueError(f'masks must be a list of {cls.__name__} with one at least; given: {masks!r:.80}')
        height, width = masks[0].height, masks[0].width
        sizes = {(each.height, each.width) for each in masks}
        if len(sizes) > 1:
            raise ValueError(f'masks of different pictures, {sorted(sizes)}, cannot be put into one; pad them first')
        compact = (each if isinstance(each, cls) else cls(each.masks, height, width) for each in masks)
        return cls.from_windows(itertools.chain.from_iterable(each.windows for each in compact), height, width)

    def _like(self, windows: Sequence[Window], height: int | None = None, width: int | None = None) -> BoxMasks:
        height, width = (self.height, self.width) if height is None else (height, width)
        return type(self).from_windows(windows, height, width)

    def _through_bitmaps(self, operation: str, *args, **kwargs) -> BoxMasks:
        done = getattr(self.to_bitmap(), operation)(*args, **kwargs)
        return type(self)(done.masks, done.height, done.width)


def _paint(bitmap: np.ndarray, window: Window) -> None:
    x, y, pixels = window
    bitmap[y:y + pixels.shape[0], x:x + pixels.shape[1]] = pixels


def _trim(window: Window) -> Window:
    """Leave out rows and columns of zeros at the borders."""
    x, y, pixels = window
    rows = np.flatnonzero(pixels.any(1))
    if not len(rows):
        return 0, 0, pixels[:0, :0]
    columns = np.flatnonzero(pixels.any(0))
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return x + x0, y + y0, pixels[y0:y1, x0:x1]


def _moved(window: Window, across: int, down: int, height: int, width: int) -> Window:
    """Shift a window and cut off what then lies outside a picture of height x width."""
    x, y, pixels = window
    x, y = x + across, y + down
    left, top = max(-x, 0), max(-y, 0)
    pixels = pixels[top:max(height - y, 0), left:max(width - x, 0)]
    return (x + left, y + top, pixels) if pixels.size else (0, 0, pixels[:0, :0])


def _nearest(length: int, new_length: int) -> np.ndarray:
    """(new_length,) the pixel that nearest resizing takes for each new one, along one axis: mmcv itself is asked."""
    ramp = np.arange(length, dtype=np.float32)[None]
    return mmcv.imresize(ramp, (new_length, 1), interpolation='nearest')[0].astype(np.int64)
