"""Which checkpoints are kept, and which a run goes on from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from checkpoint_helpers import publish, small_tree

from backbones.checkpoints import clean_up, list_checkpoints, newest_valid, read_best, rotate, write_checkpoint
from backbones.checkpoints import rotation as rotation_module
from backbones.checkpoints.export import export_checkpoint
from backbones.checkpoints.rotation import Best, read_last, write_best, write_last
from backbones.checkpoints.store import owner


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def break_it(path: Path) -> None:
    """Flip a bit of the weights."""
    file = path / 'model.safetensors'
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_rotation_keeps_the_newest_and_the_protected_ones(tmp_path: Path) -> None:
    for seed in range(1, 6):
        write_checkpoint(tmp_path, f'iter_{seed}', small_tree(seed))
    assert sorted(rotate(tmp_path, 2, 'iter_5', {'iter_2'})) == ['iter_1', 'iter_3']
    assert names(tmp_path) == ['iter_2', 'iter_4', 'iter_5']


def test_rotation_deletes_nothing_where_the_verified_one_is_not_there(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    assert rotate(tmp_path, 1, 'iter_000002') == [] and names(tmp_path) == ['iter_000001']


def test_the_order_is_that_of_writing_whatever_clock_and_numbers_say(tmp_path: Path) -> None:
    for name in ('iter_000900', 'epoch_000001', 'iter_000100'):
        os.utime(write_checkpoint(tmp_path, name, small_tree()), (0, -len(name) * 10**8))
    assert [path.name for path in list_checkpoints(tmp_path)] == ['iter_000100', 'epoch_000001', 'iter_000900']


def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path: Path) -> None:
    for seed in (1, 2, 3, 4):
        publish(tmp_path, seed, keep=0)
    break_it(tmp_path / 'iter_000004')
    (tmp_path / 'iter_000003' / 'manifest.json').unlink()
    found = newest_valid(tmp_path)
    assert found.path.name == 'iter_000002'
    assert [text for text in found.problems if 'iter_000004 cannot be used: model.safetensors has the sha256' in text]
    assert [text for text in found.problems if 'iter_000003' in text and 'manifest.json is missing' in text]


def test_a_folder_without_a_whole_checkpoint_gives_none(tmp_path: Path) -> None:
    assert newest_valid(tmp_path).path is None and newest_valid(tmp_path / 'nowhere').path is None
    break_it(publish(tmp_path, 1))
    assert newest_valid(tmp_path).path is None and len(newest_valid(tmp_path).problems) == 1


@pytest.mark.parametrize('content', [
    b'', b'iter_0000', b'/runs/iter_000001\n', b'../iter_000001\n', b'\xff\n', b'iter_000001', b'x' * 9999,
    b'iter_000009\n'])
def test_a_wrong_last_file_misleads_nobody(tmp_path: Path, content: bytes) -> None:
    publish(tmp_path, 1)
    (tmp_path / 'last').write_bytes(content)
    found = newest_valid(tmp_path)
    assert found.path.name == 'iter_000001' and len(found.problems) == 1 and 'last' in found.problems[0]


def test_a_moved_folder_is_found_by_its_last_file(tmp_path: Path) -> None:
    publish(tmp_path / 'old', 1)
    (tmp_path / 'old').rename(tmp_path / 'new')
    assert read_last(tmp_path / 'new') == 'iter_000001' and newest_valid(tmp_path / 'new').problems == []


def test_the_best_scores_survive_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    best = {'coco/bbox_mAP': Best(0.1 + 0.2, 'iter_000001')}
    write_best(tmp_path, best)
    assert read_best(tmp_path) == best and read_best(tmp_path / 'nowhere') == {}
    for content in (b'', b'[]', b'{"a": {"score": 1}}', b'{"a": {"score": 1, "checkpoint": "../x"}}', b'[' * 99_999):
        (tmp_path / 'best.json').write_bytes(content)
        with pytest.raises(ValueError, match=r'best\.json is damaged'):
            read_best(tmp_path)


@pytest.mark.parametrize('score', ['NaN', 'Infinity', '-Infinity', '"0.5"', 'true', 'null', '1e999'])
def test_a_best_score_that_is_no_finite_number_is_damage(tmp_path: Path, score: str) -> None:
    (tmp_path / 'best.json').write_text(f'{{"mAP": {{"score": {score}, "checkpoint": "iter_000001"}}}}')
    with pytest.raises(ValueError, match=r'best\.json is damaged'):
        read_best(tmp_path)


def test_a_link_is_named_and_not_followed(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    (tmp_path / 'iter_000012').symlink_to(publish(tmp_path / 'elsewhere', 12))
    found = newest_valid(tmp_path)
    assert found.path.name == 'iter_000001'
    assert found.problems == [
        f'{tmp_path}/iter_000012 is a link, which is not followed; give it by --resume {tmp_path}/iter_000012']


def test_one_that_a_check_of_the_caller_refuses_is_passed_over(tmp_path: Path) -> None:
    for seed in (1, 2):
        publish(tmp_path, seed, keep=0)

    def check(path: Path) -> None:
        if path.name == 'iter_000002':
            raise ValueError('not this one')

    found = newest_valid(tmp_path, check)
    assert found.path.name == 'iter_000001' and found.problems[0] == 'not this one'


def test_what_dead_processes_left_is_deleted_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    host, _, start = owner().rsplit('-', 2)
    mine, dead = f'.tmp-iter_000001-{owner()}', f'.tmp-iter_000002-{host}-{os.getpid()}-{int(start) - 1}'
    gone, elsewhere = f'.trash-iter_000003-{host}-99999999-5', '.tmp-iter_000004-other-host-1-1'
    for name in (mine, dead, gone, elsewhere):
        (tmp_path / name).mkdir()
    assert sorted(clean_up(tmp_path)) == sorted([dead, gone]) and names(tmp_path) == sorted([mine, elsewhere])


def test_what_another_machine_left_long_ago_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / '.tmp-iter_000004-other-host-1-1').mkdir()
    monkeypatch.setattr(rotation_module, 'ABANDONED', -1.0)
    assert clean_up(tmp_path) == ['.tmp-iter_000004-other-host-1-1']


def test_exported_weights_open_with_torch_load_and_weights_only(tmp_path: Path) -> None:
    path = publish(tmp_path, 1)
    export_checkpoint(path, tmp_path / 'iter_1.pth')
    found = torch.load(tmp_path / 'iter_1.pth', weights_only=True)
    assert found['meta']['dataset_meta'] == {'classes': ['cat', 'dog'], 'palette': [[1, 2, 3], [4, 5, 6]]}
    assert sorted(found['state_dict']) == ['conv.weight', 'norm.bias']


def test_last_is_replaced_in_one_step(tmp_path: Path) -> None:
    for name in ('iter_1', 'iter_2'):
        write_last(tmp_path, name)
    assert (tmp_path / 'last').read_text() == 'iter_2\n' and [entry.name for entry in tmp_path.iterdir()] == ['last']
