"""A few pictures of each evaluation: which, what is drawn, and that a run never ends by it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from PIL import Image
from pycocotools import mask as coco_mask
from resume_helpers import toy_runner

from backbones.drawing.objects import Objects
from backbones.drawing.sheets import GAP
from backbones.training.sample_pictures import TITLE, predicted_objects, side_by_side
from backbones.training.sample_predictions import SamplePredictionsHook, drawn_sample, wanted_places

CLASSES, PALETTE = ('cat', 'Hündchen', '犬'), [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def grey(height: int = 40, width: int = 60) -> np.ndarray:
    """A picture (H, W, 3)."""
    return np.full((height, width, 3), 100, np.uint8)


def loader(length: int, batch: int) -> Any:
    """As much of a data loader as is asked for."""
    return SimpleNamespace(dataset=range(length), batch_sampler=SimpleNamespace(batch_size=batch))


@pytest.mark.parametrize(('length', 'batch', 'images', 'chosen'), [
    (80, 1, 4, [0, 26, 53, 79]), (80, 8, 4, [0, 26, 53, 79]), (3, 2, 4, [0, 1, 2]), (1, 1, 4, [0]), (0, 2, 4, []),
    (9, 2, 1, [0])])
def test_pictures_are_spread_over_the_validation_set(length: int, batch: int, images: int, chosen: list) -> None:
    found = wanted_places(loader(length, batch), images)
    flat = [(number, index, where * batch + place) for where, some in found.items() for place, number, index in some]
    assert [index for _, index, _ in flat] == [place for *_, place in flat] == chosen
    assert [number for number, *_ in flat] == list(range(1, len(chosen) + 1))


def test_a_process_draws_what_its_sampler_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('backbones.training.sample_predictions.get_world_size', lambda: 4)
    found = wanted_places(loader(10, 1), 2)  # process 0 of 4 has the pictures 0, 4 and 8
    assert found == {0: [(0, 1, 0)], 2: [(0, 2, 8)]}


def bitmap(height: int = 40, width: int = 60) -> np.ndarray:
    """The mask of an object."""
    mask = np.zeros((height, width), bool)
    mask[10:30, 20:50] = True
    return mask


@pytest.mark.parametrize('form', ['bitmaps', 'run lengths', 'none'])
def test_masks_of_any_form_are_drawn_beside_the_truth(form: str) -> None:
    masks = dict(bitmaps=torch.tensor(bitmap())[None], none=None)
    masks['run lengths'] = [coco_mask.encode(np.asfortranarray(bitmap().astype(np.uint8)))]
    found = InstanceData(
        bboxes=torch.tensor([[20.0, 10, 50, 30]]), labels=torch.tensor([1]), scores=torch.tensor([0.9]))
    if masks[form] is not None:
        found.masks = masks[form]
    sample = BaseDataElement(pred_instances=found)
    truth = Objects(np.array([[0.0, 0, 10, 10]]), np.array([0]))
    sheet = side_by_side(grey(), truth, predicted_objects(sample, 0.3), CLASSES, PALETTE)
    zoom = 5  # 60 columns become 300
    assert sheet.shape == (40 * zoom + TITLE, 2 * 60 * zoom + GAP, 3)
    left, right = sheet[TITLE:, :300], sheet[TITLE:, 300 + GAP:]
    inside = (20 * zoom, 35 * zoom)  # row and column
    assert tuple(left[inside]) == (100, 100, 100)
    assert tuple(right[inside]) == ((100, 100, 100) if form == 'none' else (55, 169, 55))
    assert tuple(left[10 * zoom, 5 * zoom]) == (255, 0, 0) and tuple(right[30 * zoom, 35 * zoom]) == (0, 255, 0)


def test_objects_below_the_score_are_left_out_and_the_best_come_first() -> None:
    found = InstanceData(bboxes=torch.rand(60, 4), labels=torch.zeros(60, dtype=torch.long),
                         scores=torch.linspace(0, 1, 60))
    chosen = predicted_objects(BaseDataElement(pred_instances=found), 0.5)
    assert len(chosen.boxes) == 30 and chosen.scores[0] == 1 and chosen.scores.min() > 0.5


def test_label_maps_leave_what_is_ignored_as_it_is() -> None:
    truth = np.full((40, 60), 255)
    truth[:, :30] = 2
    sheet = side_by_side(grey(), truth, np.full((40, 60), 1), CLASSES, PALETTE)[TITLE:]
    assert tuple(sheet[100, 100]) == (55, 55, 169) and tuple(sheet[100, 200]) == (100, 100, 100)
    assert tuple(sheet[100, 304 + 100]) == (55, 169, 55)


@pytest.mark.parametrize('size', [(1, 1), (3, 2000), (3000, 2), (2000, 3000)])
def test_pictures_of_any_size_become_small_ones(size: tuple[int, int]) -> None:
    objects = Objects(np.array([[-5.0, 0, 1e9, np.nan], [5, 5, 1, 1]]), np.array([7, 2]), np.array([0.9, 0.5]),
                      [np.ones(size, bool)])
    sheet = side_by_side(grey(*size), None, objects, CLASSES, None)
    assert max(sheet.shape[0] - TITLE, sheet.shape[1]) <= 640


# --- in a run


class Predicts(Hook):
    """Make label maps of the toy's predictions."""

    priority = 'VERY_HIGH'

    def __init__(self, folder: Path, broken: bool = False) -> None:
        self.folder, self.broken = folder, broken

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Before the pictures are drawn."""
        for place in range(len(outputs)):
            path = self.folder / f'{2 * batch_idx + place} ä.png'
            if not self.broken:
                Image.fromarray(grey()).save(path)
            sample = BaseDataElement(pred_sem_seg=PixelData(data=torch.ones(1, 40, 60, dtype=torch.long)),
                                     gt_sem_seg=PixelData(data=torch.zeros(1, 40, 60, dtype=torch.long)))
            sample.set_metainfo(dict(img_path=str(path)))
            outputs[place] = sample


def trained(folder: Path, broken: bool = False, **options: Any) -> tuple[Any, list[str]]:
    """A toy run with samples; its Runner, and what it warned of."""
    runner = toy_runner(folder, 'run', epochs=4, validate=True, val_evaluator=[])
    warned: list[str] = []
    runner.logger.addFilter(lambda record: warned.append(record.getMessage()) or True)
    runner.register_hook(Predicts(folder, broken))
    runner.register_hook(SamplePredictionsHook(**options))
    runner.train()
    return runner, [text for text in warned if 'sample predictions' in text]


def test_the_same_pictures_are_kept_of_the_newest_evaluations(tmp_path: Path) -> None:
    runner, warned = trained(tmp_path, images=2, keep=2)
    files = sorted(Path(runner.work_dir).glob('*/vis_data/samples/*/*'))
    assert [f'{file.parent.name}/{file.name}' for file in files] == [
        f'iter_{step:08d}/{name}' for step in (18, 24) for name in ('1_0_ä.jpg', '2_3_ä.jpg')]
    assert not warned and Image.open(files[0]).size == (2 * 300 + GAP, 200 + TITLE)


def test_a_picture_that_cannot_be_drawn_is_one_warning(tmp_path: Path) -> None:
    runner, warned = trained(tmp_path, broken=True)
    assert len(warned) == 1 and 'the run goes on without them' in warned[0]
    assert runner.epoch == 4


def test_no_pictures_on_demand(tmp_path: Path) -> None:
    runner, _ = trained(tmp_path, images=0)
    assert not list(Path(runner.work_dir).glob('*/vis_data/samples'))


@pytest.mark.parametrize(('options', 'message'), [
    (dict(images=-1), 'images=-1; give a number, 0 or more'), (dict(keep=0), 'keep=0'),
    (dict(images='4'), "images='4'"), (dict(score_threshold=2), 'from 0 to 1')])
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplePredictionsHook(**options)


def test_a_sample_of_another_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='neither pred_instances nor pred_sem_seg'):
        drawn_sample(BaseDataElement(), None, 0, 0.3)
