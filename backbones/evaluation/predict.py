"""Run a trained detector or segmenter on images without annotations."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.logging import print_log
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.structures import BaseDataElement
from tqdm import tqdm

from backbones.checkpoints import is_checkpoint
from backbones.classes_setting import ANNOTATIONS, apply_classes
from backbones.config import fit_to_machine, is_segmenter, load_config
from backbones.data.files import read_image, shown
from backbones.evaluation.batches import Batches
from backbones.evaluation.checkpoint_config import (
    classes_of_checkpoint,
    config_of_checkpoint,
    find_checkpoint,
    holds_checkpoint,
)
from backbones.evaluation.fast import choose_precision, make_fast
from backbones.evaluation.inputs import Picture, count_pictures, find_images, pictures
from backbones.evaluation.labels import spare_scores
from backbones.evaluation.lean import use_run_lengths
from backbones.evaluation.predict_files import Folder, open_out
from backbones.evaluation.tiles import Tiles, as_dict, dataset_of, remark, scales_as_tuples, slide, tiled_pipeline
from backbones.preflight.model import check_classes
from backbones.registry import SCOPE
from backbones.runner import config_mistakes
from backbones.segmentation.sliding import bytes_held
from backbones.training.hardening import harden_reading
from backbones.weights.whole_model import load_model_checkpoint

__all__ = ['Ready', 'build_model', 'check_output_size', 'find_images', 'make_ready', 'predict', 'trained_config']

GIB = 1024**3
LABEL_LOADERS = ('LoadAnnotations', 'LoadInstanceAnnotations', 'LoadLabelMap')
LARGEST_MASKS = 4 * GIB  # bytes of the bitmaps of one picture at its full size, one byte a pixel and object
LARGEST_LOGITS = 16 * GIB  # bytes of the class scores of one picture, four bytes a pixel and class


@dataclass
class Ready:
    """A model with its weights, and the steps before it.

    Attributes:
        steps: of the test pipeline, without those that load annotations.
        bitmaps: whether its masks are bitmaps, or it keeps class scores of the picture's size.
        labels_only: a segmenter that gives no scores.
    """

    cfg: Config
    model: Any
    classes: tuple[str, ...]
    steps: list[dict]
    pipeline: Callable[[dict], dict]
    bitmaps: bool
    labels_only: bool

    def data(self, given: dict, file: Path, pipeline: Callable[[dict], dict] | None = None) -> dict:
        """Bring one picture through the pipeline; a picture that cannot be is a ValueError of one sentence."""
        try:
            if self.steps[0].get('type') != f'{SCOPE}.LoadImageFromFile' and pipeline is None:
                read_image(file)  # other loaders check less
            data = (pipeline or self.pipeline)(given)
        except cv2.error as error:
            raise ValueError(
                f'the picture {shown(file)} cannot be processed by the pipeline: {" ".join(str(error).split())}. A '
                'picture of few rows or columns may have none left after Resize'
            ) from error
        if data is None:
            raise ValueError(f'the picture {shown(file)} cannot be processed by the pipeline: it gives nothing')
        if self.bitmaps:
            check_output_size(self.cfg, self._seen(data), len(self.classes), file)
        if self.labels_only and not self.slides(data['inputs'].shape[-2:]):  # scores of the size that the network sees
            check_output_size(self.cfg, data['inputs'].shape[-2:], len(self.classes), file)
        return data

    def _seen(self, data: dict) -> tuple[int, int]:
        """Height and width of the largest view of a picture, in its own pixels."""
        tiles = getattr(self.model, 'tiles', None)
        size = data['data_samples'].ori_shape[:2]
        return size if data.get('picture') is None or tiles.whole else (tiles.height, tiles.width)

    def slides(self, size: tuple[int, int]) -> bool:
        """Whether the labels of a picture of `size` (H, W) are made window by window, within bounds."""
        test_cfg = self.cfg.model.get('test_cfg') or {}
        if test_cfg.get('mode') != 'slide' or 'predict' not in vars(self.model):
            return False
        return bytes_held(len(self.classes), size, test_cfg['crop_size'], test_cfg['stride']) <= LARGEST_MASKS

    def run(self, batch: list[dict]) -> list[BaseDataElement]:
        """Predict pictures of one size together."""
        try:
            with torch.no_grad():
                if is_segmenter(self.cfg):
                    self.model.test_cfg = self.cfg.model.get('test_cfg')  # windows, where tiles were asked for
                return self.model.test_step(pseudo_collate(batch))
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f'the memory of the GPU is too small for {len(batch)} pictures of '
                f'{tuple(batch[0]["inputs"].shape[-2:])} pixels at once; lower the batch (--batch, batch_size), or '
                'take the CPU'
            ) from error


def predict(
    config: str | Path | None,
    checkpoint: str | Path,
    images: Iterable[str | Path],
    out: str | Path,
    score_threshold: float = 0.3,
    options: dict[str, Any] | None = None,
    precision: str | None = None,
    compiled: bool = False,
    *,
    every: int = 1,
    batch: int = 1,
    resume: bool = False,
    tiles: Tiles | None = None,
) -> tuple[int, int]:
    """Predict each image and write the results into the folder `out`.

    `overlays/NAME.png` for every image; for a detector `results.json` (COCO results) and `images.json` (which image
    id is which file, which category id is which class); for a segmenter `labels/NAME.png` and `classes.txt`;
    `progress.jsonl`: which picture is done.

    Args:
        config: path of the config the checkpoint was trained with; None: the one that the checkpoint holds.
        checkpoint: path of a checkpoint of this model, or the work folder of a run.
        images: image files, videos, folders of them, and patterns.
        out: folder to write into; it must not hold results yet.
        score_threshold: objects below it (0 to 1) are not drawn; `results.json` holds all.
        options: dotted config keys to override.
        precision: 'fp32', 'bf16' or 'fp16' in place of the config's `precision`. With either of them the model is
            made fast: `backbones.evaluation.fast`.
        compiled: compile the dense parts of the model, once for every size of a picture.
        every: of a video, each `every`-th frame.
        batch: so many pictures of one size go through the model together, at most.
        resume: go on in `out`: pictures that are done there are left as they are.
        tiles: larger pictures are looked at in tiles, `batch` at once; a segmenter slides its window.

    Returns:
        Number of images predicted (now or before), number of files that could not be read (each is reported on stderr).

    Raises:
        ValueError: no image found, `out` holds results, the threshold is not in 0..1, the checkpoint does not fit the
            config, the precision is unknown or not possible here, torch.compile does not work.
    """
    if not 0 <= score_threshold <= 1:
        raise ValueError(f'--score {score_threshold:g}: scores lie from 0 to 1; give a fraction, such as 0.3')
    for option, value in (('--every', every), ('--batch', batch)):
        if value < 1:
            raise ValueError(f'{option} {value}: give a number from 1')
    images, out = list(images), Path(out)
    _check_order(checkpoint, images)
    find_images(images)
    lines = open_out(out, resume)
    checkpoint = find_checkpoint(checkpoint)
    cfg, _ = trained_config(config, checkpoint, options)
    ready = make_ready(cfg, lambda cfg: build_model(cfg, checkpoint), precision, compiled)
    ready = in_tiles(ready, tiles, batch) if tiles else ready
    if tiles and (text := remark(tiles, is_segmenter(cfg))):
        print_log(text, 'current')
    made_by = dict(checkpoint=_identity(checkpoint), model=_digest(ready.cfg), classes=list(ready.classes),
                   precision=precision, score=score_threshold)
    folder = Folder(out, cfg, ready.classes, made_by, lines, score_threshold)
    files = find_images(images, folder.names())
    return _Run(ready, folder, batch).over(files, every)


def _check_order(checkpoint: str | Path, images: list[str | Path]) -> None:
    """Refuse pictures in the place of the checkpoint, and a checkpoint among the pictures."""
    if Path(checkpoint).exists() and not holds_checkpoint(checkpoint):
        other = next((image for image in images if holds_checkpoint(image)), None)
        if other is not None:
            raise ValueError(f'{checkpoint} holds no checkpoint, and {other}, among the images, does: are they '
                             'swapped? Give the checkpoint first: [CONFIG] CHECKPOINT IMAGES')


class _Run:
    """Pictures through a model into a folder."""

    def __init__(self, ready: Ready, folder: Folder, batch: int) -> None:
        self.ready, self.folder, self.failed, self.done = ready, folder, 0, 0
        self._batches: Batches[tuple[Picture, int, dict]] = Batches(batch)

    def over(self, files: dict[str, Path], every: int) -> tuple[int, int]:
        """Predict all; return how many are done, and how many cannot be."""
        total = count_pictures(files.values(), every)
        with tempfile.TemporaryDirectory(prefix='frames-') as frames, tqdm(
                total=total, unit='image', disable=None) as bar:
            for place, picture in enumerate(pictures(files, every, self.folder.has, Path(frames)), start=1):
                for finished in self._take(picture, place):
                    bar.update(finished)
            for group in self._batches.rest():
                bar.update(self._predict(group))
        self.folder.close()
        return self.done, self.failed

    def _take(self, picture: Picture, place: int) -> Iterator[int]:
        """Bring a picture to its batch, run the batches that are full; give numbers of pictures dealt with."""
        if picture.path is None and picture.error is None:
            self.done += 1
            yield 1
            return
        number = self.folder.id_of(picture, place)
        try:
            if picture.error:
                raise ValueError(picture.error)
            data = self.ready.data(dict(img_path=str(picture.path), img_id=number), picture.path)
        except ValueError as error:
            text = str(error).replace(str(picture.path), picture.title) if picture.frame is not None else str(error)
            tqdm.write(f'not predicted: {text}', file=sys.stderr)
            picture.forget()
            self.failed += 1
            yield 1
            return
        if data.get('picture') is not None:  # its tiles are the batches
            yield self._predict([(picture, number, data)])
            return
        kind = tuple(data['inputs'].shape), tuple(data['data_samples'].ori_shape)
        for group in self._batches.add(kind, (picture, number, data)):
            yield self._predict(group)

    def _predict(self, group: list[tuple[Picture, int, dict]]) -> int:
        samples = self.ready.run([data for _, _, data in group])
        for (picture, number, _), sample in zip(group, samples, strict=True):
            self.folder.add(sample, picture, number)
            picture.forget()
        self.done += len(group)
        return len(group)


def _identity(checkpoint: str | Path) -> str:
    """A hash of the content of a checkpoint, or its name where it is no local one."""
    path = Path(checkpoint)
    path = path / 'manifest.json' if is_checkpoint(path) else path  # holds the hashes of all its files
    if not path.is_file():
        return str(checkpoint)
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _digest(cfg: Config) -> str:
    """A hash of what a prediction depends on in a config."""
    used = [cfg.model, cfg.test_dataloader.dataset.pipeline]
    return hashlib.sha256(json.dumps(used, sort_keys=True, default=str).encode()).hexdigest()


def trained_config(
    config: str | Path | None, checkpoint: str | Path, options: dict[str, Any] | None = None
) -> tuple[Config, Config]:
    """The config to build a model from, and the whole one, to be looked at: from its file, or from the checkpoint.

    Raises:
        ValueError: there is none, or it is not safe to be built.
    """
    if config is None:
        cfg, whole = config_of_checkpoint(checkpoint)
        try:
            cfg.merge_from_dict(options or {})
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f'--cfg-options {options} do not fit the config in {checkpoint}: {error}') from error
        return cfg, whole
    cfg = load_config(config, options)
    if cfg.get('classes') == ANNOTATIONS:  # the data need not be here
        cfg.classes = list(classes_of_checkpoint(checkpoint)) or ANNOTATIONS
    apply_classes(cfg)
    return cfg, cfg


def make_ready(
    cfg: Config, build: Callable[[Config], tuple[Any, tuple[str, ...]]], precision: str | None, compiled: bool = False
) -> Ready:
    """Prepare a composed config, build the model by `build`, make it fast if a precision is stated.

    Raises:
        ValueError: as for `predict`.
    """
    precision = choose_precision(cfg, precision, compiled)
    fit_to_machine(cfg, training=False)
    harden_reading(cfg, ('test',))
    scales_as_tuples(cfg)
    run_lengths = use_run_lengths(cfg)
    model, classes = build(cfg)
    labels_only = is_segmenter(cfg) and spare_scores(model)
    make_fast(model, precision, compiled)
    steps = pipeline_without_labels(cfg.test_dataloader.dataset.pipeline)
    with config_mistakes(cfg):
        pipeline = Compose(steps)
    return Ready(cfg, model, classes, steps, pipeline, not (run_lengths or labels_only), labels_only)


def in_tiles(ready: Ready, tiles: Tiles, batch: int = 1) -> Ready:
    """The same model, looking at larger pictures in tiles, `batch` at once; a segmenter slides its window.

    Raises:
        ValueError: its pipeline cannot be cut.
    """
    cfg = copy.deepcopy(ready.cfg)
    if is_segmenter(cfg):
        slide(cfg, tiles)
        return replace(ready, cfg=cfg)
    from backbones.evaluation.tiles_model import TiledDetector

    dataset = dataset_of(cfg)
    dataset.pipeline, steps = tiled_pipeline(ready.steps, tiles)
    with config_mistakes(cfg), DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
        model = TiledDetector(ready.model, as_dict(tiles), steps, batch).eval()
        return replace(ready, cfg=cfg, model=model, steps=dataset.pipeline, pipeline=Compose(dataset.pipeline))


def check_output_size(cfg: Config, size: tuple[int, int], classes: int, file: Path) -> None:
    """Raise where what a model may predict for a picture of `size` (H, W) takes more memory than one picture should.

    That is a bitmap for each object, unless they are run lengths, or a score for each pixel and class.
    """
    height, width = size
    test_cfg = cfg.model.get('test_cfg') or {}
    if is_segmenter(cfg):
        count, each, largest, things = classes, 4, LARGEST_LOGITS, 'classes'
        remedy = ''
    elif (cfg.model.get('roi_head') or {}).get('mask_head'):
        count = (test_cfg.get('rcnn') or {}).get('max_per_img', 100)
        each, largest, things = 1, LARGEST_MASKS, 'objects'
        remedy = ', or lower model.test_cfg.rcnn.max_per_img'
    else:
        return
    if count * each * height * width > largest:
        raise ValueError(
            f'the picture {shown(file)} is {width}x{height} pixels, for which up to {count} {things} take '
            f'{count * each * height * width / GIB:.1f} GiB; at most {largest / GIB:.0f} are allowed: reduce the '
            f'picture, look at it in tiles (--tile 1024, for a detector with --no-tile-whole){remedy}'
        )


def pipeline_without_labels(pipeline: list[dict]) -> list[dict]:
    """A test pipeline less the steps that load annotations."""
    return [step for step in pipeline if step['type'].rsplit('.', 1)[-1] not in LABEL_LOADERS]


def build_model(
    cfg: Config, checkpoint: str | Path, device: torch.device | None = None
) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """Build `cfg.model`, fill it from `checkpoint`; return it ready for inference, and its class names."""
    from mmengine.registry import MODELS

    init_default_scope(cfg.get('default_scope', 'mmengine'))
    try:
        with config_mistakes(cfg):
            model = MODELS.build(cfg.model)
    except (AttributeError, IndexError, ArithmeticError, MemoryError, RuntimeError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise ValueError(f'config {cfg.filename} cannot be built: {type(error).__name__}: {reason}') from error
    meta = load_model_checkpoint(model, checkpoint)
    classes = tuple((meta.get('dataset_meta') or {}).get('classes') or ())
    if not classes:
        raise ValueError(
            f'checkpoint {checkpoint} holds no class names (meta.dataset_meta.classes); predict with a checkpoint '
            'written by tools/train.py'
        )
    check_classes(model, classes, f'checkpoint {checkpoint}')
    model.dataset_meta = meta['dataset_meta']
    device = device or torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    return model.to(device).eval(), classes
