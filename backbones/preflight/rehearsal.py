"""A rehearsal of the training: one batch of the worst case, then some steps on one real batch, all on a copy.

The worst case (worst_case.py) shows whether a step goes through, what memory it takes and how long it lasts. On one
real batch, with the same augmentation and the same random numbers in every step, the loss must fall (learning.py).
`seconds` bound all of it: on a CPU a small batch is timed first, and the images are made smaller where the step would
take too long or too much memory; what was made smaller or left out is said.
"""

from __future__ import annotations

import copy
import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.runner import Runner
from torch import nn

from backbones.findings import Finding, Outcome, finding_of

from .learning import FEWEST, STEPS, check_learning, ended
from .steps import (
    Rehearsal,
    Step,
    free_memory,
    is_out_of_memory,
    measured,
    multiple_of,
    smaller,
    unpadded,
)
from .undisturbed import bare, shortened, undisturbed
from .worst_case import WorstCase, batch_size, images_per_pass, made_up_batch, worst_case

SMALL = 400_000  # pixels of a batch that is run as it is, without a look at a smaller one: 4 of 320 x 312
PROBE = 0.125  # sides of the batch that is timed first, of those of the worst case
SCALES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, PROBE)  # sides that are tried, of those of the worst case
SHARE = 0.06  # of the time, for one step where images may be made smaller: there are up to fourteen
PARTS = ('decode_head', 'roi_head', 'rpn_head', 'bbox_head')  # of the models whose batches can be made up
MEMORY_SHARE = 0.8  # of the free memory of a host that a step may take
MEMORY_REMEDY = (
    'run `python tools/budget.py CONFIG --gpu-memory 24G`, which lists what makes it fit (docs/budget.md): '
    '--precision bf16, activation_checkpointing=True, a smaller train_dataloader.batch_size, whose total batch is kept '
    'by accumulation')


@dataclass
class _Clock:
    """What is left of the time."""

    seconds: float
    start: float

    @property
    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.start)


def check_rehearsal(runner: Runner, *, seconds: float = 60.0) -> Outcome:
    """Run steps of the training on a copy of its model; the runner stays as it is.

    Args:
        runner: built by `backbones.runner.build_runner`.
        seconds: for everything. The first step is not cut short, whatever it takes.
    """
    outcome, clock = Outcome('rehearsal'), _Clock(seconds, time.perf_counter())
    if get_world_size() > 1:
        outcome.skipped = 'it is done in one process only: run tools/preflight.py without a launcher'
        return outcome
    if not any(hasattr(bare(runner.model), part) for part in PARTS):
        outcome.skipped = f'{type(bare(runner.model)).__name__} is neither a detector of mmdet nor a segmenter of mmseg'
        return outcome
    rehearsal = None
    with undisturbed(runner):
        try:
            rehearsal = Rehearsal(runner)
            case = worst_case(runner, rehearsal.model, seconds * 0.1)
            _run_worst(outcome, rehearsal, case, clock)
            if not any(finding.severity == 'error' for finding in outcome.findings):
                check_learning(outcome, rehearsal, runner, case, clock)
        except Exception as error:  # a failing step is a finding
            outcome.findings.append(_failure(error, 'a step of the training'))
        finally:
            rehearsal = None  # gives the memory back
            if torch.cuda.is_available() and next(bare(runner.model).parameters()).is_cuda:
                torch.cuda.empty_cache()
    _summarise(outcome, runner)
    return outcome


def _failure(error: BaseException, what: str) -> Finding:
    if is_out_of_memory(error):
        return Finding('error', 'out of memory', f'{what} does not fit into memory ({shortened(error, 200)})',
                       MEMORY_REMEDY)
    if isinstance(error, ValueError):
        return finding_of(error, 'step fails')
    return Finding('error', 'step fails', f'{what} fails: {shortened(error)}',
                   'correct the config or the module that the message names')


# --- the worst case --------------------------------------------------------------------------------


def _run_worst(outcome: Outcome, rehearsal: Rehearsal, case: WorstCase, clock: _Clock) -> None:
    """One or two steps on the worst batch, smaller if need be."""
    chosen, reason, probed = case, '', None
    if rehearsal.device.type == 'cpu' and case.images * math.prod(case.size) > SMALL:
        chosen, reason, probed = _fitting(rehearsal, case, clock)
    figures = outcome.figures
    figures.update(
        device=_device_name(rehearsal.device), precision=_precision(rehearsal), images=case.images,
        size=list(case.size), objects=case.objects, used_size=list(chosen.size), worst_case=case.source)
    outcome.details += [f'worst case: {case.source}', *rehearsal.notes]
    if reason:
        outcome.details.append(reason)
    batch = made_up_batch(rehearsal.model, chosen)
    rehearsal.reset(0.0)  # noise shall not move the weights; the work is the same
    what = f'a step on {case.images} images of {chosen.size[0]} x {chosen.size[1]} with {case.objects} objects each'
    try:
        step, peak = probed, None
        if step is None:
            step, peak, _ = measured(lambda: rehearsal.step(batch), rehearsal.device)
        findings = _step_findings(step, rehearsal)
        outcome.findings += findings
        if probed is None and not findings and clock.left > (STEPS + 2) * (step.seconds + step.update):
            step, peak, _ = measured(lambda: rehearsal.step(batch, seed=1), rehearsal.device)
            outcome.findings += _step_findings(step, rehearsal)
        elif peak is not None:  # the states of the optimiser came after the peak
            peak += rehearsal.states()
    except Exception as error:
        outcome.findings.append(_failure(error, what))
        return
    _keep_costs(outcome, rehearsal, case, chosen, step, peak)


def _keep_costs(
    outcome: Outcome, rehearsal: Rehearsal, case: WorstCase, chosen: WorstCase, step: Step, peak: int | None
) -> None:
    ratio = math.prod(case.size) / math.prod(chosen.size)
    outcome.figures.update(
        scaled_by=ratio, worst_pass_seconds=step.seconds * ratio, update_seconds=step.update, losses=step.losses)
    if peak is not None and ratio == 1:
        outcome.figures['peak_bytes'] = peak - rehearsal.copied + (rehearsal.copied if rehearsal.average else 0)


def _fitting(rehearsal: Rehearsal, case: WorstCase, clock: _Clock) -> tuple[WorstCase, str, Step | None]:
    """The largest size whose step has time and memory, by what a small one takes; why it is not the full one.

    The step of the small one comes along where that is the one.
    """
    multiple = multiple_of(rehearsal.model)
    small = case.at(smaller(case.size, PROBE, multiple))
    kept = rehearsal.model.data_preprocessor
    rehearsal.model.data_preprocessor = _preprocessor(kept, small.size, multiple)
    batch = made_up_batch(rehearsal.model, small)
    rehearsal.reset(0.0)
    step, _, added = measured(lambda: rehearsal.step(batch), rehearsal.device)
    if clock.left > 20 * step.seconds:  # the first one has made memory and kernels ready
        step, _, _ = measured(lambda: rehearsal.step(batch), rehearsal.device)
    free, pixels = free_memory(), math.prod(small.size)
    for scale in SCALES:
        size = case.size if scale == 1 else smaller(case.size, scale, multiple)
        ratio = math.prod(size) / pixels
        long = ratio * (step.seconds + step.update) > min(SHARE * clock.seconds, clock.left / 2)
        large = free is not None and added is not None and ratio * added > MEMORY_SHARE * free
        if not (long or large):
            break
    if tuple(size) == tuple(case.size):
        rehearsal.model.data_preprocessor = kept
        return case, '', None
    rehearsal.model.data_preprocessor = _preprocessor(kept, size, multiple)
    full = math.prod(case.size) / pixels
    why = [f'take about {duration(full * step.seconds)}']
    if added is not None and free is not None and full * added > MEMORY_SHARE * free:
        why.append(f'need about {gigabytes(full * added)} where {gigabytes(free)} are free')
    return case.at(size), (
        f'run with images of {size[0]} x {size[1]}: a pass on {case.images} of {case.size[0]} x {case.size[1]} would '
        f'{" and ".join(why)} on this CPU'), step if tuple(size) == tuple(small.size) else None


def _preprocessor(kept: Any, size: tuple[int, int], multiple: int) -> Any:
    made = copy.deepcopy(kept)
    unpadded(made, size, multiple)
    return made


def _step_findings(step: Step, rehearsal: Rehearsal) -> list[Finding]:
    """What is wrong with the losses and gradients of a step on made-up images."""
    if step.odd_losses:
        values = ', '.join(f'{name}={step.losses[name]}' for name in step.odd_losses)
        return [Finding(
            'error', 'loss not finite', f'the loss of the first step is not finite: {values}',
            'look at this loss and what its head gives: weights, norms and loss_weight of its config', value=values,
            field=step.odd_losses[0])]
    found = [_without(place, count, rehearsal) for place, count in _places(step.without, rehearsal.model)]
    if step.odd and step.scaled <= 1:  # with a scaled loss the scale is found by overflows
        found.append(Finding(
            'error', 'gradient not finite', f'the gradients of {len(step.odd)} parameters are not finite in the first '
            f'step, the last of the model that of {step.odd[-1]}', 'look at the module of that parameter; a division '
            'by zero or the root of zero has an infinite gradient', field=step.odd[-1]))
    return found


def _places(without: tuple[str, ...], model: nn.Module) -> list[tuple[str, int]]:
    """The modules that have no gradient as a whole, or single parameters, and how many parameters each stands for."""
    lost, total = Counter(), Counter()
    for name, parameter in model.named_parameters():
        for place in _above(name) if parameter.requires_grad else ():
            total[place] += 1
            lost[place] += name in without
    whole = {place for place, count in lost.items() if count == total[place]}
    return sorted((place, lost[place]) for place in whole if not whole & set(_above(place)[:-1]))


def _above(name: str) -> list[str]:
    parts = name.split('.')
    return ['.'.join(parts[:end]) for end in range(1, len(parts) + 1)]


def _without(name: str, count: int, rehearsal: Rehearsal) -> Finding:
    allowed = rehearsal.find_unused
    what = f'{name} gets no gradient' if count == 1 else f'none of the {count} parameters of {name} gets a gradient'
    return Finding(
        'note' if allowed else 'error', 'no gradient', f'{what}: the loss does not depend on it',
        '' if allowed else 'leave the module out, freeze it (requires_grad=False, frozen_stages), or use what it '
        'computes; with several GPUs a run would stop here unless find_unused_parameters=True', field=name)


# --- words ------------------------------------------------------------------------------------------


def _device_name(device: torch.device) -> str:
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f'CPU, {threads} thread{"" if threads == 1 else "s"}'


def _precision(rehearsal: Rehearsal) -> str:
    if rehearsal.precision:
        return rehearsal.precision
    dtype = getattr(rehearsal.wrapper, 'cast_dtype', None)
    return f'autocast to {str(dtype or "float16").removeprefix("torch.")}' if hasattr(
        rehearsal.wrapper, 'cast_dtype') else 'fp32'


def duration(seconds: float) -> str:
    """In words: 0.21 s, 42 s, 3 min 10 s, 5 h 20 min, 3 d 4 h."""
    if seconds < 10:
        return f'{seconds:.2g} s'
    if seconds < 60:
        return f'{seconds:.0f} s'
    total = round(seconds)
    for large, small, size, unit in (('d', 'h', 86400, 3600), ('h', 'min', 3600, 60), ('min', 's', 60, 1)):
        if total >= size:
            rest = total % size // unit
            return f'{total // size} {large} {rest} {small}' if rest else f'{total // size} {large}'
    return f'{seconds:.0f} s'


def gigabytes(count: float) -> str:
    """Bytes in words."""
    return f'{count / 2**30:.1f} GiB' if count >= 2**30 else f'{count / 2**20:.0f} MiB'


def _summarise(outcome: Outcome, runner: Runner) -> None:
    """Epoch and total time from the steps, and the line of the page."""
    figures = outcome.figures
    worst, update = figures.get('worst_pass_seconds'), figures.get('update_seconds', 0.0)
    if worst is None:
        outcome.summary = outcome.summary or 'a step of the training did not go through'
        return
    loop = runner.train_loop
    passes = -(-batch_size(loop.dataloader) // images_per_pass(runner))
    step = passes * worst + update
    typical = passes * figures['typical_pass_seconds'] + update if figures.get('typical_pass_seconds') else None
    used = typical or step
    steps, images = runner.max_iters, len(loop.dataloader.dataset)
    epoch = used * images / batch_size(loop.dataloader)
    figures.update(
        passes=passes, worst_step_seconds=step, step_seconds=used, step_images=batch_size(loop.dataloader),
        epoch_seconds=epoch, run_seconds=used * steps, run_steps=steps)
    h, w = figures['size']
    size = f'{figures["images"]} x {h} x {w}' + (f', {figures["objects"]} objects each' if figures['objects'] else '')
    about = 'about ' if figures['scaled_by'] != 1 else ''
    learned = figures.get('learning_losses') or ()
    peak = f', peak memory {gigabytes(figures["peak_bytes"])}' if figures.get('peak_bytes') else ''
    outcome.summary = (
        f'worst batch ({size}): {about}{duration(worst)} a pass{peak}; an epoch takes {about}{duration(epoch)}, the '
        f'run {about}{duration(figures["run_seconds"])} on this machine ({figures["device"]}, {figures["precision"]})'
        + (f'; loss of one batch {learned[0]:.4g} -> {ended(learned):.4g}' if len(learned) >= FEWEST else ''))
    outcome.details.append(
        f'times are those of {"a real batch" if typical else "the worst batch"}, without loading, validation and '
        f'saving; an iteration is {passes} x {figures["images"]} image{"s" if figures["images"] > 1 else ""}')

