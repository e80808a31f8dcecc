"""Run a trained detector or segmenter on images without annotations."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement
from tqdm import tqdm

from backbones.classes_setting import apply_classes
from backbones.config import fit_to_machine, is_segmenter, load_config
from backbones.data.files import IMAGE_SUFFIXES, read_image, shown
from backbones.data.palette import make_palette
from backbones.evaluation.fast import choose_precision, make_fast
from backbones.evaluation.labels import spare_scores
from backbones.evaluation.lean import use_run_lengths
from backbones.evaluation.outputs import coco_results, label_png, save_overlay
from backbones.files import write_bytes, write_json
from backbones.preflight.model import check_classes
from backbones.runner import config_mistakes
from backbones.training.hardening import harden_reading
from backbones.weights.whole_model import load_model_checkpoint

GIB = 1024**3
LABEL_LOADERS = ('LoadAnnotations', 'LoadInstanceAnnotations', 'LoadLabelMap')
LARGEST_MASKS = 4 * GIB  # bytes of the bitmaps of one picture at its full size, one byte a pixel and object
LARGEST_LOGITS = 16 * GIB  # bytes of the class scores of one picture, four bytes a pixel and class


def predict(
    config: str | Path,
    checkpoint: str,
    images: Iterable[str | Path],
    out: str | Path,
    score_threshold: float = 0.3,
    options: dict[str, Any] | None = None,
    precision: str | None = None,
    compiled: bool = False,
) -> tuple[int, int]:
    """Predict each image and write the results into the new folder `out`.

    `overlays/NAME.png` for every image; for a detector `results.json` (COCO results) and `images.json` (which image
    id is which file, which category id is which class); for a segmenter `labels/NAME.png` and `classes.txt`.

    Args:
        config: path of the config the checkpoint was trained with.
        checkpoint: path of a checkpoint of this model.
        images: image files and folders of images.
        out: folder to write into; it must not hold results yet.
        score_threshold: objects below it (0 to 1) are not drawn; `results.json` holds all.
        options: dotted config keys to override.
        precision: 'fp32', 'bf16' or 'fp16' in place of the config's `precision`. With either of them the model is
            made fast: `backbones.evaluation.fast`.
        compiled: compile the dense parts of the model, once for every size of a picture.

    Returns:
        Number of images predicted, number of files that could not be read (each is reported on stderr).

    Raises:
        ValueError: no image found, `out` holds results, the threshold is not in 0..1, the checkpoint does not fit the
            config, the precision is unknown or not possible here, torch.compile does not work.
    """
    if not 0 <= score_threshold <= 1:
        raise ValueError(f'--score {score_threshold:g}: scores lie from 0 to 1; give a fraction, such as 0.3')
    files = find_images(images)
    out = Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(f'--out {out} exists and is not an empty folder; choose a new one')
    cfg = load_config(config, options)
    apply_classes(cfg)
    precision = choose_precision(cfg, precision, compiled)
    fit_to_machine(cfg, training=False)
    harden_reading(cfg, ('test',))
    run_lengths = use_run_lengths(cfg)
    model, classes = build_model(cfg, checkpoint)
    labels_only = is_segmenter(cfg) and spare_scores(model)
    make_fast(model, precision, compiled)
    pipeline = Compose(pipeline_without_labels(cfg.test_dataloader.dataset.pipeline))
    writer = (_SegmentationWriter if is_segmenter(cfg) else _DetectionWriter)(cfg, out, classes)
    failed = 0
    for image_id, (name, file) in enumerate(tqdm(files.items(), unit='image', disable=None), start=1):
        try:
            size = read_image(file).shape[:2]
            if not (run_lengths or labels_only):
                check_output_size(cfg, size, len(classes), file)
            data = pipeline(dict(img_path=str(file), img_id=image_id))
            if labels_only:  # there are scores of the size that the network sees
                check_output_size(cfg, data['inputs'].shape[-2:], len(classes), file)
        except (ValueError, cv2.error) as error:
            tqdm.write(f'not predicted: {_reason(error, file)}', file=sys.stderr)
            failed += 1
            continue
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([data]))[0]
        writer.add(sample, name, file, image_id)
        save_overlay(writer.visualizer, sample, out / 'overlays' / f'{name}.png', score_threshold)
    writer.close()
    return len(files) - failed, failed


def _reason(error: Exception, file: Path) -> str:
    if isinstance(error, cv2.error):
        return (
            f'the picture {shown(file)} cannot be processed by the pipeline: {" ".join(str(error).split())}. A picture '
            'of few rows or columns may have none left after Resize'
        )
    return str(error)


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
            f'picture, cut it into tiles{remedy}'
        )


def find_images(images: Iterable[str | Path]) -> dict[str, Path]:
    """List image files and the images of folders as {name without suffix: file}, names made unique.

    Raises:
        ValueError: a path does not exist, or there is no image at all.
    """
    found: list[Path] = []
    for item in map(Path, images):
        if item.is_dir():
            found += sorted(p for p in item.rglob('*') if p.suffix.lower() in IMAGE_SUFFIXES)
        elif item.is_file():
            found.append(item)
        else:
            raise ValueError(f'image {str(item)!r} does not exist')
    if not found:
        raise ValueError(f'no image in {[str(i) for i in images]}; images end in {", ".join(IMAGE_SUFFIXES)}')
    named: dict[str, Path] = {}
    for file in dict.fromkeys(found):
        name, number = file.stem, 2
        while name in named:
            name, number = f'{file.stem}-{number}', number + 1
        named[name] = file
    return named


def pipeline_without_labels(pipeline: list[dict]) -> list[dict]:
    """A test pipeline less the steps that load annotations."""
    return [step for step in pipeline if step['type'].rsplit('.', 1)[-1] not in LABEL_LOADERS]


def build_model(cfg: Config, checkpoint: str) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """Build `cfg.model`, fill it from `checkpoint`; return it ready for inference, and its class names."""
    from mmengine.registry import MODELS

    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with config_mistakes(cfg):
        model = MODELS.build(cfg.model)
    meta = load_model_checkpoint(model, checkpoint)
    classes = tuple((meta.get('dataset_meta') or {}).get('classes') or ())
    if not classes:
        raise ValueError(
            f'checkpoint {checkpoint} holds no class names (meta.dataset_meta.classes); predict with a checkpoint '
            'written by tools/train.py'
        )
    check_classes(model, classes, f'checkpoint {checkpoint}')
    model.dataset_meta = meta['dataset_meta']
    return model.to('cuda' if torch.cuda.is_available() else 'cpu').eval(), classes


class _Writer:
    """What both kinds of result share: the folder, the class names, the visualizer."""

    def __init__(self, cfg: Config, out: Path, classes: tuple[str, ...]) -> None:
        from mmengine.registry import VISUALIZERS

        self.out, self.classes, self.cfg = out, classes, cfg
        self.visualizer = VISUALIZERS.build(dict(type=cfg.visualizer.type, name=f'predict {out}'))
        self.visualizer.dataset_meta = dict(classes=classes, palette=make_palette(len(classes)))


class _DetectionWriter(_Writer):
    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.results: list[dict] = []
        self.images: list[dict] = []

    def add(self, sample: BaseDataElement, name: str, file: Path, image_id: int) -> None:
        """Keep the detections of one image."""
        height, width = sample.ori_shape
        self.images.append(dict(id=image_id, file_name=str(file), height=height, width=width))
        self.results += coco_results(sample, range(1, len(self.classes) + 1), image_id)

    def close(self) -> None:
        """Write both files."""
        categories = [dict(id=i, name=name) for i, name in enumerate(self.classes, start=1)]
        write_json(self.out / 'results.json', self.results)
        write_json(self.out / 'images.json', dict(images=self.images, categories=categories), indent=1)


class _SegmentationWriter(_Writer):
    def add(self, sample: BaseDataElement, name: str, file: Path, image_id: int) -> None:
        """Write the label map of one image; pixel value n is line n of classes.txt."""
        write_bytes(self.out / 'labels' / f'{name}.png', label_png(sample, zero_is_ignored=True))

    def close(self) -> None:
        """Write the class names."""
        write_bytes(self.out / 'classes.txt', ''.join(f'{name}\n' for name in self.classes).encode())
