"""What a segmenter found, in all detail, as plain data: the part `labels` of `details.json`.

The predictions are the label PNGs that the evaluation wrote, read again beside the label maps of its data set.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.runner import Runner

from backbones.analysis.segmentation_analysis import LabelPairs, analyse_segmentation
from backbones.analysis.segmentation_files import LabelMapPairs, read_label_predictions

from .outputs import PredictionFileHook

FILE = 'predictions.zip'
MOST_IMAGES = 4000  # pictures with a row, those with the lowest mIoU; they take about 1.5 kB each
MOST_THREADS = 8
ROUNDED = 0.00501  # percent: mmseg gives two digits


class KeptLabelMaps(PredictionFileHook):
    """Write the label maps of an evaluation into its folder.

    Args:
        runner: of the evaluation.
        folder: `make_folder` is called before the first file in it is written.
        make_folder: keeps what lies there.
        out: a zip that another hook writes them to; it is copied.

    Raises:
        ValueError: the data set is of another kind.
    """

    def __init__(self, runner: Runner, folder: Path, make_folder: Callable[[], None], out: str | None = None) -> None:
        super().__init__(None if out else str(folder / FILE))
        self.folder, self._make_folder, self._out = folder, make_folder, out
        self.dataset = runner.test_loop.dataloader.dataset
        missing = [name for name in ('data_prefix', 'reduce_zero_label', 'get_data_info')
                   if not hasattr(self.dataset, name)]
        if missing:
            raise ValueError(
                f'--details reads label maps from a data set such as backbones.LabelMapDataset, and a '
                f'{type(self.dataset).__name__} has no {missing[0]}; give test_dataloader such a one')
        metrics = [one for one in runner.test_loop.evaluator.metrics if hasattr(one, 'ignore_index')]
        self.ignore_index = metrics[0].ignore_index if metrics else getattr(self.dataset, 'ignore_index', 255)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write, or copy, the zip."""
        if is_main_process():
            self._make_folder()
        super().after_test_epoch(runner, metrics)

    def pairs(self) -> LabelMapPairs:
        """Label maps with their predictions."""
        if self._out:
            shutil.copyfile(self._out, self.folder / FILE)
        return read_label_predictions(self.folder / FILE, self.dataset, ignore_index=self.ignore_index)


def analyse_labels(
    pairs: LabelPairs, *, resamplings: int = 1000, seed: int = 0,
    progress: Callable[[int, int], None] | None = None, metrics: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Score label maps in all detail.

    Args:
        pairs: label maps with their predictions.
        resamplings: of the pictures, for the intervals.
        seed: of them.
        progress: called with the number of pictures done, and of all.
        metrics: what the evaluation gave; mIoU and aAcc must be the same.

    Returns:
        What `SegmentationAnalysis.as_dict` gives, with `intervals`; of the pictures the worst `MOST_IMAGES`.

    Raises:
        ValueError: a file cannot be used, or the scores are not those of the evaluation.
    """
    threads = max(1, min(MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1))
    analysis = analyse_segmentation(pairs, threads=threads, progress=progress)
    found = analysis.as_dict()
    check_same(found['scores']['summary'], metrics or {})
    found['intervals'] = analysis.intervals(replicates=resamplings, seed=seed).as_dict()
    files = dict(zip(pairs.names, getattr(pairs, 'image_files', pairs.names), strict=True))
    images = [image.as_dict() | dict(file=str(files[image.name])) for image in analysis.worst()]
    found['images'], found['images_left_out'] = images[:MOST_IMAGES], max(0, len(images) - MOST_IMAGES)
    found['best_images'] = [image.name for image in analysis.best(20)]
    return found


def check_same(scores: Mapping[str, float], metrics: Mapping[str, float]) -> None:
    """Refuse scores that are not those of the evaluation.

    Raises:
        ValueError: naming both.
    """
    for name, value in metrics.items():
        own = scores.get(name.rsplit('/', 1)[-1])
        if own is not None and not abs(own - value) <= ROUNDED:
            raise ValueError(
                f'the label maps, read as the data set says, give {name} {own:.2f}, and the evaluation gave '
                f'{value:.2f}: the pipeline loads them otherwise; state reduce_zero_label once, in the data set')
