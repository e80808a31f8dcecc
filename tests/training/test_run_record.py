"""Each start and each resume leaves what it was: config, versions, git, command, seed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from guard_helpers import train_line

from backbones import __version__
from backbones.training.run_record import git_state, plain, write_run_record

HOOK = dict(type='backbones.RunRecordHook')


def records(folder: Path) -> list[dict]:
    """Those of a work folder, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted((folder / 'runs').glob('*.json'))]


def test_a_start_and_a_resume_leave_one_record_each(tmp_path: Path) -> None:
    train_line(tmp_path, hooks=[HOOK], save=4)
    train_line(tmp_path, hooks=[HOOK], max_iters=12, resume=True)
    first, second = sorted(records(tmp_path), key=lambda record: record['iteration'])
    assert (first['resumed'], first['iteration'], second['resumed'], second['iteration']) == (False, 0, True, 8)
    assert first['seed'] == 0 and first['world_size'] == 1 and first['launcher'] == 'none'
    assert first['command'] == sys.orig_argv
    assert first['versions']['torch'] == torch.__version__ and first['versions']['backbones'] == __version__
    assert first['machine']['host'] and first['machine']['gpus'] == []


def test_git_says_commit_and_changes_and_nothing_outside_of_a_repository(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ['-c', 'user.name=a', '-c', 'user.email=a@b']
        return subprocess.run(
            ['git', '-C', str(tmp_path), *identity, *words], check=True, capture_output=True, text=True).stdout.strip()

    assert git_state(tmp_path) is None
    git('init', '-q')
    (tmp_path / 'a').write_text('1')
    git('add', 'a')
    git('commit', '-qm', 'a')
    assert git_state(tmp_path)['dirty'] is False and git_state(tmp_path)['commit'] == git('rev-parse', 'HEAD')
    (tmp_path / 'a').write_text('2')
    assert git_state(tmp_path)['changed'] == [' M a']


def test_what_json_does_not_know_is_written_as_it_prints() -> None:
    assert plain(dict(a=(1, None), b=torch.float16, c={2: True})) == dict(
        a=[1, None], b='torch.float16', c={'2': True})


def test_two_starts_in_one_second_do_not_share_a_file(tmp_path: Path) -> None:
    assert len({write_run_record(tmp_path, {}, seed=seed) for seed in range(3)}) == 3


def test_the_config_is_kept_and_secrets_of_the_environment_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TORCH_API_TOKEN', 'hidden')
    monkeypatch.setenv('NCCL_DEBUG', 'INFO')
    path = write_run_record(tmp_path, dict(lr=1e-4, classes=('a', 'b')))
    assert json.loads(path.read_text())['config'] == dict(lr=1e-4, classes=['a', 'b'])
    assert json.loads(path.read_text())['environment']['NCCL_DEBUG'] == 'INFO'
    assert 'hidden' not in path.read_text()
