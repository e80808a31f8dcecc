"""The tables of the READMEs are those of the cards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from backbones.config import read_config
from backbones.recipes.card import card_of_file, read_card
from backbones.recipes.tables import filled, folder_tables

FOLDERS = ['baselines', 'convnext', 'small', 'vit']


@pytest.mark.parametrize('folder', FOLDERS)
def test_a_readme_is_up_to_date(folder: str) -> None:
    readme = ROOT / 'configs' / folder / 'README.md'
    assert filled(readme) == readme.read_text(), 'run python tools/recipes.py tables'


def test_a_row_says_what_its_card_says(tmp_path: Path) -> None:
    shutil.copy(ROOT / 'configs/convnext/mask-rcnn_convnext-t-in1k_3x_coco.py', tmp_path)
    row = next(line for line in folder_tables(tmp_path).splitlines() if 'mask-rcnn_' in line)
    for cell in ('46.2', '41.7', '48M', '262G', '`convnext_tiny_1k_224.pth`', '1e-4', 'layer 0.95', 'fp16', '16 / 2'):
        assert f'| {cell} |' in row


def test_recipes_for_one_gpu_have_a_table_of_their_own(tmp_path: Path) -> None:
    shutil.copy(ROOT / 'configs/convnext/mask-rcnn_convnext-t-in22k_12e-1gpu_coco.py', tmp_path)
    text = folder_tables(tmp_path)
    assert '### COCO on one GPU' in text and '\n## COCO' not in text


def test_a_readme_without_markers_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'README.md').write_text('mine')
    with pytest.raises(ValueError, match='needs one <!-- recipes -->'):
        filled(tmp_path / 'README.md')


def test_the_card_of_a_file_is_that_of_the_composed_config() -> None:
    path = ROOT / 'configs/vit/upernet_beit-l-in22k_160k_ade20k-640.py'
    assert card_of_file(path) == read_card(read_config(path))


def test_a_computed_card_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'leaf.py').write_text('rate = 1e-4\ncard = dict(lr=rate)\n')
    with pytest.raises(ValueError, match='is no plain dict'):
        card_of_file(tmp_path / 'leaf.py')
