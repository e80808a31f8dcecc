"""Pictures of what the network receives: augmented, normalised, padded, with its boxes, masks or labels drawn.

The normalisation is undone by the mean and standard deviation of the known kind that the config's are meant to be, and
of ImageNet where they are near to none. The channels are shown as red, green, blue in the order in which the
network gets them. So colours that are swapped, or a mean or scale that was left out, show.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.runner import Runner
from PIL import Image, ImageDraw, ImageFont

from backbones.data.palette import make_palette
from backbones.drawing.styles import ink

from .undisturbed import bare, collated, shortened, shuffled, training_sample, undisturbed
from .worst_case import is_segmenter

SHOWN = 400  # pixels of width on the page
NARROWEST, WIDEST = 400, 800  # pixels of width that are drawn
TEXT = 14  # height of the letters on the page
BLEND = 0.42  # of a mask's colour
OUTLINE = 1.5  # pixels on the page: line around a mask
IGNORED_GREY = 0.3  # brightness that is left of pixels that are ignored
SMALLEST_NAMED = 0.004  # of the picture: a smaller region of a class gets no name
IGNORED = 255
NEAR = 8.0  # in 0..255: how far mean and deviation may be from a known kind, and it is that kind still
# Mean and standard deviation of R, G, B that published weights were trained with.
KNOWN = {
    'ImageNet': ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    '0.5': ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    'CLIP': ((122.771, 116.746, 104.094), (68.501, 66.632, 70.323)),
    'Caffe, BGR': ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
}


def training_samples(runner: Runner, count: int = 12, seed: int = 0) -> list[tuple[Image.Image, str]]:
    """Draw training samples, each as a batch of one.

    Args:
        runner: built by `backbones.runner.build_runner`; it stays as it is.
        count: how many; fewer where the data set has fewer.
        seed: chooses samples and augmentation.

    Returns:
        A picture, 400 to 800 pixels wide, and its caption. A sample that cannot be made is a grey picture that says so.
    """
    with undisturbed(runner, seed):
        loader = runner.train_loop.dataloader
        if not hasattr(loader.dataset, '__getitem__'):
            return []
        model = bare(runner.model)
        preprocessor = copy.deepcopy(model.data_preprocessor)
        meta = getattr(loader.dataset, 'metainfo', None) or {}
        classes = tuple(meta.get('classes') or ())
        colours = [tuple(map(int, colour)) for colour in meta.get('palette') or make_palette(max(len(classes), 1))]
        drawn = []
        for index in shuffled(len(loader.dataset), seed)[:count]:
            try:
                drawn.append(_drawn(loader, preprocessor, index, seed, is_segmenter(model), classes, colours))
            except Exception as error:
                drawn.append((_failed(shortened(error, 160)), f'sample {index} cannot be made: {shortened(error)}'))
        return drawn


def _drawn(
    loader: Any, preprocessor: Any, index: int, seed: int, segmenter: bool, classes: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
) -> tuple[Image.Image, str]:
    """One sample and its caption."""
    batch = preprocessor(collated(loader, [training_sample(loader.dataset, index, seed)]), True)
    image, sample = batch['inputs'][0].detach().float().cpu(), batch['data_samples'][0]
    picture = _restored(image, preprocessor)  # (H, W, 3) uint8
    h, w = picture.shape[:2]
    zoom = min(max(w, NARROWEST), WIDEST) / w
    picture = cv2.resize(picture, (round(w * zoom), round(h * zoom)),
                         interpolation=cv2.INTER_CUBIC if zoom > 1 else cv2.INTER_AREA)
    if segmenter:
        made, said = _with_labels(picture, sample, classes, colours)
    else:
        made, said = _with_objects(picture, sample, zoom, classes, colours)
    name = Path(str(sample.get('img_path', f'sample {index}'))).name
    flip = f', flipped {sample.get("flip_direction")}' if sample.get('flip') else ''
    return made, f'{name}: {h} x {w}{flip}; {said}'


def _restored(image: torch.Tensor, preprocessor: Any) -> np.ndarray:
    """(H, W, 3) uint8 from what the network gets, (3, H, W)."""
    pixels = image.permute(1, 2, 0).numpy()
    if pixels.shape[2] != 3:
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    mean, std = KNOWN[nearest_kind(preprocessor)]
    return np.clip(pixels * np.array(std) + np.array(mean), 0, 255).round().astype(np.uint8)


def nearest_kind(preprocessor: Any) -> str:
    """The known normalisation that a data preprocessor has; ImageNet's where it has none, or another one."""
    if not getattr(preprocessor, '_enable_normalize', False):
        return 'ImageNet'
    mean, std = (getattr(preprocessor, name).flatten().cpu().numpy().astype(float) for name in ('mean', 'std'))
    own = np.concatenate([np.resize(mean, 3), np.resize(std, 3)])
    near = {kind: np.abs(np.concatenate(values) - own).max() for kind, values in KNOWN.items()}
    nearest = min(near, key=near.get)
    return nearest if near[nearest] < NEAR else 'ImageNet'


# --- objects ----------------------------------------------------------------------------------------


def _with_objects(
    picture: np.ndarray, sample: Any, zoom: float, classes: Sequence[str], colours: Sequence[tuple[int, int, int]]
) -> tuple[Image.Image, str]:
    """Boxes and masks of a detection sample."""
    truth = sample.gt_instances
    boxes, labels = _plain_boxes(truth) * zoom, truth.labels.tolist()
    order = np.argsort(-_areas(boxes))  # small ones over large ones
    if 'masks' in truth and len(truth):
        bitmaps = _bitmaps(truth.masks)
        for number in order:
            _blend(picture, bitmaps[number], colours[labels[number] % len(colours)], zoom)
    made = Image.fromarray(picture)
    draw, scale = ImageDraw.Draw(made), made.width / SHOWN
    ignored = sample.get('ignored_instances')
    if ignored is not None and 'bboxes' in ignored:
        for box in _plain_boxes(ignored) * zoom:
            draw.rectangle(_ordered(box), outline=(160, 160, 160), width=max(1, round(scale)))
    for number in order:
        colour = colours[labels[number] % len(colours)]
        draw.rectangle(_ordered(boxes[number]), outline=(0, 0, 0), width=max(3, round(4 * scale)))
        draw.rectangle(_ordered(boxes[number]), outline=colour, width=max(2, round(2 * scale)))
    taken: list[tuple[float, float, float, float]] = []
    for number in order[::-1]:
        _tag(draw, boxes[number], _name(labels[number], classes), colours[labels[number] % len(colours)], scale, taken)
    counts = Counter(_name(label, classes) for label in labels)
    said = ', '.join(f'{count} {name}' if count > 1 else name for name, count in counts.most_common())
    crowd = f', {len(ignored)} ignored' if ignored is not None and len(ignored) else ''
    return made, f'{len(labels)} object{"" if len(labels) == 1 else "s"}{": " + said if said else ""}{crowd}'


def _plain_boxes(instances: Any) -> np.ndarray:
    boxes = instances.bboxes
    boxes = boxes.tensor if hasattr(boxes, 'tensor') else boxes
    return boxes.detach().cpu().double().numpy().reshape(-1, 4)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _bitmaps(masks: Any) -> np.ndarray:
    """(n, h, w) of mmdet's masks of any kind, or of tensors."""
    return masks.to_ndarray() if hasattr(masks, 'to_ndarray') else masks.detach().cpu().numpy()


def _blend(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], zoom: float) -> None:
    """Colour the pixels of a mask, which may be smaller than the padded picture, in place."""
    size = round(mask.shape[1] * zoom), round(mask.shape[0] * zoom)
    large = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    large = large[:picture.shape[0], :picture.shape[1]].astype(bool)
    view = picture[:large.shape[0], :large.shape[1]]
    view[large] = ((1 - BLEND) * view[large] + BLEND * np.array(colour)).astype(np.uint8)
    outline, _ = cv2.findContours(large.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outline, -1, colour, max(1, round(OUTLINE * picture.shape[1] / SHOWN)))


def _ordered(box: np.ndarray) -> list[float]:
    """Corners that PIL takes: a box that lost its extent is a point."""
    x0, y0, x1, y1 = box.tolist()
    return [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]


def _tag(
    draw: ImageDraw.ImageDraw, box: np.ndarray, text: str, colour: tuple[int, int, int], scale: float,
    taken: list[tuple[float, float, float, float]],
) -> None:
    """A name at a corner of its box where no other name stands, or below those."""
    font = _font(scale)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    w, h = right - left + 6 * scale, bottom - top + 4 * scale
    width, height = draw.im.size
    places = [(box[0], box[1]), (box[0], box[1] - h), (box[2] - w, box[3] - h), (box[0], box[3] - h), (box[0], box[3]),
              (box[2] - w, box[1])]
    kept = [(min(max(x, 0), max(width - w, 0)), min(max(y, 0), max(height - h, 0))) for x, y in places]
    free = [(x, y) for x, y in kept if not any(
        x < other[2] and other[0] < x + w and y < other[3] and other[1] < y + h for other in taken)]
    x, y = (free or kept)[0]
    taken.append((x, y, x + w, y + h))
    draw.rectangle([x, y, x + w, y + h], fill=colour, outline=(0, 0, 0))
    draw.text((x + 3 * scale - left, y + 2 * scale - top), text, font=font, fill=ink(colour))


# --- labels -----------------------------------------------------------------------------------------


def _with_labels(
    picture: np.ndarray, sample: Any, classes: Sequence[str], colours: Sequence[tuple[int, int, int]]
) -> tuple[Image.Image, str]:
    """Classes of a segmentation sample, each named in its largest region; what is ignored is dark."""
    labels = sample.gt_sem_seg.data.squeeze(0).cpu().numpy().astype(np.int32)
    total = labels.size
    size = picture.shape[1], picture.shape[0]
    large = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    shares = {int(label): count / total for label, count in zip(*np.unique(labels, return_counts=True), strict=True)}
    for label in shares:
        here = large == label
        if label == IGNORED:
            picture[here] = (picture[here] * IGNORED_GREY).astype(np.uint8)
            continue
        colour = np.array(colours[label % len(colours)])
        picture[here] = ((1 - BLEND) * picture[here] + BLEND * colour).astype(np.uint8)
    made = Image.fromarray(picture)
    draw, scale = ImageDraw.Draw(made), made.width / SHOWN
    taken: list[tuple[float, float, float, float]] = []
    named = [label for label, share in sorted(shares.items(), key=lambda item: -item[1])
             if label != IGNORED and share > SMALLEST_NAMED]
    for label in named:
        x, y = _heart(large == label)
        _tag(draw, np.array([x, y, x, y], float), _name(label, classes), colours[label % len(colours)], scale, taken)
    said = ', '.join(f'{_name(label, classes)} {_part(share)}' for label, share in
                     sorted(shares.items(), key=lambda item: -item[1]) if label != IGNORED)
    ignored = f'; ignored {_part(shares[IGNORED])}' if IGNORED in shares else ''
    return made, f'{said or "no label"}{ignored}'


def _heart(region: np.ndarray) -> tuple[int, int]:
    """x, y of the pixel farthest from the border of a region."""
    padded = np.pad(region.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return int(x) - 1, int(y) - 1


# --- words ------------------------------------------------------------------------------------------


def _name(label: int, classes: Sequence[str]) -> str:
    return str(classes[label]) if 0 <= label < len(classes) else f'label {label}, no class'


def _part(share: float) -> str:
    return f'{share:.0%}' if share >= 0.005 else '< 1%'


def _font(scale: float) -> Any:
    return ImageFont.load_default(max(TEXT * scale, 4))


def _failed(text: str) -> Image.Image:
    """A grey picture with a sentence."""
    made = Image.new('RGB', (SHOWN, 3 * SHOWN // 4), (90, 90, 90))
    draw, line, lines = ImageDraw.Draw(made), '', []
    for word in text.split():
        if len(line) + len(word) > 44:
            lines, line = [*lines, line], ''
        line = f'{line} {word}'.strip()
    draw.multiline_text((12, 12), '\n'.join([*lines, line]), font=_font(1.0), fill=(255, 255, 255))
    return made
