"""A user's mistake ends a tool with one sentence and a code, never with a traceback."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from backbones.cli import ToolParser, add_overrides, run_tool


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


def parser_of_options(commands: bool = False) -> ToolParser:
    parser = ToolParser(prog='tool.py')
    for name in ('--work-dir', '--resume', '--log', '--launcher'):
        parser.add_argument(name)
    parser.add_argument('--local-rank', '--local_rank', help=argparse.SUPPRESS)
    add_overrides(parser)
    if commands:
        every = parser.add_subparsers(dest='command', required=True)
        every.add_parser('check').add_argument('--no-count', action='store_true')
        every.add_parser('tables')
    else:
        parser.add_argument('config')
    return parser


def refusal(parser: ToolParser, words: str, capsys: pytest.CaptureFixture, way: str = 'parse_args') -> str:
    """What is said to a command line that ends with code 2."""
    with pytest.raises(SystemExit) as stop:
        getattr(parser, way)(words.split())
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize('way', ['parse_args', 'parse_intermixed_args'])
@pytest.mark.parametrize(('words', 'hint'), [
    ('c.py --workdir x', '--workdir is no option; did you mean --work-dir? '),
    ('--workdir=x', '--workdir is no option; did you mean --work-dir? '),
    ('c.py --work_dir x', '--work_dir is no option; did you mean --work-dir? '),
    ('c.py --cfg-options a=1 --resumme', '--resumme is no option; did you mean --resume? '),
    ('c.py --zzzz', '--zzzz is no option; '),
    ('c.py --log-thr .5', '--log-thr is no option; did you mean --log? '),
])
def test_an_unknown_option_is_answered_with_the_nearest(
    words: str, hint: str, way: str, capsys: pytest.CaptureFixture
) -> None:
    said = refusal(parser_of_options(), words, capsys, way)
    assert said == f'error: {hint}`tool.py --help` lists what there is\n'


@pytest.mark.parametrize('way', ['parse_args', 'parse_intermixed_args'])
def test_a_config_that_an_option_of_several_values_took_is_told(way: str, capsys: pytest.CaptureFixture) -> None:
    parser = ToolParser(prog='tool.py')
    parser.add_argument('config')
    parser.add_argument('--log', nargs='+')
    parser.add_argument('--resume', action='store_true')
    said = refusal(parser, '--log none configs/c.py --resume', capsys, way)
    assert said.endswith('error: --log took configs/c.py as one of its values; put CONFIG before --log\n')
    assert 'required: config' in refusal(parser, '--log none', capsys, way)


@pytest.mark.parametrize(('given', 'meant'), [
    ('--resum', '--resume'), ('--cfg-option', '--cfg-options'), ('--l', '--log or --launcher')])
def test_an_abbreviation_is_refused_with_the_option_in_full(
    given: str, meant: str, capsys: pytest.CaptureFixture
) -> None:
    assert f'did you mean {meant}?' in refusal(parser_of_options(), f'c.py {given} a=1', capsys)


def test_an_override_without_its_option_is_told_where_it_belongs(capsys: pytest.CaptureFixture) -> None:
    assert 'a.b=1 stands alone, and KEY=VALUE belongs behind --cfg-options' in refusal(
        parser_of_options(), 'c.py a.b=1', capsys)


def test_options_of_commands_are_known_by_the_command_only(capsys: pytest.CaptureFixture) -> None:
    assert parser_of_options(commands=True).parse_args(['check', '--no-count']).no_count
    assert 'did you mean --no-count?' in refusal(parser_of_options(commands=True), 'check --nocount', capsys)
    assert '--no-count belongs to another command' in refusal(
        parser_of_options(commands=True), 'tables --no-count', capsys)


def test_hidden_options_are_taken_and_never_proposed(capsys: pytest.CaptureFixture) -> None:
    assert parser_of_options().parse_args(['c.py', '--local_rank=1']).local_rank == '1'
    assert 'did you mean' not in refusal(parser_of_options(), 'c.py --local_rankk=1', capsys)


def test_the_greeting_of_the_toolboxes_is_left_out_and_nothing_else(capsys: pytest.CaptureFixture) -> None:
    stream = sys.stdout

    def main() -> None:
        print('Could not import OneDL. Skipping OneDL datasets.')
        print()
        sys.stdout.write('Could not import OneDL\n')
        print('Could not import mine', flush=True)
        assert sys.stdout is stream

    with pytest.raises(SystemExit):
        run_tool(main)
    print('Could not import OneDL')
    assert capsys.readouterr().out == '\nCould not import mine\nCould not import OneDL\n'


def test_a_tool_imports_the_toolboxes_without_a_word() -> None:
    code = (
        'from backbones.cli import run_tool\n'
        'def main():\n'
        '    import mmdet.datasets, mmseg.datasets\n'
        '    print("mine")\n'
        'run_tool(main)\n'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, 'mine\n'), done.stderr


def test_a_closed_standard_output_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'stdout', None)
    with pytest.raises(AttributeError, match='flush'):  # as without the tool
        run_tool(lambda: None)


USERS_TOOLS = sorted(path.name for path in (ROOT / 'tools').glob('*.py')
                     if not path.name.startswith(('benchmark_', 'update_docs', 'outside')))


@pytest.mark.parametrize('tool', USERS_TOOLS)
def test_every_tool_takes_the_common_parser(tool: str) -> None:
    text = (ROOT / 'tools' / tool).read_text()
    assert 'ToolParser(' in text and 'ArgumentParser(' not in text


@pytest.mark.parametrize('there', [False, True])
def test_a_python_without_the_project_is_told_which_one_to_use(there: bool, tmp_path: Path) -> None:
    shutil.copytree(ROOT / 'tools', tmp_path / 'tools', ignore=shutil.ignore_patterns('__pycache__'))
    remedy = f'run `make setup` in {tmp_path}, then `. .venv/bin/activate`'
    if there:
        (tmp_path / '.venv/bin').mkdir(parents=True)
        (tmp_path / '.venv/bin/activate').touch()
        remedy = 'activate the environment first: `. .venv/bin/activate`'
    env = {name: value for name, value in os.environ.items() if name not in ('PYTHONPATH', 'VIRTUAL_ENV')}
    for tool in USERS_TOOLS[::1 if there else len(USERS_TOOLS)]:
        done = subprocess.run([sys.executable, '-S', f'tools/{tool}'], cwd=tmp_path, env=env, capture_output=True,
                              text=True, timeout=60)
        said = f"error: No module named 'backbones' ({sys.executable}); {remedy}\n"
        assert (done.returncode, done.stderr) == (2, said), tool
