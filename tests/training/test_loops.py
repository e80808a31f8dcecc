"""The loops that accumulate: one iteration is one optimiser step on all images of the batch."""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from backbones.training.hooks import NothingLeftHook
from backbones.training.loops import IterBasedTrainLoop, split_batch


class Points(Dataset):
    """Inputs (3,) with a target each."""

    def __init__(self, count: int) -> None:
        numbers = torch.Generator().manual_seed(1)
        self.inputs, self.targets = torch.randn(count, 3, generator=numbers), torch.randn(count, generator=numbers)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return dict(inputs=self.inputs[index], data_samples=self.targets[index])


class Line(BaseModel):
    """A linear model; remembers how many images it saw at a time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fit = nn.Linear(3, 1)
        self.seen: list[int] = []

    def forward(self, inputs: list[Tensor], data_samples: list[Tensor], mode: str) -> dict[str, Tensor]:
        self.seen.append(len(inputs))
        return dict(loss_fit=(self.fit(torch.stack(inputs))[:, 0] - torch.stack(data_samples)).square().mean())


class Record(Hook):
    """What the hooks of a run see."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.sizes: list[int] = []
        self.rates: list[float] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Keep loss, images and learning rate of one iteration."""
        self.losses.append(float(outputs['loss']))
        self.sizes.append(len(data_batch['inputs']))
        self.rates.append(runner.optim_wrapper.get_lr()['lr'][0])


def train(folder: Path, loop: dict, *, batch: int, images: int = 8, clip: float | None = None, **more: Any) -> Runner:
    """Train a line by SGD, images in order; `runner.record` is the hook."""
    sampler = dict(type='DefaultSampler', shuffle=False)
    runner = Runner(
        Line(), str(folder), train_cfg=loop,
        train_dataloader=dict(dataset=Points(images), batch_size=batch, sampler=sampler),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9), clip_grad=clip and dict(max_norm=clip)),
        param_scheduler=dict(type='StepLR', by_epoch=True, step_size=1, gamma=0.5),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', **more.pop('checkpoint', {}))),
        experiment_name=f'{folder.parent.name}_{folder.name}', log_level='WARNING', **more)
    runner.record = Record()
    runner.register_hook(runner.record)
    runner.register_hook(NothingLeftHook())
    runner.train()
    return runner


def epochs(count: int, accumulate: int) -> dict:
    """A train_cfg."""
    return dict(type='backbones.EpochBasedTrainLoop', max_epochs=count, accumulate=accumulate)


def weights(runner: Runner) -> Tensor:
    """All parameters in a row."""
    return torch.cat([value.detach().flatten() for value in runner.model.parameters()])


@pytest.mark.parametrize('clip', [None, 0.05])
def test_two_chunks_of_two_images_train_as_one_batch_of_four(tmp_path: Path, clip: float | None) -> None:
    whole = train(tmp_path / 'whole', dict(by_epoch=True, max_epochs=3), batch=4, clip=clip)
    parts = train(tmp_path / 'parts', epochs(3, 2), batch=4, clip=clip)
    assert set(whole.model.seen) == {4} and set(parts.model.seen) == {2}
    torch.testing.assert_close(weights(parts), weights(whole), atol=1e-6, rtol=1e-6)
    assert parts.record.losses == pytest.approx(whole.record.losses, abs=1e-6)


def test_one_chunk_is_exactly_mmengines_loop(tmp_path: Path) -> None:
    plain = train(tmp_path / 'plain', dict(by_epoch=True, max_epochs=2), batch=3)
    ours = train(tmp_path / 'ours', epochs(2, 1), batch=3)
    assert weights(ours).equal(weights(plain)) and ours.record.losses == plain.record.losses


def test_the_last_smaller_batch_is_the_mean_of_its_own_chunks(tmp_path: Path) -> None:
    runner = train(tmp_path / 'run', epochs(1, 4), batch=8, images=11)
    assert runner.model.seen == [2, 2, 2, 2, 2, 1] and runner.record.sizes == [8, 3]
    by_hand, points = Line(), Points(11)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9)
    for chunks in ([[0, 4], [1, 5], [2, 6], [3, 7]], [[8, 10], [9]]):
        optimizer.zero_grad()
        means = [(by_hand.fit(points.inputs[chunk])[:, 0] - points.targets[chunk]).square().mean() for chunk in chunks]
        torch.stack(means).mean().backward()
        optimizer.step()
    torch.testing.assert_close(
        weights(runner), torch.cat([value.detach().flatten() for value in by_hand.parameters()]))


def test_chunks_of_unequal_size_count_alike(tmp_path: Path) -> None:
    runner = train(tmp_path / 'run', epochs(1, 2), batch=4, images=3)
    by_hand, points = Line(), Points(3)
    parts = [(by_hand.fit(points.inputs[k::2])[:, 0] - points.targets[k::2]).square().mean() for k in range(2)]
    assert runner.record.losses == pytest.approx([float(sum(parts)) / 2], abs=1e-6)


def test_iterations_epochs_and_schedules_count_optimiser_steps(tmp_path: Path) -> None:
    runner = train(tmp_path / 'run', epochs(3, 2), batch=4)
    assert (runner.iter, runner.max_iters, runner.epoch) == (6, 6, 3)
    assert runner.record.rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])
    assert len(runner.model.seen) == 12
    assert (tmp_path / 'run' / 'epoch_3.pth').is_file()


def test_an_average_of_weights_is_updated_once_per_step(tmp_path: Path) -> None:
    average = dict(type='EMAHook', ema_type='ExponentialMovingAverage')
    runner = train(tmp_path / 'run', epochs(2, 2), batch=4, custom_hooks=[average])
    ema = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    assert int(ema.ema_model.steps) == 4


def iterations(count: int, **more: Any) -> dict:
    """A train_cfg."""
    return dict(type='backbones.IterBasedTrainLoop', max_iters=count, accumulate=2, **more)


def test_a_resumed_run_goes_on_at_the_right_step_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    # 20 images, so that 5 steps of 4 end before the loop waits two seconds for new data-loader workers
    by_iter = dict(checkpoint=dict(by_epoch=False, interval=3), images=20, batch=4)
    whole = train(tmp_path / 'whole', iterations(5), **by_iter)
    train(tmp_path / 'first', iterations(3), **by_iter)
    second = train(
        tmp_path / 'second', iterations(5), resume=True, load_from=str(tmp_path / 'first' / 'iter_3.pth'), **by_iter)
    assert second.iter == 5 and len(second.record.losses) == 2 and second.model.seen == [2] * 4
    assert second.record.losses == whole.record.losses[3:]
    assert weights(second).equal(weights(whole))


def test_a_resumed_run_of_epochs_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = train(tmp_path / 'whole', epochs(3, 2), batch=4, images=7, checkpoint=dict(interval=1))
    resume = dict(resume=True, load_from=str(tmp_path / 'whole' / 'epoch_1.pth'))
    rest = train(tmp_path / 'rest', epochs(3, 2), batch=4, images=7, **resume)
    assert rest.iter == whole.iter == 6 and len(rest.record.losses) == 4
    assert weights(rest).equal(weights(whole))


def test_resuming_logs_no_warning_about_lost_gradients(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train(tmp_path / 'a', epochs(1, 2), batch=8, checkpoint=dict(interval=1))  # 1 iteration, no multiple of 2
    train(tmp_path / 'b', epochs(2, 2), batch=8, resume=True, load_from=str(tmp_path / 'a' / 'epoch_1.pth'))
    said = capsys.readouterr()
    assert 'gradient of some iterations is lost' not in said.out + said.err


def test_a_parallel_model_communicates_once_per_step() -> None:
    # Wrapper counting as DDP would see it: should_sync is what OptimWrapper asks before it enters no_sync
    loop, seen = object.__new__(IterBasedTrainLoop), []

    class Model(nn.Linear):
        def train_step(self, chunk: dict, optim_wrapper: OptimWrapper) -> dict:
            seen.append(optim_wrapper.should_sync())
            optim_wrapper.update_params(self(torch.stack(chunk['inputs'])).mean())
            return {}

    model = Model(3, 1)
    loop.accumulate, loop.images_per_pass = 3, 2
    optim_wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 0.1))
    loop._runner = SimpleNamespace(model=model, optim_wrapper=optim_wrapper)
    for images in (6, 4):
        loop.train_step(dict(inputs=list(torch.ones(images, 3))))
    assert seen == [False, False, True, False, True]


@pytest.mark.parametrize(
    ('batch', 'sentence'),
    [
        (torch.zeros(4, 3), r'a batch of \(batch: Tensor\) cannot be split'),
        (dict(inputs=torch.zeros(4, 3), data_samples=[1, 2, 3, 4]), 'inputs: Tensor, data_samples: list'),
        (dict(inputs=[[1, 2], [3, 4]]), 'one entry per image'),
        (dict(weak=dict(inputs=[1, 2])), 'pseudo_collate'),
        ({}, 'cannot be split'),
        (dict(inputs=[1, 2], data_samples=[1]), "lengths are {'inputs': 2, 'data_samples': 1}"),
        (dict(inputs=[], data_samples=[]), 'one entry per image'),
    ],
    ids=['tensor', 'stacked', 'views', 'branches', 'empty', 'lengths', 'no images'],
)
def test_what_is_no_list_of_images_is_refused(batch: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        split_batch(batch, 2)


@pytest.mark.parametrize('images', range(1, 10))
@pytest.mark.parametrize('per_pass', [1, 2, 3, 4])
def test_a_split_keeps_every_image_once_in_as_few_chunks_as_possible(images: int, per_pass: int) -> None:
    chunks = [chunk['inputs'] for chunk in split_batch(dict(inputs=list(range(images))), per_pass)]
    assert sorted(chain.from_iterable(chunks)) == list(range(images))
    assert len(chunks) == math.ceil(images / per_pass)
    assert {len(chunk) for chunk in chunks} <= {images // len(chunks), math.ceil(images / len(chunks))}


def test_several_optimisers_are_refused_before_the_first_step(tmp_path: Path) -> None:
    runner = train(tmp_path / 'run', epochs(1, 2), batch=4)
    runner.optim_wrapper = OptimWrapperDict(fit=runner.optim_wrapper)
    with pytest.raises(ValueError, match='OptimWrapperDict: gradients can be accumulated for one optimiser only'):
        runner.train_loop.run()


@pytest.mark.parametrize('accumulate', [0, -1, 2.0, True, '2'])
def test_a_number_of_passes_that_is_none_is_refused(tmp_path: Path, accumulate: Any) -> None:
    with pytest.raises(ValueError, match='passes per optimiser step'):
        train(tmp_path / 'run', epochs(1, accumulate), batch=4)
