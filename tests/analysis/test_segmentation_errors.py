"""Where label maps go wrong: confused classes, boundaries, regions, pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage

from backbones.analysis.segmentation_analysis import ArrayPairs, analyse_segmentation, compare_analyses
from backbones.analysis.segmentation_regions import LIMITS, regions_of, sizes_of

CLASSES = tuple('abcde')


def blobs(seed: int, shape: tuple[int, int] = (40, 50), classes: int = 4) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return ndimage.gaussian_filter(draw.standard_normal((classes, *shape)), (0, 4, 4)).argmax(0)


def scene(pictures: int = 6) -> ArrayPairs:
    """Blobs of a to d; predictions with noise, in which e is invented; corners are ignored."""
    truths, predictions = [], []
    for seed in range(pictures):
        draw = np.random.default_rng(seed)
        truth = blobs(seed)
        predicted = np.where(draw.random(truth.shape) < 0.05, draw.integers(0, 5, truth.shape), np.roll(truth, 2, 1))
        truth[:8, :9] = 255
        truths.append(truth)
        predictions.append(predicted)
    return ArrayPairs(CLASSES, tuple(f'p{place}' for place in range(pictures)), truths, predictions)


def with_predictions(pairs: ArrayPairs, change) -> ArrayPairs:
    changed = [change(truth, predicted) for truth, predicted in zip(pairs.truths, pairs.predictions, strict=True)]
    return ArrayPairs(pairs.classes, pairs.names, pairs.truths, changed)


def miou(pairs: ArrayPairs) -> float:
    return analyse_segmentation(pairs, boundary=False, errors=False).scores().summary['mIoU']


def one_picture(truth: np.ndarray, predicted: np.ndarray):
    return analyse_segmentation(ArrayPairs(CLASSES, ('p',), [truth], [predicted]))


def test_the_points_of_a_pair_are_what_its_correction_gains():
    pairs = scene()
    for pair in analyse_segmentation(pairs).pairs():
        true, found = CLASSES.index(pair.true), CLASSES.index(pair.predicted)
        right = with_predictions(pairs, lambda t, p, i=true, j=found: np.where((t == i) & (p == j), i, p))
        assert pair.iou_points == pytest.approx(miou(right) - miou(pairs), abs=1e-9)


def test_a_class_that_only_one_pair_invents_leaves_the_mean():
    truth = np.zeros((4, 4), int)
    predicted = truth.copy()
    predicted[0, 0] = 4
    pair, = one_picture(truth, predicted).pairs()
    assert (pair.true, pair.predicted, pair.pixels, pair.images) == ('a', 'e', 1, 1)
    assert pair.iou_points == pytest.approx(100 - (100 * 15 / 16) / 2)
    assert pair.true_iou_points == pytest.approx(100 / 16)


def test_pairs_are_sorted_by_cost_and_have_shares():
    pairs = scene()
    found = analyse_segmentation(pairs)
    points = [pair.iou_points for pair in found.pairs()]
    assert points == sorted(points, reverse=True) and found.pairs(3) == found.pairs()[:3]
    table, pair = found.counts.confusion(), found.pairs(1)[0]
    i, j = CLASSES.index(pair.true), CLASSES.index(pair.predicted)
    assert pair.pixels == table[i, j]
    assert pair.share_of_true == pytest.approx(100 * table[i, j] / table[i].sum())
    assert pair.share_of_predicted == pytest.approx(100 * table[i, j] / table[:, j].sum())
    assert pair.images == sum(bool(found.counts.of_image(place)[i, j]) for place in range(6))


def test_perfect_predictions_have_no_errors():
    found = analyse_segmentation(with_predictions(scene(), lambda truth, predicted: truth % 255))
    assert found.pairs() == [] and found.scores().summary['boundary_mIoU'] == 100
    assert found.bands[0].error_rate == 0 and np.isnan(found.bands[0].error_share)
    assert not found.regions.overall['missed'].any() and not found.regions.overall['invented'].any()
    json.dumps(found.as_dict(), allow_nan=False)


def test_an_error_inside_of_the_band_is_counted_there():
    truth = np.zeros((20, 40), int)
    truth[:, 20:] = 1
    predicted = truth.copy()
    predicted[:, 18:22] = 1 - truth[:, 18:22]
    predicted[0, 0] = 1
    band = one_picture(truth, predicted).bands[0]
    assert (band.width, band.pixels, band.wrong) == (2, 80, 80)
    assert band.error_rate == 100 and band.interior_error_rate == pytest.approx(100 / 720)
    assert band.error_share == pytest.approx(100 * 80 / 81) and band.pixel_share == 10


def test_what_a_band_gains_is_what_its_correction_gains():
    from backbones.analysis.boundary import bands_around_boundaries

    pairs = scene()
    before = miou(pairs)
    for band in analyse_segmentation(pairs).bands:
        right, rest = [], []
        for place in range(6):
            truth, _ = pairs.read(place)
            inside = bands_around_boundaries(truth, (band.width,)) == 0
            right.append(np.where(inside, pairs.truths[place] % 255, pairs.predictions[place]))
            rest.append(np.where(inside, 255, pairs.truths[place]))
        corrected = ArrayPairs(CLASSES, pairs.names, pairs.truths, right)
        ignored = ArrayPairs(CLASSES, pairs.names, rest, pairs.predictions)
        assert band.gained_if_right == pytest.approx(miou(corrected) - before)
        if band.interior_miou == band.interior_miou:
            assert band.gained_if_ignored == pytest.approx(miou(ignored) - before)


def test_regions_are_those_of_another_library():
    truth, predicted = scene().read(3)
    found = regions_of(truth, predicted, 5)
    expected = []
    for class_ in range(5):
        parts, many = ndimage.label(truth == class_, np.ones((3, 3)))
        for part in range(1, many + 1):
            here = parts == part
            rows, columns = np.nonzero(here)
            box = columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1
            expected.append((class_, here.sum(), (here & (predicted == class_)).sum(), *box))
    ours = zip(found.class_, found.pixels, found.hit, *found.boxes.T, strict=True)
    assert sorted(map(tuple, ours)) == sorted(expected)


def test_missed_and_invented_regions_are_found_where_they_are():
    truth = np.zeros((60, 60), int)
    truth[5:9, 10:13], truth[40:50, 40:50] = 1, 2
    predicted = np.zeros((60, 60), int)
    predicted[45:55, 45:55], predicted[20:22, 30:36] = 2, 3
    found = one_picture(truth, predicted)
    image, = found.images
    assert (image.missed_regions, image.invented_regions) == (1, 1)
    assert (image.missed[0].class_name, image.missed[0].pixels, image.missed[0].box) == ('b', 12, (10, 5, 3, 4))
    assert (image.invented[0].class_name, image.invented[0].box) == ('d', (30, 20, 6, 2))
    small = {name: values[2, 0] for name, values in found.regions.per_class.items()}
    assert small['regions'] == 1 and small['missed'] == 0 and small['pixel_recall'] == 25
    assert found.regions.per_class['missed'][1, 0] == 1 and found.regions.per_class['invented_pixels'][3, 0] == 12


def test_one_pixel_is_enough_to_find_a_region():
    truth, predicted = np.zeros((2, 30, 30), int)
    truth[4:8, 4:8] = 1
    predicted[4, 4] = 1
    found = one_picture(truth, predicted)
    assert found.regions.overall['missed'].sum() == 0 and found.images[0].missed_regions == 0
    assert found.regions.per_class['region_recall'][1, 0] == pytest.approx(100 / 16)


def test_regions_that_do_not_count_are_neither_missed_nor_invented():
    truth = np.zeros((30, 30), int)
    truth[10:20] = 255
    predicted = np.zeros((30, 30), int)
    predicted[12:18, 5:9] = 3
    assert one_picture(truth, predicted).images[0].invented_regions == 0


@pytest.mark.parametrize('pixels, size', [(1, 0), (1023, 0), (1024, 1), (9215, 1), (9216, 2)])
def test_the_sizes_are_those_of_coco(pixels, size):
    assert sizes_of(np.array([pixels]), LIMITS).tolist() == [size]


def test_recall_is_told_by_size():
    truth = np.zeros((200, 200), int)
    truth[:10, :10], truth[100:, 100:] = 1, 1  # 100 and 10,000 pixels
    predicted = np.where(truth == 1, 1, 0)
    predicted[:10, :5] = 0
    found = one_picture(truth, predicted).regions
    assert found.per_class['pixel_recall'][1].tolist()[::2] == [50, 100]
    rows = found.as_dict()['per_class']
    assert [(row['size'], row['from_pixels'], row['region_recall']) for row in rows if row['class'] == 'b'] == [
        ('small', 0, 50.0), ('large', 9216, 100.0)]


def test_pictures_come_from_the_worst_to_the_best():
    pairs = scene()
    pairs.predictions[4][:] = 4
    found = analyse_segmentation(pairs)
    worst, best = found.worst(2), found.best(2)
    assert worst[0].name == 'p4' and worst[0].mIoU == 0 and best[0].mIoU >= best[1].mIoU > worst[1].mIoU
    assert worst[0].confused[0][1] == 'e' and worst[0].wrong == worst[0].pixels
    true, predicted, pixels = worst[0].confused[0]
    assert pixels == found.counts.of_image(4)[CLASSES.index(true), CLASSES.index(predicted)]


def test_a_picture_in_which_nothing_counts_has_no_score_and_no_rank():
    pairs = scene()
    pairs.truths[0][:] = 255
    found = analyse_segmentation(pairs)
    assert np.isnan(found.images[0].mIoU) and len(found.worst()) == 5
    assert found.as_dict()['images'][0]['mIoU'] is None


def test_threads_change_nothing():
    one, three = (analyse_segmentation(scene(), threads=threads).as_dict() for threads in (1, 3))
    assert one == three


def test_everything_is_plain_data():
    found = analyse_segmentation(scene())
    again = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert again['scores']['summary']['mIoU'] == found.scores().summary['mIoU']
    assert again['bands'][0]['width'] == 2 and again['images'][0]['name'] == 'p0'
    assert again['protocol']['dilation_ratio'] == 0.02 and again['confusion'] == found.counts.confusion().tolist()
    json.dumps(found.intervals(replicates=20).as_dict(), allow_nan=False)
    json.dumps(compare_analyses(found, found, replicates=20).as_dict(), allow_nan=False)


class WithFault(ArrayPairs):
    def read(self, place: int):
        if place == 2:
            raise ValueError('the prediction p2 is damaged; write it again')
        return super().read(place)


@pytest.mark.parametrize('threads', [1, 2])
def test_a_picture_that_cannot_be_read_stops_the_pass_or_is_listed(threads):
    good = scene()
    pairs = WithFault(CLASSES, good.names, good.truths, good.predictions)
    with pytest.raises(ValueError, match='p2 is damaged'):
        analyse_segmentation(pairs, threads=threads)
    found = analyse_segmentation(pairs, on_bad='skip', threads=threads)
    assert found.skipped == [('p2', 'the prediction p2 is damaged; write it again')]
    assert found.counts.names == ('p0', 'p1', 'p3', 'p4', 'p5')
    assert found.remarks()[0].startswith('1 of 6 pictures could not be read')


def test_a_set_of_which_nothing_can_be_read_is_refused():
    pairs = ArrayPairs(CLASSES, ('x',), [blobs(0)], [blobs(0)[:5]])
    with pytest.raises(ValueError, match=r'none of the 1 pictures could be read; the first: .* of x is 50x5'):
        analyse_segmentation(pairs, on_bad='skip')


def test_classes_counted_from_another_number_are_remarked_on():
    moved = with_predictions(scene(), lambda truth, predicted: np.minimum(predicted + 1, 4))
    assert 'one too high' in analyse_segmentation(moved).remarks()[0]
    assert analyse_segmentation(scene()).remarks() == []


def test_progress_is_told():
    told = []
    analyse_segmentation(scene(3), progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize('options, words', [
    (dict(on_bad='ignore'), "choose 'raise' or 'skip'"),
    (dict(threads=0), 'threads=0'),
    (dict(dilation_ratio=2), 'dilation_ratio=2'),
    (dict(widths=(5, 2)), 'widths=.5, 2. must be whole numbers above 0 that rise'),
    (dict(limits=(0,)), 'limits=.0,.'),
])
def test_options_that_mean_nothing_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        analyse_segmentation(scene(1), **options)


def test_no_pictures_are_refused():
    with pytest.raises(ValueError, match='0 pictures and 5 classes'):
        analyse_segmentation(ArrayPairs(CLASSES, (), [], []))
