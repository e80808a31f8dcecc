"""Hooks change how a run goes, never what it computes."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner import BaseLoop
from torch import nn

from backbones.convnext import ConvNeXt
from backbones.training import hooks
from backbones.training.hooks import HistoryHook, MetricsFileHook, PretrainedWeightsHook


@pytest.fixture
def tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the metrics hook asks a Runner that tests."""
    monkeypatch.setattr(hooks, 'evaluation_protocol', lambda cfg, split, tta: {})
    return SimpleNamespace(
        model=nn.Identity(), _train_loop=None, _load_from='other/epoch_3.pth', work_dir=str(tmp_path),
        cfg=SimpleNamespace(filename='a.py'), logger=logging.getLogger('test'),
        test_dataloader=SimpleNamespace(dataset=[0, 1]))


def test_metrics_of_another_run_are_kept_and_ones_own_replaced(tested: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / 'metrics.json').write_text('{"train_seconds": 9}')
    hook = MetricsFileHook()
    for value in (0.1, 0.2):
        hook.after_test_epoch(tested, dict(mIoU=value))
    assert {path.name for path in tmp_path.iterdir()} == {'metrics.json', 'metrics.1.json'}
    assert json.loads((tmp_path / 'metrics.1.json').read_text()) == {'train_seconds': 9}
    assert json.loads((tmp_path / 'metrics.json').read_text())['metrics'] == {'mIoU': 0.2}


@pytest.mark.parametrize('trains', [True, False])
def test_metrics_that_cannot_be_written_end_a_test_and_not_a_training(
    trains: bool, tested: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(hooks, 'write_json', full)
    if trains:
        tested._train_loop = object.__new__(BaseLoop.__subclasses__()[0])
        tested.iter, tested.epoch, tested.message_hub = 3, 0, SimpleNamespace(runtime_info={})
        MetricsFileHook().after_test_epoch(tested, dict(mIoU=0.1))
        assert 'could not be written (No space left on device); the run goes on' in caplog.text
    else:
        with pytest.raises(OSError, match='No space left'):
            MetricsFileHook().after_test_epoch(tested, dict(mIoU=0.1))


def test_a_run_that_goes_on_replaces_its_own_metrics(tested: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / 'metrics.json').write_text('{}')
    hook, tested.iter = MetricsFileHook(), 5
    hook.before_train(tested)
    hook.after_test_epoch(tested, dict(mIoU=0.1))
    assert [path.name for path in tmp_path.iterdir()] == ['metrics.json']


def test_metrics_name_the_checkpoint_they_belong_to(tested: SimpleNamespace, tmp_path: Path) -> None:
    MetricsFileHook().after_test_epoch(tested, dict(mIoU=0.1))
    assert json.loads((tmp_path / 'metrics.json').read_text())['checkpoint'] == 'other/epoch_3.pth'


@pytest.mark.parametrize('saved', ['w/epoch_3.pth', 'w/epoch_000003'])
@pytest.mark.parametrize(('epoch', 'same'), [(3, True), (4, False)])
def test_a_validation_names_only_a_checkpoint_of_the_same_moment(epoch: int, same: bool, saved: str) -> None:
    runner = SimpleNamespace(message_hub=SimpleNamespace(runtime_info=dict(last_ckpt=saved)), epoch=epoch, iter=30)
    assert hooks._just_saved(runner) == (saved if same else None)


@pytest.fixture
def detector(tmp_path: Path) -> nn.Module:
    """A model whose backbone was filled from a file."""
    toy = dict(arch=dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)), output_norm=False)
    torch.save({'model': ConvNeXt(**toy).state_dict()}, tmp_path / 'w.pth')
    model = nn.Module()
    model.backbone = ConvNeXt(**toy, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'w.pth')))
    model.backbone.init_weights()
    return model


def test_weights_that_changed_between_load_and_first_step_stop_the_run(detector: nn.Module) -> None:
    hook = PretrainedWeightsHook()
    hook.before_train(SimpleNamespace(model=detector))
    nn.init.zeros_(detector.backbone.stages[1][0].pwconv1.weight)
    wanted = r'from .*w\.pth, but 1 of its 52 tensors have other values now \(stages\.1\.0\.pwconv1\.weight\)'
    with pytest.raises(ValueError, match=wanted):
        hook.before_train(SimpleNamespace(model=detector))


def test_weights_that_a_whole_checkpoint_replaced_are_not_held_against_the_file(detector: nn.Module) -> None:
    nn.init.zeros_(detector.backbone.stages[1][0].pwconv1.weight)
    PretrainedWeightsHook(against_file=False).before_train(SimpleNamespace(model=detector))


def test_ranks_that_hold_different_weights_stop_the_run(detector: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(mine: tuple) -> list:
        other = {name: {key: value + 1 for key, value in sums.items()} for name, sums in mine[1].items()}
        return [mine, (mine[0], other)]

    monkeypatch.setattr('backbones.training.hooks.all_gather_object', gather)
    with pytest.raises(ValueError, match='rank 1 holds other pretrained weights than rank 0'):
        PretrainedWeightsHook().before_train(SimpleNamespace(model=detector))


@pytest.mark.parametrize('as_list', [False, True])
def test_a_checkpoint_that_was_named_and_never_loaded_stops_the_run(as_list: bool) -> None:
    cfg = dict(type='Pretrained', checkpoint='w.pth')
    model = nn.Module()
    model.backbone = ConvNeXt(dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)), init_cfg=[cfg] if as_list else cfg)
    with pytest.raises(ValueError, match=r'backbone\.init_cfg names a checkpoint that was never loaded'):
        PretrainedWeightsHook().before_train(SimpleNamespace(model=model))


@pytest.mark.parametrize(('custom', 'kept'), [([], 3), ([dict(data_src='loss', window_size='global')], 5)])
def test_logged_numbers_are_forgotten_unless_the_log_wants_them_all(custom: list, kept: int) -> None:
    hub = MessageHub(f'history {kept}')
    runner = SimpleNamespace(message_hub=hub, log_processor=SimpleNamespace(custom_cfg=custom), iter=0)
    for value in range(5):
        hub.update_scalar('train/loss', value)
        hub.update_scalar('val/time', value)
        HistoryHook(length=3).after_train_iter(runner, 0)
    assert hub.get_scalar('train/loss').data[0].tolist() == list(range(5))[-kept:]
    assert len(hub.get_scalar('val/time').data[0]) == 5
    with pytest.raises(ValueError, match='length=0; give a number of values'):
        HistoryHook(length=0)
