"""Sample predictions of the training, where there is no evaluation in detail."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from report_helpers import STARTED, make_run

from backbones.report.parts import Gallery
from backbones.report.report import make_page
from backbones.report.run_folder import read_run
from backbones.report.samples import sample_parts


def run_with_samples(folder: Path, *steps: int) -> Path:
    """A run with a picture of each of these steps."""
    run = make_run(folder / 'run')
    for step in steps:
        place = run / STARTED / f'vis_data/samples/iter_{step:08d}'
        place.mkdir(parents=True)
        cv2.imwrite(str(place / f'1_at{step}.jpg'), np.full((20, 40, 3), 99, np.uint8))
    return run


def titles(run: Path, budget: int = 10**6) -> list[str]:
    """Of the pictures that are shown."""
    return [card.title for part in sample_parts(read_run(run), budget) for card in part.cards]


def test_the_newest_pictures_are_shown(tmp_path: Path) -> None:
    assert titles(run_with_samples(tmp_path, 5, 10, 9)) == ['1_at10']


def test_the_page_of_a_run_without_an_evaluation_has_them(tmp_path: Path) -> None:
    page = make_page(read_run(run_with_samples(tmp_path, 1200)))
    (images,) = [section for section in page.sections if section.id == 'images']
    (gallery,) = images.parts
    assert isinstance(gallery, Gallery) and 'at iteration 1,200' in gallery.caption
    assert (gallery.cards[0].pictures[0].width, gallery.cards[0].pictures[0].height) == (40, 20)


def test_a_torn_picture_is_passed_over_for_an_older_one(tmp_path: Path) -> None:
    run = run_with_samples(tmp_path, 5, 10)
    file = next(run.glob('*/vis_data/samples/iter_00000010/*.jpg'))
    for content in (file.read_bytes()[:-20], b'', b'no picture\xff\xd9'):
        file.write_bytes(content)
        assert titles(run) == ['1_at5']


def test_pictures_beyond_the_budget_are_left_out(tmp_path: Path) -> None:
    assert titles(run_with_samples(tmp_path, 5), budget=10) == []


def test_a_run_without_pictures_has_no_gallery(tmp_path: Path) -> None:
    assert sample_parts(read_run(make_run(tmp_path / 'run')), 10**6) == []
