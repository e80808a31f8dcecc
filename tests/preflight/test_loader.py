"""The data loader alone against the model's step: who waits for whom, and what takes the time."""

from __future__ import annotations

import copy
import multiprocessing
import time

import pytest
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner
from rehearsal_helpers import SEGMENTER, built, differences, kinds, make_data, state

from backbones.findings import Finding, Outcome
from backbones.preflight import loader as module
from backbones.preflight.loader import check_loader

DAWDLE = 0.01  # seconds


@TRANSFORMS.register_module()
class Dawdle(BaseTransform):
    """Takes its time."""

    def transform(self, results: dict) -> dict:
        end = time.perf_counter() + DAWDLE
        while time.perf_counter() < end:
            pass
        return results


@pytest.fixture(scope='module')
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A segmenter whose pipeline dawdles."""
    folder = tmp_path_factory.mktemp('loader')
    pipeline = [dict(type='backbones.LoadImageFromFile'), dict(type='backbones.LoadLabelMap'), dict(type='Dawdle'),
                dict(type='PackSegInputs')]
    return built(SEGMENTER, make_data(folder), folder, {'train_dataloader.dataset.pipeline': pipeline})


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, 'MANY', 3)
    monkeypatch.setattr(module, 'LONG', 0.0)


def checked(runner: Runner, step_seconds: float | None = None) -> Outcome:
    return check_loader(runner, step_seconds, seconds=1.0)


def test_the_loader_is_measured_and_the_runner_stays_as_it_was(runner: Runner) -> None:
    before = copy.deepcopy(state(runner))
    outcome = checked(runner)
    assert outcome.findings == [] and 0 < outcome.figures['images_per_second'] < 1 / DAWDLE
    assert differences(before, state(runner)) == []


def test_the_slowest_transform_is_found(runner: Runner) -> None:
    shares = checked(runner).figures['transforms']
    assert max(shares, key=shares.get) == 'Dawdle' and shares['Dawdle'] >= DAWDLE
    assert list(shares) == ['LoadImageFromFile', 'LoadLabelMap', 'Dawdle', 'PackSegInputs']


def test_a_slow_model_does_not_wait(runner: Runner) -> None:
    assert checked(runner, step_seconds=1000.0).findings == []


def test_without_workers_a_fast_model_waits(runner: Runner) -> None:
    outcome = checked(runner, step_seconds=0.001)
    (finding,) = outcome.findings
    assert kinds(outcome) == [('warning', 'loader slower than model')]
    assert 'without workers the model waits' in finding.message
    assert 'the slowest transform is Dawdle' in finding.remedy and finding.field == 'train_dataloader.num_workers'


def test_with_workers_the_bottleneck_is_told_by_its_rates_and_no_process_is_left(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.train_loop.dataloader, 'num_workers', 1)
    monkeypatch.setattr(module.os, 'sched_getaffinity', lambda pid: set(range(16)))
    outcome = checked(runner, step_seconds=0.001)
    (finding,) = outcome.findings
    assert finding.message.startswith('the loader is the bottleneck: ')
    assert finding.message.endswith('img/s against 4,000')
    assert finding.remedy.startswith('raise train_dataloader.num_workers from 1 to 4, as this machine has 16 cores')
    assert multiprocessing.active_children() == []


def test_a_data_set_that_cannot_be_read_is_a_finding(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(batch: list) -> None:
        raise RuntimeError('stack expects each tensor\nto be equal size')

    monkeypatch.setattr(runner.train_loop.dataloader, 'collate_fn', fails)
    finding: Finding = checked(runner).findings[0]
    assert finding.kind == 'loader fails' and 'RuntimeError: stack expects each tensor to be equal' in finding.message
