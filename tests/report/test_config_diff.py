"""In what configs differ, and from which one a run derives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT
from report_helpers import make_run

from backbones.config import read_config
from backbones.report.config_diff import MISSING, Difference, config_section, differences, find_base, set_by_tool
from backbones.report.parts import Note, Table
from backbones.report.run_folder import read_run
from backbones.training.run_record import plain

SHIPPED = 'configs/small/mask-rcnn_convnext_demo.py'


def run_of(tmp_path: Path, config: dict | None = None, **record: object) -> Path:
    """A run with this record."""
    return make_run(tmp_path / 'run', config=config, **record)


@pytest.mark.parametrize(('first', 'second', 'found'), [
    (dict(a=1), dict(a=2), [('a', '1', '2')]),
    (dict(a=dict(b=1, c=2)), dict(a=dict(b=1)), [('a.c', '2', None)]),
    (dict(), dict(a=dict(b=1)), [('a', None, "{'b': 1}")]),
    (dict(a=(1, 2)), dict(a=[1, 2]), []),
    (dict(a=[dict(t=1), dict(t=2)]), dict(a=[dict(t=1), dict(t=3)]), [('a[1].t', '2', '3')]),
    (dict(a=[1, 2]), dict(a=[1, 3]), [('a', '[1, 2]', '[1, 3]')]),
    (dict(a=1), dict(a=True), [('a', '1', 'True')]),
    (dict(a=float('nan')), dict(a=float('nan')), []),
    (dict(a=1), dict(a=1.0), []),
    (dict(a=None), dict(), [('a', 'None', None)]),
])
def test_differences_are_dotted_keys(first: dict, second: dict, found: list) -> None:
    assert differences(first, second) == [Difference(*one) for one in found]


def test_a_long_value_is_cut_and_says_how_long_it_was() -> None:
    (one,) = differences(dict(a=''), dict(a='x' * 5000))
    assert len(one.second) < 400
    assert one.second.endswith('(5,002 characters)')


def test_the_base_is_the_shipped_config_that_the_command_names(tmp_path: Path) -> None:
    base = find_base(read_run(run_of(tmp_path, command=['python', 'tools/train.py', f'/elsewhere/project/{SHIPPED}'])))
    assert base.path == SHIPPED


def test_the_base_is_found_by_the_name_of_the_dumped_config(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    (run / 'mask-rcnn_convnext_demo.py').write_text('model = dict()')
    assert find_base(read_run(run)).path == SHIPPED


def test_a_path_that_leads_out_of_the_shipped_configs_is_none_of_them(tmp_path: Path) -> None:
    run = run_of(tmp_path, command=['python', 'tools/train.py', 'configs/../tests/conftest.py'])
    assert isinstance(find_base(read_run(run)), Note)


def test_the_base_that_an_own_config_names_is_found_without_running_it(tmp_path: Path) -> None:
    trap = tmp_path / 'trap'
    own = tmp_path / 'own.py'
    own.write_text(f"_base_ = ['{ROOT / SHIPPED}']\nopen({str(trap)!r}, 'w')\n")
    (tmp_path / 'x').mkdir()
    run = run_of(tmp_path / 'x', command=['python', 'tools/train.py', str(own)])
    read = read_run(run)
    read.config_name = 'own'
    assert find_base(read).path == SHIPPED
    assert not trap.exists()


def test_a_config_that_derives_from_nothing_shipped_is_shown_whole(tmp_path: Path) -> None:
    parts = config_section(read_run(run_of(tmp_path))).parts
    assert 'No shipped config' in parts[0].text
    assert 'MaskRCNN' in parts[1].text


def test_the_chapter_lists_what_was_changed(tmp_path: Path) -> None:
    config = plain(read_config(ROOT / SHIPPED).to_dict())
    config['optim_wrapper']['optimizer']['lr'] = 7.5
    config['work_dir'] = 'work_dirs/a'
    run = read_run(run_of(tmp_path, config, command=['python', SHIPPED]))
    table, rest = config_section(run).parts[:2]
    assert isinstance(table, Table)
    assert [row for row in table.rows if row[0] == 'optim_wrapper.optimizer.lr'] == [
        ['optim_wrapper.optimizer.lr', '0.001', '7.5']]
    assert len(table.rows) == 1
    assert rest.folded and rest.rows == [('work_dir', f"{MISSING} → 'work_dirs/a'")]


@pytest.mark.parametrize(('key', 'first', 'second', 'by_tool'), [
    ('env_cfg.dist_cfg.backend', "'nccl'", "'gloo'", True),
    ('val_dataloader.dataset.pipeline[0].type', "'LoadImageFromFile'", "'backbones.LoadImageFromFile'", True),
    ('visualizer.vis_backends', '[]', "[{'type': 'backbones.LocalVisBackend'}]", True),
    ('model.backbone.type', "'backbones.ConvNeXt'", "'backbones.ViT'", False),
    ('optim_wrapper.type', "'OptimWrapper'", "'AmpOptimWrapper'", False),
    ('train_dataloader.batch_size', '4', '2', False),
])
def test_what_a_training_sets_is_told_from_what_its_user_does(
    key: str, first: str, second: str, by_tool: bool
) -> None:
    assert set_by_tool(Difference(key, first, second)) is by_tool


def test_two_runs_of_the_same_config_are_said_to_be(tmp_path: Path) -> None:
    first, second = (read_run(make_run(tmp_path / name)) for name in ('a', 'b'))
    first.config = json.loads(json.dumps(first.config)) | dict(work_dir='elsewhere')
    assert 'have the same config' in config_section(second, first).parts[0].text


def test_what_differs_from_the_other_run_comes_first(tmp_path: Path) -> None:
    first, second = (read_run(make_run(tmp_path / name)) for name in ('a', 'b'))
    first.config = first.config | dict(seed=1)
    table = config_section(second, first).parts[0]
    assert (table.columns, table.rows) == (['Key', 'a', 'b'], [['seed', '1', MISSING]])
