"""What follows a checkpoint that was saved: when it fails, the checkpoint is still a saved one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoint_helpers import small_tree

from backbones.checkpoints import clean_up, read_best, verify_checkpoint
from backbones.checkpoints.files import temporary_name
from backbones.checkpoints.publisher import Done, Publisher
from backbones.checkpoints.rotation import keep_foreign
from backbones.checkpoints.store import owner, prepare
from backbones.training import inject


@pytest.fixture(autouse=True)
def no_faults():
    """Faults of one test end with it."""
    yield
    inject.configure('')


def publisher(folder: Path, *, keep: int = 1, export: tuple = ('best', 'last'), run: str = 'this', **more) -> Publisher:
    return Publisher(folder, keep, export, False, more.get('templates', {}), run)


def publish(one: Publisher, count: int, run: str = 'this') -> Done:
    """Save a small state; `meta` says of which run."""
    tree = small_tree(count)
    tree['meta']['run'] = run
    return one.publish(f'iter_{count:06d}', count, prepare(tree))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(('fault', 'text'), [
    ('enospc@last', 'iter_000002 is saved, but `last` does not name it: No space left'),
    ('eio@rotate', 'iter_000002 is saved, but older checkpoints could not all be deleted: Input/output error'),
    ('enospc@export', r'iter_000002 is saved, but its weights are not exported as iter_2.pth: No space left')])
def test_what_fails_after_a_checkpoint_is_a_warning_and_the_checkpoint_counts(
    tmp_path: Path, fault: str, text: str
) -> None:
    one = publisher(tmp_path, export=('all',))
    publish(one, 1)
    inject.configure(fault)
    done = publish(one, 2)
    assert done.saved and 'iter_000002 is saved and verified' in done.line
    assert len(done.warnings) == 1 and text in done.warnings[0]
    assert one.written(2) == tmp_path / 'iter_000002' and verify_checkpoint(one.written(2))


@pytest.mark.parametrize('name', ['last', 'best.json'])
def test_a_folder_in_the_place_of_a_file_is_a_warning(tmp_path: Path, name: str) -> None:
    one = publisher(tmp_path)
    (tmp_path / name).mkdir()
    done = [publish(one, 1), one.mark_best(dict(mAP=0.5), 1)]
    assert done[0].saved and [name in text for each in done for text in each.warnings] == [True]


def test_weights_of_a_best_one_that_nothing_names_are_deleted_again(tmp_path: Path) -> None:
    one = publisher(tmp_path)
    publish(one, 1), one.mark_best(dict(mAP=0.5), 1), publish(one, 2)
    inject.configure('enospc@best')
    done = one.mark_best(dict(mAP=0.9), 2)
    assert [text for text in done.warnings if 'best.json cannot say so, and the best so far stays: No space' in text]
    assert one.scores() == dict(mAP=0.5) and read_best(tmp_path)['mAP'].checkpoint == 'iter_000001'
    assert files(tmp_path) == ['best.json', 'best_mAP_iter_1.pth', 'iter_000001', 'iter_000002', 'last']


def test_a_best_one_without_its_weights_is_the_best_and_gets_them_at_the_end(tmp_path: Path) -> None:
    one = publisher(tmp_path)
    publish(one, 1), one.mark_best(dict(mAP=0.5), 1), publish(one, 2)
    inject.configure('enospc@export')
    done = one.mark_best(dict(mAP=0.9), 2)
    assert [text for text in done.warnings if 'not exported as best_mAP_iter_2.pth: No space' in text]
    assert read_best(tmp_path)['mAP'].checkpoint == 'iter_000002' and (tmp_path / 'best_mAP_iter_1.pth').is_file()
    inject.configure('')
    assert one.export_last().line == 'weights are exported as iter_2.pth, best_mAP_iter_2.pth'
    assert [name for name in files(tmp_path) if name.endswith('.pth')] == ['best_mAP_iter_2.pth', 'iter_2.pth']


def test_a_best_one_that_was_not_saved_is_none(tmp_path: Path) -> None:
    done = publisher(tmp_path).mark_best(dict(mAP=0.9), 7)
    assert done == Done(warnings=(
        'iteration 7 is the best by mAP, but its checkpoint was not saved; the best one so far stays',))


@pytest.mark.parametrize('foreign', ['bytes', 'weights', 'other run', 'link', 'folder'])
def test_an_export_does_not_replace_what_another_wrote(tmp_path: Path, foreign: str) -> None:
    one, file = publisher(tmp_path, templates=dict(iter='model_{}.pth')), tmp_path / 'model_3.pth'
    if foreign == 'bytes':
        file.write_bytes(b'mine')
    elif foreign == 'folder':
        file.mkdir()
    elif foreign == 'link':
        (tmp_path / 'mine').write_bytes(b'mine')
        file.symlink_to(tmp_path / 'mine')
    else:
        torch.save(dict(meta=dict(run='other') if foreign == 'other run' else {}, state_dict={}), file)
    before = file.read_bytes() if foreign != 'folder' else b''
    publish(one, 3)
    done = one.export_last()
    assert 'model_3.pth is there already and is not of this run; move it away' in done.warnings[0] and not done.line
    assert foreign == 'folder' or file.read_bytes() == before


def test_an_export_replaces_what_the_run_wrote_before_it_was_resumed(tmp_path: Path) -> None:
    first = publisher(tmp_path)
    publish(first, 3), first.export_last()
    second = publisher(tmp_path)
    second.recall_written('iter_000003', 3)
    assert second.export_last() == Done('weights are exported as iter_3.pth')


def test_files_of_another_run_that_bear_the_names_of_old_exports_are_not_deleted(tmp_path: Path) -> None:
    one = publisher(tmp_path, export=('all',))
    publish(one, 1)
    torch.save(dict(meta=dict(run='other'), state_dict={}), tmp_path / 'iter_1.pth')
    publish(one, 2)
    assert files(tmp_path) == ['iter_000002', 'iter_1.pth', 'iter_2.pth', 'last']


@pytest.mark.parametrize('begins', [True, False])
@pytest.mark.parametrize(('name', 'kept'), [('last', 'last.1'), ('best.json', 'best.1.json')])
def test_what_is_no_file_of_the_run_is_kept_under_another_name(
    tmp_path: Path, name: str, kept: str, begins: bool
) -> None:
    (tmp_path / name).write_text('iter_000001\n' if begins and name == 'last' else '{"mAP": 0.5}')
    line, = keep_foreign(tmp_path, begins)
    assert files(tmp_path) == [kept] and f'it is kept as {kept}' in line


def test_what_the_run_wrote_stays_when_it_goes_on(tmp_path: Path) -> None:
    one = publisher(tmp_path)
    publish(one, 1), one.mark_best(dict(mAP=0.5), 1)
    assert keep_foreign(tmp_path, begins=False) == [] and {'last', 'best.json'} <= set(files(tmp_path))


def test_two_writers_of_one_process_use_two_temporary_names_that_are_known_as_such(tmp_path: Path) -> None:
    names = {temporary_name('iter_000001', owner().rpartition('-')[0] + '-1') for _ in range(2)}
    for name in names:
        (tmp_path / name).mkdir()
    assert len(names) == 2 and set(clean_up(tmp_path)) == names
