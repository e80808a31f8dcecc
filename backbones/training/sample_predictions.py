"""At each evaluation, a few pictures: ground truth beside prediction, from the validation that runs anyway."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from mmengine.structures import BaseDataElement
from mmengine.visualization import LocalVisBackend

from backbones.files import write_bytes
from backbones.registry import HOOKS
from backbones.training.sample_pictures import predicted_objects, side_by_side, true_objects
from backbones.training.tensorboard_tracker import jpeg

FOLDER = 'samples'


@HOOKS.register_module()
class SamplePredictionsHook(Hook):
    """Draw the same few pictures at each evaluation, for the trackers and as `vis_data/samples/iter_<steps>/*.jpg`.

    No picture goes through the model for it. A picture that cannot be drawn is one warning.

    Args:
        images: how many, evenly spread over the validation set (that of the first process); 0 draws none.
        keep: of how many evaluations the files stay in the work folder: the newest ones.
        score_threshold: objects below it are not drawn.
    """

    priority = 'LOW'

    def __init__(self, images: int = 4, keep: int = 20, score_threshold: float = 0.3) -> None:
        for name, value, least in (('images', images, 0), ('keep', keep, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f'SamplePredictionsHook: {name}={value!r}; give a number, {least} or more')
        if not isinstance(score_threshold, int | float) or not 0 <= score_threshold <= 1:
            raise ValueError(f'SamplePredictionsHook: score_threshold={score_threshold!r}; give a number from 0 to 1')
        self.images, self.keep, self.score_threshold = images, keep, score_threshold
        self._wanted: dict[int, list[tuple[int, int, int]]] = {}  # by batch: (place in it, number, index of data set)
        self._warned = False

    def before_val_epoch(self, runner: Runner) -> None:
        """Choose the pictures: the same each time, as validation sets are not shuffled."""
        trains = isinstance(runner._train_loop, BaseLoop)
        self._wanted = {}
        if not self.images or not is_main_process() or not trains:
            return
        try:
            self._wanted = wanted_places(runner.val_dataloader, self.images)
        except Exception as error:  # a loader of another project
            self._warn(runner, error)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                       outputs: Sequence[BaseDataElement] | None = None) -> None:
        """Draw what is wanted of this batch."""
        for place, number, index in self._wanted.get(batch_idx, ()):
            if place >= len(outputs or ()):
                continue
            try:
                self._show(runner, outputs[place], number, index)
            except Exception as error:  # drawing never ends a run
                self._warn(runner, error)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Delete the files of evaluations that are long past."""
        if not self._wanted:
            return
        try:
            evaluations = sorted(Path(runner.work_dir).glob(f'*/vis_data/{FOLDER}/iter_*'), key=lambda path: path.name)
            for folder in evaluations[:-self.keep]:
                shutil.rmtree(folder)
        except OSError as error:
            self._warn(runner, error)
        self._wanted = {}

    def _show(self, runner: Runner, sample: BaseDataElement, number: int, index: int) -> None:
        picture = drawn_sample(sample, runner.val_dataloader.dataset, index, self.score_threshold)
        stem = re.sub(r'[^\w\-.]', '_', Path(sample.img_path).stem)[:60]
        name, step = f'{number}_{stem}', runner.iter
        for backend in getattr(runner.visualizer, '_vis_backends', {}).values():
            if not isinstance(backend, LocalVisBackend):
                backend.add_image(f'{FOLDER}/{name}', picture, step=step)
        folder = Path(runner.log_dir) / 'vis_data' / FOLDER / f'iter_{step:08d}'
        write_bytes(folder / f'{name}.jpg', jpeg(picture))

    def _warn(self, runner: Runner, error: Exception) -> None:
        if not self._warned:
            text = ' '.join(str(error).split())[:200]
            runner.logger.log(
                logging.WARNING, f'sample predictions: {type(error).__name__}: {text}; the run goes on without them')
        self._warned = True


def wanted_places(loader: Any, images: int) -> dict[int, list[tuple[int, int, int]]]:
    """Which pictures of a validation are drawn: by batch, their (place in the batch, number, index in the data set)."""
    length, size = len(loader.dataset), loader.batch_sampler.batch_size
    ranks, rank = get_world_size(), get_rank()
    own = len(range(rank, length, ranks))  # MMEngine's samplers give process r the pictures r, r + ranks, ...
    found: dict[int, list[tuple[int, int, int]]] = {}
    for number, place in enumerate(dict.fromkeys(np.linspace(0, own - 1, min(images, own)).round().astype(int)), 1):
        found.setdefault(int(place) // size, []).append((int(place) % size, number, rank + int(place) * ranks))
    return found


def drawn_sample(sample: BaseDataElement, dataset: Any, index: int, threshold: float) -> np.ndarray:
    """Truth beside prediction of one picture of a validation, as an RGB picture.

    Args:
        sample: what the model predicted.
        dataset: of the validation.
        index: of the picture in it.
        threshold: of the scores.

    Raises:
        ValueError: the sample holds neither instances nor a label map.
    """
    from backbones.data.files import read_image

    info = getattr(dataset, 'metainfo', None) or {}
    truth: Any = None
    if 'pred_instances' in sample:
        found: Any = predicted_objects(sample, threshold)
        truth = true_objects(dataset, index, sample.img_path)
    elif 'pred_sem_seg' in sample:
        found = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()  # (H, W)
        if 'gt_sem_seg' in sample:
            labels = sample.gt_sem_seg.data.squeeze(0).cpu().numpy()
            truth = labels if labels.shape == found.shape else None
    else:
        raise ValueError(f'a sample of {type(sample).__name__} has neither pred_instances nor pred_sem_seg')
    classes = info.get('classes') or ()
    return side_by_side(read_image(sample.img_path), truth, found, classes, info.get('palette'))
