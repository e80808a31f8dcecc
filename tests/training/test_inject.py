"""Faults on purpose while checkpoints are written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from guard_helpers import train_line

from backbones.checkpoints import faults
from backbones.training import inject
from backbones.training.inject import Fault
from backbones.training.inject_run import InjectHook, set_faults


@pytest.fixture(autouse=True)
def no_faults():
    """Faults of one test end with it."""
    yield
    inject.configure('')


@pytest.mark.parametrize('text, fault', [
    ('kill@save:0.37', Fault('kill', 'save', 0.37)), ('enospc@save', Fault('enospc', 'save')),
    ('erofs@rotate:remove:2', Fault('erofs', 'rotate', step='remove', number=2)),
    ('kill@best:1:3', Fault('kill', 'best', 1.0, number=3))])
def test_a_fault_is_read(text: str, fault: Fault) -> None:
    assert inject.parse(text) == [fault] and inject.is_for_files(text)


@pytest.mark.parametrize('text', [
    'kill', 'kill@', 'kill@save:2', 'kill@save:nowhere', 'nan@save', 'kill@home', 'nan@120', 'kill@save:0.3:x',
    'kill@save:.', 'KILL@save'])
def test_what_means_nothing_is_refused_with_what_does(text: str) -> None:
    with pytest.raises(ValueError, match=r'write KIND@PLACE:WHERE, such as kill@save:0\.37'):
        inject.parse(text)


def test_a_fault_of_the_training_loop_is_told_from_one_of_files() -> None:
    assert not inject.is_for_files('nan@120') and not inject.is_for_files('hang@80:rank=1')


def test_nothing_happens_unless_it_was_asked_for() -> None:
    assert not faults.listening()
    faults.reach('save', 1.0, 'rename')


def test_an_error_happens_from_its_share_of_the_bytes_on() -> None:
    inject.configure('edquot@save:0.5')
    faults.reach('save', 0.49, 'write')
    faults.reach('export', 0.9, 'write')
    with pytest.raises(OSError) as caught:
        faults.reach('save', 0.51, 'write')
    assert caught.value.errno == errno.EDQUOT


def test_a_number_chooses_one_save() -> None:
    inject.configure('eio@save:fsync:2')
    for step in ('mkdir', 'fsync', 'done', 'mkdir'):
        faults.reach('save', 0.0, step)
    with pytest.raises(OSError):
        faults.reach('save', 0.0, 'fsync')


def log_of(folder: Path) -> str:
    """What a run wrote into its log."""
    return next(folder.glob('*/*.log')).read_text()


@pytest.mark.parametrize('text', ['nan@1000', 'nan@3:rank=7', 'kill@rotate', 'eio@best:0.25', 'kill@save:rename:9'])
def test_the_end_names_the_faults_that_did_not_happen(text: str, tmp_path: Path) -> None:
    safe = dict(type='backbones.SafeCheckpointHook', by_epoch=False, interval=4)
    loop = dict(type='backbones.IterBasedTrainLoop', max_iters=8)
    train_line(tmp_path, hooks=[InjectHook(set_faults(f'nan@2,eio@save:fsync:1,{text}'))], loop=loop, checkpoint=safe)
    written = text if ':' in text or text == 'nan@1000' else f'{text}:0.5'
    assert f'WARNING - faults on purpose that did not happen: {written}\n' in log_of(tmp_path)


def test_the_end_of_a_run_with_all_its_faults_says_nothing(tmp_path: Path) -> None:
    train_line(tmp_path, hooks=[InjectHook(set_faults('nan@2,nan@8:rank=0'))])
    assert 'did not happen' not in log_of(tmp_path)
