"""A user's mistake ends a tool with one sentence and a code, never with a traceback."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest
from conftest import ROOT

from backbones.cli import add_overrides, run_tool


def end(error: BaseException, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Exit code and stderr of a tool that raises `error`."""

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    return stop.value.code, capsys.readouterr().err


def test_a_value_error_becomes_one_sentence_and_code_2(capsys: pytest.CaptureFixture) -> None:
    assert end(ValueError("arch='tinny' is unknown"), capsys) == (2, "error: arch='tinny' is unknown\n")


def test_an_error_of_a_loader_worker_shows_its_own_message(capsys: pytest.CaptureFixture) -> None:
    text = 'Caught ValueError in DataLoader worker process 0.\nOriginal Traceback\n  File x\n'
    text += 'ValueError: a.png: value 200'
    assert end(ValueError(text), capsys) == (2, 'error: a.png: value 200\n')


def test_missing_compiled_ops_are_explained(capsys: pytest.CaptureFixture) -> None:
    code, text = end(ModuleNotFoundError("No module named 'mmcv._ext'", name='mmcv._ext'), capsys)
    assert code == 2
    assert 'make setup' in text and 'compiled ops' in text


def test_a_missing_toolbox_names_its_extra(capsys: pytest.CaptureFixture) -> None:
    assert 'mmbackbones[seg]' in end(ModuleNotFoundError("No module named 'mmseg'", name='mmseg'), capsys)[1]


def test_our_own_faults_keep_their_traceback() -> None:
    def main() -> None:
        raise RuntimeError('a bug')

    with pytest.raises(RuntimeError, match='a bug'):
        run_tool(main)


def test_the_traceback_is_there_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('MMBACKBONES_TRACEBACK', '1')

    def main() -> None:
        raise ValueError('shown whole')

    with pytest.raises(ValueError, match='shown whole'):
        run_tool(main)


@pytest.mark.parametrize('given', ['foo', '=1'])
def test_an_override_without_key_or_value_is_shown_how_to_be_written(given: str) -> None:
    parser = argparse.ArgumentParser()
    add_overrides(parser)
    with pytest.raises(ValueError, match=rf'--cfg-options {given}: this is no KEY=VALUE; write it like train_cfg'):
        parser.parse_args(['--cfg-options', 'a.b=1', given])


@pytest.mark.parametrize('value', ['dict(a=4,b=2)', 'dict(a=4)', '{"a":4}', '[dict(type=A),dict(type=B)]'])
def test_a_dict_as_an_override_is_shown_how_to_be_written(value: str) -> None:
    parser = argparse.ArgumentParser()
    add_overrides(parser)
    with pytest.raises(ValueError, match=r'a dict cannot be given so; .* one by one, as in model\.arch\.KEY=VALUE$'):
        parser.parse_args(['--cfg-options', f'model.arch={value}'])


@pytest.mark.parametrize('value', ['f(1,2)', '[1,2', '(1,2),(3,4)'])
def test_an_override_that_cannot_be_read_is_one_sentence(value: str) -> None:
    parser = argparse.ArgumentParser()
    add_overrides(parser)
    with pytest.raises(ValueError, match=r'this value cannot be read; give a number, a word or a list'):
        parser.parse_args(['--cfg-options', f'a={value}'])


def test_overrides_are_read_by_key() -> None:
    parser = argparse.ArgumentParser()
    add_overrides(parser)
    assert parser.parse_args(['--cfg-options', 'a.b=1', 'c=x=y', 'd=i_{}.pth']).cfg_options == {
        'a.b': 1, 'c': 'x=y', 'd': 'i_{}.pth'}


@pytest.mark.parametrize(('result', 'code'), [(None, None), (1, 1)])
def test_the_code_of_a_tool_is_passed_on(result: int | None, code: int | None) -> None:
    with pytest.raises(SystemExit) as stop:
        run_tool(lambda: result)
    assert stop.value.code == code


def test_a_process_of_several_ends_after_its_exit_handlers_and_without_destructors() -> None:
    code = (
        'import atexit, torch.distributed as dist\n'
        'from backbones.cli import run_tool\n'
        'atexit.register(print, "handler ran")\n'
        'class Late:\n'
        '    def __del__(self): print("torn down")\n'
        'late = Late()\n'
        'dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)\n'
        'run_tool(lambda: 3)\n'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split('\n')[0]) == (3, 'handler ran'), done.stderr
    assert 'torn down' not in done.stdout
