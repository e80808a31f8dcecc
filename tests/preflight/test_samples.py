"""Pictures of training samples as the network gets them: colours, boxes, masks, labels, names."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from rehearsal_helpers import DETECTOR, SEGMENTER, built, differences, make_data, state

from backbones.preflight.samples import KNOWN, _restored, _with_labels, _with_objects, nearest_kind, training_samples

ORANGE = (230, 140, 40)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def detector(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return built(DETECTOR, data, tmp_path_factory.mktemp('detector'))


@pytest.fixture(scope='module')
def segmenter(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return built(SEGMENTER, data, tmp_path_factory.mktemp('segmenter'))


def test_as_many_samples_are_drawn_as_there_are_and_the_runner_stays_as_it_was(detector: Runner) -> None:
    before = copy.deepcopy(state(detector))
    drawn = training_samples(detector)
    assert len(drawn) == 6 and all(picture.width == 400 for picture, _ in drawn)
    assert differences(before, state(detector)) == []


def test_the_same_seed_draws_the_same_pictures_and_another_one_others(detector: Runner) -> None:
    one, same, other = (training_samples(detector, 2, seed) for seed in (1, 1, 2))
    assert [np.asarray(a).tobytes() for a, _ in one] == [np.asarray(a).tobytes() for a, _ in same]
    assert [caption for _, caption in one] != [caption for _, caption in other]


def test_captions_say_file_size_and_objects(detector: Runner) -> None:
    captions = [caption for _, caption in training_samples(detector)]
    assert all('.jpg: 64 x 96' in caption and 'object' in caption for caption in captions)


def test_captions_of_a_segmenter_say_its_classes(segmenter: Runner) -> None:
    captions = [caption for _, caption in training_samples(segmenter, 2)]
    assert all('128 x 160' in caption and '%' in caption and 'ignored' in caption for caption in captions)  # padded


def test_a_sample_that_cannot_be_made_is_a_grey_picture_that_says_so(segmenter: Runner, data: Path) -> None:
    path = next((data / 'annotations/training').iterdir())
    content = path.read_bytes()
    path.write_bytes(b'')
    try:
        captions = [caption for _, caption in training_samples(segmenter)]
    finally:
        path.write_bytes(content)
    assert sum('cannot be made' in caption for caption in captions) == 1


def preprocessor(**changes: object) -> torch.nn.Module:
    mean, std = KNOWN['ImageNet']
    return MODELS.build(dict(dict(type='mmdet.DetDataPreprocessor', mean=mean, std=std, bgr_to_rgb=True), **changes))


def shown(prepare: torch.nn.Module) -> tuple[int, ...]:
    """The colour that is shown of a picture that is orange all over, read as BGR as OpenCV does."""
    image = torch.tensor(ORANGE[::-1], dtype=torch.uint8)[:, None, None].repeat(1, 8, 8)
    batch = prepare(dict(inputs=[image], data_samples=[DetDataSample(metainfo=dict(img_shape=(8, 8)))]), False)
    return tuple(_restored(batch['inputs'][0], prepare)[4, 4].tolist())


def test_the_colours_of_a_sound_config_are_those_of_the_picture() -> None:
    assert shown(preprocessor()) == ORANGE


@pytest.mark.parametrize('kind', ['0.5', 'CLIP'])
def test_other_known_normalisations_are_undone(kind: str) -> None:
    mean, std = KNOWN[kind]
    assert np.abs(np.subtract(shown(preprocessor(mean=mean, std=std)), ORANGE)).max() <= 1


def test_swapped_channels_show() -> None:
    assert shown(preprocessor(bgr_to_rgb=False)) == ORANGE[::-1]


def test_a_scale_that_was_left_out_shows() -> None:
    assert np.abs(np.subtract(shown(preprocessor(std=(1.0, 1.0, 1.0))), ORANGE)).max() > 60


def test_pixels_that_were_not_normalised_show() -> None:
    assert shown(preprocessor(mean=None, std=None)) == (255, 255, 255)


def test_the_nearest_normalisation_is_that_of_the_config() -> None:
    assert nearest_kind(preprocessor(mean=(124.0, 116.0, 104.0), std=(58.0, 57.0, 57.0))) == 'ImageNet'


def objects(boxes: list[list[float]], masks: np.ndarray) -> DetDataSample:
    found = InstanceData(bboxes=torch.tensor(boxes), labels=torch.arange(len(boxes)),
                         masks=BitmapMasks(masks, *masks.shape[1:]))
    return DetDataSample(gt_instances=found)


def test_boxes_masks_and_names_are_drawn_where_the_objects_are() -> None:
    mask = np.zeros((1, 100, 100), np.uint8)
    mask[:, 40:80, 40:80] = 1
    picture, caption = _with_objects(
        np.zeros((400, 400, 3), np.uint8), objects([[40.0, 40, 80, 80]], mask), 4.0, ('disc',), [(200, 0, 0)])
    drawn = np.asarray(picture)
    assert drawn[260, 260].tolist() == [84, 0, 0] and drawn[20, 20].tolist() == [0, 0, 0]  # inside, outside
    assert drawn[300, 160].tolist() == [200, 0, 0]  # the box
    assert (drawn[160:185, 162:200] == 255).all(axis=2).sum() > 20  # the letters
    assert caption == '1 object: disc'


def test_names_of_objects_in_one_place_do_not_hide_each_other() -> None:
    masks = np.zeros((2, 100, 100), np.uint8)
    picture, _ = _with_objects(np.zeros((400, 400, 3), np.uint8), objects([[40.0, 40, 80, 80]] * 2, masks), 4.0,
                               ('disc', 'ring'), [(250, 0, 0), (0, 250, 0)])
    drawn = np.asarray(picture).astype(int)
    assert ((drawn == [250, 0, 0]).all(2).sum() > 200) and ((drawn == [0, 250, 0]).all(2).sum() > 200)


def test_a_sample_without_objects_is_drawn_as_it_is() -> None:
    nothing = objects([], np.zeros((0, 10, 10), np.uint8))
    picture, caption = _with_objects(np.full((40, 40, 3), 7, np.uint8), nothing, 4.0, ('disc',), [(1, 2, 3)])
    assert (np.asarray(picture) == 7).all() and caption == '0 objects'


def test_labels_are_coloured_and_what_is_ignored_is_dark() -> None:
    labels = torch.full((1, 50, 50), 255)
    labels[:, :, :25] = 1
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
    picture, caption = _with_labels(np.full((400, 400, 3), 100, np.uint8), sample, ('a', 'b'), [(0, 0, 0), (255, 0, 0)])
    drawn = np.asarray(picture)
    assert drawn[5, 5].tolist() == [165, 58, 58] and drawn[5, 390].tolist() == [30, 30, 30]
    assert caption == 'b 50%; ignored 50%'


def test_a_label_beyond_the_classes_is_named() -> None:
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.full((1, 8, 8), 9)))
    _, caption = _with_labels(np.zeros((8, 8, 3), np.uint8), sample, ('a',), [(1, 2, 3)])
    assert caption == 'label 9, no class 100%'
