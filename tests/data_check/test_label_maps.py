"""Label maps: what the values mean is worked out, and each map that does not fit is one error with file and value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_check_helpers import H, W, encoded, findings_of, kinds, labels, looker, make_label_maps, picture, save
from mmengine.config import Config
from PIL import Image

pytest.importorskip('mmdet', reason='mmdet is not installed')
pytest.importorskip('mmseg', reason='mmseg is not installed')

from backbones.data.bad_samples import BadSampleError
from backbones.data.label_maps import LoadLabelMap
from backbones.data_check import label_maps as label_maps_module
from backbones.data_check.check import check_root
from backbones.data_check.label_facts import look_at_label_map
from backbones.data_check.label_reading import ClassList, Reading, choose_reading
from backbones.registry import DATASETS

TARGET = 'annotations/training/0.png'


def check(root: Path):
    """All outcomes by name, and all findings."""
    outcomes = check_root(str(root), looker=looker())
    return {outcome.name: outcome for outcome in outcomes}, findings_of(outcomes)


def write(root: Path, content: bytes, name: str = TARGET) -> Path:
    (root / name).write_bytes(content)
    return root / name


def with_palette(values: np.ndarray) -> bytes:
    import io

    image = Image.fromarray(values, 'P')
    image.putpalette([number % 256 for number in range(768)])
    buffer = io.BytesIO()
    image.save(buffer, 'PNG')
    return buffer.getvalue()


COLOURED = encoded('PNG', np.stack([labels((0, 128)), labels((64, 0)), labels((0, 0))], axis=-1))


@pytest.mark.parametrize(('content', 'kind', 'word'), [
    (COLOURED, 'coloured label map', '2 colours: (0, 64, 0), (128, 0, 0)'),
    (encoded('PNG', np.repeat(labels((0, 1))[..., None], 3, axis=2)), 'coloured label map', 'values 0, 1'),
    (encoded('JPEG', labels((0, 1, 2))), 'label map format', 'JPEG'),
    (encoded('WEBP', picture(0)), 'label map format', 'WEBP'),
    (b'', 'no label map', 'is empty'),
    (b'<html>', 'no label map', 'web page'),
    (encoded('PNG', picture(1)[..., 0] % 3)[:200], 'label map damaged', 'cut off'),
    (encoded('PNG', labels((0, 1, 2), H * 2, W * 2)), 'label map size', f'{W * 2}x{H * 2}'),
    (encoded('PNG', labels((0, 1, 37))), 'value out of range', '37 ('),
    (encoded('PNG', labels((0, 1, 255))), 'value out of range', '255 ('),
    (encoded('PNG', labels((0, 1)).astype(np.uint16) * 300), 'value out of range', '300 ('),
    (encoded('TIFF', labels((0, 1)).astype(np.float32) + 0.5), 'value out of range', '0.5 ('),
])
def test_a_map_that_training_refuses_is_one_error_with_its_name(tmp_path, content, kind, word):
    root = make_label_maps(tmp_path)
    path = write(root, content)
    _, found = check(root)
    (finding,) = [finding for finding in found if finding.severity != 'note']
    assert (finding.severity, finding.kind, finding.file) == ('error', kind, str(path))
    assert word in finding.message
    assert finding.remedy


@pytest.mark.parametrize(('content', 'kind'), [
    (with_palette(labels((0, 1, 2))), 'palette label map'),
    (encoded('PNG', labels((0, 1, 2)).astype(np.uint16)), 'deep label map'),
    (encoded('PNG', labels((0, 1, 2)))[:-12], 'label map without its end'),
])
def test_an_oddity_that_is_read_correctly_is_a_note(tmp_path, content, kind):
    root = make_label_maps(tmp_path)
    write(root, content)
    assert kinds(check(root)[1]) == [f'note: {kind}']


def test_a_1_bit_map_is_silent(tmp_path):
    root = make_label_maps(tmp_path, values=(0, 1), classes=('thing',))
    write(root, encoded('PNG', labels((0, 1)).astype(bool)))
    assert check(root)[1] == []


def test_a_map_without_a_class_is_a_warning(tmp_path):
    root = make_label_maps(tmp_path)
    write(root, encoded('PNG', labels((0,))))
    assert kinds(check(root)[1]) == ['warning: map without a class']


def test_partners_that_are_missing_are_named_on_both_sides(tmp_path):
    root = make_label_maps(tmp_path)
    (root / TARGET).rename(root / 'annotations/training/other.png')
    found = check(root)[1]
    assert kinds(found) == ['error: label map missing', 'error: picture missing']
    assert found[0].file.endswith('images/training/0.png')
    assert found[1].file.endswith('annotations/training/other.png')


def test_a_label_map_of_another_format_is_hinted_at(tmp_path):
    root = make_label_maps(tmp_path)
    (root / TARGET).unlink()
    save(root / 'annotations/training/0.bmp', labels((0, 1)))
    (finding,) = check(root)[1]
    assert '0.bmp is there' in finding.message


def test_two_pictures_of_one_name_are_an_error(tmp_path):
    root = make_label_maps(tmp_path)
    save(root / 'images/training/0.jpg', picture(0))
    assert 'error: pairing' in kinds(check(root)[1])


def test_a_missing_folder_and_an_empty_one_are_errors(tmp_path):
    root = make_label_maps(tmp_path)
    for file in (root / 'images/validation').iterdir():
        file.unlink()
    found = check(root)[1]
    assert 'error: no pictures' in kinds(found)
    (root / 'images/validation').rmdir()
    assert 'error: folder missing' in kinds(check(root)[1])


def test_masks_of_0_and_255_are_told_as_such(tmp_path):
    root = make_label_maps(tmp_path, values=(0, 255), classes=('background', 'thing'))
    outcomes, found = check(root)
    assert set(kinds(found)) == {'error: mask of 0 and 255'}
    assert len(found) == 4
    assert outcomes['data set block'].skipped


def test_a_map_of_0_and_255_among_others_is_none(tmp_path):
    root = make_label_maps(tmp_path, values=(0, 1, 255), classes=('background', 'thing'))
    write(root, encoded('PNG', labels((0, 255))))
    assert check(root)[1] == []


@pytest.mark.parametrize(('values', 'classes', 'expected'), [
    ((0, 1, 2), ('sky', 'road'), True),  # ADE20K: the value 2 is the second class
    ((1, 2), ('sky', 'road'), True),
    ((0, 1, 255), ('sky', 'road'), False),  # Cityscapes
    ((0, 1), ('background', 'thing'), False),
    ((0, 1), ('sky', 'road', 'car'), True),  # the rule of the layout
    ((0, 1), ('0 sky', '1 road', '2 car'), False),
])
def test_the_reading_follows_from_values_and_names(tmp_path, values, classes, expected):
    outcomes, _ = check(make_label_maps(tmp_path, values, classes))
    assert outcomes['classes'].figures['reduce_zero_label'] is expected
    assert findings_of(list(outcomes.values()), 'error') == []


def test_one_bad_map_does_not_change_the_reading_of_all():
    classes = ClassList(('a', 'b', 'c'), source='classes.txt')
    values = [{0, 1, 2, 255}] * 9 + [{3, 255}]
    assert choose_reading(values, classes).reduce_zero_label is False
    assert choose_reading([{0, 1, 2, 3}] * 9 + [{255}], classes).reduce_zero_label is True


def test_all_values_but_the_highest_in_many_maps_show_that_0_is_a_class():
    classes = ClassList(('a', 'b', 'c'), source='classes.txt')
    assert choose_reading([{0, 1, 2}] * 19, classes).reduce_zero_label is True
    reading = choose_reading([{0, 1, 2}] * 20, classes)
    assert (reading.reduce_zero_label, reading.sure) == (False, False)


@pytest.mark.parametrize('zero', [True, False])
def test_a_reading_refuses_what_training_refuses(tmp_path, zero):
    reading = Reading(('a', 'b', 'c'), zero)
    for value in range(256):
        path = save(tmp_path / 'x.png', np.full((2, 2), value, np.uint8))
        sample = dict(seg_map_path=str(path), num_classes=3, reduce_zero_label=zero)
        try:
            loaded = LoadLabelMap().transform(sample)['gt_seg_map'][0, 0]
        except BadSampleError:
            assert reading.is_wrong(value)
            continue
        assert not reading.is_wrong(value)
        assert (loaded == 255) == reading.is_ignored(value)
        if loaded != 255:
            assert reading.name(value) == reading.classes[loaded]


@pytest.mark.parametrize(('text', 'kind'), [
    ('', 'error: classes.txt'),
    ('sky\n\nroad\n', 'error: classes.txt'),
    ('sky\nsky\n', 'error: class twice'),
    ('sky 0 64 0\nroad 128 0 0\n', 'warning: colours in classes.txt'),
    ('1: sky\n2: road\n', 'warning: numbers in classes.txt'),
])
def test_a_list_of_classes_that_misleads_is_told(tmp_path, text, kind):
    root = make_label_maps(tmp_path)
    (root / 'classes.txt').write_text(text)
    assert kinds(check(root)[1]) == [kind]


def test_a_list_of_classes_that_is_no_text_is_told(tmp_path):
    root = make_label_maps(tmp_path)
    (root / 'classes.txt').write_bytes(b'\xff\xfe\x00\xd8')
    assert kinds(check(root)[1]) == ['error: classes.txt']


def test_a_list_of_classes_that_is_too_short_is_named(tmp_path):
    root = make_label_maps(tmp_path, values=(0, 1, 2, 3, 4))
    found = check(root)[1]
    assert kinds(found).count('error: list of classes too short') == 1
    assert kinds(found).count('error: value out of range') == 4


def test_without_names_the_block_has_as_many_as_there_are_values(tmp_path):
    outcomes, found = check(make_label_maps(tmp_path, values=(0, 1, 2, 3), classes=None))
    assert kinds(found) == ['error: classes unknown']
    assert "classes=('class 1', 'class 2', 'class 3')" in outcomes['data set block'].figures['block']


def test_absent_classes_are_figures_until_the_maps_are_many(tmp_path, monkeypatch):
    root = make_label_maps(tmp_path, values=(0, 1, 3), classes=('sky', 'road', 'car'))
    outcomes, found = check(root)
    assert found == []
    assert set(outcomes['label values'].figures['seen']) == {'0', '1', '3'}
    monkeypatch.setattr(label_maps_module, 'ENOUGH_MAPS', 2)
    (finding,) = check(root)[1]
    assert (finding.severity, finding.kind, finding.value) == ('warning', 'class without a pixel', 'road')


def test_no_class_in_any_map_is_an_error(tmp_path):
    found = check(make_label_maps(tmp_path, values=(0,)))[1]
    assert 'error: no class in any map' in kinds(found)


@pytest.mark.parametrize(('values', 'classes'), [
    ((0, 1, 2), ('sky', "the 'road'")), ((0, 1, 255), ('sky', 'road')), ((0, 1, 2), None), ((0, 1, 255), None)])
def test_the_proposed_block_builds_a_data_set_that_loads_the_maps(tmp_path, values, classes):
    outcomes, _ = check(make_label_maps(tmp_path / "it's here", values, classes))
    config = Config.fromstring(outcomes['data set block'].figures['block'], '.py')
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        data_set = DATASETS.build({**loader.dataset, 'pipeline': [
            dict(type='backbones.LoadImageFromFile'), dict(type='backbones.LoadLabelMap')]})
        loaded = set(np.unique(data_set[0]['gt_seg_map']).tolist())
        assert loaded == ({0, 1, 255} if 0 in values else {0, 1})
    assert config.classes == 'annotations' and 'model' not in config


def test_label_maps_with_another_ending_are_paired_and_the_block_says_so(tmp_path):
    root = make_label_maps(tmp_path)
    for file in (root / 'annotations').glob('*/*.png'):
        file.rename(file.with_name(f'{file.stem}_mask.png'))
    outcomes, found = check(root)
    assert found == []
    config = Config.fromstring(outcomes['data set block'].figures['block'], '.py')
    assert len(DATASETS.build(dict(config.train_dataloader.dataset))) == 2


def test_ade20k_without_a_list_of_classes_has_its_150(tmp_path):
    root = make_label_maps(tmp_path, values=(0, 1, 150), classes=None)
    for file in root.glob('*/*/*.png'):
        file.rename(file.with_name(f'ADE_train_{file.name}'))
    outcomes, found = check(root)
    assert found == []
    config = Config.fromstring(outcomes['data set block'].figures['block'], '.py')
    assert config.train_dataloader.dataset.type == 'backbones.ADE20KDataset'
    assert len(DATASETS.build(dict(config.train_dataloader.dataset)).metainfo['classes']) == 150


def test_the_facts_of_a_map_do_not_name_its_place(tmp_path):
    path = save(tmp_path / 'secret.png', picture(1))
    facts = look_at_label_map(path.read_bytes(), str(path))
    assert 'secret' not in ' '.join(facts.fault)
