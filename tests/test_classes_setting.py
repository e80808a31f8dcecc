"""One setting for the classes decides heads and data sets, and what contradicts it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from recipe_configs import ADE20K, CASCADE, DETECTOR, SEGMENTER, changed

from backbones.classes_setting import apply_classes, read_categories

SHAPES = ('disc', 'ring', 'box')


def coco(folder: Path, names: tuple[str, ...] = SHAPES, ids: tuple[int, ...] | None = None, file: str = 'a.json'
         ) -> Path:
    categories = [dict(id=number, name=name) for number, name in zip(ids or range(1, 9), names, strict=False)]
    path = folder / file
    path.write_text(json.dumps(dict(images=[], annotations=[], categories=categories)))
    return path


def with_data(path: Path, classes: object, train: Path, val: Path | None = None) -> Config:
    cfg = changed(path, {'classes': classes})
    for split, file in (('train', train), ('val', val or train), ('test', val or train)):
        cfg[f'{split}_dataloader'].dataset.update(data_root='', ann_file=str(file))
    init_default_scope(cfg.default_scope)
    return cfg


def counts(node: object, place: str = 'model') -> dict[str, int]:
    """Every num_classes of a config node by its place."""
    if isinstance(node, dict):
        inside = {place: node['num_classes']} if 'num_classes' in node else {}
        return inside | {k: v for key, value in node.items() for k, v in counts(value, f'{place}.{key}').items()}
    if isinstance(node, list | tuple):
        return {k: v for i, value in enumerate(node) for k, v in counts(value, f'{place}.{i}').items()}
    return {}


def test_without_the_setting_nothing_changes() -> None:
    cfg = changed(CASCADE, {})
    before = cfg.to_dict()
    assert apply_classes(cfg) == []
    assert cfg.to_dict() == before


def test_three_box_and_three_mask_heads_of_a_cascade_follow_one_list(tmp_path: Path) -> None:
    cfg = with_data(CASCADE, list(SHAPES), coco(tmp_path))
    cfg.model.roi_head.mask_head = [dict(cfg.model.roi_head.mask_head) for _ in range(3)]
    notes = apply_classes(cfg)
    found = counts(cfg.model)
    assert set(found.values()) == {3} and len(found) == 6
    assert all(cfg[f'{split}_dataloader'].dataset.metainfo.classes == SHAPES for split in ('train', 'val', 'test'))
    assert 'num_classes=3 in 6 heads (before: 80), metainfo.classes in 3 data sets' in notes[0]


def test_nothing_but_heads_and_data_sets_changes(tmp_path: Path) -> None:
    cfg = with_data(CASCADE, list(SHAPES), coco(tmp_path))
    before = cfg.to_dict()
    apply_classes(cfg)
    after = cfg.to_dict()
    for split in ('train', 'val', 'test'):
        del after[f'{split}_dataloader']['dataset']['metainfo']
    for head in [*after['model']['roi_head']['bbox_head'], after['model']['roi_head']['mask_head']]:
        head['num_classes'] = 80
    assert after == before


def test_decode_head_and_auxiliary_head_follow_one_list() -> None:
    cfg = changed(ADE20K, {'classes': ['road', 'sky']})
    init_default_scope(cfg.default_scope)
    apply_classes(cfg)
    assert counts(cfg.model) == {'model.decode_head': 2, 'model.auxiliary_head': 2}


def test_a_head_that_leaves_the_number_to_its_class_is_set_too(tmp_path: Path) -> None:
    cfg = with_data(DETECTOR, list(SHAPES), coco(tmp_path))
    del cfg.model.roi_head.bbox_head['num_classes']
    apply_classes(cfg)
    assert cfg.model.roi_head.bbox_head.num_classes == 3


def test_an_rpn_keeps_its_own_count(tmp_path: Path) -> None:
    cfg = with_data(DETECTOR, list(SHAPES), coco(tmp_path))
    cfg.model.rpn_head.num_classes = 1
    apply_classes(cfg)
    assert cfg.model.rpn_head.num_classes == 1


def test_the_annotation_file_names_the_classes_in_the_order_of_its_ids(tmp_path: Path) -> None:
    cfg = with_data(DETECTOR, 'annotations', coco(tmp_path, ('b', 'a', 'c'), ids=(9, 4, 70)))
    apply_classes(cfg)
    assert cfg.train_dataloader.dataset.metainfo.classes == ('a', 'b', 'c')
    assert cfg.model.roi_head.mask_head.num_classes == 3


def test_classes_txt_names_the_classes_of_label_maps(tmp_path: Path) -> None:
    (tmp_path / 'classes.txt').write_text('water\nland\n\n')
    cfg = changed(SEGMENTER, {'classes': 'annotations', 'model.decode_head.loss_decode.class_weight': [1.0, 2.0]})
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(tmp_path)
    apply_classes(cfg)
    assert cfg.val_dataloader.dataset.metainfo.classes == ('water', 'land')
    assert set(counts(cfg.model).values()) == {2}


def test_the_data_set_names_the_classes_where_no_file_does(tmp_path: Path) -> None:
    cfg = changed(ADE20K, {'classes': 'annotations', 'train_dataloader.dataset.data_root': str(tmp_path)})
    init_default_scope(cfg.default_scope)
    apply_classes(cfg)
    assert len(cfg.train_dataloader.dataset.metainfo.classes) == 150


def test_data_sets_inside_of_wrappers_are_reached(tmp_path: Path) -> None:
    cfg = with_data(DETECTOR, 'annotations', coco(tmp_path))
    inner = dict(cfg.train_dataloader.dataset)
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[inner, dict(inner)]))
    apply_classes(cfg)
    repeated = cfg.train_dataloader.dataset
    assert [data.metainfo.classes for data in repeated.dataset.datasets] == [SHAPES, SHAPES]
    assert 'metainfo' not in repeated and 'metainfo' not in repeated.dataset


@pytest.mark.parametrize(('text', 'expected'), [
    ('classes=annotations', 'annotations'), ('classes=[disc,ring,box]', list(SHAPES)),
    ('classes=disc,ring,box', list(SHAPES))])
def test_the_command_line_gives_a_word_or_a_list(text: str, expected: object, tmp_path: Path) -> None:
    key, value = text.split('=')
    cfg = with_data(DETECTOR, None, coco(tmp_path))
    cfg.merge_from_dict({key: DictAction._parse_iterable(value)})
    assert cfg.classes == expected
    apply_classes(cfg)
    assert cfg.train_dataloader.dataset.metainfo.classes == SHAPES


@pytest.mark.parametrize(('classes', 'said'), [
    ('disc', r"classes='disc' is one word; give a list, classes=\['disc'\]"),
    ([], 'is no list of names'), ([1, 2], 'is no list of names'), ({'a': 1}, 'is no list of names'), (3, 'no list'),
    (['disc', 'disc'], "names 'disc' 2 times"),
    (['disc', 'rings'], r"class 'rings' is not in .*a\.json; did you mean 'ring'\?")])
def test_what_is_no_list_of_names_of_the_file_is_refused(classes: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        apply_classes(with_data(DETECTOR, classes, coco(tmp_path)))


def test_a_split_of_other_names_is_refused(tmp_path: Path) -> None:
    cfg = with_data(DETECTOR, list(SHAPES), coco(tmp_path))
    cfg.val_dataloader.dataset.metainfo = dict(classes=('disc', 'box', 'ring'))
    with pytest.raises(ValueError, match=r"val_dataloader.*number 1: 'box' against 'ring'\. Leave classes out"):
        apply_classes(cfg)


def test_a_split_whose_file_lacks_a_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"class 'box' is not in .*val\.json"):
        apply_classes(with_data(
            DETECTOR, 'annotations', coco(tmp_path), coco(tmp_path, ('disc', 'ring'), file='val.json')))


def test_label_maps_of_other_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / 'classes.txt').write_text('water\nland\n')
    cfg = changed(SEGMENTER, {
        'classes': ['land', 'water'], 'train_dataloader.dataset.data_root': 'nowhere',
        'val_dataloader.dataset.data_root': str(tmp_path)})
    with pytest.raises(ValueError, match=r"classes\.txt has 2 names .* number 0: 'water' against 'land'"):
        apply_classes(cfg)


def test_one_head_that_was_edited_is_refused(tmp_path: Path) -> None:
    cfg = with_data(CASCADE, list(SHAPES), coco(tmp_path))
    cfg.model.roi_head.bbox_head[1].num_classes = 3
    with pytest.raises(ValueError, match=r'bbox_head\.0\.num_classes=80, model\.roi_head\.bbox_head\.1\.num_classes=3'):
        apply_classes(cfg)


@pytest.mark.parametrize(('head', 'weights', 'said'), [
    ('decode_head', [1.0] * 4, r'loss_decode\.class_weight has 4 values for 3 classes; give one for each class, or'),
    ('bbox_head', [1.0] * 3, r'loss_cls\.class_weight has 3 values for 3 classes; .* and one for the background')])
def test_another_number_of_class_weights_is_refused(
    head: str, weights: list[float], said: str, tmp_path: Path
) -> None:
    if head == 'bbox_head':
        cfg = with_data(DETECTOR, list(SHAPES), coco(tmp_path))
        cfg.model.roi_head.bbox_head.loss_cls.class_weight = weights
    else:
        cfg = changed(ADE20K, {'classes': list(SHAPES), 'model.decode_head.loss_decode.class_weight': weights})
    with pytest.raises(ValueError, match=said):
        apply_classes(cfg)


def test_one_output_for_two_classes_is_kept_and_refused_for_three() -> None:
    cfg = changed(ADE20K, {'classes': ['land', 'water'], 'model.decode_head.out_channels': 1})
    apply_classes(cfg)
    assert cfg.model.decode_head.out_channels == 1
    cfg = changed(ADE20K, {'classes': ['land', 'water', 'ice'], 'model.decode_head.out_channels': 1})
    with pytest.raises(ValueError, match='out_channels=1 tells two classes apart'):
        apply_classes(cfg)


def test_the_config_that_a_run_leaves_behind_repeats_it(tmp_path: Path) -> None:
    cfg = with_data(DETECTOR, 'annotations', coco(tmp_path))
    apply_classes(cfg)
    again = Config.fromstring(cfg.pretty_text, '.py')
    apply_classes(again)
    assert again.to_dict() == cfg.to_dict()


def test_categories_are_found_whatever_else_bears_the_name(tmp_path: Path) -> None:
    path = tmp_path / 'twice.json'
    categories = [dict(id=1, name='disc')]
    path.write_text(json.dumps(dict(
        info=dict(categories=[dict(id=7, name='other')]), images=[], annotations=[], categories=categories)))
    assert read_categories(path) == categories


@pytest.mark.parametrize('text', ['', '[]', '{"categories": ', '\ufeffnothing', '{"categories": 3}'])
def test_a_file_that_is_no_annotation_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / 'broken.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=r'broken\.json'):
        read_categories(path)


def test_a_training_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"asks .*nowhere\.json .*which does not exist"):
        apply_classes(with_data(DETECTOR, 'annotations', ROOT / 'nowhere.json'))
