"""The set-up: pins in one place, the grouped build of mmcv, the kept wheels, the error sentences.

Nothing is built or downloaded here; `make setup` itself builds, and checks the ops by their results.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import backbones

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tools' / 'setup'))

import build_mmcv  # noqa: E402
import check_mmcv  # noqa: E402
import install  # noqa: E402
import pins  # noqa: E402

REQUIREMENTS = [path.stem for path in sorted((ROOT / 'requirements').glob('*.txt'))]
SOURCES = ['pybind.cpp', 'nms.cpp', 'roi_align.cpp', 'focal_loss.cpp', 'cpu/nms.cpp', 'cpu/psamask.cpp',
           'cpu/bezier_align.cpp', 'cpu/roi_align.cpp', 'cpu/roi_align_rotated.cpp']


@pytest.fixture
def toy_source(tmp_path: Path) -> Path:
    """A source tree laid out as mmcv's; each file defines a macro of its own name."""
    for name in SOURCES:
        path = tmp_path / build_mmcv.CSRC / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#include <torch/extension.h>\n// this is {name}\n')
    return tmp_path


def setup_metadata(*fields: str) -> list[str]:
    """What `setup.py --name --version ...` prints."""
    command = [sys.executable, 'setup.py', '-q', *fields]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def test_setup_states_the_version_of_the_package():
    assert setup_metadata('--name', '--version') == ['mmbackbones', backbones.__version__]


def test_the_forks_are_pinned_exactly_and_nowhere_else():
    forks = dict(line.split('==') for line in pins.read_requirements('openmmlab'))
    assert {'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation'} <= set(forks)
    files = [ROOT / name for name in ('setup.py', 'Makefile', 'pyproject.toml')]
    for file in [*files, *(ROOT / 'tools' / 'setup').glob('*.py')]:
        text = file.read_text()
        for name in forks:
            assert not re.search(rf'{name}\s*[=<>~]=\s*\d', text), f'{file} pins {name} once more'


def test_the_wheel_alone_brings_the_plug_in(tmp_path):
    copy = tmp_path / 'checkout'  # building leaves files beside the sources
    shutil.copytree(ROOT / 'backbones', copy / 'backbones', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copytree(ROOT / 'requirements', copy / 'requirements')
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, copy)
    offline = ['--quiet', '--no-deps', '--no-build-isolation', '--no-index', '--disable-pip-version-check']
    place, empty = tmp_path / 'site', tmp_path / 'empty'
    empty.mkdir()
    subprocess.run([sys.executable, '-m', 'pip', 'install', *offline, '--target', place, copy], check=True)
    code = ("import backbones; print(backbones.__file__)\nfrom mmengine.registry import MODELS\n"
            "model = MODELS.build(dict(type='backbones.ConvNeXt', arch='atto'))")
    env = {**os.environ, 'PYTHONPATH': str(place), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-c', code], cwd=empty, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(place / 'backbones/__init__.py')
    packages = {str(path.parent.relative_to(ROOT)) for path in (ROOT / 'backbones').rglob('__init__.py')}
    assert packages == {str(path.parent.relative_to(place)) for path in (place / 'backbones').rglob('__init__.py')}


def test_every_extra_brings_the_forks_it_needs(monkeypatch):
    metadata = {}
    monkeypatch.setattr('setuptools.setup', metadata.update)
    runpy.run_path(str(ROOT / 'setup.py'))
    extras = {name: {line.split('==')[0] for line in lines} for name, lines in metadata['extras_require'].items()}
    assert extras['det'] == {'onedl-mmengine', 'onedl-mmdetection', 'pycocotools', 'faster-coco-eval'}
    assert extras['seg'] == {'onedl-mmengine', 'onedl-mmsegmentation'}
    tools = {line for name in ('report', 'serve', 'log') for line in extras[name]}
    assert extras['all'] == extras['det'] | extras['seg'] | tools
    assert not extras['trackers'] & extras['all']
    assert extras['test'] > extras['all']


@pytest.mark.parametrize('name', REQUIREMENTS)
def test_every_requirement_line_is_one_that_pip_understands(name):
    from packaging.requirements import Requirement
    assert pins.read_requirements(name)
    for line in pins.read_requirements(name):
        assert pins.distribution(line) == re.sub(r'[-_.]+', '-', Requirement(line).name).lower()


def test_opencv_is_headless_and_no_version_with_known_wrong_pixels():
    from packaging.requirements import Requirement
    lines = [Requirement(r) for r in pins.read_requirements('runtime') if r.startswith('opencv')]
    assert {line.name for line in lines} == {'opencv-python-headless'}
    for line in lines:
        assert not any(line.specifier.contains(bad) for bad in ('4.10.0.84', '4.11.0.86'))


def test_an_unknown_pin_is_named_in_the_error():
    with pytest.raises(ValueError, match=r"'mmcv-full' is not pinned .* 'onedl-mmcv'"):
        pins.pinned_version('mmcv-full')


def test_the_default_torch_of_make_is_the_pinned_one():
    shown = subprocess.run(['make', '-s', 'help'], cwd=ROOT, capture_output=True, text=True, check=True,
                           env={k: v for k, v in os.environ.items() if k not in ('TORCH', 'MAKEFLAGS')})
    assert f'(now {pins.read_requirements("torch")[0]})' in shown.stdout


def test_grouping_puts_every_source_into_exactly_one_unit():
    units = build_mmcv.plan_units(SOURCES)
    assert sorted(name for unit in units for name in unit) == sorted(SOURCES)
    assert len(units) == 3


def test_sources_that_define_the_same_names_never_share_a_unit():
    for unit in build_mmcv.plan_units(SOURCES):
        assert sum(name in build_mmcv.SAME_NAMES for name in unit) == 1


def test_grouping_copes_with_a_version_that_lacks_some_sources():
    assert build_mmcv.plan_units(['nms.cpp', 'cpu/nms.cpp']) == [['nms.cpp'], ['cpu/nms.cpp']]


def test_grouped_units_are_all_that_is_left_to_compile_and_include_every_source_once(toy_source):
    count = build_mmcv.group_sources(toy_source)
    folder = toy_source / build_mmcv.CSRC
    compiled = [*folder.glob('*.cpp'), *folder.glob('cpu/*.cpp')]
    assert sorted(path.name for path in compiled) == [f'unit_{i}.cpp' for i in range(count)]
    text = ''.join(path.read_text() for path in compiled)
    included = re.findall(r'#include "(.*\.inc)"\n#undef min\n#undef max\n', text)
    assert sorted(included) == sorted(str(Path(name).with_suffix('.inc')) for name in SOURCES)
    for name in SOURCES:
        assert f'// this is {name}' in (folder / name).with_suffix('.inc').read_text()


@pytest.mark.parametrize('change', [
    {'torch_version': '2.12.0'}, {'device': 'cuda-9.0'}, {'python': 'cpython-312'},
    {'system': 'macosx-14-arm64'}, {'mmcv_version': '2.4.0'}])
def test_the_cache_key_changes_with_all_that_a_wheel_depends_on(change):
    base = dict(torch_version='2.13.0+cpu', device='cpu', python='cpython-311',
                system='linux-x86_64-glibc-2.36', mmcv_version='2.3.6')
    assert build_mmcv.cache_key(**base) != build_mmcv.cache_key(**(base | change))


def test_the_cache_key_is_a_plain_folder_name():
    key = build_mmcv.cache_key('2.13.0+cu130', 'cuda-8.0;9.0+PTX')
    assert re.fullmatch(r'[\w.+-]+', key)
    assert pins.pinned_version('onedl-mmcv') in key


def test_the_cache_lies_where_xdg_says(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert pins.cache_folder() == tmp_path / 'mmbackbones' / 'wheels'


def test_a_wheel_is_published_whole_and_the_first_one_stays(tmp_path):
    for text in ('first', 'second'):
        wheel = tmp_path / text / 'x.whl'
        wheel.parent.mkdir()
        wheel.write_text(text)
        assert build_mmcv.publish(wheel, tmp_path / 'cache' / 'key').read_text() == 'first'
    assert [path.name for path in (tmp_path / 'cache').iterdir()] == ['key']


def test_a_missing_compiler_is_one_sentence_with_the_remedy(monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler -O2')
    sentence = build_mmcv.missing_tool()
    assert "'no-such-compiler'" in sentence and 'apt-get install g++' in sentence
    assert '\n' not in sentence


def test_missing_python_headers_are_one_sentence_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv('CXX', 'sh')
    monkeypatch.setattr(build_mmcv.sysconfig, 'get_path', lambda name: str(tmp_path))
    assert 'apt-get install python3-dev' in build_mmcv.missing_tool()


def test_without_compiler_and_kept_wheel_no_environment_is_begun(tmp_path):
    env = dict(os.environ, CXX='no-such-compiler', XDG_CACHE_HOME=str(tmp_path / 'cache'))
    command = [sys.executable, 'tools/setup/install.py', '--venv', str(tmp_path / 'venv')]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'apt-get install g++' in done.stderr and 'Traceback' not in done.stderr
    assert not (tmp_path / 'venv').exists()


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / 'thesis.tex').write_text('')
    with pytest.raises(pins.SetupError, match='is not empty and holds no bin/python'):
        install.Environment(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_in_an_environment_of_the_user_only_what_is_missing_is_installed():
    env = object.__new__(install.Environment)
    env.installed = {'opencv-python': '4.8.1', 'numpy': '1.26.4', 'mmdet': '3.3.0'}
    wanted = ['numpy==2.2.6', 'opencv-python-headless==4.12.0.88', 'onedl-mmdetection==3.5.1', 'scipy>=1.13']
    env.ours = False
    assert env.wanted(wanted) == ['scipy>=1.13']
    env.ours = True
    assert env.wanted(wanted) == wanted


def test_a_failed_step_says_why_and_where_to_read_on(tmp_path, capsys):
    command = [sys.executable, '-c', 'import sys; print("no route to host"); sys.exit(3)']
    with pytest.raises(pins.SetupError, match=r'libraries failed; .*libraries\.log'):
        install.wait(install.Step('libraries', command, tmp_path / 'libraries.log'))
    assert 'no route to host' in capsys.readouterr().err


class WrongOps:
    """Ops of the right form whose nms keeps every box."""

    @staticmethod
    def nms(boxes, scores, iou_threshold, offset):
        return scores.argsort(descending=True)


def test_ops_with_wrong_results_are_not_accepted():
    with pytest.raises(pins.SetupError, match=r'nms on cpu kept the boxes \[0, 1, 2\] instead of \[0, 2\]'):
        check_mmcv.check_ops(WrongOps, ['cpu'])


def test_an_mmcv_that_does_not_import_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmcv', None)
    with pytest.raises(pins.SetupError, match=r'mmcv\._ext.* does not work .*run `make -B setup`'):
        check_mmcv.check_installed()
