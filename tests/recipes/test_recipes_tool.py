"""tools/recipes.py holds the project's configs against their cards, and a user's own where they have one."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

RECIPE = 'mask-rcnn_convnext_demo.py'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout, without git, of one recipe in the project's folder and a copy without its card in the user's."""
    for name in ('small/README.md', f'small/{RECIPE}'):
        (tmp_path / 'configs' / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / 'configs' / name, tmp_path / 'configs' / name)
    shutil.copytree(ROOT / 'configs/_base_', tmp_path / 'configs/_base_')
    (tmp_path / 'tools').mkdir()
    shutil.copy(ROOT / 'tools/recipes.py', tmp_path / 'tools')
    (tmp_path / 'configs/mine').mkdir()
    (tmp_path / 'configs/mine/README.md').write_text('My own.\n')
    (tmp_path / 'configs/mine/other.py').write_text("_base_ = ['../_base_/runtime_det.py']\n")
    return tmp_path


def held(checkout: Path) -> tuple[list[str], list[str]]:
    """The names of the configs that are held against a card, and of those that are not."""
    found = runpy.run_path(str(checkout / 'tools/recipes.py'))['held']()
    return tuple([path.relative_to(checkout / 'configs').as_posix() for path in paths] for paths in found)


def test_a_config_of_ones_own_needs_no_card(checkout: Path) -> None:
    assert held(checkout) == ([f'small/{RECIPE}'], ['mine/other.py'])


def test_a_card_of_ones_own_is_held_even_if_it_is_none(checkout: Path) -> None:
    (checkout / 'configs/mine/other.py').write_text('card = None\n')
    assert held(checkout) == (['mine/other.py', f'small/{RECIPE}'], [])


def test_a_recipe_of_the_project_needs_its_card(checkout: Path) -> None:
    (checkout / 'configs/small' / RECIPE).write_text('model = dict()\n')
    assert held(checkout)[0] == [f'small/{RECIPE}']


@pytest.mark.parametrize('content', [b'model = dict(', b'\xff\xfe\0', None])
def test_a_file_of_ones_own_that_is_no_config_is_left_out(content: bytes | None, checkout: Path) -> None:
    file = checkout / 'configs/mine/other.py'
    file.unlink()
    file.write_bytes(content) if content is not None else file.symlink_to('nothing.py')
    assert held(checkout) == ([f'small/{RECIPE}'], ['mine/other.py'])


def test_the_tool_names_what_it_left_out(checkout: Path) -> None:
    done = subprocess.run([sys.executable, 'tools/recipes.py', 'check', '--no-count'], cwd=checkout,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        f'[1/1] ok      configs/small/{RECIPE}', '1 config, no differences',
        'left out, without a card in a folder of your own: configs/mine/other.py']


def test_the_tables_leave_a_readme_of_ones_own_as_it_is(checkout: Path) -> None:
    done = subprocess.run([sys.executable, 'tools/recipes.py', 'tables'], cwd=checkout, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    assert (checkout / 'configs/mine/README.md').read_text() == 'My own.\n'
