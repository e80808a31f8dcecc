"""Large pictures in tiles: each object once, entire, in its place; small pictures as without tiles."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from PIL import Image
from pycocotools import mask as coder
from rich.console import Console

pytest.importorskip('mmdet', reason='mmdet is not installed')

import backbones
from backbones.evaluation.protocol import evaluation_protocol
from backbones.evaluation.run import run_test
from backbones.evaluation.tables import print_details
from backbones.evaluation.tiles import (
    Tiles,
    as_dict,
    read_tiles,
    remark,
    scales_as_tuples,
    tile_protocol,
    tiled_pipeline,
    tiles_in_words,
    use_tiles,
)
from backbones.evaluation.tiles_merge import Found, merge
from backbones.evaluation.tiles_model import merge_views, place_mask

WRONG = ['abc', '0', 0, -5, 31, 10**9, '1e3', '64x', True, 1.5, (64,), (64, 64.0), '٦٤', '']
WRONG_OVERLAPS = ['x', 1.0, 64, 65, -1, -0.1, float('nan'), float('inf'), True, '1.0', '1e9', 2.5, '']


@pytest.mark.parametrize('tile', WRONG, ids=repr)
def test_a_tile_that_is_none_is_one_sentence(tile):
    with pytest.raises(ValueError, match=r'^--tile .*pixels'):
        read_tiles(tile)


@pytest.mark.parametrize('overlap', WRONG_OVERLAPS, ids=repr)
def test_an_overlap_that_is_none_is_one_sentence(overlap):
    with pytest.raises(ValueError, match=r'^--tile-overlap .*fraction'):
        read_tiles(64, overlap)


def test_options_of_tiles_without_tiles_are_refused():
    with pytest.raises(ValueError, match='--tile-overlap belongs to --tile'):
        read_tiles(None, 0.2)
    with pytest.raises(ValueError, match='--no-tile-whole belongs to --tile'):
        read_tiles(None, None, False)
    assert read_tiles(None) is None


@pytest.mark.parametrize(('given', 'overlaps'), [(None, (16, 12)), ('0.5', (32, 24)), ('10', (10, 10)), (0, (0, 0))])
def test_an_overlap_is_a_fraction_or_pixels(given, overlaps):
    assert read_tiles('64x48', given).overlaps == overlaps


@pytest.mark.parametrize('size', [(48, 64), (49, 64), (100, 65), (301, 1000), (20, 500)])
@pytest.mark.parametrize('overlap', [0, 0.25, 20])
def test_tiles_cover_every_pixel_and_overlap_as_asked(size, overlap):
    tiles = Tiles(64, 48, overlap)
    seen = np.zeros(size, int)
    frames = tiles.frames(size)
    for x0, y0, x1, y1 in frames:
        assert (x1 - x0, y1 - y0) == (min(64, size[1]), min(48, size[0]))
        seen[y0:y1, x0:x1] += 1
    assert seen.min() >= 1
    columns = sorted({(x0, x1) for x0, _, x1, _ in frames})
    assert all(a[1] - b[0] >= tiles.overlaps[0] for a, b in itertools.pairwise(columns))


def test_more_tiles_than_anybody_waits_for_are_refused():
    with pytest.raises(ValueError, match=r'cuts a picture of 8000x8000 pixels into .* tiles; at most 10,000'):
        Tiles(32, 32, 16).frames((8000, 8000))


LEFT, RIGHT, WHOLE = (0, 0, 60, 60), (40, 0, 100, 60), (0, 0, 100, 60)


def found(*detections: tuple) -> Found:
    """(frame, box, score, label) each."""
    frames, boxes, scores, labels = zip(*detections, strict=True)
    return Found(np.array(boxes, float), np.array(scores, float), np.array(labels), np.array(frames, float))


def boxes_of(*detections: tuple) -> list[list[float]]:
    return [one.box.tolist() for one in merge(found(*detections), (60, 100))]


def test_a_half_gives_way_to_the_entire_object_even_if_it_is_surer():
    assert boxes_of((LEFT, (50, 10, 60, 30), 0.99, 0), (RIGHT, (50, 10, 80, 30), 0.5, 0)) == [[50, 10, 80, 30]]


def test_a_half_gives_way_to_what_the_whole_picture_shows():
    halves = [(LEFT, (10, 10, 60, 30), 0.99, 0), (RIGHT, (40, 10, 90, 30), 0.9, 0)]
    assert boxes_of(*halves, (WHOLE, (11, 10, 91, 30), 0.4, 0)) == [[11, 10, 91, 30]]


def test_halves_that_agree_where_tiles_overlap_become_one_object():
    assert boxes_of((LEFT, (10, 10, 60, 30), 0.7, 0), (RIGHT, (40, 10, 90, 30), 0.9, 0)) == [[10, 10, 90, 30]]


def test_pieces_that_only_a_third_one_joins_become_one_object():
    outer = [((0, 0, 40, 60), (10, 10, 40, 30), 0.9, 0), ((60, 0, 100, 60), (60, 10, 90, 30), 0.8, 0)]
    assert boxes_of(*outer, ((30, 0, 70, 60), (30, 10, 70, 30), 0.7, 0)) == [[10, 10, 90, 30]]


def test_an_object_seen_twice_is_there_once_with_the_higher_score():
    assert boxes_of((LEFT, (42, 10, 56, 30), 0.7, 0), (RIGHT, (43, 10, 57, 30), 0.9, 0)) == [[43, 10, 57, 30]]


def test_a_small_object_in_a_larger_one_of_its_class_stays():
    assert len(boxes_of((LEFT, (5, 5, 55, 55), 0.9, 0), (RIGHT, (45, 20, 52, 30), 0.8, 0))) == 2


def test_classes_do_not_touch_each_other():
    assert len(boxes_of((LEFT, (50, 10, 60, 30), 0.9, 0), (RIGHT, (50, 10, 80, 30), 0.8, 1))) == 2


def test_what_a_model_keeps_within_one_view_stays():
    assert len(boxes_of((LEFT, (5, 5, 50, 50), 0.9, 0), (LEFT, (6, 6, 50, 50), 0.8, 0))) == 2


def test_the_border_of_the_picture_cuts_nothing():
    assert boxes_of((LEFT, (0, 0, 30, 60), 0.2, 0), (WHOLE, (0, 0, 30, 58), 0.1, 0)) == [[0, 0, 30, 60]]


def views(seed: int) -> list[tuple]:
    """Random detections with masks in the tiles of a picture of 60 x 100 pixels."""
    draw = np.random.default_rng(seed)
    made = []
    for x0, y0, x1, y1 in [*Tiles(40, 30).frames((60, 100)), WHOLE]:
        corner = draw.uniform(0, 0.8, (6, 2)) * (x1 - x0, y1 - y0)
        far = np.minimum(corner + draw.uniform(3, 20, (6, 2)), (x1 - x0, y1 - y0))
        masks = [coder.encode(np.asfortranarray((draw.random((y1 - y0, x1 - x0)) > 0.5).astype(np.uint8)))
                 for _ in range(6)]
        made.append(((x0, y0, x1, y1), InstanceData(
            bboxes=torch.tensor(np.concatenate([corner, far], 1), dtype=torch.float32),
            scores=torch.tensor(draw.integers(1, 4, 6) / 4, dtype=torch.float32),
            labels=torch.tensor(draw.integers(0, 2, 6)), masks=masks)))
    return made


@pytest.mark.parametrize('seed', range(5))
def test_the_order_of_tiles_does_not_matter(seed):
    given = views(seed)
    first = merge_views(given, (60, 100))
    other = merge_views([given[place] for place in np.random.default_rng(seed).permutation(len(given))], (60, 100))
    assert first.bboxes.equal(other.bboxes) and first.scores.equal(other.scores) and first.masks == other.masks
    assert 0 < len(first) < 6 * len(given)


@pytest.mark.parametrize(
    'frame', [(0, 0, 40, 30), (60, 30, 100, 60), (13, 7, 53, 37), (0, 0, 100, 60), (0, 30, 100, 60)])
@pytest.mark.parametrize('share', [0, 0.5, 1])
def test_a_mask_keeps_its_pixels_in_the_whole_picture(frame, share):
    x0, y0, x1, y1 = frame
    bits = (np.random.default_rng(0).random((y1 - y0, x1 - x0)) < share).astype(np.uint8)
    expected = np.zeros((60, 100), np.uint8)
    expected[y0:y1, x0:x1] = bits
    placed = place_mask(coder.encode(np.asfortranarray(bits)), frame, (60, 100))
    assert placed == coder.encode(np.asfortranarray(expected))


def test_nothing_found_is_no_object():
    empty = InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long(), masks=[])
    merged = merge_views([(WHOLE, empty), (LEFT, empty)], (60, 100))
    assert len(merged) == 0 and merged.masks == [] and merged.bboxes.shape == (0, 4)


LOAD, RESIZE, PACK = dict(type='LoadImageFromFile'), dict(type='Resize', scale=(160, 128)), dict(type='PackDetInputs')


def test_a_pipeline_without_a_resize_shows_no_whole_picture():
    with pytest.raises(ValueError, match=r'has no Resize to a fixed scale.*--no-tile-whole'):
        tiled_pipeline([LOAD, PACK], Tiles(64, 64))
    pipeline, steps = tiled_pipeline([LOAD, PACK], Tiles(64, 64, whole=False))
    assert steps == [PACK] and pipeline[1]['steps'] == [PACK]


@pytest.mark.parametrize('pipeline', [[], [RESIZE, PACK], [LOAD, dict(type='TestTimeAug', transforms=[])]])
def test_a_pipeline_that_cannot_be_cut_is_refused(pipeline):
    with pytest.raises(ValueError, match=r'^--tile '):
        tiled_pipeline(pipeline, Tiles(64, 64))


def test_tiles_and_augmentation_do_not_go_together(detector):
    with pytest.raises(ValueError, match='--tile and --tta do not go together'):
        run_test(*detector, tta=True, tiles=Tiles(64, 64))


def test_a_segmenter_slides_its_window(segmenter):
    cfg = Config.fromfile(segmenter[0])
    use_tiles(cfg, Tiles(64, 48))
    protocol = evaluation_protocol(cfg)
    assert (protocol['mode'], protocol['crop_size'], protocol['stride']) == ('slide', (48, 64), (36, 48))
    with pytest.raises(ValueError, match='--no-tile-whole is of detectors'):
        use_tiles(cfg, Tiles(64, 48, whole=False))


@pytest.mark.parametrize(('tiles', 'words'), [
    (Tiles(1024, 1024), 'tiles 1024x1024, overlap 0.25, and the whole'),
    (Tiles(1333, 800, 0.2, whole=False), 'tiles 1333x800, overlap 0.2'),
    (Tiles(1333, 800, 100, whole=False), 'tiles 1333x800, overlap 100x100 pixels'),
    (Tiles(640, 640, 0), 'tiles 640x640, overlap 0, and the whole')], ids=['the same', 'a fraction', 'pixels', 'none'])
def test_a_heading_says_how_large_pictures_were_cut(tiles, words):
    assert tiles_in_words(tile_protocol(as_dict(tiles))) == words


def test_a_heading_names_tiles_and_windows():
    console = Console(record=True, width=120)
    details = dict(kinds=['labels'], data=dict(images=3), remarks=[], labels={}, protocol=dict(
        scale=[[160, 128]], mode='slide', crop_size=[48, 64], stride=[36, 48]))
    with pytest.raises(KeyError):  # it has no numbers
        print_details(details, console)
    assert 'Label maps  3 images, size 160x128, windows 64x48, stride 48x36' in console.export_text()


def test_tiles_without_overlap_get_a_remark():
    assert 'stays in pieces, unless the view of the whole' in remark(Tiles(64, 64, 0), False)
    assert 'labels may jump' in remark(Tiles(64, 64, 0.0), True) and remark(Tiles(64, 64), False) is None


@pytest.mark.parametrize('scale', [['a'], [1, 2, 3], 'x', [0, 5]], ids=str)
def test_a_scale_of_the_command_line_is_a_list_and_a_wrong_one_is_refused(segmenter, scale):
    cfg = Config.fromfile(segmenter[0])
    cfg.test_dataloader.dataset.pipeline[1].scale = [800, 400]
    scales_as_tuples(cfg)
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (800, 400)
    cfg.test_dataloader.dataset.pipeline[1].scale = scale
    with pytest.raises(ValueError, match=r'a Resize with scale=.*\(width, height\)'):
        scales_as_tuples(cfg)


@pytest.fixture(scope='module')
def model(detector):
    return backbones.load_model(*detector)


def test_a_picture_no_larger_than_a_tile_is_seen_as_without_tiles(model, pictures):
    files = sorted((pictures / 'images/validation').iterdir())
    plain = model.predict(files, 0, batch_size=2)
    tiled = model.predict(files, 0, batch_size=2, tile=(96, 64))
    for one, other in zip(plain, tiled, strict=True):
        assert np.array_equal(one.boxes, other.boxes) and np.array_equal(one.scores, other.scores)
        assert one.masks == other.masks and len(one)


def test_larger_pictures_get_objects_of_their_own_size(model):
    noise = np.random.default_rng(0).integers(0, 256, (150, 210, 3), dtype=np.uint8)
    seen = model.predict(noise, 0, batch_size=3, tile=(96, 64))
    again = model.predict(noise, 0)
    assert len(seen) > len(again) and all(mask['size'] == [150, 210] for mask in seen.masks)
    assert seen.boxes.max() > 128 and seen.size == (150, 210)


def test_an_evaluation_in_tiles_says_so(detector, pictures, tmp_path):
    tiles = Tiles(48, 40, 0.25, whole=False)
    run_test(*detector, str(tmp_path / 'work'), options={'data_root': f'{pictures}/'}, tiles=tiles,
             out=str(tmp_path / 'out.json'))
    report = json.loads((tmp_path / 'work/metrics.json').read_text())
    assert report['protocol']['tiles'] == dict(
        size=[48, 40], overlap=[12, 10], whole_picture=False,
        merging='entire before cut, IoU 0.5 within what both views see')
    assert report['protocol']['scale'] == [[160, 128]]
    assert all(one['segmentation']['size'] == [64, 96] for one in json.loads((tmp_path / 'out.json').read_text()))


def test_a_prediction_in_tiles_goes_on_with_the_same_tiles_only(detector, tmp_path: Path):
    from backbones.evaluation.predict import predict

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(tmp_path / 'a.png')
    given = (*detector, [tmp_path / 'a.png'], tmp_path / 'out')
    assert predict(*given, tiles=Tiles(96, 64), batch=2) == (1, 0)
    assert predict(*given, tiles=Tiles(96, 64), resume=True) == (1, 0)
    with pytest.raises(ValueError, match='begun with another model'):
        predict(*given, tiles=Tiles(64, 64), resume=True)
