"""The gallery of a detector: what is drawn where, of which images, in how many bytes, and what becomes of lost data."""

from __future__ import annotations

import copy
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmdet')

from pycocotools import mask as coco_mask

from backbones.evaluation.coco_api import CheckedCoco
from backbones.evaluation.coco_scoring import Detections
from backbones.evaluation.details import digest_of, write_details
from backbones.evaluation.details_detection import analyse_detections, write_predictions
from backbones.report.drawing_styles import ERRORS
from backbones.report.gallery import gallery_parts
from backbones.report.gallery_detection import NoGalleryError, read_places
from backbones.report.parts import Card, Gallery, Note

SIDE = 64
KINDS = tuple(ERRORS)
OBJECT = [8, 8, 24, 24]
# An object of class 1 at OBJECT in each image; what is found there: (category, score, box).
FOUND = dict(
    classification=[(2, 0.95, [8, 8, 24, 24])],
    localisation=[(1, 0.95, [20, 8, 24, 24])],
    both=[(1, 0.99, [8, 8, 24, 24]), (2, 0.97, [20, 8, 24, 24])],
    duplicate=[(1, 0.99, [8, 8, 24, 24]), (1, 0.97, [9, 8, 24, 24])],
    background=[(1, 0.99, [8, 8, 24, 24]), (2, 0.97, [40, 40, 16, 16])],
    missed=[],
    good=[(1, 0.99, [8, 8, 24, 24])])


def write_evaluation(root: Path) -> tuple[dict, Path]:
    """Pictures `images/KIND.png`, annotations, and an evaluation that has one error of each kind."""
    folder = root / 'evaluation'
    for place in (root / 'images', folder):
        place.mkdir(parents=True)
    images, annotations, rows = [], [], []
    for number, kind in enumerate(FOUND, start=1):
        Image.new('RGB', (SIDE, SIDE), (90, 90, 90)).save(root / 'images' / f'{kind}.png')
        images.append(dict(id=number, file_name=f'{kind}.png', width=SIDE, height=SIDE))
        x, y, w, h = OBJECT
        annotations.append(dict(id=number, image_id=number, category_id=1, bbox=OBJECT, area=w * h, iscrowd=0,
                                segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]]))
        rows += [(number, *one) for one in FOUND[kind]]
    annotations.append(annotations[0] | dict(id=99, image_id=7, category_id=2, bbox=[40, 8, 16, 16], area=256,
                                             segmentation=[[40, 8, 56, 8, 56, 24, 40, 24]]))
    rows.append((7, 2, 0.99, [40, 8, 16, 16]))
    categories = [dict(id=1, name='dög'), dict(id=2, name='cat')]
    file = root / 'annotations.json'
    file.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    coco, common = CheckedCoco(str(file)), dict(
        images=np.array([one[0] for one in rows]), categories=np.array([one[1] for one in rows]),
        scores=np.array([one[2] for one in rows]))
    found = dict(boxes=Detections(**common, boxes=np.array([one[3] for one in rows], float)))
    found['masks'] = Detections(**common, masks=[_mask(one[3]) for one in rows])
    details = evaluated(coco, found, root, folder, categories)
    return details, folder


def evaluated(coco: CheckedCoco, found: dict[str, Detections], root: Path, folder: Path, categories: list) -> dict:
    """Write predictions and details.json, and read it."""
    kinds, file = tuple(found), root / 'annotations.json'
    details = dict(
        format=1, task='detection', classes=['dög', 'cat'], kinds=list(kinds), files=write_predictions(folder, found),
        data=dict(annotation_file='annotations.json', annotation_sha256=digest_of(str(file)), folder=str(root),
                  images=len(coco.imgs), image_folder='images', categories=categories))
    for kind in kinds:
        details[kind] = analyse_detections(coco, found, kind, threshold=0.5, resamplings=100)
    write_details(folder / 'details.json', details)
    return json.loads((folder / 'details.json').read_text())


def _mask(box: list[int]) -> dict:
    x, y, w, h = box
    pixels = np.zeros((SIDE, SIDE), np.uint8, order='F')
    pixels[y:y + h, x:x + w] = 1
    return coco_mask.encode(pixels)


@pytest.fixture(scope='module')
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    return write_evaluation(tmp_path_factory.mktemp('toy'))


@pytest.fixture(scope='module')
def toy(both: tuple[dict, Path]) -> tuple[dict, Path]:
    """Of boxes only."""
    return both[0] | dict(kinds=['boxes']), both[1]


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
    """A picture of a card, (h, w, 3)."""
    picture = next(one for one in card.pictures if one.label == label)
    return np.asarray(Image.open(io.BytesIO(picture.jpeg))).astype(int)


def near(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(image - np.array(colour)).max(axis=2) < 40


@pytest.mark.parametrize('kind', KINDS)
def test_each_kind_of_error_has_its_card(cards: dict[str, Card], kind: str) -> None:
    assert cards[kind].kinds[0] == kind


def test_an_image_without_errors_is_a_good_one(cards: dict[str, Card]) -> None:
    assert cards['good'].good and cards['good'].kinds == ()


@pytest.mark.parametrize('kind', KINDS)
def test_the_prediction_shows_the_error_in_its_colour_where_it_is(cards: dict[str, Card], kind: str) -> None:
    box = OBJECT if kind == 'missed' else FOUND[kind][-1][2]
    image = pixels(cards[kind], 'Prediction')
    scale = image.shape[1] / SIDE
    x, y, w, h = (round(value * scale) for value in box)
    inside = near(image, ERRORS[kind].colour)[max(0, y - 4):y + h + 4, max(0, x - 4):x + w + 4]
    assert inside.sum() > 100


@pytest.mark.parametrize('kind', KINDS)
def test_the_ground_truth_is_not_drawn_in_the_colour_of_an_error(cards: dict[str, Card], kind: str) -> None:
    truth, found = (near(pixels(cards[kind], label), ERRORS[kind].colour).sum()
                    for label in ('Ground truth', 'Prediction'))
    assert truth < found / 20  # a few pixels along the edges are of JPEG


def test_dashes_leave_gaps(cards: dict[str, Card]) -> None:
    image = pixels(cards['missed'], 'Prediction')
    y = round(OBJECT[1] * image.shape[0] / SIDE)
    left, right = (round(value * image.shape[1] / SIDE) for value in (OBJECT[0] + 2, OBJECT[0] + OBJECT[2] - 2))
    line = near(image, ERRORS['missed'].colour)[y, left:right]
    assert np.abs(np.diff(line.astype(int))).sum() > 4


def test_classes_of_a_card_are_those_of_its_errors(cards: dict[str, Card]) -> None:
    assert set(cards['classification'].classes) == {'dög', 'cat'} and cards['missed'].classes == ('dög',)


def test_facts_tell_score_and_iou(cards: dict[str, Card]) -> None:
    assert 'localisation: dög at 0.95, IoU 0.33' in cards['localisation'].facts


def test_masks_are_drawn_once_where_there_are_boxes_too(both: tuple[dict, Path]) -> None:
    gallery, = gallery_parts(*both, 10**7)
    assert len(gallery.cards) == len({card.title for card in gallery.cards}) == len(FOUND)
    card = next(card for card in gallery.cards if card.title == 'localisation.png')
    assert near(pixels(card, 'Prediction'), ERRORS['localisation'].colour).sum() > 100


@pytest.mark.parametrize('budget', [500_000, 150_000, 40_000])
def test_all_pictures_together_keep_to_the_budget(toy: tuple[dict, Path], budget: int) -> None:
    gallery, = gallery_parts(*toy, budget)
    total = sum(len(picture.jpeg) for card in gallery.cards for picture in card.pictures)
    assert 0 < total <= budget


def test_what_is_left_out_is_said(toy: tuple[dict, Path]) -> None:
    gallery, = gallery_parts(*toy, 40_000)
    assert f'{len(FOUND) - len(gallery.cards)} more images are left out' in gallery.caption


def test_no_budget_gives_a_note(toy: tuple[dict, Path]) -> None:
    note, = gallery_parts(*toy, 0)
    assert isinstance(note, Note) and 'no room' in note.text


def test_progress_counts_all_cards(toy: tuple[dict, Path]) -> None:
    seen: list[tuple[int, int]] = []
    gallery_parts(*toy, 10**7, lambda done, number: seen.append((done, number)))
    assert seen == [(place, len(FOUND)) for place in range(1, len(FOUND) + 1)]


@pytest.mark.parametrize('damage', ['missing', 'corrupt', 'another size'])
def test_a_picture_that_cannot_be_used_is_grey_and_says_so(own: tuple[dict, Path], damage: str) -> None:
    details, folder = own
    file = folder.parent / 'images' / 'missed.png'
    if damage == 'missing':
        file.unlink()
    elif damage == 'corrupt':
        file.write_bytes(file.read_bytes()[:60])
    else:
        Image.new('RGB', (30, 20)).save(file)
    gallery, = gallery_parts(details, folder, 10**7)
    card = next(card for card in gallery.cards if card.title == 'missed.png')
    assert 'grey' in card.facts[0] and len(gallery.cards) == len(FOUND)


def test_a_small_error_is_enlarged(own: tuple[dict, Path]) -> None:
    details, folder = own
    small = {one['id']: one for one in details['boxes']['images']}[6]
    Image.new('RGB', (640, 640), (90, 90, 90)).save(folder.parent / 'images' / 'missed.png')
    file = folder.parent / 'annotations.json'
    content = json.loads(file.read_text())
    content['images'][5] |= dict(width=640, height=640)
    file.write_text(json.dumps(content))
    small |= dict(width=640, height=640)
    details['data']['annotation_sha256'] = digest_of(str(file))
    gallery, = gallery_parts(details, folder, 10**7)
    card = next(card for card in gallery.cards if card.title == 'missed.png')
    heights = [np.ptp(np.flatnonzero(near(pixels(card, label), ERRORS['missed'].colour).any(axis=1)))
               for label in ('Prediction', 'Worst error, enlarged')]
    assert heights[1] > 2 * heights[0]


def damaged(details: dict, folder: Path, what: str) -> dict:
    """The evaluation after something has happened to it."""
    root = folder.parent
    if what == 'annotations changed':
        (root / 'annotations.json').write_text((root / 'annotations.json').read_text() + '\n')
    elif what == 'annotations moved':
        (root / 'annotations.json').rename(root / 'elsewhere.json')
    elif what == 'predictions of another run':
        entries = json.loads((folder / 'predictions.json').read_text())
        (folder / 'predictions.json').write_text(json.dumps(entries[::-1]))
    elif what == 'predictions cut off':
        (folder / 'predictions.json').write_text((folder / 'predictions.json').read_text()[:200])
    elif what == 'predictions gone':
        (folder / 'predictions.json').unlink()
    elif what == 'images not told':
        details['boxes']['images'] = []
    elif what == 'another version':
        details['boxes'].pop('errors')
    return details


@pytest.mark.parametrize('what', [
    'annotations changed', 'annotations moved', 'predictions of another run', 'predictions cut off',
    'predictions gone', 'images not told', 'another version'])
def test_changed_data_gives_one_note_and_no_pictures(own: tuple[dict, Path], what: str) -> None:
    details, folder = own
    part, = gallery_parts(damaged(details, folder, what), folder, 10**7)
    assert isinstance(part, Note) and part.severity == 'warning' and 'again' in part.text and part.command


@pytest.mark.parametrize('details', [{}, [], dict(kinds=['boxes'], boxes=None, data={}), dict(kinds=None), None])
def test_strange_details_give_a_note(tmp_path: Path, details: Any) -> None:
    part, = gallery_parts(details, tmp_path, 10**7)
    assert isinstance(part, Note)


@pytest.mark.parametrize('name', ['猫' * 60, 'a\nb', '\ud800', '', 'קו', 'x' * 500])
def test_any_class_name_can_be_drawn(toy: tuple[dict, Path], name: str) -> None:
    data = toy[0]['data'] | dict(categories=[dict(id=1, name=name), dict(id=2, name='cat')])
    part, = gallery_parts(toy[0] | dict(data=data, classes=[name, 'cat']), toy[1], 10**7)
    assert isinstance(part, Gallery)
    ''.join([*part.cards[0].facts, *part.cards[0].classes]).encode()


def test_entries_are_found_across_the_parts_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('backbones.report.gallery_detection.CHUNK', 7)
    entries = [dict(place=place, text='],[{é"' * place) for place in range(20)]
    (tmp_path / 'some.json').write_text(json.dumps(entries, indent=1))
    assert read_places(tmp_path / 'some.json', [0, 13, 19, 40]) == {place: entries[place] for place in (0, 13, 19)}


def test_an_empty_prediction_set_shows_all_as_missed(own: tuple[dict, Path]) -> None:
    root = own[1].parent
    empty = np.zeros(0, np.int64)
    found = dict(boxes=Detections(empty, empty, np.zeros(0), np.zeros((0, 4))))
    details = evaluated(CheckedCoco(str(root / 'annotations.json')), found, root, own[1],
                        own[0]['data']['categories'])
    gallery, = gallery_parts(details, own[1], 10**7)
    assert [card.kinds for card in gallery.cards] == [('missed',)] * len(FOUND)


def test_a_file_that_is_no_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'some.json').write_text('{"a": 1}')
    with pytest.raises(NoGalleryError, match='no list'):
        read_places(tmp_path / 'some.json', [0])
