"""tools/check_data.py: the page, the JSON, the exit code, the repaired copy."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, SHARED, needs_shared
from data_check_helpers import encoded, findings_of, kinds, labels, looker, make_coco, make_label_maps, picture, save
from mmengine.config import Config
from PIL import Image
from rich.console import Console

pytest.importorskip('mmdet', reason='mmdet is not installed')
pytest.importorskip('mmseg', reason='mmseg is not installed')

from backbones.classes_setting import apply_classes
from backbones.data_check.check import check_root
from backbones.data_check.page import print_page
from backbones.data_check.repair import check_out, repair_root
from backbones.findings import FIELDS, Finding, Outcome
from backbones.registry import DATASETS


def run(*arguments: str) -> subprocess.CompletedProcess:
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONIOENCODING': 'utf-8'}
    return subprocess.run([sys.executable, str(ROOT / 'tools' / 'check_data.py'), *arguments], env=env,
                          capture_output=True, text=True, timeout=300)


def printed(outcomes: list[Outcome], width: int, **options) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_page(outcomes, console, **options)
    return console.file.getvalue()


def test_errors_end_with_2_a_json_list_and_a_page_without_colour(tmp_path):
    root = make_label_maps(tmp_path / 'data')
    (root / 'annotations/training/0.png').write_bytes(encoded('PNG', labels((0, 1, 37))))
    file = tmp_path / 'found.json'
    ended = run(str(root), '--json', str(file))
    assert ended.returncode == 2, ended.stderr
    (finding,) = json.loads(file.read_text())
    assert tuple(finding) == FIELDS
    assert (finding['severity'], finding['value']) == ('error', 37)
    assert 'OneDL' not in ended.stdout
    assert '\x1b' not in ended.stdout
    assert 'error: value out of range' in ended.stdout
    assert ended.stdout.rstrip().endswith('1 error')


@pytest.mark.parametrize(('arguments', 'word'), [
    (('nowhere',), 'does not exist'), (('.', '--sample', '0'), 'sample=0'), (('.', '--workers', '-3'), 'workers=-3'),
    (('.', '--json', 'no/such/folder/x.json'), 'does not exist')])
def test_bad_arguments_end_in_one_sentence(tmp_path, arguments, word, monkeypatch, capsys):
    import runpy

    from backbones.cli import run_tool

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['check_data.py', *arguments])
    main = runpy.run_path(str(ROOT / 'tools' / 'check_data.py'))['main']
    with pytest.raises(SystemExit) as end:
        run_tool(main)
    said = capsys.readouterr().err.strip()
    assert end.value.code == 2
    assert said.count('\n') == 0
    assert word in said


@pytest.mark.parametrize('width', [80, 200])
def test_the_page_groups_findings_and_shows_the_first_places(width):
    many = [Finding('error', 'box outside', f'box {n} is outside', 'clip it', 'data/a.json', n, 'bbox', [n] * 40)
            for n in range(2000)]
    outcome = Outcome('annotations train', '2,000 objects', [*many, Finding('note', 'grey picture', 'is grey')])
    text = printed([outcome, Outcome('objects', skipped='nothing to look at')], width, root='data')
    assert max(map(len, text.splitlines())) <= width
    assert 'error: box outside (2,000)' in text
    assert 'box 2 is outside' in text
    assert 'box 3 is outside' not in text
    assert 'and 1,997 more' in text
    assert text.count('clip it') == 1
    assert 'data/a.json' not in text
    assert '2,000 errors, 1 note' in text


def test_control_signs_in_names_do_not_reach_the_terminal():
    finding = Finding('error', 'x', 'bad \x1b[31m name', 'mend\rit', 'a\x1b]0;b', 'c\x07', 'field\x1b', 'v\x1b')
    assert not re.search(r'[\x00-\x09\x0b-\x1f\x7f]', printed([Outcome('x\x1b', 'y\x1b', [finding], ['z\x1b'])], 80))


def test_the_block_of_a_coco_root_builds_its_data_sets(tmp_path):
    outcomes = check_root(str(make_coco(tmp_path)), looker=looker())
    config = Config.fromstring(outcomes[-1].figures['block'], '.py')
    for loader in (config.train_dataloader, config.val_dataloader):
        data_set = DATASETS.build({**loader.dataset, 'pipeline': [dict(type='backbones.LoadImageFromFile')]})
        assert data_set[0]['img'].shape[2] == 3
    assert config.classes == 'annotations' and 'model' not in config
    assert Path(config.val_evaluator.ann_file).is_file()


@pytest.mark.parametrize(('make', 'leaf'), [
    (make_coco, 'convnext/mask-rcnn_convnext-t-in1k_3x_coco.py'),
    (make_label_maps, 'vit/upernet_vit-b-mae_160k_ade20k-512.py')])
def test_the_block_at_the_end_of_a_recipe_replaces_its_data_and_classes(tmp_path, make, leaf):
    options = dict(sizes=(40, 48)) if make is make_coco else {}  # recipes leave out pictures below 32 pixels
    outcomes = check_root(str(make(tmp_path / 'data', **options)), looker=looker())
    file = tmp_path / 'configs/mine/config.py'
    file.parent.mkdir(parents=True)
    (tmp_path / 'configs/_base_').symlink_to(ROOT / 'configs/_base_')
    file.write_text(f"{(ROOT / 'configs' / leaf).read_text()}\n{outcomes[-1].figures['block']}\n")
    config = Config.fromfile(file)
    apply_classes(config)
    for split in ('train', 'val', 'test'):
        dataset = config[f'{split}_dataloader'].dataset.copy()
        assert dataset.data_root == str(tmp_path / 'data')
        assert dataset.pop('pipeline')
        classes = DATASETS.build(dict(dataset)).metainfo['classes']
    heads = config.model.get('roi_head', config.model)
    names = ('bbox_head', 'mask_head') if 'roi_head' in config.model else ('decode_head', 'auxiliary_head')
    assert [heads[name].num_classes for name in names] == [len(classes)] * 2


def test_a_piped_block_is_code_as_it_stands(tmp_path):
    outcomes = check_root(str(make_label_maps(tmp_path)), looker=looker())
    text = printed(outcomes, 80)
    block = text.split('For the end of a config:\n')[1].split('\n\n')[0]
    assert Config.fromstring(block, '.py').train_dataloader.dataset.data_root == str(tmp_path)


def test_a_repaired_copy_has_8_bits_and_numbers_for_the_colours_that_are_listed(tmp_path):
    root = make_label_maps(tmp_path / 'data')
    (root / 'classes.txt').write_text('sky 0 64 0\nroad 128 0 0\n')
    colours = np.stack([labels((0, 128)), labels((64, 0)), labels((0, 0))], axis=-1)
    save(root / 'annotations/training/0.png', colours)
    save(root / 'annotations/training/1.png', labels((0, 1, 2)).astype(np.uint16))
    done, left = repair_root(str(root), str(tmp_path / 'out'), looker())
    assert (len(done), left) == (3, [])
    assert findings_of(check_root(str(tmp_path / 'out'), looker=looker())) == []
    mended = np.array(Image.open(tmp_path / 'out/annotations/training/0.png'))
    assert np.array_equal(mended, np.where(colours[..., 0] == 128, 2, 1))
    assert Image.open(tmp_path / 'out/annotations/training/1.png').mode == 'L'
    assert (tmp_path / 'out/classes.txt').read_text() == 'sky\nroad\n'
    picture_ = tmp_path / 'out/images/training/0.png'
    assert picture_.samefile(root / 'images/training/0.png')


def test_what_would_be_a_guess_is_left_alone_and_listed(tmp_path):
    root = make_label_maps(tmp_path / 'data')
    colours = np.stack([labels((0, 128))] * 2 + [labels((0, 7))], axis=-1)
    palette = save(root / 'annotations/validation/0.png', labels((0, 1, 2)))
    Image.fromarray(labels((0, 1, 2)), 'P').save(palette)
    save(root / 'annotations/training/0.png', colours)
    save(root / 'annotations/training/1.png', labels((0, 1, 37)))
    (root / 'images/validation/1.png').unlink()
    done, left = repair_root(str(root), str(tmp_path / 'out'), looker())
    assert done == []
    assert len(left) == 3
    assert 'colour picture' in ' '.join(left)
    assert '37' in ' '.join(left)
    for name in ('training/0.png', 'training/1.png', 'validation/0.png'):
        copy = tmp_path / 'out/annotations' / name
        assert copy.read_bytes() == (root / 'annotations' / name).read_bytes()


def test_a_repaired_coco_copy_is_sound_and_the_original_untouched(tmp_path):
    root = make_coco(tmp_path / 'data')
    file = root / 'annotations/instances_train.json'
    content = json.loads(file.read_text())
    content['annotations'][0]['bbox'] = [2, 3, 500, 12]
    content['images'][1].update(width=320, height=240)
    file.write_text(json.dumps(content))
    before = file.read_bytes()
    assert kinds(findings_of(check_root(str(root), looker=looker()), 'error')) != []
    done, left = repair_root(str(root), str(tmp_path / 'out'), looker())
    assert (len(done) > 0, left) == (True, [])
    assert findings_of(check_root(str(tmp_path / 'out'), looker=looker()), 'error', 'warning') == []
    assert file.read_bytes() == before


@pytest.mark.parametrize('name', ['data', 'data/inside', 'full', 'no/parent'])
def test_a_place_for_the_copy_that_is_none_is_refused_before_the_work(tmp_path, name):
    make_label_maps(tmp_path / 'data')
    save(tmp_path / 'full' / 'a.png', picture(0))
    with pytest.raises(ValueError, match='--fix'):
        check_out(str(tmp_path / 'data'), str(tmp_path / name))


@needs_shared
@pytest.mark.parametrize('case', sorted(path.name for path in (SHARED / 'data/broken').glob('*') if path.is_dir()))
def test_every_broken_set_can_be_copied_and_never_gets_worse(tmp_path, case):
    root = str(SHARED / 'data' / 'broken' / case)
    look = looker()
    before = findings_of(check_root(root, looker=look), 'error')
    done, left = repair_root(root, str(tmp_path / 'out'), look)
    after = findings_of(check_root(str(tmp_path / 'out'), looker=looker()), 'error')
    assert len(after) <= len(before)
    assert len(left) >= len(after)
    assert bool(done or left) == bool(before or case == 'seg_labels_16bit')
