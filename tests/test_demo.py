"""What `make demo` does around the tools: commands, summary, picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from backbones import demo
from backbones.files import write_json

METRICS = {'detection': dict(bbox_mAP=0.61, segm_mAP=0.58), 'segmentation': dict(mIoU=85.5)}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout in which the tools only leave the files they are known to leave."""
    (tmp_path / 'configs').mkdir()
    monkeypatch.setattr(demo, 'ROOT', tmp_path)
    generate = demo.generate_demo
    monkeypatch.setattr(
        demo, 'generate_demo', lambda root: generate(root, num_train=1, num_val=8, size=(64, 96), progress=False))

    def tool(name: str, config: str, *arguments: str) -> None:
        if name == 'report.py':
            assert (tmp_path / config / 'evaluation/details.json').is_file()
            (tmp_path / config / 'report.html').write_text('a page')
            return
        task = 'detection' if 'mask-rcnn' in config else 'segmentation'
        folder = tmp_path / 'work_dirs' / 'demo' / task
        if name == 'train.py':
            folder.mkdir(parents=True)
            (folder / 'last').write_text('epoch_000010\n')
        elif name == 'test.py':
            assert arguments[0] == 'work_dirs/demo/' + f'{task}/epoch_000010' and '--details' in arguments
            write_json(folder / 'evaluation/details.json', {})
            write_json(folder / 'metrics.json', dict(metrics=METRICS[task]))
        else:
            for image in arguments[1 : arguments.index('--out')]:
                overlay = folder / 'predictions' / 'overlays' / f'{Path(image).stem}.png'
                overlay.parent.mkdir(parents=True, exist_ok=True)
                Image.new('RGB', (192, 128), 'red').save(overlay)

    monkeypatch.setattr(demo, '_command', tool)
    return tmp_path


def test_the_summary_holds_fractions_and_seconds(checkout: Path) -> None:
    demo.run_demo(setup_seconds=70.5)
    summary = json.loads((checkout / 'work_dirs/demo/summary.json').read_text())
    assert summary['detection'] == dict(bbox_mAP=0.61, segm_mAP=0.58)
    assert summary['segmentation'] == dict(mIoU=0.855)
    assert summary['seconds']['setup'] == 70.5 and summary['seconds']['train_and_test'] >= 0


def test_a_second_demo_replaces_the_first_and_leaves_other_files(checkout: Path) -> None:
    demo.run_demo()
    mine = checkout / 'work_dirs/demo/notes.txt'
    mine.write_text('keep me')
    demo.run_demo()
    assert mine.read_text() == 'keep me'


def test_it_ends_with_a_report_of_each_run(checkout: Path) -> None:
    demo.run_demo()
    assert all((checkout / 'work_dirs/demo' / task / 'report.html').is_file() for task in METRICS)


def test_the_picture_has_a_column_per_image_and_three_rows(checkout: Path) -> None:
    demo.run_demo()
    width, height = Image.open(checkout / 'work_dirs/demo/demo.png').size
    assert width == demo.PICTURES * (3 * 96 + 8) - 8
    assert height == 3 * (3 * 64 + 8) - 8


def test_the_table_is_aligned() -> None:
    lines = demo.format_summary(METRICS).splitlines()
    assert len({line.index(word) for line, word in zip(lines, ('value', None, '0.610'), strict=False) if word}) == 1
    assert len(lines) == 5


def test_outside_a_checkout_the_demo_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, 'ROOT', tmp_path)
    with pytest.raises(ValueError, match='needs a checkout'):
        demo.run_demo()
