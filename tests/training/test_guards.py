"""A non-finite loss or gradient: never in the weights, named in the log, the end of a run that has too many."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from guard_helpers import Line, Points, run_two_processes, train_line
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from backbones.training.exits import NON_FINITE
from backbones.training.guards import GuardedOptimWrapper
from backbones.training.inject_run import InjectHook, parse_fault
from backbones.training.non_finite import NonFiniteError, NonFiniteHook, image_files


def optimiser(kind: str, parameters: Any) -> torch.optim.Optimizer:
    """By name; the fused ones have kernels for the CPU, too."""
    kinds = {
        'AdamW': partial(torch.optim.AdamW, lr=0.1),
        'fused AdamW': partial(torch.optim.AdamW, lr=0.1, fused=True),
        'fused Adam, amsgrad': partial(torch.optim.Adam, lr=0.1, fused=True, amsgrad=True),
        'SGD': partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        'fused SGD': partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
        'RMSprop': partial(torch.optim.RMSprop, lr=0.1),
    }
    return kinds[kind](parameters)


def state_of(model: nn.Module, wrapper: OptimWrapper) -> list[Tensor]:
    """Copies of all tensors of model and optimiser."""
    states = [value for state in wrapper.optimizer.state.values() for value in state.values()]
    return [copy.deepcopy(value) for value in (*model.state_dict().values(), *states) if isinstance(value, Tensor)]


def one_step(model: Line, wrapper: OptimWrapper, spoil: str = '') -> None:
    """One training step on fixed images; `spoil` makes 'loss', 'gradient' or 'input' NaN."""
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    batch = dict(inputs=list(inputs), data_samples=list(torch.tensor([1.0, -1, 2, 0])))
    if spoil == 'input':
        batch['inputs'][0] = batch['inputs'][0] * float('nan')
    handle = None
    if spoil == 'gradient':
        handle = model.fit.weight.register_hook(lambda grad: grad * float('nan'))
    with wrapper.optim_context(model):
        loss = model(**batch, mode='loss')['loss_fit']
    wrapper.update_params(loss + float('inf') if spoil == 'loss' else loss)
    if handle:
        handle.remove()


@pytest.mark.parametrize('spoil', ['loss', 'gradient', 'input'])
@pytest.mark.parametrize(
    'kind', ['AdamW', 'fused AdamW', 'fused Adam, amsgrad', 'SGD', 'fused SGD', 'RMSprop'])
@pytest.mark.parametrize('clip', [None, dict(max_norm=1.0)])
def test_a_faulty_step_leaves_weights_statistics_and_optimiser_bit_equal(kind: str, spoil: str, clip: dict) -> None:
    model = Line(norm=True)
    wrapper = GuardedOptimWrapper(optimiser(kind, model.parameters()), clip_grad=clip, deferred=True)
    assert wrapper.deferred == ('fused' in kind)
    for _ in range(2):
        one_step(model, wrapper)
    before = state_of(model, wrapper)
    one_step(model, wrapper, spoil)
    after = state_of(model, wrapper)
    assert len(before) == len(after)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert wrapper.take_verdict().faulty
    one_step(model, wrapper)
    assert not torch.equal(model.fit.weight, before[0])


@pytest.mark.parametrize('kind', ['fused AdamW', 'fused SGD', 'SGD'])
def test_a_first_step_that_is_faulty_leaves_no_state(kind: str) -> None:
    model = Line()
    wrapper = GuardedOptimWrapper(optimiser(kind, model.parameters()), deferred=True)
    before = state_of(model, wrapper)
    one_step(model, wrapper, 'loss')
    assert all(map(torch.equal, before, state_of(model, wrapper)))
    assert not any(wrapper.optimizer.state.values())


@pytest.mark.parametrize('kind', ['AdamW', 'fused AdamW', 'fused SGD', 'SGD'])
def test_sound_steps_are_those_of_the_plain_wrapper(kind: str) -> None:
    results = []
    for make in (OptimWrapper, partial(GuardedOptimWrapper, deferred=True)):
        model = Line(norm=True)
        wrapper = make(optimiser(kind, model.parameters()), clip_grad=dict(max_norm=1.0))
        for _ in range(5):
            one_step(model, wrapper)
        results.append(state_of(model, wrapper))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize('kind', ['AdamW', 'fused AdamW'])
def test_skipped_iterations_are_as_if_they_had_not_been(kind: str, tmp_path: Path) -> None:
    # batches 3 and 6 of eight are faulty; the other run never sees them
    optim = dict(type='AdamW', lr=0.1, fused='fused' in kind or None)
    faulty = train_line(tmp_path / 'faulty', hooks=[dict(type='backbones.InjectHook', faults=['nan@3', 'nan@6'])],
                        optimizer=optim, deferred=True)
    points = Points(16)
    kept = [i for i in range(16) if i // 2 not in (2, 5)]
    points.inputs, points.targets = points.inputs[kept], points.targets[kept]
    sound = train_line(tmp_path / 'sound', optimizer=optim, points=points, max_iters=6)
    assert all(map(torch.equal, faulty.model.state_dict().values(), sound.model.state_dict().values()))


@pytest.mark.parametrize('deferred', [False, True])
def test_the_log_names_iteration_images_and_loss_term(deferred: bool, tmp_path: Path) -> None:
    train_line(
        tmp_path, hooks=[dict(type='backbones.InjectHook', faults=['nan@3'])], deferred=deferred,
        optimizer=dict(type='AdamW', lr=0.1, fused=True))
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'iteration 3: loss_fit is nan; images 4.jpg, 5.jpg; the step was left out' in log
    assert '(1 in a row, 10 would end the run)' in log
    assert '1 optimiser steps were left out' in log


def test_accumulated_passes_are_skipped_together_and_only_the_faulty_pass_is_named(tmp_path: Path) -> None:
    loop = dict(type='backbones.IterBasedTrainLoop', max_iters=4, accumulate=2)
    run = train_line(tmp_path, hooks=[dict(type='backbones.InjectHook', faults=['nan@3'])], loop=loop, batch=4)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'iteration 3: loss_fit is nan; images 8.jpg, 10.jpg;' in log
    assert run.optim_wrapper.optimizer.state[run.model.fit.weight]['step'] == 3


def test_accumulation_of_mmengine_is_skipped_as_a_whole(tmp_path: Path) -> None:
    run = train_line(
        tmp_path, hooks=[dict(type='backbones.InjectHook', faults=['nan@3'])], accumulative_counts=2)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'iteration 4: loss_fit is nan; images 4.jpg, 5.jpg, 6.jpg, 7.jpg;' in log
    assert run.optim_wrapper.optimizer.state[run.model.fit.weight]['step'] == 3


@pytest.mark.parametrize(('hook', 'iteration'), [(dict(policy='stop'), 3), (dict(patience=3), 5)])
def test_the_run_ends_with_its_code_at_the_first_fault_or_after_too_many(
    hook: dict, iteration: int, tmp_path: Path
) -> None:
    faults = [f'nan@{i}' for i in range(3, 9)]
    with pytest.raises(NonFiniteError, match=f'iteration {iteration}: loss_fit is nan') as error:
        train_line(tmp_path, hooks=[dict(type='backbones.InjectHook', faults=faults)], guard=hook)
    assert error.value.code == NON_FINITE
    assert json.loads((tmp_path / 'last_exit.json').read_text())['code'] == NON_FINITE


def test_a_sound_step_between_starts_the_count_anew(tmp_path: Path) -> None:
    faults = [f'nan@{i}' for i in (1, 2, 4, 5, 7, 8)]
    run = train_line(tmp_path, hooks=[dict(type='backbones.InjectHook', faults=faults)], guard=dict(patience=3))
    assert run.iter == 8


def test_locate_names_the_first_module_and_disturbs_nothing(tmp_path: Path) -> None:
    class Burst(Line):
        """Draws random numbers in its forward pass."""

        def forward(self, inputs: list[Tensor], data_samples: list, mode: str) -> dict[str, Tensor]:
            data_samples[0].target = data_samples[0].target + 0.1 * self.drop(torch.ones(()))
            return super().forward(inputs, data_samples, mode)

    points = Points(16)
    points.inputs[5] = torch.tensor([3e38, 3e38, 3e38])  # finite, but its products overflow
    runs = [
        train_line(tmp_path / str(locate), guard=dict(locate=locate), points=points, model=Burst(weight=2.0),
                   optimizer=dict(type='SGD', lr=1e-3))
        for locate in (False, True)]
    log = next((tmp_path / 'True').glob('*/*.log')).read_text()
    assert 'iteration 3: loss_fit is inf, first in the output of fit (Linear); images 4.jpg, 5.jpg' in log
    assert all(map(torch.equal, *(run.model.state_dict().values() for run in runs)))


def test_a_gradient_is_named_where_the_loss_is_finite(tmp_path: Path) -> None:
    model = Line()
    model.fit.bias.register_hook(lambda grad: grad / 0)
    with pytest.raises(NonFiniteError, match=r'the gradient of fit\.bias is not finite while the loss is; images 0'):
        train_line(tmp_path, guard=dict(policy='stop'), model=model)


def test_a_wrapper_without_guard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set optim_wrapper.type to 'backbones\.GuardedOptimWrapper'"):
        train_line(tmp_path, wrapper='OptimWrapper')


def test_without_the_hook_the_wrapper_says_what_it_did(tmp_path: Path) -> None:
    train_line(tmp_path, guard=None, hooks=[dict(type='backbones.InjectHook', faults=['nan@3'])])
    assert 'a step was left out' in next(tmp_path.glob('*/*.log')).read_text()


@pytest.mark.parametrize('wrong', [dict(policy='ignore'), dict(patience=0), dict(patience=True)])
def test_a_wrong_option_of_the_hook_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f'{next(iter(wrong))}='):
        NonFiniteHook(**wrong)


@pytest.fixture
def amp(monkeypatch: pytest.MonkeyPatch) -> Any:
    """GuardedAmpOptimWrapper with a GradScaler that works on the CPU."""
    from backbones.training.guards import GuardedAmpOptimWrapper

    module = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
    monkeypatch.setattr(f'{module}.is_cuda_available', lambda: True)
    monkeypatch.setattr(f'{module}.GradScaler', partial(torch.amp.GradScaler, device='cpu'))
    return GuardedAmpOptimWrapper


@pytest.mark.parametrize('kind', ['AdamW', 'fused AdamW', 'fused SGD'])
def test_under_mixed_precision_a_faulty_loss_changes_nothing_not_even_the_scale(kind: str, amp: Any) -> None:
    model = Line(norm=True)
    wrapper = amp(optimizer=optimiser(kind, model.parameters()), dtype='bfloat16', deferred=True)
    for _ in range(2):
        one_step(model, wrapper)
    before, scaler = state_of(model, wrapper), wrapper.loss_scaler.state_dict()
    one_step(model, wrapper, 'loss')
    assert all(map(torch.equal, before, state_of(model, wrapper)))
    assert wrapper.loss_scaler.state_dict() == scaler
    assert wrapper.take_verdict().faulty


def test_an_overflow_of_the_scaler_is_no_fault_until_its_scale_is_one(amp: Any) -> None:
    model = Line()
    wrapper = amp(optimizer=optimiser('AdamW', model.parameters()), loss_scale=dict(init_scale=4.0))
    before, faulty = state_of(model, wrapper), []
    for _ in range(4):  # scales 4, 2, 1, 0.5
        one_step(model, wrapper, 'gradient')
        faulty.append(wrapper.take_verdict().faulty)
    assert faulty == [False, False, True, True]
    assert all(map(torch.equal, before, state_of(model, wrapper)))


def test_a_fused_sgd_starts_soundly_after_an_overflow_in_its_first_step(amp: Any) -> None:
    model = Line()
    wrapper = amp(optimizer=optimiser('fused SGD', model.parameters()), deferred=True)
    one_step(model, wrapper, 'gradient')
    assert not any(wrapper.optimizer.state.values())


def test_one_faulty_rank_of_two_makes_both_leave_the_step_out(tmp_path: Path) -> None:
    done = run_two_processes('guards', tmp_path, 'nan@3:rank=1')
    assert done.returncode == 0, done.stderr
    weights = [torch.load(tmp_path / f'weights_{rank}.pt') for rank in (0, 1)]
    own = [name for name in weights[0] if 'running' in name]  # statistics are per process until the next step
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in set(weights[0]) - set(own))
    assert all(value.isfinite().all() for value in weights[0].values())
    assert 'iteration 3: rank 1: loss_fit is nan; images' in done.stdout + done.stderr
    assert json.loads((tmp_path / 'steps.json').read_text()) == 7


def test_the_files_of_a_batch_come_from_its_samples() -> None:
    batch = dict(inputs=[0, 0], data_samples=[SimpleNamespace(img_path='a.jpg'), SimpleNamespace()])
    assert image_files(batch) == ['a.jpg', 'image 1 of the batch']


@pytest.mark.parametrize('text', ['nan', 'nan@', 'nan@0', 'fire@3', 'nan@3:1', 'nan@-1', 'nan@x'])
def test_a_fault_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r'write KIND@ITERATION or KIND@ITERATION:rank=R'):
        parse_fault(text)


def test_faults_are_read_with_and_without_rank() -> None:
    hook = InjectHook(['hang@80', 'nan@120:rank=1'])
    assert [(fault.kind, fault.iteration, fault.rank) for fault in hook.faults] == [('hang', 80, None), ('nan', 120, 1)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('spoil', ['loss', 'gradient', ''])
def test_on_a_gpu_a_step_waits_for_nothing_and_a_faulty_one_changes_nothing(spoil: str) -> None:
    model = Line(norm=True).cuda()
    wrapper = GuardedOptimWrapper(torch.optim.AdamW(model.parameters(), lr=0.1))
    inputs = torch.randn(4, 3, device='cuda')
    factor = torch.tensor(float('nan') if spoil else 1.0, device='cuda')
    for _ in range(3):
        wrapper.optim_context(model).__enter__()
        wrapper.update_params(model.norm(model.fit(inputs)).square().mean())
    before = state_of(model, wrapper)
    if spoil == 'gradient':
        model.fit.weight.register_hook(lambda grad: grad * factor)
    torch.cuda.set_sync_debug_mode('error')
    try:
        with wrapper.optim_context(model):
            loss = model.norm(model.fit(inputs)).square().mean() * (factor if spoil == 'loss' else 1)
        wrapper.update_params(loss)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert wrapper.take_verdict().faulty == bool(spoil)
    assert all(map(torch.equal, before, state_of(model, wrapper))) == bool(spoil)
