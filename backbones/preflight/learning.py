"""Whether the loss of one real batch falls when the model trains on nothing else.

The rule: ten steps from the weights of the start, on one batch with one augmentation, each with the same random numbers
(the same RoIs, the same dropped paths), with a tenth of the config's learning rates and without schedule, because the
full rate is meant for after the warm-up. The mean loss of the last three steps must be below that of the first. If it
is above, or not finite, ten more steps with a thousandth of the rates tell whether the rate is the cause. A fall of
less than `HARDLY` is a warning.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from mmengine.runner import Runner

from backbones.findings import Finding, Outcome

from .steps import Rehearsal, multiple_of, shrunk, smaller
from .undisturbed import collated, shortened, shuffled, training_sample
from .worst_case import WorstCase, is_segmenter

STEPS, FEWEST = 10, 4  # steps; fewer than the latter show nothing
FACTOR, SLOW = 0.1, 1e-3  # of the learning rates
HARDLY = 1e-3  # part of the loss
TRIES = 4  # samples that are looked at for each that has an object
IGNORED = 255


def check_learning(outcome: Outcome, rehearsal: Rehearsal, runner: Runner, case: WorstCase, clock: Any) -> None:
    """Take the steps that there is time for, and add findings, figures and details to `outcome`."""
    batch = _real_batch(outcome, runner, rehearsal, case.images, clock)
    if batch is None:
        return
    used = outcome.figures.get('used_size', list(case.size))
    if tuple(used) != tuple(case.size):  # a whole picture would be as slow: the batch of the worst case was, too
        batch = shrunk(batch, smaller(tuple(used), 1.0, multiple_of(rehearsal.model)))
    rehearsal.reset(FACTOR)
    losses, seconds = _losses(rehearsal, batch, STEPS, clock)
    figures = outcome.figures
    figures.update(learning_losses=losses, learning_rate=rehearsal.rate, typical_pass_seconds=None)
    if seconds and tuple(used) == tuple(case.size):
        figures['typical_pass_seconds'] = statistics.median(seconds)
    if len(losses) < FEWEST and all(map(math.isfinite, losses)):
        outcome.details.append(
            f'left out: whether the loss of one batch falls; there was time for {len(losses)} of {STEPS} steps')
        return
    said = f'{losses[0]:.4g} -> {ended(losses):.4g} in {len(losses)} steps at a learning rate of {rehearsal.rate:.3g}'
    outcome.details.append(f'loss of one real batch: {said}')
    finding = _verdict(rehearsal, batch, losses, said, clock)
    if finding is not None:
        outcome.findings.append(finding)


def _verdict(
    rehearsal: Rehearsal, batch: dict[str, Any], losses: Sequence[float], said: str, clock: Any
) -> Finding | None:
    if not math.isfinite(losses[0]):
        return Finding(
            'error', 'loss not finite', f'the loss of a real batch is {losses[0]} in the first step, with the weights '
            'of the start', 'look at the data by the sample pictures and tools/check_data.py, then at the loss of each '
            'head')
    fall = _fall(losses)
    if fall >= HARDLY:
        return None
    if fall >= 0:
        return Finding(
            'warning', 'loss hardly falls', f'on one batch alone the loss hardly falls: {said}',
            f'raise optim_wrapper.optimizer.lr (this was {FACTOR:g} of it), or look for weights that are frozen or '
            'whose learning rate is near zero (table of parameter groups)', field='optim_wrapper.optimizer.lr')
    rate = rehearsal.rate / FACTOR
    rehearsal.reset(SLOW)
    slow, _ = _losses(rehearsal, batch, STEPS, clock)
    if len(slow) >= FEWEST and _fall(slow) > 0:
        return Finding(
            'error', 'learning rate too high', f'on one batch alone the loss rises with {FACTOR:g} of the learning '
            f'rate: {said}; with {SLOW:g} of it the loss falls', 'lower optim_wrapper.optimizer.lr',
            field='optim_wrapper.optimizer.lr', value=rate)
    return Finding(
        'error', 'loss rises', f'on one batch alone the loss rises: {said}',
        'lower optim_wrapper.optimizer.lr if it is far from that of the recipe; otherwise look at what the losses are '
        'computed from: labels, and what is detached', field='optim_wrapper.optimizer.lr', value=rate)


def _fall(losses: Sequence[float]) -> float:
    """Part of the first loss that is gone; -inf where one is not finite."""
    if not all(map(math.isfinite, losses)):
        return -math.inf
    return (losses[0] - ended(losses)) / max(abs(losses[0]), 1e-12)


def ended(losses: Sequence[float]) -> float:
    """The loss at the end: the mean of the last three where there are enough."""
    return statistics.fmean(losses[-3:]) if len(losses) >= 6 else losses[-1]


def _losses(rehearsal: Rehearsal, batch: dict[str, Any], count: int, clock: Any) -> tuple[list[float], list[float]]:
    """Loss before each update, until one is not finite or time is up; and seconds of each pass but the first."""
    losses, seconds = [], []
    for number in range(count):
        step = rehearsal.step(batch)
        losses.append(step.loss)
        seconds += [step.seconds] if number else []
        if not math.isfinite(step.loss) or clock.left < step.seconds + step.update:
            break
    return losses, seconds


def _real_batch(
    outcome: Outcome, runner: Runner, rehearsal: Rehearsal, images: int, clock: Any
) -> dict[str, Any] | None:
    """A batch of training samples, those with something to learn first."""
    loader, empty, full = runner.train_loop.dataloader, [], []
    if not hasattr(loader.dataset, '__getitem__'):
        outcome.details.append('left out: whether the loss of one batch falls; the data set gives no sample by number')
        return None
    segmenter, failures = is_segmenter(rehearsal.model), 0
    for index in shuffled(len(loader.dataset))[:TRIES * images + TRIES]:
        if len(full) == images or clock.left < 0:
            break
        try:
            sample = training_sample(loader.dataset, index)
        except Exception as error:
            failures += 1
            outcome.findings.append(Finding(
                'error', 'sample fails', f'training sample {index} cannot be made: {shortened(error)}',
                'correct the file or the transform that the message names', id=index))
            if failures == TRIES:
                return None
            continue
        (full if _has_truth(sample, segmenter) else empty).append(sample)
    chosen = (full + empty)[:images]
    if not full:
        outcome.details.append(
            f'left out: whether the loss of one batch falls; none of {len(empty)} samples has an object or a label')
        return None
    while len(chosen) < images:
        chosen.append(chosen[len(chosen) % len(full)])
    return collated(loader, chosen)


def _has_truth(sample: dict[str, Any], segmenter: bool) -> bool:
    truth = sample['data_samples']
    if segmenter:
        return bool((truth.gt_sem_seg.data != IGNORED).any())
    return 'gt_instances' in truth and len(truth.gt_instances) > 0
