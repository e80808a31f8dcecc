"""What docs/survival.md promises about what is saved and gone on with: `python tools/train.py --inject`, `--resume`.

All on the demo's segmenter made tiny, with the parts that its config ships. Runs are shared by the tests of a promise.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from survival_helpers import SEGMENTER, Run, Tools, as_arguments, assert_ends_as, bytes_of, options, saved

from backbones.checkpoints import verify_checkpoint

# --- R1, R2, R4: what is saved ---------------------------------------------------------------------------------------


def test_a_run_killed_while_it_saves_leaves_the_older_checkpoint_whole(killed: Path) -> None:
    assert saved(killed) == ['iter_000002'] and [path.name for path in killed.glob('.tmp-*')]
    assert verify_checkpoint(killed / 'iter_000002')


def test_a_run_killed_while_it_saves_goes_on_to_the_end_of_one_that_was_not(
    tools: Tools, data: Path, killed: Path, whole: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(killed, tmp_path / 'run')
    run = tools.train(folder, '--resume', chosen=options(data)).wait()
    assert run.code == 0 and f'going on from {folder}/iter_000002' in run.text
    assert_ends_as(whole, folder)
    assert not list(folder.glob('.tmp-*'))


def test_a_disk_that_is_full_once_is_a_warning_and_the_run_ends_as_without(
    tools: Tools, data: Path, whole: Path, tmp_path: Path
) -> None:
    run = tools.train(tmp_path, '--inject', 'enospc@save:0.5:2', chosen=options(data)).wait()
    assert run.code == 0, run.text
    assert 'WARNING - a checkpoint was NOT saved: No space left on device' in run.text and 'the run goes on' in run.text
    assert saved(tmp_path) == ['iter_000002', 'iter_000006']
    assert_ends_as(whole, tmp_path)


def test_a_disk_that_stays_full_leaves_older_checkpoints_and_ends_the_run_with_an_error(
    tools: Tools, data: Path, killed: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(killed, tmp_path / 'run')
    before = bytes_of(folder / 'iter_000002')
    run = tools.train(folder, '--resume', '--inject', 'enospc@save', chosen=options(data)).wait()
    assert run.code == 2 and 'error: the run is done, but its last checkpoint could not be saved' in run.text
    assert saved(folder) == ['iter_000002'] and bytes_of(folder / 'iter_000002') == before
    assert not list(folder.glob('*.pth'))


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.fixture(scope='module')
def limited(tools: Tools, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A run that the system itself allows no large files."""
    folder = tmp_path_factory.mktemp('limited')
    (folder / 'limited.py').write_text(LIMITED)
    arguments = ['tools/train.py', SEGMENTER, '--work-dir', folder / 'run', *as_arguments(options(data))]
    return tools.start(folder / 'limited.py', *arguments).wait(), folder / 'run'


def test_where_no_save_succeeds_the_run_goes_to_its_end_and_leaves_nothing_half(limited: tuple[Run, Path]) -> None:
    run, folder = limited
    assert run.code == 2 and 'error: the run is done, but its last checkpoint could not be saved' in run.text
    assert 'Iter(train) [6/6]' in run.text and 'Traceback' not in run.text
    left = {path.name for path in folder.iterdir() if path.name[0] in '.ilb'}
    assert left == {'last_exit.json'}


def test_where_no_save_succeeds_each_is_a_warning(limited: tuple[Run, Path]) -> None:
    assert limited[0].text.count('NOT saved: File too large') >= 3


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_leads_to_the_same_end(
    tools: Tools, data: Path, whole: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / 'run')
    file = folder / 'iter_000006' / 'state.safetensors'
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    run = tools.train(folder, '--resume', chosen=options(data)).wait()
    assert run.code == 0, run.text
    said = f'WARNING - checkpoint {folder}/iter_000006 cannot be used: state.safetensors has the sha256 '
    assert said in run.text
    assert f'going on from {folder}/iter_000004' in run.text
    assert_ends_as(whole, folder)


# --- R5, R7, R28: signals and going on -------------------------------------------------------------------------------

SIGNALLED = (('SIGTERM', 1, 0), ('SIGINT', 3, 2), ('SIGUSR1', 5, 4))  # name, iteration, workers


@pytest.fixture(scope='module')
def signalled(tools: Tools, data: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run that three signals ended, each time with another number of workers, and that went on to its end."""
    folder, runs, notes = tmp_path_factory.mktemp('signalled') / 'run', {}, {}
    for name, iteration, workers in SIGNALLED:
        fault = f'{name.lower()}@{iteration}'
        chosen = options(data, train_dataloader__num_workers=workers)
        runs[name] = tools.train(folder, '--resume', 'auto', '--inject', fault, chosen=chosen).wait()
        notes[name] = json.loads((folder / 'last_exit.json').read_text())
    last = tools.train(folder, '--resume', '--inject', 'sigterm@3', chosen=options(data)).wait()
    assert last.code == 0, last.text
    return SimpleNamespace(folder=folder, runs=runs, notes=notes, last=last)


@pytest.mark.parametrize('name, iteration', [case[:2] for case in SIGNALLED])
def test_a_signal_ends_the_run_after_its_step_with_85_and_all_saved(
    signalled: SimpleNamespace, name: str, iteration: int
) -> None:
    run: Run = signalled.runs[name]
    assert run.code == 85 and 'Traceback' not in run.text
    assert f'{name} after iteration {iteration}: everything is saved; exit code 85, go on with --resume' in run.text
    assert signalled.notes[name]['code'] == 85
    assert verify_checkpoint(signalled.folder / f'iter_{iteration:06d}')


def test_a_run_signalled_three_times_ends_as_the_uninterrupted_one_whatever_its_workers(
    signalled: SimpleNamespace, whole: Path
) -> None:
    assert_ends_as(whole, signalled.folder)
    assert not (signalled.folder / 'last_exit.json').exists()


def test_a_fault_that_a_run_has_left_behind_is_said_not_to_happen(signalled: SimpleNamespace) -> None:
    assert 'WARNING - sigterm@3 will not happen: this run does the iterations 6 to 6' in signalled.last.text


def test_each_start_of_a_run_leaves_a_record_of_where_it_began(signalled: SimpleNamespace) -> None:
    records = [json.loads(path.read_text()) for path in sorted((signalled.folder / 'runs').iterdir())]
    assert sorted((record['iteration'], record['resumed']) for record in records) == [
        (0, False), (1, True), (3, True), (5, True)]
    assert all(record['seed'] == 0 and record['versions']['torch'] and record['config'] for record in records)


def test_resume_auto_says_that_it_starts_anew(signalled: SimpleNamespace) -> None:
    said = f'{signalled.folder} holds no checkpoint to go on from: the run starts anew'
    assert said in signalled.runs['SIGTERM'].text and said not in signalled.runs['SIGINT'].text


def test_resume_with_nothing_to_go_on_from_is_one_sentence_and_makes_nothing(
    tools: Tools, data: Path, tmp_path: Path
) -> None:
    run = tools.train(tmp_path / 'run', '--resume', chosen=options(data)).wait()
    assert run.code == 2 and 'error: --resume: ' in run.text and 'holds no checkpoint to go on from' in run.text
    assert 'Traceback' not in run.text and not (tmp_path / 'run').exists()


# --- R27: one run per folder -----------------------------------------------------------------------------------------


def test_a_second_run_in_the_folder_of_a_living_one_is_refused_and_that_of_a_dead_one_is_taken_over(
    tools: Tools, data: Path, whole: Path, tmp_path: Path
) -> None:
    first = tools.train(tmp_path, '--inject', 'hang@4', chosen=options(data)).wait_for('on purpose: hang@4')
    while not (tmp_path / 'last').exists() or list(tmp_path.glob('.*')):  # its writer is still at work
        time.sleep(0.02)
    before = bytes_of(tmp_path)
    second = tools.train(tmp_path, '--resume', chosen=options(data)).wait()
    assert second.code == 2 and f'another run goes on in {tmp_path}: process {first.pid} on ' in second.text
    assert bytes_of(tmp_path) == before and 'Traceback' not in second.text
    first.kill()
    assert first.wait().code == -9
    third = tools.train(tmp_path, '--resume', chosen=options(data)).wait()
    assert third.code == 0 and f'was left behind (process {first.pid} on ' in third.text
    assert_ends_as(whole, tmp_path)


# --- another project's tool ------------------------------------------------------------------------------------------

PLAIN = """
import ast, sys
from mmengine.config import Config
from mmengine.runner import Runner
config, work_dir, changes, resume = sys.argv[1:]
cfg = Config.fromfile(config)
cfg.merge_from_dict(ast.literal_eval(changes))
cfg.work_dir, cfg.resume = work_dir, resume == 'resume'
Runner.from_cfg(cfg).train()
"""


def test_mmengines_own_runner_goes_on_exactly_by_the_parts_of_a_shipped_config(
    tools: Tools, data: Path, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / 'plain.py').write_text(PLAIN)
    roots = {f'{split}_dataloader__dataset__data_root': f'{data}/' for split in ('train', 'val', 'test')}
    changes = options(data, **roots)  # to our tools, data_root alone says it
    faults = {'default_hooks.inject.type': 'backbones.InjectHook', 'default_hooks.inject.faults': ['sigterm@3']}
    first = tools.start(tmp_path / 'plain.py', SEGMENTER, tmp_path / 'run', repr(changes | faults), 'anew').wait()
    assert first.code == 85 and saved(tmp_path / 'run')[-1] == 'iter_000003', first.text
    second = tools.start(tmp_path / 'plain.py', SEGMENTER, tmp_path / 'run', repr(changes), 'resume').wait()
    assert second.code == 0 and f'going on from {tmp_path}/run/iter_000003' in second.text, second.text
    assert_ends_as(whole, tmp_path / 'run')
