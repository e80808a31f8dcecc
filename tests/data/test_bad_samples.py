"""One sample that cannot be read: training stops, or goes on within a budget and says so; evaluation stops."""

from __future__ import annotations

import json
import logging
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, pseudo_collate
from mmengine.registry import HOOKS
from PIL import Image
from torch.utils.data import DataLoader

pytest.importorskip('mmdet', reason='mmdet is not installed')
pytest.importorskip('mmseg', reason='mmseg is not installed')

from backbones.data.bad_samples import (
    BadSampleError,
    BadSampleMixin,
    TooManyBadSamplesError,
    append_line,
    read_bad_samples,
    skipping_datasets,
)
from backbones.data.coco import CocoDataset
from backbones.data.label_maps import LabelMapDataset
from backbones.training.bad_samples_hook import BadSamplesHook


class Plain(BadSampleMixin, BaseDataset):
    """Ten samples; those whose number is in `bad` cannot be read."""

    bad: tuple[int, ...] = ()

    def load_data_list(self) -> list[dict]:
        return [dict(number=n) for n in range(10)]

    def __init__(self, bad: tuple[int, ...], **options) -> None:
        self.bad = bad
        super().__init__(pipeline=[self.read], serialize_data=False, **options)

    def read(self, sample: dict) -> int:
        if sample['number'] in self.bad:
            raise BadSampleError(f'picture {sample["number"]}.jpg is cut off', f'{sample["number"]}.jpg')
        return sample['number']


@pytest.fixture
def record(tmp_path) -> Path:
    return tmp_path / 'run' / 'bad_samples.jsonl'


def skipping(record: Path, *bad: int, **options) -> Plain:
    return Plain(bad, on_bad_sample='skip', bad_samples_file=str(record), **options)


def test_the_first_bad_sample_stops_training_by_default():
    with pytest.raises(BadSampleError, match=r'3\.jpg is cut off'):
        Plain((3,))[3]


def test_skip_puts_the_next_readable_index_in_its_place(record):
    dataset = skipping(record, 3, 4, 9)
    assert [dataset[i] for i in range(10)] == [0, 1, 2, 5, 5, 5, 6, 7, 8, 0]


def test_every_event_is_written_down_with_what_took_its_place(record):
    dataset = skipping(record, 3, 4)
    dataset[3], dataset[4]
    events = read_bad_samples(record)
    assert [(e['index'], e['file'], e['replaced_by']) for e in events] == [
        (3, '3.jpg', 5), (4, '4.jpg', 5), (4, '4.jpg', 5)]
    assert events[0]['reason'] == 'picture 3.jpg is cut off' and events[0]['rank'] == 0


def test_a_readable_data_set_leaves_no_record(record):
    assert [skipping(record)[i] for i in range(10)] == list(range(10)) and not record.exists()


def test_one_file_more_than_the_budget_stops_training_in_one_sentence(record):
    dataset = skipping(record, 1, 3, 5, max_bad_samples=2)
    assert [dataset[i] for i in (1, 3, 1, 3)] == [2, 4, 2, 4]  # the same two again cost nothing
    with pytest.raises(TooManyBadSamplesError, match='3 files of the data set are unreadable, more than max_bad_sampl'):
        dataset[5]
    assert read_bad_samples(record)[-1]['replaced_by'] is None


def test_the_budget_holds_over_a_resumed_run(record):
    skipping(record, 1, 3, max_bad_samples=2)[1], skipping(record, 1, 3, max_bad_samples=2)[3]
    with pytest.raises(TooManyBadSamplesError):
        skipping(record, 5, max_bad_samples=2)[5]


def test_a_data_set_without_any_readable_sample_is_an_error(record):
    with pytest.raises(TooManyBadSamplesError, match='no sample of the data set can be read'):
        skipping(record, *range(10), max_bad_samples=99)[0]


def test_all_samples_are_on_record_where_none_can_be_read(record):
    with pytest.raises(TooManyBadSamplesError, match=f'listed in {record}'):
        skipping(record, *range(10), max_bad_samples=99)[3]
    events = read_bad_samples(record)
    assert sorted(event['index'] for event in events) == list(range(10))
    assert {event['replaced_by'] for event in events} == {None}


@pytest.mark.parametrize('place', ['file/bad.jsonl', 'folder', '/proc/nowhere/bad.jsonl'])
def test_a_record_that_cannot_be_written_is_refused_at_the_start(tmp_path, place):
    (tmp_path / 'file').touch()
    (tmp_path / 'folder').mkdir()
    with pytest.raises(ValueError, match=r'bad_samples_file=.* cannot be written: .*give a file in a folder'):
        skipping(tmp_path / place, 3)


def test_a_record_of_an_earlier_part_of_the_run_stays_as_it_is(record):
    append_line(record, dict(file='a'))
    before = record.read_bytes()
    skipping(record, 3)
    assert record.read_bytes() == before


def test_a_record_that_cannot_be_written_later_names_the_bad_picture(record):
    dataset = skipping(record, 3)
    record.mkdir()
    dataset._check_budget = lambda *args: None  # which reads it
    with pytest.raises(ValueError, match=r'bad_samples_file=.* cannot be written: .*picture 3\.jpg is cut off'):
        dataset[3]


def test_evaluation_never_skips(record):
    with pytest.raises(ValueError, match='is for training only'):
        skipping(record, 3, test_mode=True)
    dataset = skipping(record, 3)
    dataset.test_mode = True
    with pytest.raises(BadSampleError):
        dataset[3]


def test_a_mistake_in_the_program_is_not_skipped(record):
    dataset = skipping(record)
    dataset.pipeline.transforms.append(lambda sample: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dataset[0]


@pytest.mark.parametrize('options, message', [
    (dict(on_bad_sample='ignore'), 'choose one of'),
    (dict(on_bad_sample='skip'), 'needs bad_samples_file'),
    (dict(max_bad_samples=0), '1 or more'),
    (dict(max_bad_samples=1.5), 'whole number'),
])
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Plain((), **options)


@pytest.mark.parametrize('workers', [0, 2])
def test_workers_give_the_same_samples_and_share_record_and_budget(record, workers):
    loader = DataLoader(skipping(record, 2, 7), batch_size=2, num_workers=workers, collate_fn=pseudo_collate)
    assert [list(batch) for batch in loader] == [[0, 1], [3, 3], [4, 5], [6, 8], [8, 9]]
    assert sorted(event['index'] for event in read_bad_samples(record)) == [2, 7]
    loader = DataLoader(skipping(record, 4, max_bad_samples=2), num_workers=workers, collate_fn=pseudo_collate)
    with pytest.raises(TooManyBadSamplesError, match='3 files'):
        list(loader)


def _append(path: Path, number: int) -> None:
    for step in range(50):
        append_line(path, dict(file=f'{number}', step=step, filling='x' * 200))


def test_lines_of_several_processes_never_mix(tmp_path):
    path = tmp_path / 'a.jsonl'
    processes = [get_context('fork').Process(target=_append, args=(path, n)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 200 and {line['file'] for line in lines} == set('0123')


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"file": "a"}\n{"file": "b"}\n{"fil')
    assert [event['file'] for event in read_bad_samples(tmp_path / 'a.jsonl')] == ['a', 'b']


def test_the_end_report_counts_files_and_events(record, caplog):
    from backbones.data.randomness import ReproducibleDataset

    dataset = skipping(record, 3)
    dataset[3], dataset[3]
    logger = logging.getLogger('bad samples')
    whole = ReproducibleDataset(ConcatDataset([dataset, Plain(())]))
    assert list(skipping_datasets(whole)) == [dataset]
    runner = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=whole), logger=logger)
    with caplog.at_level(logging.INFO, 'bad samples'):
        HOOKS.build(dict(type='backbones.BadSamplesHook')).after_train(runner)
    assert 'unreadable samples: 1 files (budget 10), replaced by the next readable one 2 times: 3.jpg' in caplog.text
    assert str(record) in caplog.text


def test_the_end_report_says_nothing_where_nothing_may_be_skipped(caplog):
    runner = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=Plain(())), logger=logging.getLogger('quiet'))
    with caplog.at_level(logging.INFO, 'quiet'):
        BadSamplesHook().after_train(runner)
    assert not caplog.text


COCO = [dict(type='backbones.LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True)]


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """Three pictures, of which the second is cut off."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f'{number}.jpg')
    (tmp_path / '1.jpg').write_bytes((tmp_path / '1.jpg').read_bytes()[:-100])
    images = [dict(id=n, file_name=f'{n}.jpg', height=20, width=30) for n in range(3)]
    objects = [dict(id=n + 1, image_id=n, category_id=1, bbox=[1, 1, 9, 9], area=81, iscrowd=0,
                    segmentation=[[1, 1, 9, 1, 9, 9]]) for n in range(3)]
    content = dict(images=images, annotations=objects, categories=[dict(id=1, name='x')])
    (tmp_path / 'a.json').write_text(json.dumps(content))

    def build(**options) -> CocoDataset:
        where = dict(data_root=str(tmp_path), ann_file='a.json', data_prefix=dict(img=''))
        return CocoDataset(**where | dict(pipeline=COCO, serialize_data=False) | options)

    return build


def test_a_coco_data_set_skips_an_unreadable_picture(coco, record):
    with pytest.raises(BadSampleError, match=r'1\.jpg cannot be decoded'):
        coco()[1]
    dataset = coco(on_bad_sample='skip', bad_samples_file=str(record))
    assert dataset[1]['img_id'] == 2 and read_bad_samples(record)[0]['file'].endswith('1.jpg')


THIN = [COCO[0], dict(type='mmdet.Resize', scale=(160, 100), keep_ratio=True)]


@pytest.mark.parametrize('size', [(5000, 1), (1, 5000), (2000, 3)])
def test_a_picture_too_thin_for_the_pipeline_is_named(coco, tmp_path, record, size):
    Image.new('RGB', size).save(tmp_path / '1.jpg')
    content = json.loads((tmp_path / 'a.json').read_text())
    content['images'][1].update(width=size[0], height=size[1])
    content['annotations'][1].update(bbox=[0, 0, *size], segmentation=[[0, 0, size[0], 0, *size]])
    (tmp_path / 'a.json').write_text(json.dumps(content))
    for test_mode in (False, True):
        with pytest.raises(BadSampleError, match=r'1\.jpg cannot be processed by the pipeline: OpenCV.*few') as info:
            coco(pipeline=THIN, test_mode=test_mode)[1]
        assert info.value.path == str(tmp_path / '1.jpg') and '\n' not in str(info.value)
    dataset = coco(pipeline=THIN, on_bad_sample='skip', bad_samples_file=str(record))
    assert dataset[1]['img_id'] == 2 and read_bad_samples(record)[0]['file'].endswith('1.jpg')


def test_skip_refuses_a_loader_that_does_not_say_what_it_met(coco, record):
    pipeline = [dict(type='mmcv.LoadImageFromFile')]
    with pytest.raises(ValueError, match=r"needs backbones\.LoadImageFromFile .* has mmcv\."):
        coco(on_bad_sample='skip', bad_samples_file=str(record), pipeline=pipeline)


def test_a_label_map_data_set_skips_bad_pictures_and_bad_labels(tmp_path, record):
    for folder in ('images/training', 'annotations/training'):
        (tmp_path / folder).mkdir(parents=True)
    for name in 'abcd':
        Image.new('RGB', (3, 2)).save(tmp_path / f'images/training/{name}.png')
        labels = np.full((2, 3), 9 if name == 'b' else 1, np.uint8)
        Image.fromarray(labels).save(tmp_path / f'annotations/training/{name}.png')
    (tmp_path / 'images/training/c.png').write_bytes(b'<html>')
    (tmp_path / 'classes.txt').write_text('road\nsky\n')
    pipeline = [dict(type='backbones.LoadImageFromFile'), dict(type='backbones.LoadLabelMap')]
    dataset = LabelMapDataset(str(tmp_path), pipeline=pipeline, on_bad_sample='skip', bad_samples_file=str(record))
    assert Path(dataset[1]['img_path']).stem == 'd'
    assert [(Path(e['file']).name, e['replaced_by']) for e in read_bad_samples(record)] == [('b.png', 3), ('c.png', 3)]
    assert 'holds the value 9' in read_bad_samples(record)[0]['reason']


def test_the_record_does_not_depend_on_the_generators(record):
    torch.manual_seed(0)
    first = [skipping(record, 3, 4)[i] for i in range(10)]
    torch.manual_seed(1)
    np.random.seed(1)
    assert [skipping(record, 3, 4)[i] for i in range(10)] == first
