"""Mean, standard deviation and channel order of the images, and eps of the norms, against what the weights know."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from backbones.config import dicts_in
from backbones.findings import Finding, Outcome
from backbones.precision.compute import unwrapped
from backbones.preflight.weights import Pretrained, local_place, pretrained_parts
from backbones.weights.index import Entry, entries
from backbones.weights.layout import Layout
from backbones.weights.recognition import read_tensors, recognise_for
from backbones.weights.sources import resolve

MEAN_TOLERANCE, STD_TOLERANCE = 1.0, 0.02  # of 255, as 123.675 is written 124; a share, likewise
# An eps matters from about the variance of dead channels on; 1e-12 (Hugging Face) and 1e-6 give the same maps.
EPS_THAT_MATTERS = 2e-6


class Statistics(NamedTuple):
    """How images of 0 to 255 are normalised, in the order of the channels that the network sees.

    Attributes:
        mean: of each channel.
        std: of each channel.
        order: 'RGB' or 'BGR'.
        name: what they are known by.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    order: str
    name: str


# https://github.com/huggingface/pytorch-image-models/blob/9da7e3a/timm/data/constants.py
IMAGENET = Statistics((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 'RGB', "ImageNet's")
HALF = Statistics((127.5,) * 3, (127.5,) * 3, 'RGB', '-1 to 1')
# https://github.com/openai/CLIP/blob/0848ed7/clip/clip.py
CLIP = Statistics((122.771, 116.746, 104.094), (68.501, 66.632, 70.323), 'RGB', "CLIP's")
# https://github.com/facebookresearch/dinov3/blob/29ea5142c9d4dc92772a7b83127131c496aac260/README.md
SATELLITE = Statistics((109.65, 104.805, 75.48), (54.315, 39.78, 36.465), 'RGB', "SAT-493M's")
# https://github.com/open-mmlab/mmdetection/blob/v3.3.0/configs/_base_/models/mask-rcnn_r50-caffe-c4.py
CAFFE = Statistics((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), 'BGR', "Caffe's")

# Short name of the index, file name or layout of a checkpoint -> what its images were normalised with. Where a
# published recipe fine-tunes with others than the pre-training had, both are right.
KNOWN: tuple[tuple[str, tuple[Statistics, ...]], ...] = (
    (r'dinov3.*sat', (SATELLITE,)),
    (r'clip', (CLIP,)),
    # https://github.com/google-research/vision_transformer/blob/00883dd/vit_jax/input_pipeline.py
    (r'augreg|^google jax$', (HALF,)),
    # SigLIP: https://github.com/huggingface/pytorch-image-models/blob/v1.0.31/timm/models/vision_transformer.py
    (r'siglip', (HALF,)),
    # BEiT saw -1 to 1 (https://github.com/microsoft/unilm/blob/03380c8/beit/datasets.py), and is fine-tuned for
    # segmentation with ImageNet's: unilm/beit/semantic_segmentation/configs/_base_/datasets/ade20k_640x640.py
    (r'beitv2', (IMAGENET,)),
    (r'beit', (HALF, IMAGENET)),
    (r'caffe|/msra/|detectron2/resnet', (CAFFE,)),
    # Their transforms take ImageNet's by default, as timm's of the same names do
    (r'^(convnext|convnextv2|dinov3|dinov2|dino|deit3?|sam|vitdet)[-_ ]|mae(_|$|-| with)|^(dinov[23]|dino|sam)$'
     r'|^detectron2 vitdet$|^deit distilled$|^official|^swin_|^torchvision|^resnet|dino_deit|deit_3',
     (IMAGENET,)),
)
# eps of the norms of families whose layouts or index entries state none:
# https://github.com/facebookresearch/ConvNeXt/blob/048efce/models/convnext.py, and V2's and DINOv3's likewise;
# timm's, MAE's, DINO's, DeiT's and BEiT's plain ViT use partial(nn.LayerNorm, eps=1e-6)
DEFAULT_EPS = 1e-6


def check_inputs(runner: Runner) -> Outcome:
    """Hold the normalisation of images, and that inside of the backbone, against what the weights were trained with."""
    model = unwrapped(runner.model)
    try:
        given = given_statistics(runner.cfg)
    except (TypeError, ValueError) as error:
        return Outcome('input', 'mean and std cannot be read', [Finding(
            'error', 'normalisation', f'mean or std of the images is no list of numbers: {error}',
            'give one number for each channel', field='model.data_preprocessor')])
    parts = [part for part in pretrained_parts(model) if part.place.split('.')[0] == 'backbone']
    part = parts[0] if parts else None
    # read once, and only where the name of the file does not tell
    layout = functools.cache(lambda: _layout(part))
    known = known_statistics(part, layout) if part else ()
    outcome = Outcome('input', findings=list(statistics_findings(given, known, _name(part) if part else '')))
    outcome.summary = _told(given)
    if known:
        outcome.summary += f'; {_name(part)} was trained with {known[0].name}'
    elif part is not None and _name(part):
        outcome.summary += f'; what {_name(part)} was trained with is not known here'
    if part is not None:
        eps = _eps_of(part.part)
        outcome.findings += eps_findings(part, eps, known_eps(part, layout))
        outcome.summary += f'; eps {", ".join(f"{value:g}" for value in eps)} in the norms' if eps else ''
    outcome.figures = dict(
        mean=list(given.mean) if given else None, std=list(given.std) if given else None,
        order=given.order if given else None)
    return outcome


def _told(given: Statistics | None) -> str:
    if given is None:
        return 'images as they are, 0 to 255'
    mean, std = (', '.join(f'{value:g}' for value in values) for values in (given.mean, given.std))
    return f'{given.order}, mean {mean}, std {std}'


def _name(part: Pretrained) -> str:
    checkpoint = part.entry.get('checkpoint')
    first = checkpoint[0] if isinstance(checkpoint, list | tuple) and checkpoint else checkpoint
    return first.rpartition('/')[2] if isinstance(first, str) else ''


# --- what the config does -----------------------------------------------------------------------------------


def given_statistics(cfg: Config) -> Statistics | None:
    """What data_preprocessor, or a Normalize of the training pipeline, does to the images; None for nothing.

    LoadImageFromFile reads BGR, as cv2 does: https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/transforms/loading.py
    """
    model = cfg.get('model') or {}
    preprocessor = model.get('data_preprocessor') or {}
    steps = [step for step in dicts_in((cfg.get('train_dataloader') or {}).get('dataset'))
             if str(step.get('type')).rpartition('.')[2] == 'Normalize']
    source = preprocessor if preprocessor.get('mean') is not None else steps[0] if steps else None
    swaps = preprocessor.get('bgr_to_rgb') or preprocessor.get('rgb_to_bgr')
    if source is None or source.get('std') is None:
        return None
    if source is not preprocessor:
        swaps = bool(swaps) != bool(source.get('to_rgb', True))
    mean, std = (tuple(map(float, source[key])) for key in ('mean', 'std'))
    mean, std = (values * 3 if len(values) == 1 else values for values in (mean, std))
    if not any(mean) and set(std) == {1.0}:
        return None
    return Statistics(mean, std, 'RGB' if swaps else 'BGR', '')


def statistics_findings(
    given: Statistics | None, known: Sequence[Statistics], weights: str
) -> Iterator[Finding]:
    """Where images are normalised otherwise than the weights know.

    Args:
        given: what the config does.
        known: what the weights were trained with, the first that of the pre-training; empty where that is not known.
        weights: their name.
    """
    field = 'model.data_preprocessor'
    wanted = known[0] if known else IMAGENET
    as_written = f'mean={list(wanted.mean)}, std={list(wanted.std)}, bgr_to_rgb={wanted.order == "RGB"}'
    if given is None:
        if known:  # a transform of the user's may do it
            yield Finding('warning', 'images not normalised',
                          f'images go into the network as 0 to 255, and {weights} was trained with {wanted.name} mean '
                          'and std', f'set {field} to {as_written}', field=field)
        return
    if not all(map(math.isfinite, given.mean + given.std)) or min(given.std) <= 0:
        yield Finding('error', 'normalisation',
                      f'{field} has mean={list(given.mean)} and std={list(given.std)}: std must be above 0, and all of '
                      'them numbers', f'set {field} to {as_written}', field=field, value=list(given.std))
        return
    if len(given.mean) != 3:
        return  # images of more channels: nobody publishes weights for them
    if max(map(abs, given.mean)) <= 1 and max(given.std) <= 1:
        yield Finding('warning', 'scale of the images',
                      f'{field} has mean={list(given.mean)} and std={list(given.std)}, which are for images of 0 to 1; '
                      'here they are 0 to 255', 'multiply both by 255', field=field, value=list(given.mean))
        return
    if not known or any(_same(given, one) and given.order == one.order for one in known):
        return
    swapped = [one for one in known if _same(given, _turned(one)) or _same(given, one)]
    if swapped:
        order = 'in the other order than the image' if given.order == swapped[0].order else 'as they come'
        yield Finding(
            'warning', 'channel order',
            f'{weights} was trained on {swapped[0].order} with mean {list(swapped[0].mean)}; the network gets '
            f'{given.order} with mean {list(given.mean)} ({order})', f'set {field} to {as_written}', field=field,
            value=given.order)
        return
    yield Finding(
        'warning', 'normalisation',
        f'{weights} was trained with {wanted.name} mean {list(wanted.mean)} and std {list(wanted.std)}; the images '
        f'get mean {list(given.mean)} and std {list(given.std)}', f'set {field} to {as_written}', field=field,
        value=list(given.mean))


def _same(one: Statistics, other: Statistics) -> bool:
    """Whether the numbers agree, whatever the order is called."""
    means = all(abs(a - b) <= MEAN_TOLERANCE for a, b in zip(one.mean, other.mean, strict=True))
    return means and all(abs(a - b) <= STD_TOLERANCE * b for a, b in zip(one.std, other.std, strict=True))


def _turned(one: Statistics) -> Statistics:
    return one._replace(mean=one.mean[::-1], std=one.std[::-1])


# --- what the weights know ----------------------------------------------------------------------------------


def known_statistics(part: Pretrained, layout: Callable[[], Layout | None]) -> tuple[Statistics, ...]:
    """What a checkpoint was trained with, by its name, else by its layout; empty where that is not known."""
    for name in _names(part, layout):
        for pattern, statistics in KNOWN:
            if re.search(pattern, name):
                return statistics
    return ()


def _names(part: Pretrained, layout: Callable[[], Layout | None]) -> Iterator[str]:
    """What a checkpoint is called: short name of the index, address or file name, layout; in lower case."""
    checkpoint = part.entry.get('checkpoint')
    given = checkpoint[0] if isinstance(checkpoint, list | tuple) and checkpoint else checkpoint
    if not isinstance(given, str):
        return
    entry = _entry(part)
    if entry is not None:
        yield entry.name
        return
    address = urlsplit(given) if '://' in given else None
    if address and address.scheme not in ('http', 'https', 'hf', 'timm', 'file'):
        yield f'{address.scheme}://{address.netloc}{address.path}'.lower()  # torchvision://resnet50
    yield Path(address.path if address else given).name.lower()
    found = layout()
    if found is not None:
        yield found.name.lower()


def _entry(part: Pretrained) -> Entry | None:
    """The entry of the index that a checkpoint is."""
    try:
        title = resolve(part.entry.get('checkpoint')).title
    except ValueError:
        return None
    return entries().get(title.partition(' ')[0])


def _layout(part: Pretrained) -> Layout | None:
    """The layout of a file that is on this machine."""
    if not hasattr(part.part, 'weight_family'):
        return None
    try:
        file = local_place(resolve(part.entry.get('checkpoint')))
        if file is None or not file.is_file():
            return None
        state, wrappers = read_tensors(file)
        return recognise_for(part.part, state, wrappers, part.entry.get('prefix'), str(file)).layout
    except ValueError:
        return None  # the check of the weights says so


# --- eps ----------------------------------------------------------------------------------------------------


def _eps_of(backbone: nn.Module) -> list[float]:
    """The different eps of the layer norms of a backbone."""
    return sorted({module.eps for module in backbone.modules()
                   if isinstance(module, nn.LayerNorm) or type(module).__name__ in ('LayerNorm2d', 'LN2d')})


def known_eps(part: Pretrained, layout: Callable[[], Layout | None]) -> float | None:
    """The eps that the weights were trained with; None where that is not known."""
    entry = _entry(part)
    if entry is not None:
        return entry.arch.get('norm_eps', DEFAULT_EPS)
    found = layout()
    return found.source.get('norm_eps') if found is not None else None


def eps_findings(part: Pretrained, given: Sequence[float], known: float | None) -> Iterator[Finding]:
    """Where the norms of the backbone have another eps than the weights were trained with."""
    wrong = [eps for eps in given if known is not None and eps != known and max(eps, known) > EPS_THAT_MATTERS]
    if wrong:
        yield Finding(
            'warning', 'eps of the norms',
            f'the norms of model.{part.place} have eps={wrong[0]:g}, and {_name(part)} was trained with {known:g}',
            f'set model.{part.place}.norm_eps={known:g}', field=f'model.{part.place}.norm_eps', value=wrong[0])
