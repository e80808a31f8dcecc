"""mIoU counted in whole numbers, of labels that are known to be in range.

mmseg's metric adds up pixels as float32 (2,000 pictures of 1,000,003 pixels become 2,000,059,520), leaves labels out of
range out in silence, and casts the labels to the type of the prediction. Here one integer histogram of all pixels by
(true class, predicted class), on the device of the prediction, takes the place of its two gathers and three histograms
of floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backbones.missing import toolbox_needed
from backbones.registry import METRICS

with toolbox_needed():
    from mmseg.evaluation import IoUMetric as MMSegIoUMetric


MOST_ROWS = 1024  # labels above are counted with care: their table would be larger than the picture


@METRICS.register_module()
class IoUMetric(MMSegIoUMetric):
    """mmseg's IoUMetric with exact counts; a label out of range is an error that names the file and the value.

    Takes the arguments of `mmseg.IoUMetric` and gives the same numbers under the same names, in percent.

    Raises:
        ValueError: a ground truth or a prediction holds a value that is neither a class nor `ignore_index`, or the two
            differ in size.
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count one batch, and write label maps where `output_dir` asks for them."""
        number = len(self.dataset_meta['classes'])
        for sample in data_samples:
            predicted = sample['pred_sem_seg']['data'].squeeze(0)  # (1, H, W) -> (H, W)
            if not self.format_only:
                file = sample.get('seg_map_path') or sample.get('img_path')
                if 'gt_sem_seg' not in sample:
                    raise ValueError(
                        f'the picture {file} comes without a label map: put backbones.LoadLabelMap into the test '
                        'pipeline, or give IoUMetric format_only=True and output_dir'
                    )
                labels = sample['gt_sem_seg']['data'].squeeze(0)
                counts = confusion(predicted, labels, number, self.ignore_index, str(file))
                self.results.append(areas(counts))
            if self.output_dir is not None:
                self._write(sample, predicted)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Score the counts of all processes; see `mmseg.IoUMetric.compute_metrics`."""
        if not self.format_only and not any(int(true.sum()) for *_, true in results):
            raise ValueError(
                f'no label map of the {len(results)} pictures holds a pixel that counts: all are ignored '
                f'(ignore_index={self.ignore_index}), and there is nothing to score; correct the label maps, '
                'reduce_zero_label, or the folder'
            )
        return super().compute_metrics(results)

    def _write(self, sample: dict, predicted: Tensor) -> None:
        from .outputs import label_bytes

        name = Path(sample['img_path']).stem
        content = label_bytes(predicted, zero_is_ignored=bool(sample.get('reduce_zero_label', False)))
        (Path(self.output_dir) / f'{name}.png').write_bytes(content)

    @staticmethod
    def total_area_to_metrics(
        total_area_intersect: Tensor, total_area_union: Tensor, total_area_pred_label: Tensor, total_area_label: Tensor,
        *args, **kwargs
    ) -> dict[str, np.ndarray]:
        """Divide in 64 bits; see mmseg's."""
        totals = (total_area_intersect, total_area_union, total_area_pred_label, total_area_label)
        return MMSegIoUMetric.total_area_to_metrics(*(total.double() for total in totals), *args, **kwargs)


def confusion(predicted: Tensor, labels: Tensor, number: int, ignore_index: int, file: str) -> Tensor:
    """Count pixels by true and predicted class.

    Args:
        predicted: (H, W), on any device.
        labels: (H, W), `ignore_index` where nothing counts.
        number: of classes.
        file: named in the messages.

    Returns:
        (number, number) int64 on the CPU: row true class, column predicted class.
    """
    if predicted.shape != labels.shape:
        raise ValueError(
            f'the label map {file} is {tuple(labels.shape)} (height, width) while its prediction is '
            f'{tuple(predicted.shape)}; load the labels after the Resize of the test pipeline'
        )
    # to whole numbers of 64 bits before anything is compared: 300 is 44 in 8 bits
    predicted = predicted.long()
    labels = labels.to(predicted.device).long()
    counts = _count(predicted, labels, number, ignore_index)
    if counts is None:  # something is out of range, or ignored and far from the classes
        counts = _count_with_care(predicted, labels, number, ignore_index, file)
    return counts.cpu()


def _count(predicted: Tensor, labels: Tensor, number: int, ignore_index: int) -> Tensor | None:
    """One pass over all pixels, with a row for each label up to the largest; None where that cannot be trusted."""
    if not labels.numel():
        return None
    ranges = torch.stack([*predicted.aminmax(), *labels.aminmax()]).tolist()  # one wait for a GPU
    rows = ranges[3] + 1
    if min(ranges[0], ranges[2]) < 0 or ranges[1] >= number or rows > max(number, MOST_ROWS):
        return None
    rows = max(rows, number)
    pairs = torch.add(predicted, labels, alpha=number).reshape(-1)
    counts = torch.bincount(pairs, minlength=rows * number).reshape(rows, number)
    strange = counts[number:].sum()  # labels that are no class; those to be ignored are
    if 0 <= ignore_index < number:
        counts[ignore_index] = 0
    elif ignore_index < rows:
        strange -= counts[ignore_index].sum()
    return None if rows > number and bool(strange) else counts[:number]


def _count_with_care(predicted: Tensor, labels: Tensor, number: int, ignore_index: int, file: str) -> Tensor:
    """The same of the pixels that count only, after a look at their values."""
    counted = labels != ignore_index
    true, found = labels[counted], predicted[counted]
    for values, what in ((true, f'the label map {file}'), (found, f'the prediction for {file}')):
        wrong = (values < 0) | (values >= number)
        if bool(wrong.any()):
            some = ', '.join(map(str, values[wrong].unique()[:5].tolist()))
            raise ValueError(
                f'{what} holds the value {some} in {int(wrong.sum())} pixels, but 0 to {number - 1} are the classes '
                f'and {ignore_index} is ignored; correct the file, reduce_zero_label, or the list of classes'
            )
    return torch.bincount(true * number + found, minlength=number * number).reshape(number, number)


def areas(counts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Intersection, union, prediction and label area (number,) int64 of each class, as mmseg's metric keeps them."""
    both, found, true = counts.diagonal().clone(), counts.sum(0), counts.sum(1)
    return both, found + true - both, found, true
