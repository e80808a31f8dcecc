"""A process that dies while it saves leaves a whole checkpoint behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_helpers import killed, publish, same, small_tree

from backbones.checkpoints import clean_up, faults, newest_valid, read_checkpoint
from backbones.checkpoints.export import export_checkpoint


def die_and_look(folder: Path, spec: str) -> None:
    """Save once more in a process that is killed, and hold what is left against the two states there can be."""
    publish(folder, 1)
    died = killed(spec, lambda: publish(folder, 2))
    found = newest_valid(folder)
    assert died and found.path is not None and not [text for text in found.problems if 'cannot be used' in text]
    assert same(read_checkpoint(found.path), small_tree(2 if found.path.name == 'iter_000002' else 1))
    clean_up(folder)
    assert not [entry.name for entry in folder.iterdir() if entry.name.startswith('.') and entry.is_dir()]
    assert publish(folder, 3).name == 'iter_000003' and newest_valid(folder).path.name == 'iter_000003'


@pytest.mark.parametrize('fraction', [0, 0.07, 0.2, 0.37, 0.55, 0.71, 0.86, 0.99])
def test_a_kill_amid_the_bytes_leaves_the_older_checkpoint(tmp_path: Path, fraction: float) -> None:
    die_and_look(tmp_path, f'kill@save:{fraction}')
    assert newest_valid(tmp_path).path.name == 'iter_000003'


@pytest.mark.parametrize('spec', [
    *(f'kill@save:{step}' for step in (
        'mkdir', 'open', 'fsync', 'manifest', 'verify', 'rename', 'sync-parent', 'done')),
    *(f'kill@last:{step}' for step in ('open', 'fsync', 'rename', 'sync-folder')),
    *(f'kill@rotate:{step}' for step in ('trash', 'remove', 'rmdir'))])
def test_a_kill_between_two_steps_leaves_a_whole_checkpoint(tmp_path: Path, spec: str) -> None:
    die_and_look(tmp_path, spec)


@pytest.mark.soak
def test_200_kills_at_random_bytes_leave_a_whole_checkpoint(tmp_path: Path, figure: Callable) -> None:
    draw = random.Random(0)
    for number in range(200):
        die_and_look(tmp_path / str(number), f'kill@save:{draw.random():.4f}')
        figure('kills', survived=1)


def test_at_every_step_of_five_saves_a_whole_checkpoint_is_there(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    steps: list[str] = []

    def look(place: str, fraction: float, step: str) -> None:
        if step != 'write' or len(steps) % 50 == 0:
            assert newest_valid(tmp_path).path is not None
        steps.append(step)

    stop = faults.listen(look)
    try:
        for seed in range(2, 7):
            publish(tmp_path, seed, keep=1 + seed % 2)
    finally:
        stop()
    assert len(steps) > 1000 and {'rename', 'trash', 'remove'} <= set(steps)


def test_a_kill_while_weights_are_exported_leaves_the_older_file(tmp_path: Path) -> None:
    file = tmp_path / 'weights.pth'
    export_checkpoint(publish(tmp_path, 1), file)
    before = file.read_bytes()
    path = publish(tmp_path, 2)
    for where in ('open', '0.3', '0.9', 'fsync', 'rename'):
        assert killed(f'kill@export:{where}', lambda: export_checkpoint(path, file)) and file.read_bytes() == before
