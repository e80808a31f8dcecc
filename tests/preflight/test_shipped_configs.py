"""Every kind of shipped recipe passes the quick part against data in its layout: nothing is found that is not so.

Models are built on the meta device (no memory, no arithmetic); of recipes that share all fragments one is looked at.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmdet.datasets import CocoDataset
from mmengine.runner import Runner
from PIL import Image

from backbones.preflight.run import Settings, preflight

PICTURES = dict(train=72, val=4)  # one step of the largest total batch, 64
# What is so: a warm-up of 500 iterations and few pictures; this machine has no GPU.
TRUE_OF_FEW, TRUE_OF_CPU = 'long warm-up', 'precision of this machine'


def fragments_of(path: Path) -> tuple[str, ...]:
    """The fragments that a leaf lists, and its kind of backbone."""
    text = path.read_text()
    bases = re.findall(r"_base_/([\w/]+)\.py'", text)
    return (*bases, *re.findall(r"type='(?:backbones|mmdet)\.(ConvNeXt|\w*Transformer|ResNet)'", text))


def one_of_each() -> list[Path]:
    """The first recipe of each set of fragments; those of the demo data have tests of their own."""
    kinds: dict[tuple[str, ...], Path] = {}
    for path in sorted((ROOT / 'configs').glob('*/*.py')):
        if path.parent.name not in ('_base_', 'small'):
            kinds.setdefault(fragments_of(path), path)
    return list(kinds.values())


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(noise).resize((160, 120))


def write_coco(root: Path) -> None:
    """COCO's layout and 80 classes, with seven objects in each small picture."""
    names = CocoDataset.METAINFO['classes']
    for place, (split, count) in enumerate(PICTURES.items()):
        images, objects = [], []
        (root / f'{split}2017').mkdir(parents=True)
        for number in range(1000 * place + 1, 1000 * place + 1 + count):
            picture(number).save(root / f'{split}2017' / f'{number:012d}.jpg')
            images.append(dict(id=number, file_name=f'{number:012d}.jpg', width=160, height=120))
            for step in range(7):
                x, y, width, height = 3 + 11 * step, 5 + 7 * step, 30 + 5 * step, 40 + 3 * step
                objects.append(dict(
                    id=7 * number + step, image_id=number, category_id=(7 * number + step) % 80 + 1, iscrowd=0,
                    bbox=[x, y, width, height], area=width * height,
                    segmentation=[[x, y, x + width, y, x + width, y + height, x, y + height]]))
        content = dict(images=images, annotations=objects,
                       categories=[dict(id=label, name=name) for label, name in enumerate(names, 1)])
        (root / 'annotations').mkdir(exist_ok=True)
        (root / f'annotations/instances_{split}2017.json').write_text(json.dumps(content))


def write_ade(root: Path) -> None:
    """ADE20K's layout, with labels from 0 (ignored) to 150."""
    for place, (split, short) in enumerate((('training', 'train'), ('validation', 'val'))):
        for folder in ('images', 'annotations'):
            (root / folder / split).mkdir(parents=True)
        for number in range(1, PICTURES[short] + 1):
            name = f'ADE_{short}_{number:08d}'
            picture(5000 + 1000 * place + number).save(root / 'images' / split / f'{name}.jpg')
            labels = np.random.default_rng(number).integers(0, 151, (12, 16), np.uint8)
            Image.fromarray(labels).resize((160, 120), Image.NEAREST).save(root / 'annotations' / split / f'{name}.png')


@pytest.fixture(scope='module')
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('layouts')
    write_coco(folder / 'coco')
    write_ade(folder / 'ade')
    return dict(coco=folder / 'coco', ade=folder / 'ade')


@pytest.fixture
def _without_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runners build models on the meta device; those of mmdet and mmengine ask for numbers of a linspace."""
    build, linspace = Runner.build_model, torch.linspace

    def on_meta(runner: Runner, model: Any) -> torch.nn.Module:
        with torch.device('meta'):
            return build(runner, model)

    monkeypatch.setattr(Runner, 'build_model', on_meta)
    monkeypatch.setattr(Runner, 'wrap_model', lambda runner, cfg, model: model)
    monkeypatch.setattr(torch, 'linspace', functools.partial(linspace, device='cpu'))


@pytest.mark.usefixtures('_without_arithmetic')
@pytest.mark.parametrize('path', one_of_each(), ids=lambda path: path.stem)
def test_a_shipped_recipe_gives_no_finding_that_is_not_so(path, roots):
    root = roots['ade' if 'ade20k' in path.name else 'coco']
    report, _ = preflight(path, Settings(options={'data_root': str(root)}, quick=True, workers=1))
    expected = {TRUE_OF_FEW} | (set() if torch.cuda.is_available() else {TRUE_OF_CPU})
    assert [finding for finding in report.findings if finding.kind not in expected] == []
    assert {outcome.name for outcome in report.outcomes if outcome.skipped} == set()
    assert len(report.outcomes) > 15
