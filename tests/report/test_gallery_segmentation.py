"""The gallery of a segmenter: worst and best images, the wrong pixels, and what becomes of lost data."""

from __future__ import annotations

import copy
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmseg')

from backbones.analysis.segmentation_files import read_label_predictions
from backbones.data.label_maps import LabelMapDataset
from backbones.drawing.styles import class_colours
from backbones.evaluation.details import write_details
from backbones.evaluation.details_segmentation import analyse_labels
from backbones.report.gallery import gallery_parts
from backbones.report.parts import Card, Gallery, Note

CLASSES = ('sky', 'röad')
NAMES = ('right', 'confused', 'ignored')
SIDE = 32


def write_evaluation(root: Path) -> tuple[dict, Path]:
    """Three pictures, half sky and half road; in one a corner of the sky is predicted as road."""
    folder = root / 'evaluation'
    for place in ('images', 'labels', 'evaluation'):
        (root / place).mkdir()
    section = dict(type='backbones.LabelMapDataset', data_prefix=dict(
        img_path=str(root / 'images'), seg_map_path=str(root / 'labels')), metainfo=dict(classes=list(CLASSES)))
    with zipfile.ZipFile(folder / 'predictions.zip', 'w') as archive:
        for name in NAMES:
            Image.new('RGB', (SIDE, SIDE), (90, 90, 90)).save(root / 'images' / f'{name}.png')
            truth = np.full((SIDE, SIDE), 1, np.uint8)
            truth[SIDE // 2:] = 2
            predicted = truth.copy()
            if name == 'confused':
                predicted[:8, :8] = 2
            if name == 'ignored':
                truth[:8, 8:16] = 0
            Image.fromarray(truth).save(root / 'labels' / f'{name}.png')
            content = io.BytesIO()
            Image.fromarray(predicted).save(content, 'PNG')
            archive.writestr(f'{name}.png', content.getvalue())
    dataset = LabelMapDataset(data_prefix=section['data_prefix'], metainfo=section['metainfo'], pipeline=[],
                              test_mode=True, classes_file=None)
    part = analyse_labels(read_label_predictions(folder / 'predictions.zip', dataset), resamplings=100)
    for row in part['images']:
        row['file'] = str(Path(row['file']).relative_to(root))
    details = dict(
        format=1, task='segmentation', classes=list(CLASSES), kinds=['labels'], files=dict(labels='predictions.zip'),
        data=dict(image_folder='images', label_folder='labels', folder=str(root), images=len(NAMES), ignore_index=255,
                  reduce_zero_label=True, zero_is_ignored=True, dataset=section), labels=part)
    write_details(folder / 'details.json', details)
    return json.loads((folder / 'details.json').read_text()), folder


@pytest.fixture(scope='module')
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    return write_evaluation(tmp_path_factory.mktemp('toy'))


@pytest.fixture
def own(toy: tuple[dict, Path], tmp_path: Path) -> tuple[dict, Path]:
    """A copy to damage."""
    details = copy.deepcopy(toy[0])
    shutil.copytree(toy[1].parent, tmp_path / 'own')
    details['data']['folder'] = str(tmp_path / 'own')
    return details, tmp_path / 'own' / 'evaluation'


@pytest.fixture(scope='module')
def cards(toy: tuple[dict, Path]) -> dict[str, Card]:
    gallery, = gallery_parts(*toy, 10**7)
    return {Path(card.title).stem: card for card in gallery.cards}


def pixels(card: Card, label: str) -> np.ndarray:
    picture = next(one for one in card.pictures if one.label == label)
    return np.asarray(Image.open(io.BytesIO(picture.jpeg))).astype(int)


def part_of(image: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """The drawing of some pixels of the picture, without their border."""
    scale = image.shape[1] // SIDE
    return image[top * scale + 8:bottom * scale - 8, left * scale + 8:right * scale - 8]


def test_the_wrong_image_stands_for_its_confusion(cards: dict[str, Card]) -> None:
    assert cards['confused'].kinds[0] == 'sky taken for röad' and not cards['confused'].good


def test_images_without_errors_are_good_ones(cards: dict[str, Card]) -> None:
    assert cards['right'].good and cards['ignored'].good


def test_wrong_pixels_have_the_colour_of_what_they_were_taken_for(cards: dict[str, Card]) -> None:
    corner = part_of(pixels(cards['confused'], 'Wrong pixels'), 0, 0, 8, 8)
    assert np.abs(corner - np.array(class_colours(2)[1])).max() < 30


def test_right_pixels_are_grey_among_the_wrong_ones(cards: dict[str, Card]) -> None:
    rest = part_of(pixels(cards['confused'], 'Wrong pixels'), 0, 18, 32, 32)
    assert np.ptp(rest, axis=2).max() < 12


def test_ignored_pixels_are_hatched(cards: dict[str, Card]) -> None:
    for label in ('Ground truth', 'Prediction', 'Wrong pixels'):
        assert np.ptp(part_of(pixels(cards['ignored'], label), 8, 0, 16, 8)) > 60


def test_label_map_and_prediction_differ_where_it_is_wrong(cards: dict[str, Card]) -> None:
    truth, found = (part_of(pixels(cards['confused'], label), 0, 0, 8, 8) for label in ('Ground truth', 'Prediction'))
    assert np.abs(truth.mean(axis=(0, 1)) - found.mean(axis=(0, 1))).max() > 30


def test_facts_tell_the_iou_of_the_image(cards: dict[str, Card]) -> None:
    assert any(fact.startswith('mean IoU of this image 8') for fact in cards['confused'].facts)


def test_pictures_keep_to_the_budget(toy: tuple[dict, Path]) -> None:
    gallery, = gallery_parts(*toy, 50_000)
    assert 0 < sum(len(picture.jpeg) for card in gallery.cards for picture in card.pictures) <= 50_000


def test_a_missing_picture_is_grey_and_says_so(own: tuple[dict, Path]) -> None:
    details, folder = own
    (folder.parent / 'images' / 'confused.png').unlink()
    gallery, = gallery_parts(details, folder, 10**7)
    card = next(card for card in gallery.cards if 'confused' in card.title)
    assert any('missing' in fact for fact in card.facts) and len(gallery.cards) == len(NAMES)


def test_a_changed_label_map_is_not_drawn(own: tuple[dict, Path]) -> None:
    details, folder = own
    Image.new('L', (SIDE, SIDE), 2).save(folder.parent / 'labels' / 'confused.png')
    gallery, = gallery_parts(details, folder, 10**7)
    card = next(card for card in gallery.cards if 'confused' in card.title)
    assert 'changed since' in card.facts[0] and np.ptp(part_of(pixels(card, 'Prediction'), 0, 0, 8, 8)) > 60


@pytest.mark.parametrize('what', ['labels moved', 'all labels changed', 'predictions gone', 'predictions damaged'])
def test_lost_data_give_one_note(own: tuple[dict, Path], what: str) -> None:
    details, folder = own
    if what == 'labels moved':
        (folder.parent / 'labels').rename(folder.parent / 'elsewhere')
    elif what == 'all labels changed':
        for name in NAMES:
            Image.new('L', (SIDE, SIDE), 2 - (name == 'confused')).save(folder.parent / 'labels' / f'{name}.png')
    elif what == 'predictions gone':
        (folder / 'predictions.zip').unlink()
    else:
        (folder / 'predictions.zip').write_bytes(b'PK')
    part, = gallery_parts(details, folder, 10**7)
    assert isinstance(part, Note) and part.command


def test_a_missing_label_map_leaves_the_other_images(own: tuple[dict, Path]) -> None:
    details, folder = own
    (folder.parent / 'labels' / 'right.png').unlink()
    part, = gallery_parts(details, folder, 10**7)
    assert isinstance(part, Gallery) and len(part.cards) == len(NAMES)
